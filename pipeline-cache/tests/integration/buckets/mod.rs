//! The bucket store against a real S3 server process, and through a proxy that misbehaves.

#[cfg(feature = "chunked")]
mod chunks;
mod faults;
mod moto;
mod proxy;
mod server;
