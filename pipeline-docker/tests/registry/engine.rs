//! What we push, the engine of this machine runs with.

use std::process::Command;

use pipeline_docker::registry::PushOptions;

use crate::fixture::{client, image, reference};
use crate::server::{Server, run};

/// Takes the image off the engine again.
struct Pulled(String);

impl Drop for Pulled {
    fn drop(&mut self) {
        drop(
            Command::new("docker")
                .args(["image", "rm", "--force", &self.0])
                .output(),
        );
    }
}

#[tokio::test]
#[ignore = "needs docker-registry and a docker engine"]
async fn the_engine_pulls_the_same_digest() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (layout, pushed) = image(folder.path(), &[("base", 300_000), ("application", 5_000)]);
    let target = reference(format!("{}/team/app:1", server.address));
    client()
        .push(&layout, &target, &PushOptions::default())
        .await
        .unwrap();
    let name = target.to_string();
    let pulled = Pulled(name.clone());
    run(Command::new("docker").args(["pull", "--quiet", &name]));
    let inspect = [
        "image",
        "inspect",
        "--format",
        "{{index .RepoDigests 0}}",
        &name,
    ];
    let seen = String::from_utf8(run(Command::new("docker").args(inspect))).unwrap();
    assert_eq!(seen.trim(), format!("{}@{}", target.name(), pushed.digest));
    drop(pulled);
}
