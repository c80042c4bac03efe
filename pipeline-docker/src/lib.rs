#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod builder;
pub mod context;
pub mod debian;
pub mod ignore;
pub mod oci;
mod reference;
#[cfg(feature = "registry")]
pub mod registry;
pub mod steps;
mod tag_policy;
mod tar_stream;
#[cfg(feature = "registry")]
mod tls;

pub use reference::{ImageReference, ReferenceError};
pub use tag_policy::{TagError, TagPolicy, TagScheme, TagSet, TagTemplate};
