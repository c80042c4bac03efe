//! Jobs that cannot run: an error that says so, soon.

use std::time::Duration;

use pipeline_core::{Secret, error_chain};
use pipeline_docker::engine::EngineErrorKind;
use pipeline_docker::swarm::{SwarmError, Unobserved};

use crate::fixture::{Ear, Ground, sh};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn an_engine_that_manages_no_swarm_is_told_what_to_do() {
    let ground = Ground::alone().await;
    let error = ground.swarm().run(&sh("true"), &Unobserved).await;
    let error = error.unwrap_err();
    assert!(matches!(error, SwarmError::NotManager { .. }), "{error:?}");
    let text = error.to_string();
    for part in ["is in no swarm", "docker swarm init", &ground.host()] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn an_image_that_no_node_can_get_is_an_error() {
    let ground = Ground::new().await;
    let mut job = sh("true");
    // Nobody listens on this port.
    job.image = "127.0.0.1:1/team/site:1".parse().unwrap();
    let error = ground.swarm().run(&job, &Unobserved).await.unwrap_err();
    let SwarmError::MissingImage {
        image,
        node,
        registry,
        ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(image, "127.0.0.1:1/team/site:1");
    assert!(!node.is_empty());
    assert!(registry.as_ref().unwrap().contains("refused"), "{error}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_task_that_no_node_suits_does_not_wait_for_ever() {
    let ground = Ground::new().await;
    let swarm = ground.swarm();
    let none = sh("true").with_placement_limit(Duration::ZERO);
    let job = none.clone().with_constraint("node.labels.pool==nowhere");
    let error = swarm.run(&job, &Unobserved).await.unwrap_err();
    assert!(
        matches!(error, SwarmError::NoSuitableNode { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("constraints not satisfied"),
        "{error}"
    );
    // More than any machine has.
    let job = none.with_reserved_memory(1 << 50);
    let error = swarm.run(&job, &Unobserved).await.unwrap_err();
    assert!(
        matches!(error, SwarmError::NoSuitableNode { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("insufficient resources"),
        "{error}"
    );
    assert!(error.is_retryable());
    // And one that is none at all.
    let job = sh("true").with_constraint("nonsense");
    let error = swarm.run(&job, &Unobserved).await.unwrap_err();
    assert!(
        error_chain(&error).contains("constraint expected"),
        "{error}"
    );
    assert!(
        matches!(&error, SwarmError::Engine(said) if said.kind() == EngineErrorKind::Other),
        "{error:?}"
    );
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn a_program_that_is_not_there_is_an_error() {
    let ground = Ground::new().await;
    let job = sh("").with_command(["no-such-program"]);
    let error = ground.swarm().run(&job, &Unobserved).await.unwrap_err();
    assert!(matches!(error, SwarmError::NotStarted { .. }), "{error:?}");
    assert!(error.to_string().contains("no-such-program"), "{error}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs dockerd, root and busybox-static"]
async fn what_nodes_quote_of_a_secret_is_masked() {
    const WORD: &str = "rather-secret-word";
    let ground = Ground::new().await;
    let ear = Ear::default();
    let job = sh("").with_command([WORD]);
    let job = job.with_secret("token", Secret::new(WORD));
    let error = ground.swarm().run(&job, &ear).await.unwrap_err();
    let text = format!("{error}, {error:?}, {:?}", ear.heard());
    assert!(text.contains("\\\"***\\\""), "{text}");
    assert!(!text.contains(WORD), "{text}");
    // Words that a report quotes.
    let job = sh("exit 7").with_secret("token", Secret::new("non-zero"));
    let report = ground.swarm().run(&job, &Unobserved).await.unwrap();
    let said = report.tasks[0].error.as_deref();
    assert_eq!(said, Some("task: *** exit (7)"));
}
