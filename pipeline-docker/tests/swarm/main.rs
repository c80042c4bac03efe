//! Jobs on a real swarm: an engine of each test's own that is made a manager.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod cable;
#[path = "../declared/mod.rs"]
mod declared;
mod ending;
mod fixture;
mod gate;
mod jobs;
mod nodes;
#[path = "../engine/own_engine.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of engines, which need more"
)]
mod own_engine;
mod refused;
#[path = "../registry/server.rs"]
#[expect(
    dead_code,
    reason = "shared with the registry's tests, which need more"
)]
mod server;
mod steps;

#[test]
fn every_file_is_declared() {
    declared::every_file_is_declared_in("swarm");
}
