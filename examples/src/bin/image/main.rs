//! Images without an engine, from the command line.
//!
//! The digest goes to standard output, everything else to standard error. Exit codes: 0 done,
//! 1 error, one line on standard error, 2 wrong usage.

#![expect(
    clippy::print_stderr,
    reason = "a program says what happens on standard error"
)]

mod args;

use std::collections::HashSet;
use std::error::Error;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use pipeline_core::error_chain;
use pipeline_docker::ImageReference;
use pipeline_docker::builder::{
    BaseImage, BuildEvent, BuildObserver, BuildRequest, ConfigSpec, DaemonlessBuilder,
    ImageBuilder as _, ImageOutput, ImageSpec, LayerCache, LayerOrigin, LayerSpec,
};
use pipeline_docker::context::BuildContext;
use pipeline_docker::ignore::IgnoreRule;
use pipeline_docker::oci::{
    Descriptor, Digest, ImageConfig, Manifest, OciLayout, Platform, media_type, split_layout_name,
    write_docker_archive,
};
use pipeline_docker::registry::{
    BlobOutcome, CopyOptions, ExistingTag, PlatformChoice, PullOptions, PushOptions, Registry,
};
use serde_json::json;

use crate::args::{Build, Cli, Command, RegistryArgs, Rule, TagArgs};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("image: {}", error_chain(&*error).replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Context {
            dir,
            ignore_file,
            rule,
        } => context(dir, ignore_file, rule),
        Command::Build(build) => build_image(build).await,
        Command::Push {
            layout,
            reference,
            tag,
            registry,
        } => push(&registry.client()?, &layout, &reference, tag.existing()).await,
        Command::Pull {
            reference,
            out,
            platform,
            registry,
        } => {
            let platform = platform.map_or_else(PlatformChoice::default, PlatformChoice::Only);
            pull(&registry.client()?, &reference, &out, platform).await
        }
        Command::Copy {
            from,
            to,
            tag,
            registry,
        } => copy(&from, &to, &tag, &registry).await,
        Command::Inspect {
            image,
            json,
            registry,
        } => inspect(&image, json, &registry).await,
        Command::Save { layout, file, name } => save(&layout, &file, &name),
    }
}

/// Prints what was asked for; a reader that goes away is no fault of ours.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn context(dir: PathBuf, ignore_file: Option<PathBuf>, rule: Rule) -> Result<(), Failure> {
    let mut context = BuildContext::new(dir).with_rule(match rule {
        Rule::Buildkit => IgnoreRule::Buildkit,
        Rule::Classic => IgnoreRule::Classic,
    });
    context.ignore_file = ignore_file;
    let files = context.scan()?;
    eprintln!("{} entries, {} bytes", files.len(), files.size());
    for (path, bytes) in files.large_files(10_000_000).into_iter().take(5) {
        eprintln!("large: {path} ({bytes} bytes)");
    }
    let paths = files.paths();
    if paths.is_empty() {
        Ok(())
    } else {
        print(&paths.join("\n"))
    }
}

async fn build_image(args: Build) -> Result<(), Failure> {
    let base = if args.base == "scratch" {
        BaseImage::Scratch
    } else if let Some(path) = local(&args.base) {
        BaseImage::from_path(&path)
    } else {
        BaseImage::registry(args.base.parse()?)
    };
    let mut config = ConfigSpec::default();
    config.env = args.env;
    config.entrypoint = args.entrypoint.map(|words| words.0);
    config.cmd = args.cmd.map(|words| words.0);
    config.user = args.user;
    config.workdir = args.workdir;
    config.ports = args.port;
    config.labels = args.label.into_iter().collect();
    let mut spec = ImageSpec::new(base).with_config(config);
    spec.created = args.created;
    for (source, dest) in args.layer {
        spec = spec.with_layer(LayerSpec::copy(source, dest).with_exclude(args.exclude.clone()));
    }
    let mut builder = DaemonlessBuilder::new();
    if matches!(spec.base, BaseImage::Registry { .. }) {
        builder = builder.with_registry(args.registry.client()?);
    }
    if let Some(folder) = args.layer_cache {
        builder = builder.with_layer_cache(LayerCache::open(folder)?);
    }
    let output = ImageOutput::Layout {
        path: args.out,
        tag: args.tag,
    };
    let image = builder
        .observed_by(Arc::new(Narrator))
        .build(&BuildRequest::layers(spec, output))
        .await?;
    for layer in &image.layers {
        let origin = match layer.origin {
            LayerOrigin::Base => "base",
            LayerOrigin::Cached => "cached",
            _ => "new",
        };
        eprintln!(
            "layer {} {} bytes, {origin}: {}",
            layer.digest, layer.size, layer.comment
        );
    }
    print(&image.digest().to_string())
}

/// Says what a build tells of its base.
#[derive(Debug)]
struct Narrator;

impl BuildObserver for Narrator {
    fn event(&self, event: &BuildEvent) {
        match event {
            BuildEvent::BaseResolved { reference } => eprintln!("base {reference}"),
            BuildEvent::LayerProgress {
                layer,
                action,
                current,
                total,
            } if current >= total => eprintln!("{layer}: {action}, {}", human(*total)),
            BuildEvent::Warning { message } => eprintln!("{message}"),
            _ => {}
        }
    }
}

async fn push(
    registry: &Registry,
    layout: &Path,
    reference: &ImageReference,
    existing: ExistingTag,
) -> Result<(), Failure> {
    let (layout, name) = open(layout)?;
    let mut options = PushOptions::default().with_existing(existing);
    options.image = name;
    let report = registry.push(&layout, reference, &options).await?;
    let outcome = if report.unchanged {
        "already there"
    } else {
        "pushed"
    };
    eprintln!(
        "{}: {outcome}, {} of {} bytes sent",
        report.reference, report.bytes_sent, report.size
    );
    print(&report.digest.to_string())
}

async fn pull(
    registry: &Registry,
    reference: &ImageReference,
    out: &Path,
    platform: PlatformChoice,
) -> Result<(), Failure> {
    let (folder, tag) = split_layout_name(out).unwrap_or((out.to_owned(), String::new()));
    let layout = OciLayout::create(folder)?;
    let mut options = PullOptions::default().with_platform(platform);
    options.tag = Some(tag).filter(|tag| !tag.is_empty());
    let report = registry.pull(reference, &layout, &options).await?;
    for blob in &report.blobs {
        let (layer, size) = (blob.digest.short(), human(blob.size));
        match blob.outcome {
            BlobOutcome::Downloaded => {
                let seconds = blob.duration.as_secs_f64();
                eprintln!("{layer}: downloaded {size} in {seconds:.1}s");
            }
            BlobOutcome::Foreign => eprintln!("{layer}: left where it is ({size})"),
            _ => eprintln!("{layer}: already exists ({size})"),
        }
    }
    eprintln!("digest: {}", report.manifest.digest);
    let (received, seconds) = (human(report.bytes_received), report.duration.as_secs_f64());
    let rate = human(report.bytes_per_second() as u64);
    eprintln!(
        "{}: {received} of {} received in {seconds:.1}s, {rate}/s",
        report.reference,
        human(report.size)
    );
    if report.anonymous {
        eprintln!("pulled without credentials");
    }
    if let Some(limit) = &report.rate_limit {
        eprintln!("{} of {} pulls are left", limit.remaining, limit.limit);
    }
    print(&report.manifest.digest.to_string())
}

async fn copy(from: &str, to: &str, tag: &TagArgs, registry: &RegistryArgs) -> Result<(), Failure> {
    let existing = tag.existing();
    match (local(from), local(to)) {
        (Some(from), Some(to)) => copy_layout(&from, &to),
        (Some(from), None) => push(&registry.client()?, &from, &to.parse()?, existing).await,
        (None, Some(to)) => {
            pull(
                &registry.client()?,
                &from.parse()?,
                &to,
                PlatformChoice::All,
            )
            .await
        }
        (None, None) => {
            let options = CopyOptions::default().with_existing(existing);
            let report = registry
                .client()?
                .copy(&from.parse()?, &to.parse()?, &options)
                .await?;
            eprintln!(
                "{}: {} of {} bytes sent",
                report.reference, report.bytes_sent, report.size
            );
            print(&report.digest.to_string())
        }
    }
}

/// Copies an image between layouts, all its platforms with it.
fn copy_layout(from: &Path, to: &Path) -> Result<(), Failure> {
    let (from, name) = open(from)?;
    let (folder, tag) = split_layout_name(to)
        .map_or((to.to_owned(), name.clone()), |(folder, tag)| {
            (folder, Some(tag))
        });
    let to = OciLayout::create(folder)?;
    let root = from.resolve(name.as_deref())?;
    let mut todo: Vec<Descriptor> = vec![root.clone()];
    let mut seen = HashSet::new();
    while let Some(descriptor) = todo.pop() {
        // Indexes that name each other's images again and again are no reason to go on for ever.
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        let is_manifest = media_type::is_image_manifest(&descriptor.media_type)
            || media_type::is_image_index(&descriptor.media_type);
        if is_manifest {
            let bytes = from.read_blob(&descriptor)?;
            match Manifest::parse(Some(&descriptor.media_type), &bytes)? {
                Manifest::Image(image) => todo.extend(image.blobs().cloned()),
                Manifest::Index(index) => todo.extend(index.manifests),
                _ => {}
            }
        }
        to.adopt_blob(&from, &descriptor)?;
    }
    let is_digest = tag
        .as_deref()
        .is_some_and(|tag| tag.parse::<Digest>().is_ok());
    to.set_tag(tag.as_deref().filter(|_| !is_digest), &root)?;
    print(&root.digest.to_string())
}

async fn inspect(image: &str, as_json: bool, registry: &RegistryArgs) -> Result<(), Failure> {
    let Some(path) = local(image) else {
        // No layers: an answer should not cost a pull.
        let (client, reference) = (registry.client()?, image.parse::<ImageReference>()?);
        let (descriptor, bytes) = client.manifest(&reference).await?;
        let config = if media_type::is_image_index(&descriptor.media_type) {
            None
        } else {
            // The tag may move between the two questions.
            let pinned = reference.with_digest(descriptor.digest.clone());
            Some(client.config(&pinned, &PlatformChoice::default()).await?)
        };
        let manifest = serde_json::from_slice(&bytes)?;
        return show(&descriptor, &manifest, config.as_ref(), as_json);
    };
    let (layout, name) = open(&path)?;
    let descriptor = layout.resolve(name.as_deref())?;
    let manifest = serde_json::from_slice(&layout.read_blob(&descriptor)?)?;
    let config = if media_type::is_image_index(&descriptor.media_type) {
        None
    } else {
        Some(layout.image(&descriptor, &Platform::host())?.config)
    };
    show(&descriptor, &manifest, config.as_ref(), as_json)
}

fn show(
    descriptor: &Descriptor,
    manifest: &serde_json::Value,
    config: Option<&ImageConfig>,
    as_json: bool,
) -> Result<(), Failure> {
    if as_json {
        let document = json!({
            "digest": descriptor.digest,
            "mediaType": descriptor.media_type,
            "size": descriptor.size,
            "manifest": manifest,
            "config": config,
        });
        return print(&serde_json::to_string_pretty(&document)?);
    }
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        eprintln!(
            "layer {} {} bytes",
            layer["digest"].as_str().unwrap_or_default(),
            layer["size"]
        );
    }
    for entry in manifest["manifests"].as_array().into_iter().flatten() {
        let platform = &entry["platform"];
        eprintln!(
            "image {} {}/{}",
            entry["digest"], platform["os"], platform["architecture"]
        );
    }
    if let Some(config) = config {
        eprintln!("platform {}", config.platform);
        if let Some(created) = &config.created {
            eprintln!("created {created}");
        }
        let run = &config.config;
        for (name, words) in [
            ("entrypoint", &run.entrypoint),
            ("cmd", &run.cmd),
            ("env", &run.env),
            ("ports", &run.exposed_ports),
            ("volumes", &run.volumes),
        ] {
            if !words.is_empty() {
                eprintln!("{name} {}", serde_json::to_string(words)?);
            }
        }
        for (name, word) in [("user", &run.user), ("workdir", &run.working_dir)] {
            if !word.is_empty() {
                eprintln!("{name} {word}");
            }
        }
        for (name, value) in &run.labels {
            eprintln!("label {name}={value}");
        }
    }
    print(&descriptor.digest.to_string())
}

fn save(layout: &Path, file: &Path, names: &[String]) -> Result<(), Failure> {
    let (layout, name) = open(layout)?;
    let image = layout.image(&layout.resolve(name.as_deref())?, &Platform::host())?;
    // Whole or not at all.
    let folder = file
        .parent()
        .filter(|path| !path.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    // For whom the umask says, as the output of any tool.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let temporary = builder.tempfile_in(folder)?;
    let sink = BufWriter::with_capacity(256 * 1024, temporary);
    let sink = write_docker_archive(&layout, &image, names, sink)?;
    sink.into_inner()?.persist(file)?;
    print(&image.descriptor.digest.to_string())
}

/// Bytes for a person, in powers of ten.
fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{:.1}kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", bytes as f64 / 1e6),
        _ => format!("{:.2}GB", bytes as f64 / 1e9),
    }
}

/// A layout or folder on this machine, or nothing when the text is to be read as a reference.
fn local(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let is_layout = |path: &Path| path.join("oci-layout").is_file();
    let with_name = split_layout_name(path).is_some_and(|(folder, _)| is_layout(&folder));
    (text.starts_with(['.', '/']) || path.is_dir() || with_name).then(|| path.to_owned())
}

/// Opens a layout and takes the name behind it apart.
fn open(path: &Path) -> Result<(OciLayout, Option<String>), Failure> {
    if !path.is_dir()
        && let Some((folder, name)) = split_layout_name(path)
    {
        return Ok((OciLayout::open(folder)?, Some(name)));
    }
    Ok((OciLayout::open(path)?, None))
}
