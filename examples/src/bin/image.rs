//! Images without an engine, from the command line.
//!
//! The digest goes to standard output, everything else to standard error. Exit codes: 0 done,
//! 1 error, one line on standard error, 2 wrong usage.

#![expect(
    clippy::print_stderr,
    reason = "a program says what happens on standard error"
)]

use std::error::Error;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pipeline_core::error_chain;
use pipeline_docker::ImageReference;
use pipeline_docker::builder::{
    BaseImage, BuildRequest, ConfigSpec, DaemonlessBuilder, ImageBuilder as _, ImageOutput,
    ImageSpec, LayerCache, LayerOrigin, LayerSpec,
};
use pipeline_docker::context::BuildContext;
use pipeline_docker::ignore::IgnoreRule;
use pipeline_docker::oci::{
    Descriptor, Digest, ImageConfig, Manifest, OciLayout, Platform, media_type, split_layout_name,
    write_docker_archive,
};
use pipeline_docker::registry::{
    CopyOptions, CredentialChain, ExistingTag, PlatformChoice, PullOptions, PushOptions, Registry,
    RegistryOptions,
};
use serde_json::json;

type Failure = Box<dyn Error + Send + Sync>;

/// Builds, moves and shows images without an engine.
///
/// A LAYOUT is a folder in the OCI image layout, with `:tag` or `@digest` behind it where it holds
/// several images. Credentials are those of docker's configuration.
#[derive(Debug, Parser)]
#[command(name = "image", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the paths that a build of a folder would get, folders with a slash at the end.
    Context {
        /// The folder.
        dir: PathBuf,
        /// Use this ignore file instead of the folder's own.
        #[arg(long)]
        ignore_file: Option<PathBuf>,
        /// Whose way through ignored folders to follow.
        #[arg(long, default_value = "buildkit")]
        rule: Rule,
    },
    /// Build an image of layers into a layout.
    Build(Build),
    /// Push an image of a layout to a registry.
    Push {
        /// The image.
        layout: PathBuf,
        /// Where it goes, with a tag.
        reference: ImageReference,
        #[command(flatten)]
        tag: TagArgs,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Pull an image from a registry into a layout.
    Pull {
        /// The image.
        reference: ImageReference,
        /// The layout's folder.
        #[arg(long)]
        out: PathBuf,
        /// Take this platform, such as linux/arm64, instead of the one of this machine.
        #[arg(long)]
        platform: Option<Platform>,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Copy an image, with all its platforms, between registries and layouts.
    ///
    /// What begins with a dot or slash, or is a folder, is a layout.
    Copy {
        /// The image.
        from: String,
        /// Where it goes.
        to: String,
        #[command(flatten)]
        tag: TagArgs,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Show an image.
    Inspect {
        /// A layout or a reference.
        image: String,
        /// Manifest and configuration as JSON on standard output.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        registry: RegistryArgs,
    },
    /// Write an image of a layout as a file for `docker load`.
    Save {
        /// The image.
        layout: PathBuf,
        /// The file.
        file: PathBuf,
        /// What the engine will call it, such as site:1.0.
        #[arg(long)]
        name: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct Build {
    /// The layout's folder.
    #[arg(long)]
    out: PathBuf,
    /// What lies at the bottom: a reference, a root file system folder, a layout, or scratch.
    #[arg(long, default_value = "scratch")]
    base: String,
    /// A folder or file and where it goes in the image; each makes one layer.
    #[arg(long, value_name = "SRC:DEST", value_parser = layer)]
    layer: Vec<(PathBuf, String)>,
    /// Leave paths out of all layers: a pattern as in .dockerignore.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// An environment variable.
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The entry point, as a JSON list of words.
    #[arg(long, value_name = "JSON", value_parser = words)]
    entrypoint: Option<Words>,
    /// The command, as a JSON list of words.
    #[arg(long, value_name = "JSON", value_parser = words)]
    cmd: Option<Words>,
    /// User, or user:group.
    #[arg(long)]
    user: Option<String>,
    /// The working folder.
    #[arg(long)]
    workdir: Option<String>,
    /// A port that the program listens on.
    #[arg(long)]
    port: Vec<String>,
    /// A label.
    #[arg(long, value_name = "K=V", value_parser = variable)]
    label: Vec<(String, String)>,
    /// The tag in the layout.
    #[arg(long)]
    tag: Option<String>,
    /// When the image counts as made, in seconds since 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    created: Option<u64>,
    /// Keep compressed layers in this folder for the next build.
    #[arg(long, value_name = "DIR")]
    layer_cache: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Args)]
struct TagArgs {
    /// Move the tag when it names another image already; refused otherwise.
    #[arg(long)]
    move_tag: bool,
}

#[derive(Debug, Args)]
struct RegistryArgs {
    /// Speak plain HTTP to this registry; loopback needs no permission.
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<String>,
    /// Trust the certificate authorities in this file, too.
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    Buildkit,
    Classic,
}

/// A list of words, as one value of an option.
#[derive(Debug, Clone)]
struct Words(Vec<String>);

fn layer(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once(":/") {
        Some((source, dest)) if !source.is_empty() => Ok((source.into(), format!("/{dest}"))),
        _ => Err("expected SRC:DEST, where DEST begins with a slash".to_owned()),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected K=V".to_owned()),
    }
}

fn words(text: &str) -> Result<Words, String> {
    serde_json::from_str(text).map(Words).map_err(|error| {
        format!("expected a JSON list of strings such as [\"python3\", \"-V\"]: {error}")
    })
}

impl RegistryArgs {
    fn client(&self) -> Result<Registry, Failure> {
        let mut options = RegistryOptions::default().with_credentials(CredentialChain::from_env()?);
        for host in &self.plain_http {
            options = options.with_plain_http(host);
        }
        for file in &self.ca_file {
            let pem = std::fs::read(file)
                .map_err(|error| format!("could not read {}: {error}", file.display()))?;
            options = options.with_ca_pem(pem);
        }
        Ok(Registry::new(options)?)
    }
}

impl TagArgs {
    const fn existing(&self) -> ExistingTag {
        if self.move_tag {
            ExistingTag::Move
        } else {
            ExistingTag::Refuse
        }
    }
}

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
    // Beside the result, so that its blobs need not be copied.
    let scratch;
    let base = if args.base == "scratch" {
        BaseImage::Scratch
    } else if let Some(path) = local(&args.base) {
        BaseImage::from_path(&path)
    } else {
        let reference: ImageReference = args.base.parse()?;
        OciLayout::create(&args.out)?;
        scratch = tempfile::Builder::new().prefix("image-base-").tempdir_in(
            args.out
                .parent()
                .filter(|path| !path.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )?;
        let layout = OciLayout::create(scratch.path().join("layout"))?;
        let report = args
            .registry
            .client()?
            .pull(&reference, &layout, &PullOptions::default())
            .await?;
        eprintln!("base {}", report.reference);
        if report.anonymous {
            eprintln!("pulled without credentials");
        }
        BaseImage::Layout {
            path: layout.path().to_owned(),
            name: Some(report.manifest.digest.to_string()),
        }
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
    if let Some(folder) = args.layer_cache {
        builder = builder.with_layer_cache(LayerCache::open(folder)?);
    }
    let output = ImageOutput::Layout {
        path: args.out,
        tag: args.tag,
    };
    let image = builder.build(&BuildRequest::layers(spec, output)).await?;
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
    eprintln!(
        "{}: {} of {} bytes received, {:.1} MB/s",
        report.reference,
        report.bytes_received,
        report.size,
        report.bytes_per_second() / 1e6
    );
    if report.anonymous {
        eprintln!("pulled without credentials");
    }
    if let Some(limit) = &report.rate_limit {
        eprintln!("pulls left: {limit:?}");
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
    while let Some(descriptor) = todo.pop() {
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
        // The manifest alone: an answer should not cost a pull.
        let (descriptor, bytes) = registry.client()?.manifest(&image.parse()?).await?;
        return show(&descriptor, &serde_json::from_slice(&bytes)?, None, as_json);
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
        ] {
            if !words.is_empty() {
                eprintln!("{name} {}", serde_json::to_string(words)?);
            }
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
    let temporary = tempfile::NamedTempFile::new_in(folder)?;
    let sink = BufWriter::with_capacity(256 * 1024, temporary);
    let sink = write_docker_archive(&layout, &image, names, sink)?;
    sink.into_inner()?.persist(file)?;
    print(&image.descriptor.digest.to_string())
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
