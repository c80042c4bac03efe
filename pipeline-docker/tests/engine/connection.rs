//! Connecting.

use std::os::unix::net::UnixListener;
use std::path::Path;

use pipeline_core::error_chain;
use pipeline_docker::engine::{Engine, EngineAddress, EngineErrorKind, EngineKind};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};

#[tokio::test]
#[ignore = "needs a Docker engine"]
async fn the_engine_says_what_it_is() {
    let engine = Engine::from_env().await.unwrap();
    engine.ping().await.unwrap();
    let info = engine.info();
    assert_eq!(info.kind, EngineKind::Docker);
    assert_eq!(info.os, "linux");
    assert!(info.has_buildkit && info.cpus > 0 && info.memory > 0);
    assert!(matches!(info.cgroup_version, Some(1 | 2)), "{info:?}");
    assert_eq!(engine.to_string(), format!("engine({})", engine.address()));
}

#[tokio::test]
#[ignore = "needs a Docker engine"]
async fn an_engine_behind_a_port() {
    let EngineAddress::Socket(socket) = EngineAddress::from_env().unwrap() else {
        panic!("this test forwards a socket")
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let forward = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut engine = UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut engine).await });
        }
    });
    let address = EngineAddress::from_lookup(|name| {
        (name == "DOCKER_HOST").then(|| format!("tcp://{host}").into())
    });
    let engine = Engine::connect(&address.unwrap()).await.unwrap();
    assert_eq!(engine.to_string(), format!("engine(tcp://{host})"));
    // An engine that went away is named, with what to do.
    forward.abort();
    drop(forward.await);
    let error = engine.ping().await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unavailable);
    let text = error_chain(&error);
    assert!(
        text.contains(&host) && text.contains("start the engine"),
        "{text}"
    );
}

async fn refused(socket: &Path) -> String {
    let error = Engine::connect(&EngineAddress::Socket(socket.to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unavailable);
    assert!(error.is_retryable());
    error_chain(&error)
}

#[tokio::test]
async fn no_engine_names_the_socket_and_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    let name = socket.display().to_string();
    let text = refused(&socket).await;
    assert!(
        text.contains(&name)
            && text.contains("no such socket: start the engine, or set DOCKER_HOST"),
        "{text}"
    );
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(&socket).unwrap());
    let text = refused(&socket).await;
    assert!(
        text.contains(&name) && text.contains("nobody listens there"),
        "{text}"
    );
}
