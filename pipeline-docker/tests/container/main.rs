//! Jobs and services in containers of a real engine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

#[path = "../swarm/cable.rs"]
mod cable;
mod contract;
mod copied;
mod debian_services;
#[path = "../declared/mod.rs"]
mod declared;
mod engine_restart;
mod executor;
mod fixture;
mod leftovers;
#[path = "../engine/own_engine.rs"]
#[expect(dead_code, reason = "shared with the tests of builds, which need more")]
mod own_engine;
mod podman;
mod pulls;
#[path = "../registry/server.rs"]
#[expect(
    dead_code,
    reason = "shared with the registry's tests, which need more"
)]
mod server;
mod services;
#[cfg(feature = "engine-tls")]
mod tls;
#[cfg(feature = "engine-tls")]
#[path = "../engine/tls_engine.rs"]
mod tls_engine;

#[test]
fn every_file_is_declared() {
    declared::every_file_is_declared_in("container");
}
