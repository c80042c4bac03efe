//! [`EngineAddress`]: where an engine is.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::EngineError;
use crate::oci::Digest;

/// Where docker's engine listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// Where podman's service of the system listens.
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// Where an engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineAddress {
    /// A Unix socket on this machine.
    Socket(PathBuf),
    /// `host:port`, in plain text. Who reaches it is root on the engine's machine, so it is for
    /// loopback and private networks only.
    Tcp(String),
    /// `host:port` over TLS, with certificates of both sides. Needs the feature `engine-tls`.
    Tls {
        /// The engine's host and port.
        host: String,
        /// The folder with `ca.pem`, `cert.pem` and `key.pem`.
        certificates: PathBuf,
    },
}

impl EngineAddress {
    /// Where the docker command line would go; reads the process's environment, which is the point
    /// of it.
    ///
    /// `DOCKER_HOST` counts first, with `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` (default
    /// `~/.docker`); then the context named by `DOCKER_CONTEXT` or, where that is not set, chosen
    /// with `docker context use`; then `/var/run/docker.sock`. If there is no such socket, the one
    /// of a rootless engine, podman's of the user and podman's of the system are taken, in this
    /// order, if they are there.
    ///
    /// # Errors
    /// [`EngineError::Address`] if one of these is set to something that cannot be used.
    pub fn from_env() -> Result<Self, EngineError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// As [`EngineAddress::from_env`], with the variables taken from `lookup`. An empty variable
    /// counts as one that is not set.
    ///
    /// # Errors
    /// As for [`EngineAddress::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, EngineError> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let text = |name: &str| lookup(name).map(|value| value.to_string_lossy().into_owned());
        let folder = lookup("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| lookup("HOME").map(|home| Path::new(&home).join(".docker")));
        let certificates = || {
            lookup("DOCKER_CERT_PATH")
                .map(PathBuf::from)
                .or_else(|| folder.clone())
        };
        if let Some(host) = text("DOCKER_HOST") {
            let verify = lookup("DOCKER_TLS_VERIFY").is_some();
            return Self::parse(&host, verify, certificates().as_deref());
        }
        if let Some(folder) = &folder {
            let chosen = match text("DOCKER_CONTEXT") {
                Some(name) => Some(name),
                None => current_context(folder)?,
            };
            if let Some(name) = chosen.filter(|name| name != "default") {
                return context(folder, &name);
            }
        }
        let user = lookup("XDG_RUNTIME_DIR").map(PathBuf::from);
        let below = |path: &str| user.as_ref().map(|folder| folder.join(path));
        let default = PathBuf::from(DEFAULT_SOCKET);
        let others = [
            below("docker.sock"),
            below("podman/podman.sock"),
            Some(PathBuf::from(PODMAN_SOCKET)),
        ];
        let found = std::iter::once(default.clone())
            .chain(others.into_iter().flatten())
            .find(|path| path.exists());
        // The first one is named in the error if there is none at all.
        Ok(Self::Socket(found.unwrap_or(default)))
    }

    /// The address that `host` means, in the notation of `DOCKER_HOST`.
    fn parse(host: &str, verify: bool, certificates: Option<&Path>) -> Result<Self, EngineError> {
        let refuse = |why: &str| EngineError::Address {
            address: host.to_owned(),
            why: why.to_owned(),
        };
        let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
        let tls = match scheme {
            "unix" if rest.starts_with('/') => return Ok(Self::Socket(PathBuf::from(rest))),
            "unix" => return Err(refuse("a socket needs an absolute path: unix:///path")),
            "tcp" => verify,
            "http" => false,
            "https" => true,
            "ssh" => {
                return Err(refuse(
                    "forward the socket, as in `ssh -N -L ./engine.sock:/var/run/docker.sock HOST`, and set DOCKER_HOST to unix:// with its absolute path",
                ));
            }
            _ => {
                return Err(refuse(
                    "an address begins with unix://, tcp://, http:// or https://",
                ));
            }
        };
        let name = rest.trim_end_matches('/');
        if name.is_empty() || name.contains(['/', '@', ' ']) {
            return Err(refuse("behind the scheme there must be host:port"));
        }
        let has_port = name
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let name = match (has_port, tls) {
            (true, _) => name.to_owned(),
            (false, false) => format!("{name}:2375"),
            (false, true) => format!("{name}:2376"),
        };
        if !tls {
            return Ok(Self::Tcp(name));
        }
        let certificates = certificates.ok_or_else(|| {
            refuse("set DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem")
        })?;
        Ok(Self::Tls {
            host: name,
            certificates: certificates.to_owned(),
        })
    }

    /// Whether it is a socket on this machine. Usually the engine sees this machine's files then,
    /// but a socket may also be forwarded from elsewhere.
    #[must_use]
    pub const fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
            Self::Tls { host, .. } => write!(f, "https://{host}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    current_context: Option<String>,
}

/// What a context's `meta.json` says.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
}

fn current_context(folder: &Path) -> Result<Option<String>, EngineError> {
    let path = folder.join("config.json");
    let Ok(text) = std::fs::read(&path) else {
        // Whether it must be readable is the matter of who needs credentials.
        return Ok(None);
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let file: ConfigFile = serde_json::from_slice(&text).map_err(|_| EngineError::Address {
        address: path.display().to_string(),
        why: "docker's configuration is no JSON document; repair it or set DOCKER_HOST".to_owned(),
    })?;
    Ok(file.current_context.filter(|name| !name.is_empty()))
}

/// Contexts are kept in folders named by the hash of their name.
fn context(folder: &Path, name: &str) -> Result<EngineAddress, EngineError> {
    let refuse = |why: String| EngineError::Address {
        address: format!("context {name}"),
        why,
    };
    let id = Digest::sha256(name.as_bytes()).hex().to_owned();
    let path = folder.join("contexts/meta").join(&id).join("meta.json");
    let text = std::fs::read(&path).map_err(|error| {
        refuse(format!(
            "{} cannot be read ({error}); see `docker context ls`",
            path.display()
        ))
    })?;
    let meta: Meta = serde_json::from_slice(&text)
        .map_err(|error| refuse(format!("{} is not valid: {error}", path.display())))?;
    let host = meta
        .endpoints
        .docker
        .map(|endpoint| endpoint.host)
        .filter(|host| !host.is_empty())
        .ok_or_else(|| refuse(format!("{} names no engine", path.display())))?;
    let certificates = folder.join("contexts/tls").join(&id).join("docker");
    let verify = certificates.is_dir();
    EngineAddress::parse(&host, verify, Some(&certificates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<EngineAddress, String> {
        EngineAddress::from_lookup(|name| {
            let entry = variables.iter().find(|(known, _)| *known == name);
            entry.map(|(_, value)| OsString::from(value))
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_as_docker_writes_them() {
        let host = |host: &str| found(&[("DOCKER_HOST", host)]).map(|found| found.to_string());
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(host("unix:///a/b.sock"), ok("unix:///a/b.sock"));
        assert_eq!(host("tcp://10.0.0.1:99"), ok("tcp://10.0.0.1:99"));
        assert_eq!(host("tcp://engine"), ok("tcp://engine:2375"));
        assert_eq!(host("engine:1"), ok("tcp://engine:1"));
        assert_eq!(host("tcp://[::1]:5/"), ok("tcp://[::1]:5"));
        for (wrong, part) in [
            ("unix://a", "absolute"),
            ("tcp://", "host:port"),
            ("tcp://a/b", "host:port"),
            ("ssh://me@there", "ssh -N -L"),
            ("npipe:////./pipe/x", "unix://"),
            ("https://engine", "DOCKER_CERT_PATH"),
        ] {
            let error = host(wrong).unwrap_err();
            assert!(error.contains(wrong) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn certificates_make_it_tls() {
        let tls = found(&[
            ("DOCKER_HOST", "tcp://engine"),
            ("DOCKER_TLS_VERIFY", "1"),
            ("HOME", "/home/me"),
        ]);
        let expected = |folder: &str| EngineAddress::Tls {
            host: "engine:2376".to_owned(),
            certificates: PathBuf::from(folder),
        };
        assert_eq!(tls, Ok(expected("/home/me/.docker")));
        let tls = found(&[
            ("DOCKER_HOST", "https://engine"),
            ("DOCKER_CERT_PATH", "/certs"),
            ("HOME", "/home/me"),
        ]);
        assert_eq!(tls, Ok(expected("/certs")));
    }

    #[test]
    fn a_context_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".docker");
        let id = Digest::sha256(b"far").hex().to_owned();
        let meta = folder.join("contexts/meta").join(&id);
        std::fs::create_dir_all(&meta).unwrap();
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        write(
            &meta.join("meta.json"),
            r#"{"Name":"far","Metadata":{},"Endpoints":{"docker":{"Host":"tcp://far:1","SkipTLSVerify":false}}}"#,
        );
        write(
            &folder.join("config.json"),
            r#"{"auths":{},"currentContext":"far"}"#,
        );
        let home = home.path().to_str().unwrap();
        let far = Ok(EngineAddress::Tcp("far:1".to_owned()));
        assert_eq!(found(&[("HOME", home)]), far);
        assert_eq!(
            found(&[("HOME", home), ("DOCKER_HOST", "unix:///x")]),
            Ok(EngineAddress::Socket("/x".into()))
        );
        let error = found(&[("HOME", home), ("DOCKER_CONTEXT", "nowhere")]).unwrap_err();
        assert!(error.contains("context nowhere"), "{error}");
        // With keys beside it, it is spoken to over TLS.
        let keys = folder.join("contexts/tls").join(&id).join("docker");
        std::fs::create_dir_all(&keys).unwrap();
        let tls = EngineAddress::Tls {
            host: "far:1".to_owned(),
            certificates: keys,
        };
        assert_eq!(found(&[("HOME", home), ("DOCKER_CONTEXT", "far")]), Ok(tls));
    }
}
