//! Who we are: against real registries that ask.

use pipeline_core::Secret;
use pipeline_docker::oci::OciLayout;
use pipeline_docker::registry::{
    BlobOutcome, CredentialError, CredentialSource, Credentials, DockerConfig, PullOptions,
    PushOptions, Registry, RegistryErrorKind, StaticCredentials,
};

use crate::fixture::{client, image, options, password, reference};
use crate::proxy::{Fault, Proxy};
use crate::server::{Server, Setup};
use crate::token_service::{IDENTITY, PASSWORD, TokenService, USER};

#[tokio::test]
#[ignore = "needs docker-registry and htpasswd"]
async fn passwords_of_any_shape_are_taken_from_dockers_configuration() {
    // Its base64 holds `+` and `/`.
    let secret = "p:a>>>?~ss\u{fb}";
    let account = Some(("user".to_owned(), secret.to_owned()));
    let server = Server::start_with(&Setup {
        password: account,
        ..Setup::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 1_000)]);
    let target = reference(format!("{}/app:1", server.address));

    let error = client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    assert!(error.to_string().contains("docker login"), "{error}");
    assert!(client().login(&server.address).await.is_err());

    let wrong = options().with_credentials(password(&server.address, "user", "wrong-password"));
    let error = Registry::new(wrong)
        .unwrap()
        .login(&server.address)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("\"user\"") && !text.contains("wrong-password"),
        "{text}"
    );

    let auth = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(format!("user:{secret}"))
    };
    assert!(auth.contains('+') || auth.contains('/'), "{auth}");
    let json = format!(
        r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#,
        server.address
    );
    std::fs::write(server.folder().join("config.json"), json).unwrap();
    let config = DockerConfig::load(server.folder().join("config.json")).unwrap();
    let registry = Registry::new(options().with_credentials(config)).unwrap();
    assert!(registry.login(&server.address).await.unwrap().authenticated);
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, pushed.digest);
    assert!(!format!("{registry:?}").contains(secret));
}

#[tokio::test]
#[ignore = "needs docker-registry and openssl"]
async fn a_private_authority_is_trusted_only_when_named() {
    let server = Server::start_with(&Setup {
        tls: true,
        ..Setup::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 1_000)]);
    for host in [
        server.address.clone(),
        server.address.replace("127.0.0.1", "localhost"),
    ] {
        let target = reference(format!("{host}/app:1"));
        let error = client()
            .push(&layout, &target, &PushOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Certificate, "{error:?}");
        assert!(!error.is_retryable());

        let registry = Registry::new(options().with_ca_pem(server.authority())).unwrap();
        let report = registry
            .push(&layout, &target, &PushOptions::default())
            .await
            .unwrap();
        assert_eq!(report.digest, pushed.digest);
    }
}

struct Guarded {
    service: TokenService,
    server: Server,
}

impl Guarded {
    async fn start() -> Self {
        let service = TokenService::start().await;
        let token = Some((service.realm.clone(), service.folder.path().to_owned()));
        let server = Server::start_with(&Setup {
            token,
            ..Setup::default()
        });
        Self { service, server }
    }

    fn with_password(&self, registry: &str) -> Registry {
        Registry::new(options().with_credentials(password(registry, USER, PASSWORD))).unwrap()
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.service.behaviour.lock().unwrap().log)
    }
}

#[tokio::test]
#[ignore = "needs docker-registry and openssl"]
async fn tokens_are_fetched_once_and_mounts_may_read_the_source() {
    let guarded = Guarded::start().await;
    let address = &guarded.server.address;
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 10_000), ("application", 1_000)]);
    let registry = guarded.with_password(address);
    assert!(registry.login(address).await.unwrap().authenticated);
    guarded.log();
    let first = reference(format!("{address}/team/base:1"));
    registry
        .push(&layout, &first, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(guarded.log(), ["GET repository:team/base:pull,push"]);

    let second = reference(format!("{address}/team/app:1"));
    let options = PushOptions::default().with_mount_from("team/base");
    let report = registry.push(&layout, &second, &options).await.unwrap();
    let mounted = BlobOutcome::Mounted {
        from: "team/base".to_owned(),
    };
    assert!(
        report.blobs.iter().all(|blob| blob.outcome == mounted),
        "{report:?}"
    );
    assert_eq!(
        (report.bytes_sent, report.digest),
        (2 * pushed.size, pushed.digest)
    );
    assert_eq!(
        guarded.log(),
        [
            "GET repository:team/app:pull,push",
            "GET repository:team/app:pull,push repository:team/base:pull"
        ]
    );

    // A source that may not be read is no reason to fail.
    guarded
        .service
        .behaviour
        .lock()
        .unwrap()
        .forbidden
        .push("team/base".to_owned());
    let third = reference(format!("{address}/team/third:1"));
    let fresh = guarded.with_password(address);
    let report = fresh.push(&layout, &third, &options).await.unwrap();
    assert!(
        report
            .blobs
            .iter()
            .all(|blob| blob.outcome == BlobOutcome::Uploaded),
        "{report:?}"
    );
}

#[tokio::test]
#[ignore = "needs docker-registry and openssl"]
async fn identity_tokens_are_exchanged_and_a_busy_token_service_is_asked_again() {
    let guarded = Guarded::start().await;
    let address = &guarded.server.address;
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(folder.path(), &[("base", 10_000)]);
    let json = format!(r#"{{"auths": {{"{address}": {{"identitytoken": "{IDENTITY}"}}}}}}"#);
    let config = DockerConfig::parse("test", &json).unwrap();
    let registry = Registry::new(options().with_credentials(config)).unwrap();
    guarded.service.behaviour.lock().unwrap().unavailable = 2;
    let target = reference(format!("{address}/team/app:1"));
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.retries, 2);
    assert_eq!(guarded.log(), ["POST repository:team/app:pull,push"; 3]);

    let bad = Credentials::identity_token(Secret::new("stale-identity"));
    let bad = options().with_credentials(StaticCredentials::new(address, bad));
    let error = Registry::new(bad)
        .unwrap()
        .push(&layout, &target, &PushOptions::default())
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    assert!(
        error.to_string().contains("incorrect username or password"),
        "{error}"
    );
    assert!(!format!("{error:?}").contains("stale-identity"));
}

#[tokio::test]
#[ignore = "needs docker-registry and openssl"]
async fn a_token_that_ends_in_the_middle_of_a_push_is_renewed() {
    let guarded = Guarded::start().await;
    let proxy = Proxy::start(&guarded.server.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 400_000)]);
    let options = options()
        .with_credentials(password(&proxy.address, USER, PASSWORD))
        .with_single_request_limit(100_000)
        .with_chunk_size(100_000);
    let registry = Registry::new(options).unwrap();
    let challenge = format!(
        "Bearer realm=\"{}\",service=\"test-registry\",scope=\"repository:app:pull,push\",error=\"invalid_token\"",
        guarded.service.realm
    );
    let headers = vec![("www-authenticate".to_owned(), challenge)];
    proxy.fault(
        "PATCH",
        "_state",
        1,
        Fault::Answer(401, headers, String::new()),
    );
    let target = reference(format!("{}/app:1", proxy.address));
    let report = registry
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert_eq!(report.digest, pushed.digest);
    assert_eq!(proxy.unmet(), 0);
    assert_eq!(guarded.log(), ["GET repository:app:pull,push"; 2]);
}

#[tokio::test]
#[ignore = "needs docker-registry and openssl"]
async fn public_images_are_pulled_without_credentials() {
    let guarded = Guarded::start().await;
    let address = &guarded.server.address;
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(&folder.path().join("out"), &[("base", 1_000)]);
    let owner = guarded.with_password(address);
    for name in ["public/app", "private/app"] {
        let target = reference(format!("{address}/{name}:1"));
        owner
            .push(&layout, &target, &PushOptions::default())
            .await
            .unwrap();
    }
    let back = OciLayout::create(folder.path().join("in")).unwrap();
    let public = reference(format!("{address}/public/app:1"));
    let report = client()
        .pull(&public, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(report.manifest.digest, pushed.digest);
    let private = reference(format!("{address}/private/app:1"));
    let error = client()
        .pull(&private, &back, &PullOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), RegistryErrorKind::Unauthorized);
    assert!(error.to_string().contains("docker login"), "{error}");
}

#[tokio::test]
#[ignore = "needs docker-registry and htpasswd"]
async fn credentials_do_not_follow_to_other_hosts() {
    let account = Some(("user".to_owned(), "password".to_owned()));
    let guarded = Server::start_with(&Setup {
        password: account,
        ..Setup::default()
    });
    let store = Server::start();
    let (registry, elsewhere) = (
        Proxy::start(&guarded.address).await,
        Proxy::start(&store.address).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let (layout, _) = image(&folder.path().join("out"), &[("base", 1_000)]);
    let target = reference(format!("{}/app:1", registry.address));
    let options = options()
        .with_credentials(password(&registry.address, "user", "password"))
        .with_parallel(1);
    let client = Registry::new(options).unwrap();

    // A blob that lies in a store of its own, as content delivery networks have it.
    let same = reference(format!("{}/app:1", elsewhere.address));
    crate::fixture::client()
        .push(&layout, &same, &PushOptions::default())
        .await
        .unwrap();
    client
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    assert!(registry.authorized() > 0);
    let root = layout.resolve(None).unwrap();
    let platform = pipeline_docker::oci::Platform::host();
    let layer = layout.image(&root, &platform).unwrap().manifest.layers[0].clone();
    let path = format!("/v2/app/blobs/{}", layer.digest);
    let location = format!("http://{}{path}", elsewhere.address);
    let redirect = Fault::Answer(307, vec![("location".to_owned(), location)], String::new());
    registry.fault("GET", &path, 1, redirect);
    elsewhere.take_log();
    let back = OciLayout::create(folder.path().join("in")).unwrap();
    client
        .pull(&target, &back, &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(elsewhere.take_log(), [format!("GET {path}")]);

    // An upload that goes on in a store of its own, by a signed address.
    let location = format!(
        "http://{}/v2/app/blobs/uploads/signed?by=us",
        elsewhere.address
    );
    let accepted = Fault::Answer(202, vec![("location".to_owned(), location)], String::new());
    let created = Fault::Answer(201, Vec::new(), String::new());
    registry.fault("POST", "/v2/other/blobs/uploads/", 1, accepted);
    elsewhere.fault("PUT", "/v2/app/blobs/uploads/signed", 1, created);
    let other = reference(format!("{}/other:1", registry.address));
    // The registry behind never saw that blob, so the push cannot end well.
    let error = client
        .push(&layout, &other, &PushOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("MANIFEST_BLOB_UNKNOWN"),
        "{error}"
    );
    assert_eq!((elsewhere.unmet(), registry.unmet()), (0, 0));
    assert_eq!(elsewhere.authorized(), 0);
}

/// A password that changes every time somebody asks, and a keychain that is locked at last.
#[derive(Debug, Default)]
struct Changing(std::sync::atomic::AtomicUsize);

impl std::fmt::Display for Changing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("changing")
    }
}

#[async_trait::async_trait]
impl CredentialSource for Changing {
    async fn credentials(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let password = match self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => "old-password",
            1 => "new-password",
            _ => {
                return Err(CredentialError::Other {
                    origin: self.to_string(),
                    registry: registry.to_owned(),
                    source: "locked".into(),
                });
            }
        };
        Ok(Some(Credentials::password("user", Secret::new(password))))
    }
}

#[tokio::test]
#[ignore = "needs docker-registry and htpasswd"]
async fn old_credentials_are_asked_for_again() {
    let account = Some(("user".to_owned(), "new-password".to_owned()));
    let server = Server::start_with(&Setup {
        password: account,
        ..Setup::default()
    });
    let keeping = options().with_credentials(Changing::default());
    let asking = keeping.clone().with_credentials(Changing::default());
    let asking = asking.with_credentials_lifetime(std::time::Duration::ZERO);
    let keeping = Registry::new(keeping).unwrap();
    let asking = Registry::new(asking).unwrap();
    for _ in 0..2 {
        let error = keeping.login(&server.address).await.unwrap_err();
        assert_eq!(error.kind(), RegistryErrorKind::Unauthorized, "{error}");
    }
    assert!(asking.login(&server.address).await.is_err());
    for _ in 0..2 {
        // The second time from the locked keychain: what was known goes on to count.
        asking.login(&server.address).await.unwrap();
    }
}

/// The environment of the process decides which authorities the system has, so this runs another
/// test in a process of its own.
#[test]
#[ignore = "needs docker-registry"]
fn a_machine_without_authorities_still_speaks_plain_http() {
    let empty = tempfile::tempdir().unwrap();
    let name = "transfer::a_tag_never_moves_by_accident";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--include-ignored"])
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", empty.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}
