//! Building images: the [`ImageBuilder`] trait, the [`DaemonlessBuilder`], and with the feature
//! `engine` builds by a container engine.

mod archive_base;
mod built_image;
mod config;
mod daemonless;
mod docker_archive;
#[cfg(feature = "engine")]
mod engine;
mod gzip;
mod image_builder;
mod layer;
mod layer_cache;
mod layer_cache_limits;
mod lower;
mod progress;
#[cfg(feature = "registry")]
mod registry;
mod spec;
mod work;

pub use built_image::{BuiltImage, ImageLocation, LayerInfo, LayerOrigin};
pub use daemonless::DaemonlessBuilder;
#[cfg(feature = "engine")]
pub use engine::{BuildBackend, EngineBuilder};
pub use image_builder::{BuildError, BuilderCapabilities, ImageBuilder, Support};
pub use layer_cache::LayerCache;
pub use layer_cache_limits::{Evicted, LayerCacheLimits};
pub use progress::{BuildEvent, BuildObserver};
pub use spec::{
    BaseImage, BuildNetwork, BuildRequest, ConfigSpec, CopySpec, DockerfileSpec, HealthcheckSpec,
    ImageOutput, ImageSource, ImageSpec, LayerSpec, ModeRule, Owner,
};
