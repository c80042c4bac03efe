//! The real registry, started and stopped by a test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// How the registry is set up.
#[derive(Default)]
pub(crate) struct Setup {
    /// User and password of the only account.
    pub(crate) password: Option<(String, String)>,
    /// Speak TLS with a certificate of a private authority.
    pub(crate) tls: bool,
    /// Realm address and folder with the certificate of a token service.
    pub(crate) token: Option<(String, PathBuf)>,
}

/// A running `docker-registry` on a free loopback port; killed when dropped.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    pub(crate) fn start_with(setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:0\n",
            path("data")
        );
        if setup.tls {
            authority(folder.path());
            let (certificate, key) = (path("leaf.crt"), path("leaf.key"));
            config += &format!("  tls: {{certificate: {certificate}, key: {key}}}\n");
        }
        if let Some((user, password)) = &setup.password {
            let line = run(Command::new("htpasswd").args(["-Bbn", user, password]));
            std::fs::write(folder.path().join("htpasswd"), line).unwrap();
            config += &format!(
                "auth:\n  htpasswd: {{realm: test, path: {}}}\n",
                path("htpasswd")
            );
        }
        if let Some((realm, keys)) = &setup.token {
            let bundle = keys.join("token.crt");
            config += &format!(
                "auth:\n  token: {{realm: \"{realm}\", service: test-registry, issuer: test-issuer, rootcertbundle: {}}}\n",
                bundle.display()
            );
        }
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut child = Command::new("docker-registry")
            .args(["serve", &path("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry must be installed for this test");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let port = loop {
            let Some(line) = lines.next() else {
                panic!(
                    "docker-registry ended before it listened: {}",
                    said.join("\n")
                )
            };
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("listening on 127.0.0.1:") {
                let digits = rest
                    .chars()
                    .take_while(char::is_ascii_digit)
                    .collect::<String>();
                break digits;
            }
            said.push(line);
        };
        // Or the registry blocks once the pipe is full.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            folder,
            address: format!("127.0.0.1:{port}"),
        }
    }

    /// The private authority's certificate, of a server that speaks TLS.
    pub(crate) fn authority(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("ca.crt")).unwrap()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Server {
    /// What happens to servers.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program that must succeed; answers what it printed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} must be installed: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn openssl(folder: &Path, arguments: &str) {
    run(Command::new("openssl")
        .current_dir(folder)
        .args(arguments.split(' ')));
}

/// An authority and a leaf: an authority's own certificate is no server's.
fn authority(folder: &Path) {
    std::fs::write(
        folder.join("leaf.ext"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n",
    )
    .unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -keyout ca.key -out ca.crt -days 30 -subj /CN=test-authority"),
    );
    openssl(
        folder,
        &format!("req {key} -keyout leaf.key -out leaf.csr -subj /CN=localhost"),
    );
    openssl(
        folder,
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile leaf.ext -out leaf.crt",
    );
}
