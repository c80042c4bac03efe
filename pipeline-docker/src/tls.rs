//! The one TLS provider of this crate.

/// Installs the aws-lc-rs provider for the process unless it has one already.
///
/// A program that compiles two providers in and installs none would panic at its first TLS
/// connection, so every client constructor of this crate goes through here. Losing the race
/// against another installer is fine: then the process has a provider.
pub(crate) fn ensure() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // The error is the provider that lost the race.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_provider_is_there_afterwards_and_a_second_call_is_harmless() {
        super::ensure();
        super::ensure();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
