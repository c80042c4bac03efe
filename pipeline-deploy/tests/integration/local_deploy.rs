//! Deploys to a local target that go as planned, and releases that are not fit.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pipeline_core::secret::MASK;
use pipeline_core::{EnvValue, Secret};
use pipeline_deploy::health::HealthWindow;
use pipeline_deploy::local::{AppCommand, SharedPath};
use pipeline_deploy::release::{DeploymentStatus, ReleaseId};
use pipeline_deploy::target::{
    DeployOptions, DeployReport, DeployTarget, DeployTargetExt, FailureStage, LockOutcome,
    OlderReleases, Refusal, Unobserved,
};

use crate::site::{Site, deploy, get, live, text, version};

#[tokio::test]
async fn a_first_release_goes_live_and_a_second_takes_its_address() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    assert_eq!(version(&address).await, "r1");
    let report = site.deploy("r2", "ok").await;
    assert_eq!(live(&report), address);
    assert_eq!(version(&address).await, "r2");
    let DeployReport::Live { previous, .. } = report else {
        panic!("{report:?}");
    };
    assert_eq!(previous.unwrap().release.id.as_str(), "r1");
    let current = fs::read_link(site.folder.join("current")).unwrap();
    assert_eq!(current.to_str().unwrap(), "releases/r2");
    site.target().instance().stop().await.unwrap();
    assert_eq!(site.processes(), [""; 0]);
}

#[tokio::test]
async fn an_unchanged_release_does_nothing_and_says_why() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let before = get(&address, "/").await.unwrap();
    let target = site.target();
    let release = site.release("r1", "ok");
    let plan = target
        .preview(&release, &DeployOptions::default())
        .await
        .unwrap();
    assert!(plan.actions.is_empty(), "{plan}");
    let report = deploy(&target, &release).await;
    let DeployReport::Unchanged { why, .. } = &report else {
        panic!("{report:?}");
    };
    assert_eq!(why, "release r1 is live with digest sha256:r1-ok");
    assert_eq!(
        get(&address, "/").await.unwrap(),
        before,
        "the same process answers"
    );
}

#[tokio::test]
async fn a_changed_environment_is_a_change() {
    let site = Site::new();
    live(&site.deploy("r1", "ok").await);
    let target = site.target_of(Site::app().with_env("DEBUG", "1"));
    live(&deploy(&target, &site.release("r1", "ok")).await);
    assert!(site.folder.join("releases/r1.2/app.py").exists());
}

#[tokio::test]
async fn a_sick_release_leaves_the_old_one_serving_and_shows_its_answer() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let before = get(&address, "/").await.unwrap();
    let app = Site::app().with_window(
        HealthWindow::default()
            .with_limit(Duration::from_secs(60))
            .with_bad_answers(3)
            .with_interval(Duration::from_millis(50)),
    );
    let report = deploy(&site.target_of(app), &site.release("r2", "sick")).await;
    let DeployReport::RolledBack { why, previous } = &report else {
        panic!("{report:?}");
    };
    assert_eq!(why.stage, FailureStage::Health);
    let answer = why.health.as_ref().unwrap().answer().unwrap();
    assert_eq!(
        (answer.status, answer.body_head.as_str()),
        (500, "no database")
    );
    assert_eq!(previous.as_ref().unwrap().release.id.as_str(), "r1");
    assert_eq!(
        get(&address, "/").await.unwrap(),
        before,
        "the same process answers"
    );
    assert!(!site.folder.join("releases/r2").exists());
    assert_eq!(site.processes().len(), 2, "supervisor and live release");
}

#[tokio::test]
async fn a_refused_host_is_named_from_the_log() {
    let site = Site::new();
    let app = Site::app().with_window(HealthWindow::default().with_bad_answers(3));
    let report = deploy(&site.target_of(app), &site.release("r1", "host")).await;
    let DeployReport::RolledBack {
        why,
        previous: None,
    } = &report
    else {
        panic!("{report:?}");
    };
    let cure = why.cure.as_deref().unwrap();
    assert!(cure.contains("this is Django's DisallowedHost") && cure.contains("ALLOWED_HOSTS"));
    assert!(
        why.log_tail
            .iter()
            .any(|line| line.contains("Invalid HTTP_HOST"))
    );
    site.gone().await;
}

#[tokio::test]
async fn a_crash_at_start_is_told_at_once_with_its_log() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let app = Site::app().with_window(HealthWindow::default().with_limit(Duration::from_secs(600)));
    let report = deploy(&site.target_of(app), &site.release("r2", "crash")).await;
    let DeployReport::RolledBack { why, .. } = &report else {
        panic!("{report:?}");
    };
    assert_eq!(why.stage, FailureStage::Start);
    assert!(why.what.contains("exited with 1"), "{why}");
    assert_eq!(why.log_tail, ["this release crashes"]);
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn a_slow_start_is_waited_for() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "late").await);
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn a_missing_program_is_a_failure_of_the_release() {
    let site = Site::new();
    let mut app = Site::app();
    app.serve = AppCommand::new("serve", "/does/not/exist");
    let report = deploy(&site.target_of(app), &site.release("r1", "ok")).await;
    let DeployReport::RolledBack { why, .. } = &report else {
        panic!("{report:?}");
    };
    assert!(why.what.contains("/does/not/exist"), "{why}");
}

#[tokio::test]
async fn a_failing_preparation_is_told_with_command_code_and_last_lines() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let app = Site::app()
        .with_prepare(AppCommand::new("fine", "sh").with_args(["-c", "echo $RELEASE_ID > made"]))
        .with_prepare(
            AppCommand::new("migrate", "sh")
                .with_args(["-c", "cat made; echo secret is $KEY >&2; exit 7"]),
        )
        .with_env("KEY", EnvValue::Secret(Secret::new("hunter22")));
    let report = deploy(&site.target_of(app), &site.release("r2", "ok")).await;
    let DeployReport::RolledBack { why, .. } = &report else {
        panic!("{report:?}");
    };
    let stage = FailureStage::Prepare {
        command: "migrate".into(),
        exit_code: Some(7),
    };
    assert_eq!(why.stage, stage);
    assert_eq!(why.log_tail, ["r2".to_owned(), format!("secret is {MASK}")]);
    assert_eq!(version(&address).await, "r1");
    assert!(!site.folder.join("releases/r2").exists());
}

#[tokio::test]
async fn a_preparation_leaves_no_process_behind() {
    let site = Site::new();
    let app = Site::app()
        .with_prepare(
            AppCommand::new("daemon", "sh").with_args(["-c", "setsid sleep 1000 & exit 0"]),
        )
        .with_prepare(
            AppCommand::new("endless", "sleep")
                .with_arg("1000")
                .with_limit(Duration::from_millis(300)),
        );
    let report = deploy(&site.target_of(app), &site.release("r1", "ok")).await;
    let DeployReport::RolledBack { why, .. } = &report else {
        panic!("{report:?}");
    };
    assert!(why.what.contains("endless ran too long"), "{why}");
    site.gone().await;
}

#[tokio::test]
async fn shared_state_survives_releases() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    assert_eq!(get(&address, "/count").await.unwrap(), "1");
    live(&site.deploy("r2", "ok").await);
    assert_eq!(get(&address, "/count").await.unwrap(), "2");
    assert_eq!(text(&site.folder.join("shared/db.txt")), "xx");
}

#[tokio::test]
async fn an_older_release_is_refused_unless_told_to() {
    let site = Site::new();
    let target = site.target();
    let address = live(&deploy(&target, &site.release("r5", "ok").with_sequence(5)).await);
    let old = site.release("r4", "ok").with_sequence(4);
    let report = deploy(&target, &old).await;
    assert!(
        matches!(
            &report,
            DeployReport::Refused {
                why: Refusal::Older {
                    live_sequence: 5,
                    sequence: 4,
                    ..
                }
            }
        ),
        "{report:?}"
    );
    assert_eq!(version(&address).await, "r5");
    // The same content with a newer number counts as newer from now on.
    let again = site.release("r5", "ok").with_sequence(7);
    let report = deploy(&target, &again).await;
    assert!(
        matches!(report, DeployReport::Unchanged { .. }),
        "{report:?}"
    );
    let six = site.release("r6", "ok").with_sequence(6);
    assert!(matches!(
        deploy(&target, &six).await,
        DeployReport::Refused { .. }
    ));
    let told = DeployOptions::default().with_older_releases(OlderReleases::Deploy);
    let report = target.deploy(&old, &told, &Unobserved).await.unwrap();
    live(&report);
    assert_eq!(version(&address).await, "r4");
}

#[tokio::test]
async fn of_two_deploys_at_once_one_wins_and_one_is_refused() {
    let site = Site::new();
    let (one, two) = (site.target(), site.target());
    let (first, second) = (site.release("r1", "late"), site.release("r2", "late"));
    let (a, b) = tokio::join!(deploy(&one, &first), deploy(&two, &second));
    let refused = |report: &DeployReport| match report {
        DeployReport::Refused {
            why: Refusal::Busy { holder },
        } => holder.pid == Some(std::process::id()),
        _ => false,
    };
    assert!(
        (a.is_success() && refused(&b)) || (b.is_success() && refused(&a)),
        "{a:?} {b:?}"
    );
    let free = one.lock(&first).await.unwrap();
    assert!(matches!(free, LockOutcome::Acquired(_)));
}

#[tokio::test]
async fn a_stopped_release_comes_back_at_its_address_without_being_made_again() {
    let site = Site::new();
    let target = site.target();
    let address = live(&site.deploy("r1", "ok").await);
    target.instance().stop().await.unwrap();
    assert!(get(&address, "/").await.is_err());
    assert_eq!(site.processes(), [""; 0]);
    for gone in ["run/control.sock", "run/supervisor.lock", "deploy.lock"] {
        assert!(!site.folder.join(gone).exists(), "{gone}");
    }
    let status = target.instance().status().await.unwrap();
    assert_eq!(status.live.unwrap().status, DeploymentStatus::Stopped);
    target.instance().stop().await.unwrap();
    // Stopped on purpose: a supervisor alone does not start it.
    target.ensure_running().await.unwrap();
    assert!(get(&address, "/").await.is_err());
    assert_eq!(live(&site.deploy("r1", "ok").await), address);
    assert_eq!(version(&address).await, "r1");
    assert!(!site.folder.join("releases/r1.2").exists());
}

#[tokio::test]
async fn only_some_old_releases_are_kept() {
    let site = Site::new();
    let app = Site::app().with_keep(1).with_drain(Duration::ZERO);
    for version in ["r1", "r2", "r3", "r4"] {
        live(&deploy(&site.target_of(app.clone()), &site.release(version, "ok")).await);
    }
    let mut names: Vec<_> = fs::read_dir(site.folder.join("releases"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["r3", "r3.json", "r4", "r4.json"]);
    assert!(!site.folder.join("launch/r1.json").exists());
}

#[tokio::test]
async fn a_deep_folder_works() {
    let deep = ["a-folder-with-a-long-name"; 8].join("/");
    let site = Site::below(&deep);
    assert!(site.folder.as_os_str().len() > 200);
    let address = live(&site.deploy("r1", "ok").await);
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn secrets_are_in_one_closed_file_and_nowhere_else() {
    let site = Site::new();
    let app = Site::app().with_env("KEY", EnvValue::Secret(Secret::new("hunter22-canary")));
    let target = site.target_of(app);
    let release = site.release("r1", "ok");
    let plan = target
        .preview(&release, &DeployOptions::default())
        .await
        .unwrap();
    let report = deploy(&target, &release).await;
    live(&report);
    let printed = format!("{plan} {plan:?} {report:?} {target:?}");
    assert!(!printed.contains("canary"));
    let mut with = Vec::new();
    let mut todo = vec![site.folder.clone()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path);
            } else if text(&path).contains("canary") {
                with.push(path);
            }
        }
    }
    assert_eq!(with, [site.folder.join("launch/r1.json")]);
    let mode = fs::metadata(&with[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for command in site.processes() {
        assert!(!command.contains("canary"), "{command}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_said_before_anything_is_done() {
    let site = Site::new();
    let target = site.target();
    let mut release = site.release("r1", "ok");
    release.source = None;
    let error = target
        .preview(&release, &DeployOptions::default())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no folder with files"),
        "{error}"
    );
    assert_eq!(release.id, ReleaseId::new("r1").unwrap());
    assert!(!site.folder.exists());
}

#[tokio::test]
async fn a_live_release_that_became_sick_is_replaced_by_itself() {
    let site = Site::new();
    let app = Site::app().with_shared(SharedPath::file("health"));
    let target = site.target_of(app);
    let release = site.release("r1", "shared");
    std::fs::create_dir_all(site.folder.join("shared")).unwrap();
    std::fs::write(site.folder.join("shared/health"), "200").unwrap();
    let address = live(&deploy(&target, &release).await);
    let before = get(&address, "/").await.unwrap();
    std::fs::write(site.folder.join("shared/health"), "500").unwrap();
    let plan = target
        .preview(&release, &DeployOptions::default())
        .await
        .unwrap();
    assert!(
        plan.to_string().contains("release r1 is unhealthy"),
        "{plan}"
    );
    std::fs::write(site.folder.join("shared/health"), "once").unwrap();
    live(&deploy(&target, &release).await);
    let after = get(&address, "/").await.unwrap();
    assert!(
        after.starts_with("r1 ") && after != before,
        "{before} {after}"
    );
}
