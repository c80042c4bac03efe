#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod builder;
#[cfg(feature = "engine")]
pub mod container;
pub mod context;
#[cfg(any(feature = "engine", feature = "registry"))]
pub mod credentials;
pub mod debian;
#[cfg(feature = "engine")]
pub mod engine;
mod existing_tag;
mod foreign_tar;
pub mod ignore;
pub mod oci;
mod reference;
#[cfg(feature = "registry")]
pub mod registry;
#[cfg(feature = "engine")]
pub mod service;
pub mod steps;
#[cfg(feature = "swarm")]
pub mod swarm;
mod tag_policy;
mod tar_stream;
#[cfg(any(feature = "buildkit", feature = "engine-tls", feature = "registry"))]
mod tls;

pub use existing_tag::ExistingTag;
pub use reference::{ImageReference, ReferenceError};
pub use tag_policy::{TagError, TagPolicy, TagScheme, TagSet, TagTemplate};
