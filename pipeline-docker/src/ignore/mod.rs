//! `.dockerignore`: what a build context leaves out.
//!
//! The rules are those of moby's `patternmatcher` and of the two programs that walk a tree with it:
//! the docker command line's classic builder and BuildKit. They differ in one point, see [`IgnoreRule`].

mod go_path;
mod go_regex;
mod pattern;
mod rules;
mod walk;

use rules::FolderMatch;
pub use rules::{IgnoreError, IgnoreRules};
pub use walk::IgnoreRule;
pub(crate) use walk::{TreeEntry, TreeKind, WalkError, read as read_entry, walk};
