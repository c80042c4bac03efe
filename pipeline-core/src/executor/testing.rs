//! The contract of an [`Executor`], as functions that panic
//! when it is broken. Run all of them on your own implementation with
//! [`executor_contract!`](crate::executor_contract).

#![expect(
    clippy::expect_used,
    reason = "a broken contract is a panic, which is what a test wants"
)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use super::{
    CommandSpec, Environment, EnvironmentRequest, Executor, ExecutorError, ExitStatus, Process,
    Scope, Stream,
};
use crate::event::EventSink;

/// Makes one test per contract of an executor, each with the attribute that is
/// given, such as `#[ignore = "needs X"]`. `$make` is an async block that
/// gives an executor whose commands find `sh`, `sleep`, `cat`, `head` and
/// `setsid`.
///
/// ```
/// # #[cfg(test)]
/// pipeline_core::executor_contract!(async {
///     pipeline_core::LocalExecutor::new().with_env([("PATH", "/usr/bin:/bin")])
/// });
/// ```
#[macro_export]
macro_rules! executor_contract {
    (#[$attribute:meta] $make:expr) => {
        $crate::executor_contract!(@all (#[$attribute]) ($make));
    };
    (@all $attributes:tt $make:tt) => {
        $crate::executor_contract!(@tests $attributes $make
            status_is_passed_on
            a_signal_is_not_an_exit_code
            a_missing_program_is_an_error
            order_within_a_stream_is_kept
            large_output_is_complete
            bytes_that_are_not_utf8_survive
            the_environment_is_what_was_declared
            stdin_ends
            only_the_standard_descriptors_are_open
            terminate_kills_what_ignores_the_signal
            shutdown_ends_what_left_its_group
            files_go_in_and_out
            a_copied_folder_keeps_modes_and_links
            the_directory_is_what_was_asked_for
            a_polite_end_is_the_commands_own
            a_stopped_command_can_be_ended
            what_a_command_leaves_behind_ends_with_it
            dropping_a_process_ends_it
            commands_run_side_by_side
        );
    };
    (@tests $attributes:tt $make:tt $($name:ident)*) => {
        $($crate::executor_contract!(@test $attributes $make $name);)*
    };
    (@test ($($attribute:tt)*) ($make:expr) $name:ident) => {
        #[tokio::test(flavor = "multi_thread")]
        $($attribute)*
        async fn $name() {
            let executor = $make.await;
            $crate::executor::testing::$name(&executor).await;
        }
    };
    ($make:expr) => {
        $crate::executor_contract!(@all () ($make));
    };
}

/// A provisioned environment with its folder.
struct Place {
    environment: Box<dyn Environment>,
    folder: std::path::PathBuf,
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

async fn place(executor: &dyn Executor) -> Place {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("executor-contract-{}-{number}", std::process::id());
    let folder = std::env::temp_dir().join(&name);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    let mut request = EnvironmentRequest::new(
        Scope::new(&name),
        "contract",
        folder.clone(),
        EventSink::discard(),
    );
    request.env = BTreeMap::from([("DECLARED".to_owned(), "by the job".into())]);
    let environment = executor.provision(&request).await.expect("an environment");
    Place {
        environment,
        folder,
    }
}

/// Starts a command that says at once that it is ready.
async fn started(environment: &dyn Environment, command: CommandSpec) -> Box<dyn Process> {
    let mut process = environment
        .spawn(&command)
        .await
        .expect("the command starts");
    assert!(process.output().await.is_some(), "it says that it is ready");
    process
}

/// How a command that says at once that it is ready ends when it is terminated.
async fn terminated(executor: &dyn Executor, command: CommandSpec, grace: Duration) -> ExitStatus {
    let place = place(executor).await;
    let mut process = started(&*place.environment, command).await;
    let status = process.terminate(grace).await.expect("a status");
    place.environment.shutdown().await.expect("a shutdown");
    status
}

struct Finished {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

async fn run(environment: &dyn Environment, command: CommandSpec) -> Finished {
    let mut process = environment
        .spawn(&command)
        .await
        .expect("the command starts");
    let mut finished = Finished {
        status: ExitStatus::Exited(-1),
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    while let Some(chunk) = process.output().await {
        match chunk.stream {
            Stream::Stdout => finished.stdout.extend(chunk.bytes),
            Stream::Stderr => finished.stderr.extend(chunk.bytes),
        }
    }
    finished.status = process.wait().await.expect("a status");
    finished
}

fn sh(script: &str) -> CommandSpec {
    CommandSpec::new("sh").args(["-c", script])
}

/// Zero and non-zero exit codes are values.
pub async fn status_is_passed_on(executor: &dyn Executor) {
    let place = place(executor).await;
    for code in [0, 1, 7, 137] {
        let finished = run(&*place.environment, sh(&format!("exit {code}"))).await;
        assert_eq!(finished.status, ExitStatus::Exited(code));
    }
    place.environment.shutdown().await.expect("a shutdown");
}

/// Death by signal 9 and exit code 137 are different things.
pub async fn a_signal_is_not_an_exit_code(executor: &dyn Executor) {
    let place = place(executor).await;
    let finished = run(&*place.environment, sh("kill -9 $$")).await;
    assert!(
        matches!(finished.status, ExitStatus::Signaled { signal: 9, .. }),
        "{:?}",
        finished.status
    );
    place.environment.shutdown().await.expect("a shutdown");
}

/// A program that is not there is a typed error that names it.
pub async fn a_missing_program_is_an_error(executor: &dyn Executor) {
    let place = place(executor).await;
    let error = place
        .environment
        .spawn(&CommandSpec::new("no-such-program-here"))
        .await
        .expect_err("there is no such program");
    assert!(
        matches!(error, ExecutorError::ProgramNotFound { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("no-such-program-here"));
    place.environment.shutdown().await.expect("a shutdown");
}

/// Lines of one stream arrive in the order in which they were written.
pub async fn order_within_a_stream_is_kept(executor: &dyn Executor) {
    let place = place(executor).await;
    let script = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; echo last >&2";
    let finished = run(&*place.environment, sh(script)).await;
    let wanted: String = (0..2000).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&finished.stdout), wanted);
    assert_eq!(finished.stderr, b"last\n");
    place.environment.shutdown().await.expect("a shutdown");
}

/// Nothing is lost of more output than any buffer holds.
pub async fn large_output_is_complete(executor: &dyn Executor) {
    let place = place(executor).await;
    let finished = run(
        &*place.environment,
        sh("head -c 20000000 /dev/zero; printf end"),
    )
    .await;
    assert_eq!(finished.stdout.len(), 20_000_003);
    assert!(finished.stdout.ends_with(b"end"));
    place.environment.shutdown().await.expect("a shutdown");
}

/// Output is bytes.
pub async fn bytes_that_are_not_utf8_survive(executor: &dyn Executor) {
    let place = place(executor).await;
    let finished = run(&*place.environment, sh(r"printf '\377\376\000x'")).await;
    assert_eq!(finished.stdout, b"\xff\xfe\0x");
    place.environment.shutdown().await.expect("a shutdown");
}

/// Variables of the job and of the command arrive; those of the program that
/// runs the pipeline do not.
pub async fn the_environment_is_what_was_declared(executor: &dyn Executor) {
    let place = place(executor).await;
    let script = r#"printf '%s|%s|%s' "$DECLARED" "$OWN" "${CARGO_MANIFEST_DIR-unset}""#;
    let finished = run(&*place.environment, sh(script).env("OWN", "a b")).await;
    assert_eq!(
        String::from_utf8_lossy(&finished.stdout),
        "by the job|a b|unset"
    );
    place.environment.shutdown().await.expect("a shutdown");
}

/// Without input the first read meets the end; with input all of it arrives.
pub async fn stdin_ends(executor: &dyn Executor) {
    let place = place(executor).await;
    assert_eq!(
        run(&*place.environment, CommandSpec::new("cat"))
            .await
            .stdout,
        b""
    );
    let fed = run(
        &*place.environment,
        CommandSpec::new("cat").stdin("fed\0bytes"),
    )
    .await;
    assert_eq!(fed.stdout, b"fed\0bytes");
    place.environment.shutdown().await.expect("a shutdown");
}

/// A command has three descriptors, none of them a terminal. Others of the
/// program would keep its locks and connections for as long as the command runs.
pub async fn only_the_standard_descriptors_are_open(executor: &dyn Executor) {
    let place = place(executor).await;
    let script = "n=3; while [ $n -lt 1024 ]; do \
                  if [ -e /proc/$$/fd/$n ]; then echo \"descriptor $n\"; fi; n=$((n+1)); done; \
                  for n in 0 1 2; do if [ -t $n ]; then echo \"terminal $n\"; fi; done; echo looked";
    let finished = run(&*place.environment, sh(script)).await;
    assert_eq!(String::from_utf8_lossy(&finished.stdout), "looked\n");
    place.environment.shutdown().await.expect("a shutdown");
}

/// The polite signal first, the kill after the grace period.
pub async fn terminate_kills_what_ignores_the_signal(executor: &dyn Executor) {
    let command = sh("trap '' TERM; echo ready; while :; do sleep 1; done");
    let status = terminated(executor, command, Duration::from_millis(200)).await;
    assert!(!status.success(), "{status:?}");
}

/// A process that opened a session of its own does not outlive the
/// environment.
pub async fn shutdown_ends_what_left_its_group(executor: &dyn Executor) {
    let place = place(executor).await;
    let marker = Path::new("alive");
    // It goes on writing for as long as it lives.
    let script = "setsid sh -c 'while :; do echo x >> alive; sleep 0.05; done' >/dev/null 2>&1 & \
                  while [ ! -s alive ]; do sleep 0.05; done";
    let finished = run(&*place.environment, sh(script)).await;
    assert!(finished.status.success(), "{:?}", finished.status);
    place.environment.shutdown().await.expect("a shutdown");
    if let Some(root) = place.environment.host_root() {
        let size = || {
            std::fs::metadata(root.join(marker))
                .map(|found| found.len())
                .unwrap_or(0)
        };
        let before = size();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(size(), before, "the process still writes");
    }
}

/// Files and folders go in and come out with their content.
pub async fn files_go_in_and_out(executor: &dyn Executor) {
    let place = place(executor).await;
    let outside = place.folder.with_extension("outside");
    std::fs::create_dir_all(outside.join("in/deep")).expect("a folder");
    std::fs::write(outside.join("in/deep/file"), "content").expect("a file");
    let environment = &*place.environment;
    environment
        .copy_in(&outside.join("in"), Path::new("copied"))
        .await
        .expect("copied in");
    let seen = run(environment, sh("cat copied/deep/file")).await;
    assert_eq!(seen.stdout, b"content");
    environment
        .copy_out(Path::new("copied"), &outside.join("out"))
        .await
        .expect("copied out");
    assert_eq!(
        std::fs::read(outside.join("out/deep/file")).expect("a file"),
        b"content"
    );
    std::fs::remove_dir_all(&outside).ok();
    environment.shutdown().await.expect("a shutdown");
}

/// Modes and symbolic links arrive as they were, in both directions.
pub async fn a_copied_folder_keeps_modes_and_links(executor: &dyn Executor) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = place(executor).await;
    let outside = place.folder.with_extension("modes");
    std::fs::create_dir_all(outside.join("in")).expect("a folder");
    let tool = outside.join("in/tool");
    std::fs::write(&tool, "#!/bin/sh\necho ran\n").expect("a file");
    std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o750)).expect("a mode");
    symlink("tool", outside.join("in/link")).expect("a link");
    let environment = &*place.environment;
    environment
        .copy_in(&outside.join("in"), Path::new("deep/copied"))
        .await
        .expect("copied in");
    let ran = run(environment, CommandSpec::new("./link").cwd("deep/copied")).await;
    assert_eq!(ran.stdout, b"ran\n");
    environment
        .copy_out(Path::new("deep/copied"), &outside.join("out"))
        .await
        .expect("copied out");
    let mode = std::fs::metadata(outside.join("out/tool")).expect("a file");
    assert_eq!(mode.permissions().mode() & 0o777, 0o750);
    assert_eq!(
        std::fs::read_link(outside.join("out/link")).expect("a link"),
        Path::new("tool")
    );
    std::fs::remove_dir_all(&outside).ok();
    environment.shutdown().await.expect("a shutdown");
}

/// Commands start in the job folder or in the directory that they name; one
/// that is not there is a typed error.
pub async fn the_directory_is_what_was_asked_for(executor: &dyn Executor) {
    let place = place(executor).await;
    let environment = &*place.environment;
    let seen = run(environment, sh("mkdir -p a/b; pwd -P")).await;
    let root = String::from_utf8_lossy(&seen.stdout).trim().to_owned();
    assert_eq!(root, environment.root().to_string_lossy());
    let below = run(environment, sh("pwd -P").cwd("a/b")).await;
    assert_eq!(
        String::from_utf8_lossy(&below.stdout),
        format!("{root}/a/b\n")
    );
    let error = environment
        .spawn(&sh("true").cwd("not/there"))
        .await
        .expect_err("there is no such directory");
    assert!(
        matches!(error, ExecutorError::NoWorkingDirectory(_)),
        "{error:?}"
    );
    environment.shutdown().await.expect("a shutdown");
}

/// A command that acts on the polite signal ends as it wants to.
pub async fn a_polite_end_is_the_commands_own(executor: &dyn Executor) {
    let command = sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let status = terminated(executor, command, Duration::from_secs(30)).await;
    assert_eq!(status, ExitStatus::Exited(5));
}

/// A command that was stopped cannot act on any signal but the kill.
pub async fn a_stopped_command_can_be_ended(executor: &dyn Executor) {
    let command = sh("echo ready; kill -STOP $$; sleep 1000");
    let status = terminated(executor, command, Duration::from_millis(200)).await;
    assert!(!status.success(), "{status:?}");
}

/// Nobody waits for what a command started and did not wait for itself, even
/// if it holds the output open; and it does not live on.
pub async fn what_a_command_leaves_behind_ends_with_it(executor: &dyn Executor) {
    let place = place(executor).await;
    let environment = &*place.environment;
    let script = "sh -c 'while :; do echo x >> left; sleep 0.05; done' & \
                  setsid sh -c 'while :; do echo x >> left; sleep 0.05; done' & \
                  while [ ! -s left ]; do sleep 0.05; done; echo done";
    let finished = run(environment, sh(script)).await;
    assert_eq!(finished.status, ExitStatus::Exited(0));
    assert_eq!(finished.stdout, b"done\n");
    let size = || async { run(environment, sh("cat left")).await.stdout.len() };
    let before = size().await;
    let after = run(environment, sh("sleep 0.3; cat left"))
        .await
        .stdout
        .len();
    assert_eq!(after, before, "a process still writes");
    environment.shutdown().await.expect("a shutdown");
}

/// A process that nobody holds any more is killed.
pub async fn dropping_a_process_ends_it(executor: &dyn Executor) {
    let place = place(executor).await;
    let environment = &*place.environment;
    let process = started(
        environment,
        sh("echo ready; while :; do echo x >> dropped; sleep 0.05; done"),
    )
    .await;
    drop(process);
    let length = || async {
        run(environment, sh("cat dropped 2>/dev/null; sleep 0.3"))
            .await
            .stdout
            .len()
    };
    let mut before = length().await;
    // It is killed in the background, so it may write for a moment.
    for _ in 0..50 {
        let now = length().await;
        if now == before {
            environment.shutdown().await.expect("a shutdown");
            return;
        }
        before = now;
    }
    panic!("the process still writes");
}

/// The end of one command, and what is done about what it left, leaves
/// another one alone.
pub async fn commands_run_side_by_side(executor: &dyn Executor) {
    let place = place(executor).await;
    let environment = &*place.environment;
    let mut long = started(
        environment,
        sh("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo went"),
    )
    .await;
    let short = run(environment, sh("sleep 1000 >/dev/null 2>&1 & echo short")).await;
    assert_eq!(short.stdout, b"short\n");
    assert!(run(environment, sh("echo > go")).await.status.success());
    let mut rest = Vec::new();
    while let Some(chunk) = long.output().await {
        rest.extend(chunk.bytes);
    }
    assert_eq!(rest, b"went\n");
    assert!(long.wait().await.expect("a status").success());
    environment.shutdown().await.expect("a shutdown");
}
