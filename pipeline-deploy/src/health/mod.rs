//! Is it well? A [`HealthCheck`] asks once, [`HealthWindow`] says how long to go on asking.

mod check;
mod command;
mod django;
mod http;
mod tcp;
mod window;

pub use check::{Answer, Endpoint, Health, HealthCheck};
pub use command::CommandCheck;
pub use http::HttpCheck;
pub use tcp::TcpCheck;
pub use window::{HealthWindow, Waited};

pub(crate) use django::cure_for_disallowed_host;
