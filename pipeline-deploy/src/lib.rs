#![doc = include_str!("../README.md")]

pub mod django;
pub mod health;
pub mod release;
pub mod step;
pub mod target;

#[cfg(target_os = "linux")]
#[doc(inline)]
pub use target::local;
