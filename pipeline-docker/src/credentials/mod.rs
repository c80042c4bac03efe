//! Who we are at a registry: docker's configuration, its helpers, and credentials given by hand.
//!
//! The registry client and the engine ask the same [`CredentialSource`].

mod docker_config;
mod helper;
mod source;

pub use docker_config::{DockerConfig, DockerConfigError};
pub use helper::HelperError;
pub use source::{
    Anonymous, CredentialChain, CredentialError, CredentialSource, Credentials, StaticCredentials,
};
