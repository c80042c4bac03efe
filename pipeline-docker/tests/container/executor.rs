//! What containers add to the contract of executors.

use std::time::Duration;

use pipeline_core::{
    Executor as _, ExecutorError, ExitStatus, Job, Outcome, Pipeline, RunFacts, Runner, Secret,
    StepOptions, When, error_chain,
};
use pipeline_docker::container::{
    ContainerSpec, HoldFailed, JobFolder, Limits, Mount, Network, PullPolicy,
};
use pipeline_docker::engine::Engine;
use pipeline_docker::oci::Platform;

use crate::fixture::{self, Ground, finish, nothing_left, sh};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn limits_user_mounts_and_variables_are_as_declared() {
    let ground = Ground::new("declared");
    let extra = tempfile::tempdir().unwrap();
    std::fs::write(extra.path().join("file"), "from the host").unwrap();
    let spec = ContainerSpec::new(fixture::busybox())
        .with_user("1000:1000")
        .with_folder("/work/here")
        .with_limits(
            Limits::default()
                .with_memory(64 << 20)
                .with_cpus(0.5)
                .with_pids(77),
        )
        .with_shm_size(8 << 20)
        .with_env("COLOUR", "green")
        .with_network(Network::None)
        .with_mount(Mount::read_only(extra.path(), "/extra"));
    let environment = ground.provision(spec).await;
    assert_eq!(environment.root(), std::path::Path::new("/work/here"));
    let facts = environment.facts();
    assert!(
        facts.system.starts_with("Busybox tests (linux/"),
        "{facts:?}"
    );
    assert!(
        facts.image.as_deref().unwrap().contains("sha256:"),
        "{facts:?}"
    );

    let seen = finish(
        &*environment,
        sh("id -u; id -g; pwd; echo $COLOUR; cat /extra/file"),
    )
    .await;
    assert_eq!(seen.stdout, "1000\n1000\n/work/here\ngreen\nfrom the host");
    let seen = finish(
        &*environment,
        sh(
            "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes pids.max pids/pids.max \
            cpu.max cpu/cpu.cfs_quota_us 2>/dev/null; df -k /dev/shm | tail -n 1",
        ),
    )
    .await;
    assert!(seen.stdout.contains("67108864\n"), "{seen:?}");
    assert!(
        seen.stdout.contains("77\n") && seen.stdout.contains("50000"),
        "{seen:?}"
    );
    assert!(seen.stdout.contains(" 8192 "), "{seen:?}");
    let denied = finish(&*environment, sh("echo x > /extra/file")).await;
    assert!(
        !denied.status.success() && denied.stderr.contains("ead-only"),
        "{denied:?}"
    );
    let alone = finish(&*environment, sh("ip -o addr")).await;
    assert!(!alone.stdout.contains("eth0"), "{alone:?}");
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn too_little_memory_is_told_apart_from_a_kill() {
    let ground = Ground::new("memory");
    let limits = Limits::default().with_memory(32 << 20);
    let spec = ContainerSpec::new(fixture::busybox()).with_limits(limits);
    let environment = ground.provision(spec).await;
    let greedy = "x=0123456789abcdef; while :; do x=$x$x; done";
    let finished = finish(&*environment, sh(greedy)).await;
    assert_eq!(finished.status, ExitStatus::OutOfMemory);
    // The container lives, and a plain kill is still a plain kill.
    let killed = finish(&*environment, sh("kill -9 $$")).await;
    assert!(
        matches!(killed.status, ExitStatus::Signaled { signal: 9, .. }),
        "{killed:?}"
    );
    environment.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_copied_folder_comes_back_as_it_was_left() {
    let ground = Ground::new("copied");
    std::fs::create_dir_all(ground.path().join("old/deep")).unwrap();
    std::fs::write(ground.path().join("old/deep/file"), "1").unwrap();
    std::fs::write(ground.path().join("gone"), "2").unwrap();
    let spec = ContainerSpec::new(fixture::busybox()).with_sharing(JobFolder::Copied);
    let environment = ground.provision(spec).await;
    assert_eq!(environment.host_root(), None);
    let finished = finish(
        &*environment,
        sh("cat old/deep/file gone; rm -r gone old/deep; echo 3 > new; ln -s new link"),
    )
    .await;
    assert_eq!(
        (finished.status, finished.stdout.as_str()),
        (ExitStatus::Exited(0), "12")
    );
    environment.shutdown().await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(ground.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["link", "new", "old"]);
    assert_eq!(
        std::fs::read_dir(ground.path().join("old"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::read_to_string(ground.path().join("link")).unwrap(),
        "3\n"
    );
}

/// A user by name, and one of the image: who they are is known in the container only.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_copied_folder_belongs_to_the_user_of_the_commands() {
    const WORKER: &str = "pipeline-tests/worker:1";
    if !fixture::exists(WORKER) {
        let root = tempfile::tempdir().unwrap();
        fixture::busybox_into(root.path());
        fixture::import(root.path(), WORKER, &["USER worker", "CMD [\"/bin/sh\"]"]);
    }
    let by_name = ContainerSpec::new(fixture::busybox()).with_user("worker");
    for spec in [by_name, ContainerSpec::new(WORKER)] {
        let ground = Ground::new("worker");
        std::fs::create_dir(ground.path().join("sub")).unwrap();
        std::fs::write(ground.path().join("sub/file"), "1").unwrap();
        let environment = ground.provision(spec.with_sharing(JobFolder::Copied)).await;
        let more = tempfile::NamedTempFile::new().unwrap();
        environment
            .copy_in(more.path(), std::path::Path::new("sub/more"))
            .await
            .unwrap();
        let script = "id -u; echo 2 >> sub/file; echo 3 > new; echo 4 > sub/more; \
                      stat -c %u:%g . sub sub/file sub/more | uniq";
        let seen = finish(&*environment, sh(script)).await;
        assert_eq!(seen.stdout, "1000\n1000:1000\n", "{seen:?}");
        environment.shutdown().await.unwrap();
        let text = std::fs::read_to_string(ground.path().join("sub/file")).unwrap();
        assert_eq!(text, "12\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn images_that_cannot_be_used_are_clear_errors() {
    let ground = Ground::new("images");
    let error = |spec| async {
        let executor = fixture::executor(spec).await;
        executor.provision(&ground.request()).await.unwrap_err()
    };
    let missing = "localhost:1/pipeline-tests/no-such-image:1";
    let never = ContainerSpec::new(missing).with_pull(PullPolicy::Never);
    let text = error_chain(&error(never).await);
    assert!(
        text.contains(missing) && text.contains("not found"),
        "{text}"
    );
    let text = error_chain(&error(ContainerSpec::new(missing)).await);
    assert!(
        text.contains(missing) && text.contains("registry"),
        "{text}"
    );

    const NO_SHELL: &str = "pipeline-tests/no-shell:1";
    if !fixture::exists(NO_SHELL) {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("only"), "a file").unwrap();
        fixture::import(root.path(), NO_SHELL, &["CMD [\"/only\"]"]);
    }
    let text = error_chain(&error(ContainerSpec::new(NO_SHELL)).await);
    assert!(text.contains("has no /bin/sh"), "{text}");
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn an_image_of_another_processor_is_told_from_one_without_a_shell() {
    use pipeline_docker::builder::{
        BaseImage, BuildRequest, DaemonlessBuilder, ImageBuilder as _, ImageOutput, ImageSpec,
        LayerSpec,
    };

    let root = tempfile::tempdir().unwrap();
    fixture::busybox_into(root.path());
    // A program of no processor there is, and so of none that the machine may emulate.
    let shell = root.path().join("bin/busybox");
    let mut program = std::fs::read(&shell).unwrap();
    program[18..20].fill(0xee);
    std::fs::write(&shell, program).unwrap();
    let name = format!("pdt-other-platform-{}", std::process::id());
    let engine = Engine::from_env().await.unwrap();
    let spec = ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(root.path(), "/"))
        .with_platform(Platform::new("linux", "s390x"));
    let request = BuildRequest::layers(spec, ImageOutput::engine(&name));
    let builder = DaemonlessBuilder::new().with_engine(engine);
    builder.build(&request).await.unwrap();
    let ground = Ground::new("platform");
    let executor = fixture::executor(ContainerSpec::new(&name)).await;
    let failed = executor.provision(&ground.request()).await;
    fixture::run("docker", &["rmi", "--force", &name]);
    let text = error_chain(&failed.unwrap_err());
    for part in [
        name.as_str(),
        "(linux/s390x)",
        "exec format error",
        "(linux/",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("has no /bin/sh"), "{text}");
    assert_eq!(ground.left(), [""; 0]);
}

/// It is not taken for the job folder, which the engine does see.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_mount_that_is_not_there_is_named() {
    let ground = Ground::new("mount");
    for sharing in [JobFolder::Automatic, JobFolder::Shared, JobFolder::Copied] {
        let spec = ContainerSpec::new(fixture::busybox())
            .with_sharing(sharing)
            .with_mount(Mount::read_only("/no/such/folder", "/extra"));
        let executor = fixture::executor(spec).await;
        let error = executor.provision(&ground.request()).await.unwrap_err();
        let text = error_chain(&error);
        assert!(text.contains("/no/such/folder of a mount"), "{text}");
    }
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_container_that_is_lost_is_said_to_be() {
    let ground = Ground::new("lost");
    let environment = ground
        .provision(ContainerSpec::new(fixture::busybox()))
        .await;
    let mut process = environment
        .spawn(&sh("echo ready; sleep 1000"))
        .await
        .unwrap();
    assert!(process.output().await.is_some());
    fixture::run("docker", &["kill", &ground.left()[0]]);
    while process.output().await.is_some() {}
    let text = error_chain(&process.wait().await.unwrap_err());
    assert!(
        text.contains("ended with code 137 while `sh` ran"),
        "{text}"
    );
    let text = error_chain(&environment.spawn(&sh("true")).await.unwrap_err());
    assert!(text.contains("the job's container is gone"), "{text}");
    environment.shutdown().await.unwrap();
    assert_eq!(ground.left(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn a_command_that_is_too_large_says_so() {
    let ground = Ground::new("large");
    let environment = ground
        .provision(ContainerSpec::new(fixture::busybox()))
        .await;
    let error = environment
        .spawn(&sh("true").env("LARGE", "x".repeat(4 << 20)))
        .await
        .unwrap_err();
    assert!(matches!(error, ExecutorError::TooLarge(_)), "{error:?}");
    // The container goes on.
    assert!(finish(&*environment, sh("true")).await.status.success());
    environment.shutdown().await.unwrap();
}

/// A whole run: output, a time limit without output, and the way into a failed step's container.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine, busybox-static and bsdutils"]
async fn a_person_gets_into_the_container_of_a_failed_step() {
    let data = tempfile::tempdir().unwrap();
    let executor = fixture::executor(ContainerSpec::new(fixture::busybox())).await;
    let release = pipeline_core::CancelToken::new();
    let mut job = Job::new("test").env("COLOUR", "it's green");
    let command = pipeline_core::CommandSpec::new("sh")
        .args(["-c", "touch here; exit 3"])
        .cwd("sub folder")
        .env("STEP", "yes")
        .secret_env("TOKEN", Secret::new("hidden-value"));
    job.step(
        "prepare",
        pipeline_core::CommandStep::from(
            pipeline_core::CommandSpec::new("mkdir").arg("sub folder"),
        ),
    );
    job.step("fails", pipeline_core::CommandStep::from(command));
    job.step_with(
        "hold",
        HoldFailed::new(executor.clone(), release.clone()),
        StepOptions::new().when(When::OnFailure),
    );
    let pipeline = Pipeline::builder("debug").job(job).build().unwrap();
    let runner = Runner::new(data.path()).with_executor(std::sync::Arc::new(executor.clone()));
    let run = runner.start(&pipeline, RunFacts::new()).await.unwrap();
    let folder = data.path().join("work/test");
    let session = loop {
        if let Some(session) = executor.debug_session(&folder) {
            break session;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let line = session.shell_line();
    assert!(!line.contains("hidden-value"), "{line}");
    // The line is for a terminal, so it gets one.
    let asked = r#"pwd; ls; echo "[$COLOUR] [$STEP] [$TOKEN]"; exit"#;
    let mut terminal = tokio::process::Command::new("script")
        .args([
            "-qec",
            &format!(
                "{line} -c {}",
                pipeline_core::executor::quote(asked.as_ref())
            ),
        ])
        .arg("/dev/null")
        .env("TOKEN", "told by hand")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // A person who types nothing: the end of the input would be typed, and so shown.
    let _person = terminal.stdin.take().unwrap();
    let output = terminal.wait_with_output().await.unwrap();
    let seen = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert_eq!(
        seen,
        format!(
            "{}/sub folder\nhere\n[it's green] [yes] [told by hand]\n",
            folder.canonicalize().unwrap().display()
        ),
        "{line}"
    );
    release.cancel();
    let report = run.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(executor.debug_session(&folder).is_none());
    assert_eq!(report.highlights[0].1, line.replace("hidden-value", "***"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn silence_and_cancelling_end_a_step_and_its_container() {
    let data = tempfile::tempdir().unwrap();
    let executor = fixture::executor(ContainerSpec::new(fixture::busybox())).await;
    let mut job = Job::new("test");
    let silent = sh("setsid sleep 4321 & echo begin; setsid sleep 4321; echo end")
        .no_output_timeout(Some(Duration::from_millis(500)));
    job.step("silent", pipeline_core::CommandStep::from(silent));
    // In the same container, after what went before was ended.
    job.step_with(
        "look",
        pipeline_core::CommandStep::from(sh("ps; ! pgrep -f 'sleep 432[1]'")),
        StepOptions::new().when(When::Always),
    );
    let pipeline = Pipeline::builder("silent").job(job).build().unwrap();
    let runner = |folder: &str| {
        Runner::new(data.path().join(folder)).with_executor(std::sync::Arc::new(executor.clone()))
    };
    let run = runner("a").start(&pipeline, RunFacts::new()).await.unwrap();
    let report = run.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::TimedOut, "{report:?}");
    let look = report.step("test", "look").unwrap();
    assert_eq!(look.outcome, Outcome::Succeeded, "{look:?}");

    let mut job = Job::new("test");
    job.step(
        "long",
        pipeline_core::CommandStep::from(sh("touch begun; sleep 1000")),
    );
    let pipeline = Pipeline::builder("long").job(job).build().unwrap();
    let run = runner("b").start(&pipeline, RunFacts::new()).await.unwrap();
    while !data.path().join("b/work/test/begun").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run.cancel().cancel();
    let report = run.wait().await.unwrap();
    assert_eq!(report.outcome, Outcome::Cancelled, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Docker engine and busybox-static"]
async fn what_nobody_waits_for_is_removed() {
    let ground = Ground::new("dropped");
    let executor = fixture::executor(ContainerSpec::new(fixture::busybox())).await;
    // At several moments of making it.
    for delay in [1, 30, 80, 150, 300, 600] {
        let request = ground.request();
        let provision = executor.provision(&request);
        let limit = Duration::from_millis(delay);
        drop(tokio::time::timeout(limit, provision).await);
    }
    let environment = executor.provision(&ground.request()).await.unwrap();
    drop(environment);
    nothing_left(&ground.scope).await;
}
