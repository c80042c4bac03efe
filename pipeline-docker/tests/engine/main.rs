//! Tests with a real engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod both_builders;
mod build;
mod connection;
mod credentials;
#[path = "../declared/mod.rs"]
mod declared;
mod faults;
#[path = "../swarm/gate.rs"]
mod gate;
mod leftovers;
#[expect(
    dead_code,
    reason = "shared with the tests of containers, which need more"
)]
mod own_engine;
#[path = "../registry/server.rs"]
#[expect(
    dead_code,
    reason = "shared with the registry's tests, which need more"
)]
mod server;
#[cfg(feature = "registry")]
mod slow_registry;
#[cfg(feature = "registry")]
mod steps;
mod support;
#[cfg(feature = "engine-tls")]
#[expect(
    dead_code,
    reason = "shared with the tests of containers, which need more"
)]
mod tls_engine;

#[test]
fn every_file_is_declared() {
    declared::every_file_is_declared_in("engine");
}
