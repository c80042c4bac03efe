//! The process that owns a target's address and processes.

mod actor;
mod connection;
mod inherited;
mod live;
mod orphans;
mod ports;
mod process;
mod proxy;
mod requests;
mod role;

pub use role::{SupervisorEnd, SupervisorError, supervise};

pub(super) use orphans::{end_orphans, process_gone};
