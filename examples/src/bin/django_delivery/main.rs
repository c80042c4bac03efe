//! Takes a Django site from a commit to a live, health-checked release, on a machine that has
//! git and Python 3. `django_delivery --help` lists what can be said.

mod args;
mod base;
mod ground;
mod pipeline;
mod python;
mod release;
mod sabotage;

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{IsTerminal, Write, stderr, stdout},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;
use pipeline_core::{
    CancelToken, EnvValue, LocalExecutor, Outcome, RunReport, Runner, error_chain,
    report::{JsonLinesReporter, PlainReporter, Style, Summary},
    source::credentials,
};
use pipeline_deploy::local::{LocalInstance, supervise};
use tokio::signal::unix::{SignalKind, signal};

use args::{Cli, Command, Options, ReporterKind};
use ground::Ground;

/// The documented exit codes.
#[derive(Clone, Copy)]
enum Exit {
    Passed = 0,
    StepFailed = 1,
    Plan = 2,
    Infrastructure = 3,
    RolledBack = 4,
    RollBackFailed = 5,
    Interrupted = 130,
}

/// Why the program ends before there is a run: the message and the exit code.
struct Stop(Exit, String);

impl Stop {
    fn new(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        Self(exit, error_chain(error))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = match cli.command.clone().unwrap_or(Command::Run) {
        Command::Run => run(&cli.options, None).await,
        Command::Resume { run: id } => run(&cli.options, Some(&id)).await,
        Command::Plan => plan(&cli.options).await,
        Command::Stop => stop(&cli.options).await,
        Command::Supervise { dir } => match supervise(dir).await {
            Ok(_) => Ok(Exit::Passed),
            Err(error) => Err(Stop::new(Exit::Infrastructure, &error)),
        },
    };
    let exit = exit.unwrap_or_else(|Stop(exit, message)| {
        say(format!("django_delivery: {message}\n"));
        exit
    });
    ExitCode::from(exit as u8)
}

async fn run(options: &Options, resume: Option<&str>) -> Result<Exit, Stop> {
    let cancel = CancelToken::new();
    tokio::spawn(cancel_on_signal(cancel.clone()));
    let ground = tokio::select! {
        ground = Ground::prepare(options, resume) => ground?,
        () = cancel.cancelled() => return Ok(Exit::Interrupted),
    };
    let pipeline = pipeline::build(options, &ground)?;
    let style = match options.reporter {
        ReporterKind::Auto if stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() => {
            Style::Colour
        }
        _ => Style::Plain,
    };
    let executor = LocalExecutor::new().with_env(inherited());
    let mut runner = Runner::new(&ground.data_dir).with_executor(Arc::new(executor));
    for (name, value) in variables(options)? {
        runner = runner.with_env(name, value);
    }
    if let Some(secret) = options.source.as_deref().and_then(credentials) {
        runner = runner.with_secret(secret);
    }
    if let Some(jobs) = options.jobs {
        runner = runner.with_jobs(jobs);
    }
    runner = match options.reporter {
        ReporterKind::Json => runner.with_reporter(JsonLinesReporter::new(stdout())),
        _ => runner.with_reporter(PlainReporter::new(stderr(), style)),
    };
    let facts = ground.facts.clone();
    let run = match resume {
        None => runner.start(&pipeline, facts).await,
        Some(id) => runner.resume(&pipeline, facts, id).await,
    }
    .map_err(|error| {
        let exit = match error {
            pipeline_core::RunError::DataFolder { .. } => Exit::Infrastructure,
            _ => Exit::Plan,
        };
        Stop::new(exit, &error)
    })?;
    let id = run.id().to_owned();
    let stop = run.cancel().clone();
    tokio::spawn(async move {
        cancel.cancelled().await;
        stop.cancel();
    });
    let report = run
        .wait()
        .await
        .map_err(|error| Stop::new(Exit::Infrastructure, &error))?;
    say(Summary::new(&report, style));
    let exit = verdict(&report);
    if !matches!(exit, Exit::Passed) {
        say(format!("   resume   {}\n", resume_line(options, &id)));
    }
    Ok(exit)
}

async fn plan(options: &Options) -> Result<Exit, Stop> {
    let ground = Ground::prepare(options, None).await?;
    let pipeline = pipeline::build(options, &ground)?;
    let plan = pipeline.plan(&ground.facts);
    match options.reporter {
        ReporterKind::Json => answer(serde_json::json!(plan).to_string() + "\n"),
        _ => answer(plan),
    }
    Ok(Exit::Passed)
}

async fn stop(options: &Options) -> Result<Exit, Stop> {
    let folder = pipeline::deploy_folder(&options.data_dir);
    if !folder.exists() {
        say(format!("nothing is deployed in {}\n", folder.display()));
        return Ok(Exit::Passed);
    }
    let instance =
        LocalInstance::new(&folder).map_err(|error| Stop::new(Exit::Infrastructure, &error))?;
    instance
        .stop()
        .await
        .map_err(|error| Stop::new(Exit::Infrastructure, &error))?;
    say(format!("the site in {} is stopped\n", folder.display()));
    Ok(Exit::Passed)
}

fn verdict(report: &RunReport) -> Exit {
    let deploy = report.step("deploy", "local").and_then(|step| {
        step.failure
            .as_ref()?
            .detail
            .pointer("/deploy/outcome")?
            .as_str()
    });
    match (report.outcome, deploy) {
        (Outcome::Succeeded, _) => Exit::Passed,
        (Outcome::Cancelled, _) => Exit::Interrupted,
        (_, Some("rolled-back")) => Exit::RolledBack,
        (_, Some("rollback-failed")) => Exit::RollBackFailed,
        (Outcome::Errored, _) => Exit::Infrastructure,
        _ => Exit::StepFailed,
    }
}

/// The first signal stops the run in order, the second at once.
async fn cancel_on_signal(cancel: CancelToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return;
    };
    for count in 0.. {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if count > 0 {
            #[expect(clippy::exit, reason = "the user asked twice; the next run sweeps")]
            std::process::exit(Exit::Interrupted as i32);
        }
        say("stopping; once more to stop at once\n");
        cancel.cancel();
    }
}

/// Text for people. A reader that has gone away is no reason to fail.
fn say(text: impl Display) {
    write!(stderr(), "{text}").ok();
}

/// What was asked for.
fn answer(text: impl Display) {
    write!(stdout(), "{text}").ok();
}

/// Variables of the command line, for commands and for the site.
fn variables(options: &Options) -> Result<Vec<(String, EnvValue)>, Stop> {
    let plain = options
        .env
        .iter()
        .map(|(name, value)| (name.clone(), EnvValue::from(value.as_str())));
    let secret = options.secret_variables()?.into_iter();
    let secret = secret.map(|(name, value)| (name, EnvValue::Secret(value)));
    Ok(plain.chain(secret).collect())
}

/// What commands get of this program's own environment: where programs and settings are, how to
/// reach the network, nothing else.
fn inherited() -> BTreeMap<String, EnvValue> {
    let exact = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TERM",
        "TMPDIR",
        "TZ",
        "SSH_AUTH_SOCK",
    ];
    let starts = ["LC_", "PIP_", "UV_", "SSL_CERT_", "XDG_", "PYENV_"];
    let proxies = [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "requests_ca_bundle",
    ];
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            exact.contains(&name.as_str())
                || starts.iter().any(|start| name.starts_with(start))
                || proxies.contains(&name.to_lowercase().as_str())
        })
        .map(|(name, value)| (name, EnvValue::from(value)))
        .collect()
}

/// The call that resumes a run, with the same options.
fn resume_line(options: &Options, id: &str) -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let mut words = vec![
        pipeline_core::executor::quote(&program),
        "resume".to_owned(),
    ];
    words.push(id.to_owned());
    words.extend(options.words());
    words.join(" ")
}
