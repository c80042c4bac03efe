//! Steps of a pipeline: building images, and with the feature `registry` moving them.

mod build_image;

pub use build_image::BuildImage;
