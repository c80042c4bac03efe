//! What to build: [`BuildRequest`] and its parts.

mod config;
mod dockerfile;
mod image;
mod layer;
mod request;

pub use config::{ConfigSpec, HealthcheckSpec};
pub use dockerfile::{BuildNetwork, DockerfileSpec};
pub use image::{BaseImage, ImageSpec};
pub use layer::{CopySpec, LayerSpec, ModeRule, Owner};
pub use request::{BuildRequest, ImageOutput, ImageSource};
