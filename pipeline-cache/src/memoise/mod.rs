//! Steps that are not run again when nothing that they read has changed.
//!
//! [`MemoiseExt::memoised`] wraps any step. Its fingerprint is taken from what the step does (its
//! [`Recipe`], or a version given by hand), the declared files, the values it reads from other
//! steps, the variables that somebody declared, versions of tools, the platform and the image. On
//! a hit the step is not run: its outputs are restored, its log is replayed, its typed value is
//! returned.
//!
//! Left out on purpose, because they change with every run or say nothing about the result: the
//! [built-in variables](pipeline_core::RunFacts::builtin_variables) such as the build's number,
//! secrets, the time, the kernel, and where the job's folder is.
//!
//! Only success is kept. Trouble with the cache is a warning, and the step runs. Runs that share a
//! data folder compute one fingerprint once: the others wait, and when the one that computes is
//! killed the system frees its place.
//!
//! | fact | data |
//! |---|---|
//! | `memo.hit` | `key`, `created`, `producer`, `outputs`, `saved_ms` |
//! | `memo.missed` | `key`, `why`, `nearest` (`key`, `created`, `changes` (the first 20), `count`), `rejected` |
//! | `memo.stored` | `key`, `outputs`, `size` |
//! | `memo.skipped` | `key`, `why`: the step ran and nothing was kept |

mod fingerprint;
mod inputs;
mod memoised;
mod recipe;
mod record;
mod turn;

pub use inputs::Inputs;
pub use memoised::{MemoiseExt, Memoised};
pub use recipe::Recipe;
