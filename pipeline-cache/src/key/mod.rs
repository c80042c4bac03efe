//! Cache keys: templates, the facts they are rendered from, and the rendered key.
//!
//! A [`KeyTemplate`] is parsed once, so that a misspelt function is found before anything runs.
//! Rendering takes every fact from a [`KeyContext`]; nothing is read from the process's
//! environment or clock. The same context and the same files give the same [`CacheKey`].

mod cache_key;
mod checksum;
mod context;
mod host_arch;
mod key_error;
mod parser;
mod template;

pub use cache_key::{CacheKey, InvalidKey, MAX_KEY_CHARS};
pub use checksum::{checksum_bytes, checksum_reader};
pub use context::KeyContext;
pub use host_arch::HostArch;
pub use key_error::{KeyError, KeyErrorKind};
pub use parser::TemplateError;
pub use template::{KeyInput, KeyTemplate, RenderedKey};
