//! Runs a job in a container, with an HTTP service in another container beside it.
//!
//! The image is made here and given to the engine, so nothing is pulled: busybox, a few of its
//! names and a page. The service serves the page; the job begins when the service answers, fetches
//! the page by the service's name and looks at it. All containers and their network are gone when
//! the run is over. If the program is killed before, the job's container ends at once; the service
//! runs until the program is next started, which removes what is left.
//!
//! Needs a Docker engine and a statically linked busybox (Debian: `busybox-static`).

#![expect(
    clippy::print_stderr,
    reason = "a program says what happens on standard error"
)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use pipeline_core::report::{PlainReporter, Style, Summary};
use pipeline_core::{
    CommandSpec, CommandStep, Job, Outcome, Pipeline, RunFacts, Runner, error_chain,
};
use pipeline_docker::builder::{
    BaseImage, BuildRequest, ConfigSpec, DaemonlessBuilder, ImageBuilder as _, ImageOutput,
    ImageSpec, LayerSpec,
};
use pipeline_docker::container::{ContainerExecutor, ContainerSpec, Limits, PullPolicy};
use pipeline_docker::engine::Engine;
use pipeline_docker::service::{HttpReadiness, Readiness, ServiceSpec};

/// Runs a job in a container beside an HTTP service.
#[derive(Debug, Parser)]
#[command(name = "container_job", version)]
struct Options {
    /// What the service's page says.
    #[arg(long, default_value = "Open from nine to five")]
    notice: String,
    /// What the job wants to find on the page.
    #[arg(long, default_value = "Open")]
    wanted: String,
    /// A statically linked busybox.
    #[arg(long, default_value = "/bin/busybox")]
    busybox: PathBuf,
    /// Where runs are kept.
    #[arg(long, default_value = ".pipeline")]
    data_dir: PathBuf,
}

const IMAGE: &str = "pipeline-examples/notice:1";
const PORT: u16 = 8080;
/// What the job and its executor call by name.
const NAMES: [&str; 4] = ["sh", "wget", "grep", "httpd"];

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("container_job: {}", error_chain(&*error));
            ExitCode::from(2)
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let engine = Engine::from_env().await?;
    let sources = tempfile::tempdir()?;
    let request = BuildRequest::layers(image(options, sources.path())?, ImageOutput::engine(IMAGE));
    DaemonlessBuilder::new()
        .with_engine(engine.clone())
        .build(&request)
        .await?;

    let service = ServiceSpec::new("notices", IMAGE)
        .with_pull(PullPolicy::Never)
        .with_alias("board")
        .with_command(["httpd", "-f", "-p", &PORT.to_string(), "-h", "/www"])
        .with_ready(Readiness::Http(HttpReadiness::new(PORT, "/")));
    let container = ContainerSpec::new(IMAGE)
        .with_pull(PullPolicy::Never)
        .with_limits(Limits::default().with_memory(128 << 20).with_pids(64))
        .with_service(service);
    let run = Runner::new(&options.data_dir)
        .with_executor(Arc::new(ContainerExecutor::new(engine, container)))
        .with_reporter(PlainReporter::new(std::io::stderr(), Style::Plain))
        .start(&pipeline(&options.wanted)?, RunFacts::new())
        .await?;
    let report = run.wait().await?;
    eprint!("{}", Summary::new(&report, Style::Plain));
    Ok(match report.outcome {
        Outcome::Succeeded => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// busybox below its names, and the page on top.
fn image(options: &Options, sources: &Path) -> Result<ImageSpec, Box<dyn Error>> {
    let names = sources.join("bin");
    std::fs::create_dir(&names)?;
    for name in NAMES {
        std::os::unix::fs::symlink("busybox", names.join(name))?;
    }
    let page = sources.join("index.html");
    std::fs::write(&page, format!("<!doctype html><p>{}\n", options.notice))?;
    let config = ConfigSpec::default().with_env("PATH", "/bin");
    Ok(ImageSpec::new(BaseImage::Scratch)
        .with_layer(LayerSpec::copy(&options.busybox, "/bin/busybox"))
        .with_layer(LayerSpec::copy(names, "/bin"))
        .with_layer(LayerSpec::copy(page, "/www/index.html"))
        .with_config(config))
}

fn pipeline(wanted: &str) -> Result<Pipeline, Box<dyn Error>> {
    let mut job = Job::new("read");
    let fetch = ["-O", "page.html", &format!("http://board:{PORT}/")];
    job.step(
        "fetch",
        CommandStep::from(CommandSpec::new("wget").args(fetch)),
    );
    let look = ["-F", "-e", wanted, "page.html"];
    job.step(
        "look",
        CommandStep::from(CommandSpec::new("grep").args(look)),
    );
    Ok(Pipeline::builder("notices").job(job).build()?)
}
