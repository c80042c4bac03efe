//! An engine of a test's own behind TLS.

use std::path::{Path, PathBuf};
use std::process::Command;

use pipeline_docker::engine::EngineAddress;

use crate::own_engine::OwnEngine;

/// An [`OwnEngine`] that listens on TCP as well and wants a certificate there.
pub(crate) struct TlsEngine {
    pub(crate) own: OwnEngine,
    /// Where it listens, as `address:port`.
    pub(crate) host: String,
    /// The folder of the authority and the keys of both sides.
    pub(crate) certificates: PathBuf,
}

impl TlsEngine {
    pub(crate) async fn start() -> Self {
        let own = OwnEngine::prepare();
        let folder = own.path("tls");
        certificates(&folder);
        let host = OwnEngine::free_at("127.0.0.1");
        let file = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let mut own = own.with(&[
            &format!("--host=tcp://{host}"),
            "--tlsverify",
            &file("tlscacert", "ca.pem"),
            &file("tlscert", "cert.pem"),
            &file("tlskey", "key.pem"),
        ]);
        own.run().await;
        Self {
            own,
            host,
            certificates: folder,
        }
    }

    pub(crate) fn address(&self) -> EngineAddress {
        self.address_with(&self.certificates)
    }

    /// With other certificates than its own.
    pub(crate) fn address_with(&self, certificates: &Path) -> EngineAddress {
        EngineAddress::from_lookup(|name| match name {
            "DOCKER_HOST" => Some(format!("tcp://{}", self.host).into()),
            "DOCKER_TLS_VERIFY" => Some("1".into()),
            "DOCKER_CERT_PATH" => Some(certificates.into()),
            _ => None,
        })
        .unwrap()
    }
}

/// An authority, and one key pair that both sides use, in a new folder as docker wants it.
pub(crate) fn certificates(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let uses = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(folder.join("leaf.ext"), uses).unwrap();
    for arguments in [
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=test-authority"),
        &format!("req {key} -keyout key.pem -out leaf.csr -subj /CN=leaf"),
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile leaf.ext -out cert.pem",
    ] {
        let mut command = Command::new("openssl");
        let output = command
            .current_dir(folder)
            .args(arguments.split(' '))
            .output();
        let output = output.unwrap_or_else(|error| panic!("openssl must be there: {error}"));
        assert!(output.status.success(), "{arguments}: {output:?}");
    }
}
