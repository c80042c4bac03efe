//! Registry work as steps of a pipeline.

mod copy_image;
#[cfg(feature = "engine")]
mod engine_push;
mod image_input;
mod pull_image;
mod push_image;
mod pushed_image;
mod tag_image;

pub use copy_image::CopyImage;
pub use image_input::{ImageInput, RemoteImage};
pub use pull_image::{PullImage, PulledImage};
pub use push_image::PushImage;
pub use pushed_image::PushedImage;
pub use tag_image::TagImage;
