//! Steady traffic for tests: did any request fail while something was switched?
//!
//! ```ignore
//! let load = Load::start("http://127.0.0.1:8000/", &LoadOptions::default());
//! load.wait_for_answers(100);
//! // … the thing that must not be noticed …
//! load.wait_for_answers(100);
//! let report = load.stop();
//! assert_eq!(report.failed, 0, "{report}");
//! ```

mod exchange;
mod generator;
mod report;

pub(crate) use exchange::Connections;
pub(crate) use generator::{Load, LoadOptions};
