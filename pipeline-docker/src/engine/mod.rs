//! A container engine: [`Engine`] is the connection that everything else goes through.
//!
//! ```no_run
//! use pipeline_docker::engine::Engine;
//!
//! # async fn connect() -> Result<(), pipeline_docker::engine::EngineError> {
//! // Where the docker command line would go.
//! let engine = Engine::from_env().await?;
//! println!("{engine}: version {}", engine.info().version);
//! # Ok(())
//! # }
//! ```
//!
//! Docker's engine from API 1.40 (version 19.03) on is supported, and podman's compatible socket as
//! far as it goes. What an engine offers is asked once, when connecting, and is in [`EngineInfo`].

mod address;
mod auth;
mod connection;
mod error;
mod info;
mod push;

pub use address::EngineAddress;
pub(crate) use auth::{registry_credentials, registry_key};
pub use connection::Engine;
pub use error::{EngineError, EngineErrorKind};
pub use info::{ApiVersion, EngineInfo, EngineKind};
pub use push::EnginePush;
