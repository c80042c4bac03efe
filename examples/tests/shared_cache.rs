//! `shared_cache`, and the bucket store against the S3 server that comes with it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;

use pipeline_cache::store::{
    BucketError, BucketOptions, BucketStore, CacheStore as _, S3Bucket, S3Credentials,
    StoreErrorKind,
};
use pipeline_cache::store_contract;
use pipeline_core::Secret;
use pipeline_examples::s3_server::S3Server;

const BUCKET: &str = "builds";

fn secret() -> Secret {
    Secret::new("a-secret-of-this-test")
}

async fn start(folder: &Path) -> S3Server {
    std::fs::create_dir_all(folder.join(BUCKET)).unwrap();
    S3Server::start(folder, "tester", &secret()).await.unwrap()
}

fn open(server: &S3Server, secret: Secret) -> Result<BucketStore, BucketError> {
    let bucket = S3Bucket::new(BUCKET, S3Credentials::keys("tester", secret))
        .with_endpoint(server.endpoint());
    BucketStore::s3(&bucket, BucketOptions::default().with_prefix("ci"))
}

store_contract!(s3s, || {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let server = tokio::task::block_in_place(|| runtime.block_on(start(dir.path())));
    (open(&server, secret()).unwrap(), (server, dir))
});

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_no_permission_and_nothing_to_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let store = open(&server, Secret::new("another-secret")).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Permission, "{error:?}");
    assert!(!error.is_retryable());
}

fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn check(lines: &[String]) {
    let starts = [
        "far store: bucket(s3://",
        "machine one, Django==4.2: found nothing, installed everything",
        "  brought to the bucket: deps1-",
        "machine two, Django==4.2: found deps1-",
        "machine two, Django==5.2: found deps1-",
        "  brought to the bucket: deps1-",
        "machine one, Django==5.2: found deps1-",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{lines:#?}");
    }
    assert!(lines[3].ends_with("nothing to install"), "{lines:#?}");
    assert!(lines[4].ends_with("installed the difference"), "{lines:#?}");
    assert!(lines[6].ends_with("nothing to install"), "{lines:#?}");
}

#[test]
fn two_machines_share_what_one_of_them_installed() {
    check(&lines(&mut Command::new(env!(
        "CARGO_BIN_EXE_shared_cache"
    ))));
}

#[tokio::test(flavor = "multi_thread")]
async fn against_a_server_with_credentials_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let program = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shared_cache"));
        command
            .args(["--endpoint", server.endpoint(), "--bucket", BUCKET])
            .env("AWS_ACCESS_KEY_ID", "tester")
            .env("AWS_SECRET_ACCESS_KEY", secret().expose());
        command
    };
    let run = |mut command: Command| tokio::task::block_in_place(|| lines(&mut command));
    check(&run(program()));
    // Another day: the bucket still has it, the machines are new.
    let again = run(program());
    assert!(again[1].ends_with("nothing to install"), "{again:#?}");

    // A key that is not valid costs the cache, not the run.
    let mut wrong = program();
    wrong.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let alone = run(wrong);
    assert!(
        alone[1].ends_with("found nothing, installed everything"),
        "{alone:#?}"
    );
    assert!(
        !alone.iter().any(|line| line.contains("brought")),
        "{alone:#?}"
    );
}
