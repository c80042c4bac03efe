//! Tests of the registry client against the real `docker-registry` of Debian.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests fail as tests do"
)]

mod authentication;
mod builds;
#[path = "../declared/mod.rs"]
mod declared;
mod engine;
mod faults;
mod fixture;
mod helper;
mod memory;
mod proxy;
mod server;
mod steps;
mod token_service;
mod transfer;
mod wire;

#[test]
fn every_file_is_declared() {
    declared::every_file_is_declared_in("registry");
}
