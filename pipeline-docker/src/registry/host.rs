//! [`Host`]: one registry and the addresses below it.

use reqwest::Url;

use super::authenticator::Authenticator;
use super::error::RegistryError;
use super::transport::is_loopback;

/// One registry as we reach it.
#[derive(Debug)]
pub(crate) struct Host {
    /// As users write it.
    pub(crate) name: String,
    /// `scheme://host:port/`.
    pub(crate) base: Url,
    pub(crate) authenticator: Authenticator,
}

impl Host {
    /// An address below `/v2/` of this registry.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }

    /// Resolves a `Location` or `Link`: usually relative or absolute on this registry.
    ///
    /// A registry behind a proxy that ends TLS may call itself `http://`; its own name over plain
    /// HTTP is taken as the TLS address that we know, since nothing may fall back from TLS.
    pub(crate) fn resolve(
        &self,
        request: &Url,
        location: &str,
        action: &str,
    ) -> Result<Url, RegistryError> {
        let protocol = |what: String| RegistryError::Protocol {
            registry: self.name.clone(),
            action: action.to_owned(),
            what,
        };
        let mut url = request
            .join(location)
            .map_err(|_| protocol("its Location is no valid address".to_owned()))?;
        if self.base.scheme() == "https" && url.scheme() == "http" {
            if url.host_str() != self.base.host_str() {
                return Err(protocol(
                    "it goes on in plain HTTP on another host".to_owned(),
                ));
            }
            let (port, scheme) = (self.base.port(), self.base.scheme().to_owned());
            if url.set_scheme(&scheme).is_err() || url.set_port(port).is_err() {
                return Err(protocol("its Location is no valid address".to_owned()));
            }
        }
        if !matches!(url.scheme(), "http" | "https") {
            return Err(protocol("its Location is no web address".to_owned()));
        }
        Ok(url)
    }

    /// Whether it runs on this machine.
    pub(crate) fn is_loopback(&self) -> bool {
        self.base.host_str().is_some_and(is_loopback)
    }

    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(base: &str) -> Host {
        Host {
            name: "registry.example".to_owned(),
            base: Url::parse(base).unwrap(),
            authenticator: Authenticator::new("registry.example", base.starts_with("https"), None),
        }
    }

    #[test]
    fn locations_are_resolved_and_never_fall_back_from_tls() {
        let tls = host("https://registry.example:8443/");
        let request = tls.url("a/b/blobs/uploads/");
        let resolve = |location: &str| tls.resolve(&request, location, "test").map(String::from);
        assert_eq!(
            resolve("/v2/a/b/blobs/uploads/1?_state=x").unwrap(),
            "https://registry.example:8443/v2/a/b/blobs/uploads/1?_state=x"
        );
        assert_eq!(
            resolve("1").unwrap(),
            "https://registry.example:8443/v2/a/b/blobs/uploads/1"
        );
        assert_eq!(
            resolve("http://registry.example/v2/x").unwrap(),
            "https://registry.example:8443/v2/x"
        );
        assert_eq!(
            resolve("https://store.example/x").unwrap(),
            "https://store.example/x"
        );
        assert!(resolve("http://store.example/x").is_err());
        assert!(resolve("ftp://registry.example/x").is_err());
        assert!(!tls.owns(&Url::parse("https://store.example/x").unwrap()));
        assert!(!tls.owns(&Url::parse("https://registry.example/x").unwrap()));
        assert!(tls.owns(&request));
    }
}
