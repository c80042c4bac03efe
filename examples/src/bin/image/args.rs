//! What the program is called with.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pipeline_docker::ImageReference;
use pipeline_docker::oci::Platform;
use pipeline_docker::registry::{CredentialChain, ExistingTag, Registry, RegistryOptions};

use crate::Failure;

/// Builds, moves and shows images without an engine.
///
/// A LAYOUT is a folder in the OCI image layout, with `:tag` or `@digest` behind it where it holds
/// several images. Credentials are those of docker's configuration.
#[derive(Debug, Parser)]
#[command(name = "image", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
pub(crate) struct Build {
    /// The layout's folder.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// What lies at the bottom: a reference, a root file system folder, a layout, or scratch.
    #[arg(long, default_value = "scratch")]
    pub(crate) base: String,
    /// A folder or file and where it goes in the image; each makes one layer.
    #[arg(long, value_name = "SRC:DEST", value_parser = layer)]
    pub(crate) layer: Vec<(PathBuf, String)>,
    /// Leave paths out of all layers: a pattern as in .dockerignore.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) exclude: Vec<String>,
    /// An environment variable.
    #[arg(long, value_name = "K=V", value_parser = variable)]
    pub(crate) env: Vec<(String, String)>,
    /// The entry point, as a JSON list of words.
    #[arg(long, value_name = "JSON", value_parser = words)]
    pub(crate) entrypoint: Option<Words>,
    /// The command, as a JSON list of words.
    #[arg(long, value_name = "JSON", value_parser = words)]
    pub(crate) cmd: Option<Words>,
    /// User, or user:group.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The working folder.
    #[arg(long)]
    pub(crate) workdir: Option<String>,
    /// A port that the program listens on.
    #[arg(long)]
    pub(crate) port: Vec<String>,
    /// A label.
    #[arg(long, value_name = "K=V", value_parser = variable)]
    pub(crate) label: Vec<(String, String)>,
    /// The tag in the layout.
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// When the image counts as made, in seconds since 1970.
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    pub(crate) created: Option<u64>,
    /// Keep compressed layers in this folder for the next build.
    #[arg(long, value_name = "DIR")]
    pub(crate) layer_cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// Move the tag when it names another image already; refused otherwise.
    #[arg(long)]
    pub(crate) move_tag: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Speak plain HTTP to this registry; loopback needs no permission.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) plain_http: Vec<String>,
    /// Trust the certificate authorities in this file, too.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Rule {
    Buildkit,
    Classic,
}

/// A list of words, as one value of an option.
#[derive(Debug, Clone)]
pub(crate) struct Words(pub(crate) Vec<String>);

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
    pub(crate) fn client(&self) -> Result<Registry, Failure> {
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
    pub(crate) const fn existing(&self) -> ExistingTag {
        if self.move_tag {
            ExistingTag::Move
        } else {
            ExistingTag::Refuse
        }
    }
}
