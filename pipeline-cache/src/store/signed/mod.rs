//! Entries that somebody vouches for: Ed25519 over the key, the digest, the producer and
//! everything else that a description says.

mod signature;
mod signed_store;
mod signing_key;

pub use signature::SignatureError;
pub use signed_store::SignedStore;
pub use signing_key::{InvalidKey, PublicKey, SigningKey};
