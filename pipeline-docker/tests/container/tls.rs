//! Jobs on an engine behind TLS.

use pipeline_core::{Executor as _, error_chain};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, JobFolder, Network};
use pipeline_docker::engine::Engine;

use crate::fixture::{self, Ground, finish, run, sh};
use crate::tls_engine::{TlsEngine, certificates};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, dockerd, iproute2, openssl and busybox-static"]
async fn a_whole_job_and_the_way_into_it() {
    let tls = TlsEngine::start().await;
    tls.own.load(fixture::busybox());
    let engine = Engine::connect(&tls.address()).await.unwrap();
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
    assert_eq!(run("docker", &["-H", &tls.own.host(), "ps", "-aq"]), "");

    // An authority that did not sign the engine's certificate.
    let other = tls.own.path("other");
    certificates(&other);
    let error = Engine::connect(&tls.address_with(&other))
        .await
        .unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains(&tls.host) && text.contains("ertificate"),
        "{text}"
    );
}
