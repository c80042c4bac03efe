//! Jobs that run to their end.

use pipeline_core::{ExitStatus, Secret, Stream};
use pipeline_docker::container::Limits;
use pipeline_docker::credentials::{Credentials, StaticCredentials};
use pipeline_docker::swarm::{SwarmEvent, Unobserved};

use crate::fixture::{Ear, Ground, sh};
use crate::server::{Server, Setup};

const PASSWORD: &str = "rather-secret-word";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn three_tasks_run_two_at_a_time() {
    let ground = Ground::new().await;
    let ear = Ear::default();
    let job = sh("echo $PIPELINE_TASK_INDEX of $PIPELINE_TASK_TOTAL; sleep 2")
        .with_completions(3)
        .with_parallelism(2);
    let report = ground.swarm().run(&job, &ear).await.unwrap();
    assert!(report.succeeded(), "{report:?}");
    let node = ground.docker(&["info", "--format", "{{.Name}}"]);
    let id = ground.docker(&["info", "--format", "{{.Swarm.NodeID}}"]);
    for index in 0..3 {
        let task = &report.tasks[usize::try_from(index).unwrap()];
        assert_eq!((task.index, task.exit), (index, ExitStatus::Exited(0)));
        assert_eq!((&task.node, &task.node_id), (&node, &id));
        let line = format!("{index} of 3\n");
        assert_eq!(ear.written(index, Stream::Stdout), line);
    }
    assert_eq!(ear.most_at_once(), 2, "{:?}", ear.heard());
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_failed_task_is_a_value_and_nothing_is_started_again() {
    let ground = Ground::new().await;
    let ear = Ear::default();
    // The second one fails as well, and sooner; the third one is not begun any more.
    let job = sh("test $PIPELINE_TASK_INDEX = 1 || sleep 3; exit $((7 + PIPELINE_TASK_INDEX))")
        .with_completions(4)
        .with_parallelism(2);
    let report = ground.swarm().run(&job, &ear).await.unwrap();
    assert!(!report.succeeded());
    let ended: Vec<_> = report
        .tasks
        .iter()
        .map(|task| (task.index, task.exit))
        .collect();
    assert_eq!(
        ended,
        [(0, ExitStatus::Exited(7)), (1, ExitStatus::Exited(8))]
    );
    let said = report.tasks[0].error.as_deref();
    assert_eq!(said, Some("task: non-zero exit (7)"));
    assert_eq!(report.failed().count(), 2);
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn output_is_whole_and_its_streams_are_kept_apart() {
    let ground = Ground::new().await;
    let ear = Ear::default();
    // Some of it is written after the task was seen to run, and the last line has no end.
    let script =
        "seq 1 5000; echo first >&2; sleep 2; seq 5001 20000; printf 'the end'; printf 'last' >&2";
    let report = ground.swarm().run(&sh(script), &ear).await.unwrap();
    assert!(report.succeeded(), "{report:?}");
    let mut expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    expected.push_str("the end");
    assert!(ear.written(0, Stream::Stdout) == expected);
    assert_eq!(ear.written(0, Stream::Stderr), "first\nlast");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn want_of_memory_is_told_apart_from_a_kill() {
    let ground = Ground::new().await;
    let limits = Limits::default()
        .with_memory(32 << 20)
        .with_cpus(1.0)
        .with_pids(64);
    let job = sh("tail -c 200m /dev/zero").with_limits(limits);
    let report = ground.swarm().run(&job, &Unobserved).await.unwrap();
    assert_eq!(report.tasks[0].exit, ExitStatus::OutOfMemory, "{report:?}");
    let job = sh("exit 137").with_limits(limits);
    let report = ground.swarm().run(&job, &Unobserved).await.unwrap();
    assert_eq!(report.tasks[0].exit, ExitStatus::Exited(137), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_secret_is_a_file_and_nothing_that_managers_show() {
    let ground = Ground::new().await;
    let ear = Ear::default();
    let job = sh("cat /run/secrets/token; echo; echo $MODE; id -u; sleep 2")
        .with_secret("token", Secret::new(PASSWORD))
        .with_env("MODE", "fast")
        .with_user("1000")
        .with_label("team", "site");
    let swarm = ground.swarm();
    let (report, shown) = tokio::join!(swarm.run(&job, &ear), async {
        ear.wait_for(crate::fixture::runs).await;
        let id = ground.docker(&["service", "ls", "--quiet"]);
        ground.docker(&["service", "inspect", &id])
    });
    assert!(report.unwrap().succeeded());
    let written = ear.written(0, Stream::Stdout);
    assert_eq!(written, format!("{PASSWORD}\nfast\n1000\n"));
    assert!(!shown.contains(PASSWORD), "{shown}");
    for part in ["\"team\": \"site\"", "pipeline.owner", "\"MODE=fast\""] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root, docker-registry, htpasswd and busybox-static"]
async fn an_image_behind_a_password_is_pinned_and_pulled_by_the_nodes() {
    let ground = Ground::new().await;
    let server = Server::start_with(&Setup {
        password: Some(("robot".to_owned(), PASSWORD.to_owned())),
        ..Setup::default()
    });
    let name = format!("{}/team/tools:1", server.address);
    ground.import(&name);
    let config = tempfile::tempdir().unwrap();
    let with_config = |arguments: &[&str]| {
        let folder = ["--config", config.path().to_str().unwrap()];
        ground.docker(&[&folder[..], arguments].concat())
    };
    let login = ["login", "--username", "robot", "--password", PASSWORD];
    with_config(&[&login[..], &[&server.address]].concat());
    let pushed = with_config(&["push", &name]);
    ground.docker(&["image", "rm", "--force", &name]);

    let mut job = sh("echo here");
    job.image = name.parse().unwrap();
    let credentials = Credentials::password("robot", Secret::new(PASSWORD));
    let swarm = ground
        .swarm()
        .with_credentials(StaticCredentials::new(&server.address, credentials));
    let ear = Ear::default();
    let report = swarm.run(&job, &ear).await.unwrap();
    assert!(report.succeeded(), "{report:?}");
    let digest = report.digest.unwrap().to_string();
    assert!(pushed.contains(&digest), "{digest}: {pushed}");
    assert_eq!(report.image.to_string(), format!("{name}@{digest}"));
    let warned = |event: &SwarmEvent| matches!(event, SwarmEvent::Warning { .. });
    assert!(!ear.heard().iter().any(warned), "{:?}", ear.heard());
}
