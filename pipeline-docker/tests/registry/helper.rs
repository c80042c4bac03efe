//! Credential helpers as real child processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pipeline_docker::registry::{
    CredentialError, CredentialSource, Credentials, DockerConfig, HelperError,
};

fn helper(folder: &Path, name: &str, script: &str) {
    let path = folder.join(format!("docker-credential-{name}"));
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn config(folder: &Path, json: &str) -> DockerConfig {
    DockerConfig::parse("test", json)
        .unwrap()
        .with_helper_folder(folder)
}

async fn look(config: &DockerConfig, registry: &str) -> String {
    match config.credentials(registry).await.unwrap() {
        Some(Credentials::Password { username, password }) => {
            format!("{username}={}", password.expose())
        }
        Some(Credentials::IdentityToken { token }) => format!("identity {}", token.expose()),
        Some(other) => format!("{other:?}"),
        None => "none".to_owned(),
    }
}

#[tokio::test]
async fn helpers_are_asked_by_dockers_rules() {
    let folder = tempfile::tempdir().unwrap();
    // Says what it was asked.
    let script =
        r#"read host; echo "{\"ServerURL\":\"$host\",\"Username\":\"$1\",\"Secret\":\"$host\"}""#;
    helper(folder.path(), "own", script);
    helper(
        folder.path(),
        "store",
        r#"read host; echo "{\"Username\":\"<token>\",\"Secret\":\"$host\"}""#,
    );
    helper(
        folder.path(),
        "nothing",
        "echo credentials not found in native keychain; exit 1",
    );
    let config = config(
        folder.path(),
        r#"{"auths": {"plain.example": {"auth": "dTpw"}, "stored.example": {}},
            "credHelpers": {"own.example:5000": "own", "nothing.example": "nothing"},
            "credsStore": "store"}"#,
    );
    assert_eq!(
        look(&config, "own.example:5000").await,
        "get=own.example:5000"
    );
    assert_eq!(look(&config, "plain.example").await, "u=p");
    assert_eq!(
        look(&config, "stored.example").await,
        "identity stored.example"
    );
    assert_eq!(
        look(&config, "docker.io").await,
        "identity https://index.docker.io/v1/"
    );
    assert_eq!(
        look(&config, "nothing.example").await,
        "identity nothing.example"
    );
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    helper(
        folder.path(),
        "hangs",
        &format!("echo $$ > {}; exec sleep 600", pid.display()),
    );
    let config = config(folder.path(), r#"{"credsStore": "hangs"}"#)
        .with_helper_limit(Duration::from_millis(500));
    let error = config.credentials("a.example").await.unwrap_err();
    assert!(
        matches!(error, CredentialError::Helper(HelperError::Deadline { .. })),
        "{error}"
    );
    let pid = fs::read_to_string(pid).unwrap();
    let stat = Path::new("/proc").join(pid.trim()).join("stat");
    // Killed; perhaps not yet collected.
    let gone = || fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "));
    while !gone() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_helper_that_fails_is_an_error_that_keeps_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    helper(folder.path(), "fails", "echo keyring is locked; exit 3");
    helper(
        folder.path(),
        "babbles",
        r#"echo '{"Username": 1, "Secret": "hush-hush"}'"#,
    );
    for (name, expected) in [
        ("fails", "keyring is locked"),
        ("babbles", "no usable answer"),
        ("missing", "cannot be run"),
        ("../fails", "not a plain name"),
    ] {
        let config = config(folder.path(), &format!(r#"{{"credsStore": "{name}"}}"#));
        let error = config.credentials("a.example").await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(error.to_string().contains(expected), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}
