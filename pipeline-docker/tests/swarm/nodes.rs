//! A swarm of two nodes: an engine in a network namespace of its own is another machine.

use std::process::Command;

use pipeline_core::{ExitStatus, Stream};
use pipeline_docker::swarm::{Swarm, SwarmError, SwarmJob, Unobserved};

use crate::cable::Cable;
use crate::fixture::{Ear, Ground, docker, image, import, runs, sh};
use crate::own_engine::OwnEngine;

/// A worker that has joined the manager of a [`Ground`].
struct Worker {
    /// Before the cable: an engine ends in its namespace.
    own: OwnEngine,
    _cable: Cable,
}

impl Worker {
    async fn join(ground: &Ground, cable: Cable) -> Self {
        let mut own = OwnEngine::prepare_in(Some(&cable.namespace));
        own.run().await;
        let token = ground.docker(&["swarm", "join-token", "--quiet", "worker"]);
        let managers = ground.docker(&["info", "--format", "{{json .Swarm.RemoteManagers}}"]);
        let managers: serde_json::Value = serde_json::from_str(&managers).unwrap();
        let manager = managers[0]["Addr"].as_str().unwrap();
        let here = cable.address(2);
        let advertise = format!("--advertise-addr={here}");
        let join = ["swarm", "join", "--token", &token, &advertise, manager];
        docker(&own.host(), &join);
        import(&own.host(), &image().familiar());
        Self { own, _cable: cable }
    }
}

fn far(script: &str) -> SwarmJob {
    sh(script).with_constraint("node.role==worker")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, nsenter, iproute2, root and busybox-static"]
async fn tasks_run_on_another_node_until_it_goes_down() {
    let cable = Cable::new(&format!("10.215.{}", std::process::id() % 250));
    let ground = Ground::at(&cable.address(1), 2377).await;
    let mut worker = Worker::join(&ground, cable).await;
    let id = docker(
        &worker.own.host(),
        &["info", "--format", "{{.Swarm.NodeID}}"],
    );
    let swarm = ground.swarm();

    let ear = Ear::default();
    let job = far("echo far; echo away >&2; sleep 1; printf end; exit 3");
    let report = swarm.run(&job, &ear).await.unwrap();
    assert_eq!(report.tasks[0].exit, ExitStatus::Exited(3), "{report:?}");
    assert_eq!(report.tasks[0].node_id, id);
    assert_eq!(ear.written(0, Stream::Stdout), "far\nend");
    assert_eq!(ear.written(0, Stream::Stderr), "away\n");

    // A worker cannot run jobs, and says who can.
    let address = pipeline_docker::engine::EngineAddress::Socket(worker.own.path("d.sock"));
    let engine = pipeline_docker::engine::Engine::connect(&address)
        .await
        .unwrap();
    let error = Swarm::new(engine)
        .run(&far("true"), &Unobserved)
        .await
        .unwrap_err();
    assert!(matches!(error, SwarmError::NotManager { .. }), "{error:?}");
    assert!(
        error.to_string().contains("connect to a manager"),
        "{error}"
    );

    let (ear, job) = (Ear::default(), far("sleep 1000"));
    let (result, ()) = tokio::join!(swarm.run(&job, &ear), async {
        ear.wait_for(runs).await;
        let host = worker.own.host();
        let container = docker(&host, &["ps", "--quiet"]);
        let pid = docker(
            &host,
            &["inspect", "--format", "{{.State.Pid}}", &container],
        );
        worker.own.kill();
        // What power would take as well.
        drop(Command::new("kill").args(["-9", &pid]).status());
    });
    let error = result.unwrap_err();
    assert!(matches!(error, SwarmError::Lost { .. }), "{error:?}");
    assert!(error.to_string().contains("is down"), "{error}");
}
