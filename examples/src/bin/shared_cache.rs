//! Two machines that share one cache through a bucket.
//!
//! Each machine has its own job folders and its own near store; the bucket is behind both. The
//! first one installs and saves, the second one finds what the first has saved, and a changed
//! requirement finds the nearest older entry.
//!
//! ```text
//! shared_cache                                             with an S3 server of its own (feature s3-server)
//! shared_cache --endpoint http://127.0.0.1:9000 --bucket ci    credentials from AWS_* variables
//! ```

#![expect(
    clippy::print_stderr,
    reason = "a program says what went wrong on standard error"
)]

use std::error::Error;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use pipeline_cache::cache::Cache;
use pipeline_cache::key::KeyTemplate;
use pipeline_cache::steps::{CacheHit, RestoreCache, SaveCache};
use pipeline_cache::store::{
    BucketOptions, BucketStore, FilesystemStore, S3Bucket, S3Credentials, TieredStore,
};
use pipeline_core::report::{PlainReporter, Style};
use pipeline_core::{
    Job, LocalExecutor, Outcome, Pipeline, RunFacts, Runner, StepError, error_chain, sh, step_fn,
};
use tokio::sync::mpsc;

/// Shows two machines that share a cache through a bucket.
#[derive(Debug, Parser)]
#[command(name = "shared_cache", version)]
struct Cli {
    /// Address of an S3 server; without it and the feature `s3-server`, Amazon's.
    #[arg(long)]
    endpoint: Option<String>,
    /// The bucket, which must exist.
    #[arg(long, default_value = "shared-cache")]
    bucket: String,
    /// What object names start with.
    #[arg(long, default_value = "ci/cache")]
    prefix: String,
    /// Show what the steps say.
    #[arg(long)]
    verbose: bool,
}

type Trouble = Box<dyn Error + Send + Sync>;

const KEY: &str = r#"deps1-{{ checksum "requirements.txt" }}"#;
const FALLBACK: &str = "deps1-";

#[tokio::main]
async fn main() -> ExitCode {
    match show(&Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shared_cache: {}", error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn show(cli: &Cli) -> Result<(), Trouble> {
    let ground = tempfile::tempdir()?;
    let bucket = open_bucket(cli, ground.path()).await?;
    say(&format!("far store: {}", bucket.store))?;
    for (machine, requirements) in [
        ("one", "Django==4.2"),
        ("two", "Django==4.2"),
        ("two", "Django==5.2"),
        ("one", "Django==5.2"),
    ] {
        let folder = ground.path().join(machine);
        let near = FilesystemStore::new(folder.join("cache"));
        let store = TieredStore::new(near, bucket.store.clone());
        let hit = deliver(&folder, &Cache::new(store.clone()), requirements, cli).await?;
        say(&format!(
            "machine {machine}, {requirements}: {}",
            in_words(&hit)
        ))?;
        // Before the machine goes away, everybody else must be able to use what it made.
        let report = store.drain().await;
        for problem in &report.problems {
            eprintln!("shared_cache: {}", error_chain(problem));
        }
        for key in &report.stored {
            say(&format!("  brought to the bucket: {key}"))?;
        }
    }
    Ok(())
}

fn in_words(hit: &CacheHit) -> String {
    match hit {
        CacheHit::Exact { key } => format!("found {key}, nothing to install"),
        CacheHit::Prefix { key, .. } => format!("found {key}, installed the difference"),
        CacheHit::Miss { .. } => "found nothing, installed everything".to_owned(),
        _ => "unknown answer of the cache".to_owned(),
    }
}

/// One machine's job: restore, install unless exactly this was found, save.
async fn deliver(
    folder: &Path,
    cache: &Cache,
    requirements: &str,
    cli: &Cli,
) -> Result<CacheHit, Trouble> {
    let key = KeyTemplate::parse(KEY)?;
    let fallback = KeyTemplate::parse(FALLBACK)?;
    let (answer, mut answers) = mpsc::unbounded_channel();
    let mut job = Job::new("test");
    job.step(
        "checkout",
        sh(format!("echo {requirements} > requirements.txt")),
    );
    // A machine of a build farm starts with nothing.
    job.step("clean", sh("rm -rf packages"));
    let hit = job.step(
        "restore",
        RestoreCache::new(cache.clone(), [key.clone(), fallback]),
    );
    job.step(
        "install",
        step_fn({
            let hit = hit.clone();
            move |cx| {
                let (hit, answer) = (hit.clone(), answer.clone());
                async move {
                    let hit = cx.value(&hit)?;
                    let packages = cx.job_dir().join("packages");
                    if !hit.is_exact() {
                        install(&packages)
                            .map_err(|error| StepError::errored("installing", error))?;
                    }
                    let modules = std::fs::read_dir(&packages)
                        .map_err(|error| StepError::errored("looking at packages", error))?
                        .count();
                    cx.log(format!("{modules} packages")).await;
                    // Nobody listens only when the run was given up.
                    let _ = answer.send(hit);
                    Ok(modules)
                }
            }
        })
        .reads(&hit),
    );
    job.step("save", SaveCache::new(cache.clone(), key, ["packages"]));
    let pipeline = Pipeline::builder("shared-cache").job(job).build()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let executor = LocalExecutor::new().with_env([("PATH", path)]);
    let mut runner = Runner::new(folder).with_executor(Arc::new(executor));
    if cli.verbose {
        runner = runner.with_reporter(PlainReporter::new(std::io::stderr(), Style::Plain));
    }
    let run = runner.start(&pipeline, RunFacts::new()).await?;
    let report = run.wait().await?;
    match (report.outcome, answers.try_recv()) {
        (Outcome::Succeeded, Ok(hit)) => Ok(hit),
        (outcome, _) => Err(format!("the run ended as {outcome:?}: {:?}", report.warnings).into()),
    }
}

/// What an installer leaves: many files in folders.
fn install(packages: &Path) -> std::io::Result<()> {
    for package in 0..40 {
        let folder = packages.join(format!("package{package}"));
        std::fs::create_dir_all(&folder)?;
        for module in 0..10 {
            let file = folder.join(format!("module{module}.py"));
            std::fs::write(file, format!("VALUE = {package} * {module}\n").repeat(50))?;
        }
    }
    Ok(())
}

struct Opened {
    store: BucketStore,
    #[cfg(feature = "s3-server")]
    _server: Option<pipeline_examples::s3_server::S3Server>,
}

#[cfg_attr(
    not(feature = "s3-server"),
    expect(
        clippy::unused_async,
        reason = "only a server of its own is waited for"
    )
)]
async fn open_bucket(cli: &Cli, ground: &Path) -> Result<Opened, Trouble> {
    let options = BucketOptions::default()
        .with_prefix(&cli.prefix)
        .with_spool_folder(ground);
    #[cfg(feature = "s3-server")]
    if cli.endpoint.is_none() {
        use pipeline_core::Secret;
        let secret = Secret::new("only-for-this-process");
        let buckets = ground.join("buckets");
        std::fs::create_dir_all(buckets.join(&cli.bucket))?;
        let server =
            pipeline_examples::s3_server::S3Server::start(&buckets, "shared", &secret).await?;
        let bucket = S3Bucket::new(&cli.bucket, S3Credentials::keys("shared", secret))
            .with_endpoint(server.endpoint());
        return Ok(Opened {
            store: BucketStore::s3(&bucket, options)?,
            _server: Some(server),
        });
    }
    let mut bucket = S3Bucket::new(&cli.bucket, S3Credentials::Environment);
    bucket.endpoint.clone_from(&cli.endpoint);
    Ok(Opened {
        store: BucketStore::s3(&bucket, options)?,
        #[cfg(feature = "s3-server")]
        _server: None,
    })
}

/// One line on standard output; a reader that went away is no error.
fn say(text: &str) -> Result<(), Trouble> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
