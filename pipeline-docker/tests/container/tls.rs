//! Jobs on an engine behind TLS.

use std::path::Path;
use std::process::Command;

use pipeline_core::{Executor as _, error_chain};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, JobFolder, Network};
use pipeline_docker::engine::{Engine, EngineAddress};

use crate::fixture::{self, Ground, finish, run, sh};
use crate::own_engine::OwnEngine;

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .current_dir(folder)
        .args(arguments.split(' '))
        .output();
    let output = output.unwrap_or_else(|error| panic!("openssl must be there: {error}"));
    assert!(output.status.success(), "{arguments}: {output:?}");
}

/// An authority, and one key pair that both sides use, in a folder as docker wants it.
fn certificates(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let uses = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n";
    std::fs::write(folder.join("leaf.ext"), uses).unwrap();
    for arguments in [
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=test-authority"),
        &format!("req {key} -keyout key.pem -out leaf.csr -subj /CN=leaf"),
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile leaf.ext -out cert.pem",
    ] {
        openssl(folder, arguments);
    }
}

fn address(host: &str, certificates: &Path) -> EngineAddress {
    EngineAddress::from_lookup(|name| match name {
        "DOCKER_HOST" => Some(format!("tcp://{host}").into()),
        "DOCKER_TLS_VERIFY" => Some("1".into()),
        "DOCKER_CERT_PATH" => Some(certificates.into()),
        _ => None,
    })
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2, openssl and busybox-static"]
async fn a_whole_job_and_the_way_into_it() {
    let mut own = OwnEngine::prepare();
    let folder = own.path("tls");
    certificates(&folder);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = free.local_addr().unwrap().to_string();
    drop(free);
    let file = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    own = own.with(&[
        &format!("--host=tcp://{host}"),
        "--tlsverify",
        &file("tlscacert", "ca.pem"),
        &file("tlscert", "cert.pem"),
        &file("tlskey", "key.pem"),
    ]);
    own.run().await;
    let archive = own.path("image.tar").display().to_string();
    run("docker", &["save", "-o", &archive, fixture::busybox()]);
    run("docker", &["-H", &own.host(), "load", "-i", &archive]);

    let engine = Engine::connect(&address(&host, &folder)).await.unwrap();
    let spec = ContainerSpec::new(fixture::busybox())
        .with_network(Network::None)
        .with_sharing(JobFolder::Copied);
    let executor = ContainerExecutor::new(engine, spec);
    let ground = Ground::new("tls");
    // Larger than what any side keeps in memory.
    std::fs::write(ground.path().join("large"), vec![b'x'; 3 << 20]).unwrap();
    let environment = executor.provision(&ground.request()).await.unwrap();
    let command = sh("cat; wc -c < large; echo new > new; exit 3").stdin(b"typed\n".to_vec());
    let seen = finish(&*environment, command).await;
    assert_eq!(seen.stdout, "typed\n3145728\n", "{seen:?}");
    let session = executor.debug_session(&ground.path()).unwrap();
    let line = session.shell_line().replace(" -it ", " -i ");
    let shown = run("sh", &["-c", &format!("echo 'cat new' | {line}")]);
    assert_eq!(shown, "new", "{line}");
    environment.shutdown().await.unwrap();
    let text = std::fs::read_to_string(ground.path().join("new")).unwrap();
    assert_eq!(text, "new\n");
    assert_eq!(run("docker", &["-H", &own.host(), "ps", "-aq"]), "");

    // An authority that did not sign the engine's certificate.
    let other = own.path("other");
    certificates(&other);
    let error = Engine::connect(&address(&host, &other)).await.unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains(&host) && text.contains("ertificate"),
        "{text}"
    );
}
