//! What happens when processes are killed.

use std::process::{Command, Stdio};
use std::time::Duration;

use pipeline_deploy::local::{AppCommand, LocalTarget, SupervisorCommand};
use pipeline_deploy::release::DeploymentStatus;
use pipeline_deploy::target::{DeployOptions, DeployReport, DeployTargetExt, Unobserved};

use crate::site::{Site, deploy, get, live, until, version};

const ROLE: &str = "PIPELINE_DEPLOY_TEST_ROLE";

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_release_that_dies_is_started_again_and_its_callers_wait() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let before = get(&address, "/").await.unwrap();
    let _ = get(&address, "/die").await;
    // A request in the very moment of the death may be lost; from here on none is.
    let instance = site.target().instance().clone();
    while instance.status().await.unwrap().restarts == 0 {
        tokio::task::yield_now().await;
    }
    let after = get(&address, "/").await.unwrap();
    assert!(
        after.starts_with("r1 ") && after != before,
        "{before} {after}"
    );
}

#[tokio::test]
async fn a_killed_supervisor_is_replaced_and_its_processes_end() {
    let site = Site::new();
    let target = site.target();
    let address = live(&site.deploy("r1", "ok").await);
    let orphan = get(&address, "/").await.unwrap();
    kill(
        target
            .instance()
            .status()
            .await
            .unwrap()
            .supervisor
            .unwrap(),
    );
    until("the supervisor to end", || site.processes().len() == 1).await;
    let status = target.instance().status().await.unwrap();
    assert_eq!(status.live.unwrap().status, DeploymentStatus::Stopped);
    target.ensure_running().await.unwrap();
    let after = get(&address, "/").await.unwrap();
    assert!(
        after.starts_with("r1 ") && after != orphan,
        "{orphan} {after}"
    );
    assert_eq!(site.processes().len(), 2);
    // The next deploy finds it live again.
    let report = site.deploy("r1", "ok").await;
    assert!(
        matches!(report, DeployReport::Unchanged { .. }),
        "{report:?}"
    );
}

#[tokio::test]
async fn stop_ends_what_a_killed_supervisor_left() {
    let site = Site::new();
    let target = site.target();
    live(&site.deploy("r1", "ok").await);
    kill(
        target
            .instance()
            .status()
            .await
            .unwrap()
            .supervisor
            .unwrap(),
    );
    until("the supervisor to end", || site.processes().len() == 1).await;
    target.instance().stop().await.unwrap();
    assert_eq!(site.processes(), [""; 0]);
}

#[tokio::test]
async fn removing_the_folder_ends_everything() {
    let site = Site::new();
    live(&site.deploy("r1", "ok").await);
    std::fs::remove_dir_all(&site.folder).unwrap();
    site.gone().await;
}

#[tokio::test]
async fn a_supervisor_without_work_ends() {
    let site = Site::new();
    let report = site.deploy("r1", "crash").await;
    assert!(
        matches!(report, DeployReport::RolledBack { previous: None, .. }),
        "{report:?}"
    );
    site.gone().await;
}

#[tokio::test]
async fn a_release_that_escapes_its_group_is_ended_all_the_same() {
    let site = Site::new();
    let mut app = Site::app();
    app.serve = AppCommand::new("serve", "sh")
        .with_args(["-c", "setsid sleep 1000 & exec python3 app.py {port}"]);
    let target = site.target_of(app);
    live(&deploy(&target, &site.release("r1", "ok")).await);
    assert_eq!(site.processes().len(), 3, "{:?}", site.processes());
    target.instance().stop().await.unwrap();
    assert_eq!(site.processes(), [""; 0]);
}

/// A program that deploys, for the test below; alone it deploys to a folder of its own.
#[tokio::test]
async fn the_deploying_program() {
    let fresh;
    let folder = match std::env::var(ROLE) {
        Ok(folder) => folder,
        Err(_) => {
            fresh = Site::new();
            fresh.folder.display().to_string()
        }
    };
    let mut site = Site::new();
    site.folder = folder.into();
    let app = Site::app()
        .with_prepare(AppCommand::new("migrate", "sleep").with_arg("0.3"))
        .with_env("ONCE", format!("{}", std::process::id()));
    live(&deploy(&site.target_of(app), &site.release("r2", "late")).await);
}

#[tokio::test]
async fn a_deploying_program_that_is_killed_leaves_the_target_whole() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let mut cut_short = 0;
    for round in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "local_faults::the_deploying_program"])
            .env(ROLE, &site.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The whole deploy takes about 1.2 s: the moments spread over all of it.
        tokio::time::sleep(Duration::from_millis(60 + 130 * round)).await;
        if child.try_wait().unwrap().is_none() {
            cut_short += 1;
        }
        let _ = child.kill();
        child.wait().unwrap();
        // Whatever was live before or is now answers, and what was half done goes away.
        let serving = version(&address).await;
        assert!(serving == "r1" || serving == "r2", "{serving}");
        until("candidates to end", || {
            let left = site.processes();
            left.iter().all(|command| !command.contains("sleep"))
        })
        .await;
    }
    assert!(cut_short >= 5, "the kills came too late: {cut_short} of 10");
    // The next deploy works, sweeps what is half-made, and only its release runs.
    assert_eq!(live(&site.deploy("r9", "ok").await), address);
    assert_eq!(version(&address).await, "r9");
    until("former releases to end", || site.processes().len() == 2).await;
    for entry in std::fs::read_dir(site.folder.join("releases")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let mark = format!("{}.json", path.display());
            assert!(std::path::Path::new(&mark).exists(), "{mark} is missing");
        }
    }
}

#[tokio::test]
async fn a_supervisor_keeps_nothing_of_the_program_that_started_it() {
    let site = Site::new();
    let lock = tempfile::NamedTempFile::new().unwrap();
    // A shell gives an open, locked file to its children, as the program `flock` does.
    let script = r#"exec 9>"$1"; flock 9; exec "$2" --exact local_faults::the_deploying_program"#;
    let status = Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(lock.path())
        .arg(std::env::current_exe().unwrap())
        .env(ROLE, &site.folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(site.processes().len(), 2, "the site stays up");
    let file = std::fs::File::open(lock.path()).unwrap();
    file.try_lock().unwrap();
}

#[tokio::test]
async fn a_release_that_ignores_the_polite_signal_is_killed() {
    let site = Site::new();
    let mut app = Site::app().with_stop_grace(Duration::from_millis(300));
    let script = "trap '' TERM; python3 app.py {port} & while :; do sleep 1; done";
    app.serve = AppCommand::new("serve", "sh").with_args(["-c", script]);
    let target = site.target_of(app);
    live(&deploy(&target, &site.release("r1", "ok")).await);
    target.instance().stop().await.unwrap();
    assert_eq!(site.processes(), [""; 0]);
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_not_touched_by_the_former_supervisor() {
    let site = Site::new();
    live(&site.deploy("r1", "ok").await);
    std::fs::remove_dir_all(&site.folder).unwrap();
    let address = live(&site.deploy("r2", "ok").await);
    until("the former supervisor to end", || {
        site.processes().len() == 2
    })
    .await;
    assert_eq!(version(&address).await, "r2");
    assert_eq!(site.target().instance().status().await.unwrap().restarts, 0);
}

#[tokio::test]
async fn a_folder_that_was_moved_is_deployed_to_again() {
    let mut site = Site::new();
    live(&site.deploy("r1", "ok").await);
    let moved = site.folder.with_file_name("elsewhere");
    std::fs::rename(&site.folder, &moved).unwrap();
    site.gone().await;
    site.folder = moved;
    let address = live(&site.deploy("r1", "ok").await);
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn removed_files_of_the_live_release_are_made_again() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    std::fs::remove_dir_all(site.folder.join("releases")).unwrap();
    assert_eq!(live(&site.deploy("r1", "ok").await), address);
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn a_supervisor_that_is_asked_to_end_leaves_the_release_to_the_next_one() {
    let site = Site::new();
    let target = site.target();
    let address = live(&site.deploy("r1", "ok").await);
    let pid = target
        .instance()
        .status()
        .await
        .unwrap()
        .supervisor
        .unwrap();
    let status = Command::new("kill").arg(pid.to_string()).status();
    assert!(status.unwrap().success());
    site.gone().await;
    target.ensure_running().await.unwrap();
    assert_eq!(version(&address).await, "r1");
}

#[tokio::test]
async fn a_program_that_does_not_know_its_role_is_named() {
    let site = Site::new();
    let wrong = SupervisorCommand::new("/bin/sh")
        .with_arg("-c")
        .with_arg("echo what; exit 3");
    let target = LocalTarget::new(&site.folder, wrong, Site::app()).unwrap();
    let release = site.release("r1", "ok");
    let result = target
        .deploy(&release, &DeployOptions::default(), &Unobserved)
        .await;
    let report = format!("{result:?}");
    assert!(
        report.contains("what") && report.contains("exit status: 3"),
        "{report}"
    );
}

#[tokio::test]
async fn a_supervisor_that_is_killed_during_a_deploy_comes_back_with_the_old_release() {
    let site = Site::new();
    let address = live(&site.deploy("r1", "ok").await);
    let app = Site::app().with_prepare(AppCommand::new("migrate", "sleep").with_arg("1000"));
    let target = site.target_of(app);
    let pid = target
        .instance()
        .status()
        .await
        .unwrap()
        .supervisor
        .unwrap();
    let release = site.release("r2", "ok");
    let options = DeployOptions::default();
    let deploying = target.deploy(&release, &options, &Unobserved);
    let killing = async {
        until("the preparation to begin", || {
            site.processes()
                .iter()
                .any(|command| command.contains("sleep"))
        })
        .await;
        kill(pid);
    };
    let (result, ()) = tokio::join!(deploying, killing);
    let error = result.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(version(&address).await, "r1");
    assert!(!site.folder.join("releases/r2").exists());
    assert_eq!(site.processes().len(), 2, "{:?}", site.processes());
    assert_eq!(live(&site.deploy("r3", "ok").await), address);
}
