//! Registries: push, pull and copy over the distribution protocol, without an engine.
//!
//! [`Registry`] is the client, made from [`RegistryOptions`]. It finds out what a registry speaks
//! and how it wants to be authenticated, asks a [`CredentialSource`] (docker's configuration by
//! [`CredentialChain::from_env`]), and moves images between repositories and OCI layouts. What
//! the registry has is never sent again, and no byte that comes in is believed without its
//! digest.
//!
//! ```no_run
//! use pipeline_docker::ImageReference;
//! use pipeline_docker::oci::OciLayout;
//! use pipeline_docker::registry::{CredentialChain, PushOptions, Registry, RegistryOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = RegistryOptions::default().with_credentials(CredentialChain::from_env()?);
//! let registry = Registry::new(options)?;
//! let layout = OciLayout::open("image")?;
//! let reference: ImageReference = "localhost:5000/team/app:0.1.42".parse()?;
//! let report = registry.push(&layout, &reference, &PushOptions::default()).await?;
//! println!("{} ({} bytes sent)", report.digest, report.bytes_sent);
//! # Ok(())
//! # }
//! ```

mod answer;
mod authenticator;
mod body;
mod challenge;
mod client;
mod copy;
mod error;
mod host;
mod image;
mod options;
mod origin;
mod progress;
mod pull;
mod push;
mod rate_limit;
mod referrers;
mod report;
mod repository;
mod request;
mod retry;
mod scope;
mod step_log;
mod steps;
mod transport;
mod upload;

pub use crate::credentials::{
    Anonymous, CredentialChain, CredentialError, CredentialSource, Credentials, DockerConfig,
    DockerConfigError, HelperError, StaticCredentials,
};
pub use crate::existing_tag::ExistingTag;
pub use crate::tag_policy::{TagError, TagPolicy, TagScheme, TagSet, TagTemplate};
pub use client::{Login, Registry, ResolvedImage};
pub use copy::CopyOptions;
pub use error::{RegistryError, RegistryErrorKind};
pub use options::RegistryOptions;
pub use progress::{BlobOutcome, TransferEvent, TransferObserver};
pub use pull::{PlatformChoice, PullOptions};
pub use push::PushOptions;
pub use rate_limit::RateLimit;
pub use report::{BlobReport, PullReport, PushReport};
pub use retry::RetryPolicy;
pub use steps::{
    CopyImage, ImageInput, PullImage, PulledImage, PushImage, PushedImage, RemoteImage, TagImage,
};
