//! Building images: the [`ImageBuilder`] trait and the [`DaemonlessBuilder`].

mod archive_base;
mod built_image;
mod config;
mod daemonless;
mod gzip;
mod image_builder;
mod layer;
mod layer_cache;
mod lower;
mod spec;

pub use built_image::{BuiltImage, ImageLocation, LayerInfo, LayerOrigin};
pub use daemonless::DaemonlessBuilder;
pub use image_builder::{BuildError, BuilderCapabilities, ImageBuilder, Support};
pub use layer_cache::LayerCache;
pub use spec::{
    BaseImage, BuildRequest, ConfigSpec, CopySpec, DockerfileSpec, HealthcheckSpec, ImageOutput,
    ImageSource, ImageSpec, LayerSpec, ModeRule, Owner,
};
