//! Django projects as the public writes them, for tests that must take any of them.
//!
//! Each [`Layout`] is a whole project: it installs with pip, migrates, passes its tests (unless
//! failing is its point) and serves its page under gunicorn. [`all`] lists them.

mod catalogue;
mod layout;
mod site;

pub(crate) use catalogue::*;
pub(crate) use layout::{Expect, Layout};
