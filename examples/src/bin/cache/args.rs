//! What the program is called with.

use std::error::Error;
use std::path::PathBuf;
use std::time::SystemTime;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pipeline_cache::cache::Cache;
use pipeline_cache::key::{HostArch, KeyContext, KeyTemplate, RenderedKey};
use pipeline_cache::store::{Codec, FilesystemStore};
use pipeline_core::error_chain;

/// Saves and restores folders under keys.
#[derive(Debug, Parser)]
#[command(name = "cache", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Store paths under a key; a key that is taken is left as it is.
    Save {
        #[command(flatten)]
        entry: EntryArgs,
        /// Compression.
        #[arg(long, default_value = "zstd")]
        codec: CodecArg,
        /// Compression level.
        #[arg(long, allow_negative_numbers = true)]
        level: Option<i32>,
        /// Leave out what may not be read, and say so, where the default is to store nothing.
        #[arg(long)]
        skip_unreadable: bool,
        /// Files and folders, relative to the current folder or absolute.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Bring back the first entry that a key finds: exactly, else the newest that starts with it.
    Restore {
        #[command(flatten)]
        candidates: CandidateArgs,
        /// Put everything below this folder.
        #[arg(long)]
        into: Option<PathBuf>,
        /// Say what was restored, or which inputs of the key changed.
        #[arg(long)]
        verbose: bool,
        /// Write every file anew, also those that are there and the same.
        #[arg(long)]
        replace: bool,
    },
    /// Show the entries.
    List {
        #[command(flatten)]
        store: StoreArgs,
        /// Full descriptions, as a JSON array.
        #[arg(long)]
        json: bool,
    },
    /// Compare every byte with its digest.
    Verify {
        #[command(flatten)]
        store: StoreArgs,
        /// Only this entry.
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        facts: Facts,
    },
    /// Remove damaged entries and what killed writers left behind.
    Repair {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Make an archive of other tools an entry.
    Import {
        #[command(flatten)]
        entry: EntryArgs,
        /// A .tar, .tar.gz or .tar.zst file.
        file: PathBuf,
    },
    /// Copy an entry's archive to a file.
    Export {
        #[command(flatten)]
        entry: EntryArgs,
        /// File to write.
        file: PathBuf,
    },
    /// Remove one entry.
    Evict {
        #[command(flatten)]
        entry: EntryArgs,
    },
    /// Remove what is old or too much, and what killed writers left behind.
    Gc {
        #[command(flatten)]
        store: StoreArgs,
        /// Remove entries not used for this many days.
        #[arg(long, value_name = "DAYS")]
        max_idle: Option<u64>,
        /// Remove entries made more than this many days ago.
        #[arg(long, value_name = "DAYS")]
        max_age: Option<u64>,
        /// Then remove the least recently used until this many bytes are left.
        #[arg(long, value_name = "BYTES")]
        max_bytes: Option<u64>,
        /// Remove chunks that no entry needs if they are older than this many seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        chunk_age: u64,
    },
    /// Say which entry keys would find, or which input changed.
    Explain {
        #[command(flatten)]
        candidates: CandidateArgs,
        /// Answer as JSON.
        #[arg(long)]
        json: bool,
        /// Take the newest entry that a key begins, even when another has exactly that key.
        #[arg(long)]
        newest_prefix: bool,
    },
    /// Print a rendered key.
    Key {
        /// The template.
        template: String,
        #[command(flatten)]
        facts: Facts,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Folder of the store.
    #[arg(long = "store", value_name = "DIR")]
    folder: PathBuf,
}

impl StoreArgs {
    pub(crate) fn open(self) -> FilesystemStore {
        FilesystemStore::new(self.folder)
    }

    pub(crate) fn cache(self) -> Cache {
        Cache::new(self.open())
    }
}

/// One entry of a store.
#[derive(Debug, Args)]
pub(crate) struct EntryArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Key or key template.
    #[arg(long)]
    key: String,
    #[command(flatten)]
    facts: Facts,
}

impl EntryArgs {
    pub(crate) fn render(&self) -> Result<RenderedKey, Box<dyn Error>> {
        self.facts.render(&self.key)
    }
}

/// Where to look for an entry.
#[derive(Debug, Args)]
pub(crate) struct CandidateArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Keys or key templates, in order of preference.
    #[arg(long, required = true)]
    key: Vec<String>,
    #[command(flatten)]
    facts: Facts,
}

impl CandidateArgs {
    pub(crate) fn render(&self) -> Result<Vec<RenderedKey>, Box<dyn Error>> {
        self.facts.render_all(&self.key)
    }
}

/// What key templates are rendered from.
#[derive(Debug, Args)]
pub(crate) struct Facts {
    /// Value of {{ .Branch }}.
    #[arg(long)]
    branch: Option<String>,
    /// Value of {{ .Revision }}.
    #[arg(long)]
    revision: Option<String>,
    /// Value of {{ .BuildNum }}.
    #[arg(long)]
    build_num: Option<u64>,
    /// Value of {{ .Environment.K }}.
    #[arg(long = "env", value_name = "K=V", value_parser = key_value)]
    environment: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CodecArg {
    Gzip,
    Zstd,
    None,
    /// No archive: chunks that all entries share; only what is new is written.
    Chunked,
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::Gzip => Self::Gzip,
            CodecArg::Zstd => Self::Zstd,
            CodecArg::None => Self::None,
            CodecArg::Chunked => Self::Chunked,
        }
    }
}

impl Facts {
    fn context(&self) -> Result<KeyContext, Box<dyn Error>> {
        let mut context = KeyContext::new(std::env::current_dir()?)
            .with_host(HostArch::of_this_host())
            .with_epoch(
                SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)?
                    .as_secs(),
            );
        context.home_dir = std::env::home_dir();
        context.branch.clone_from(&self.branch);
        context.revision.clone_from(&self.revision);
        context.build_num = self.build_num;
        context.environment = self.environment.iter().cloned().collect();
        Ok(context)
    }

    pub(crate) fn render(&self, template: &str) -> Result<RenderedKey, Box<dyn Error>> {
        let key = KeyTemplate::parse(template)?.render(&self.context()?)?;
        for name in key.unset_variables() {
            eprintln!("cache: the variable {name} is not set; give it with --env {name}=VALUE");
        }
        Ok(key)
    }

    /// A key that cannot be rendered costs only itself, as long as another one can.
    fn render_all(&self, templates: &[String]) -> Result<Vec<RenderedKey>, Box<dyn Error>> {
        let mut keys = Vec::new();
        let mut failures = Vec::new();
        for template in templates {
            match self.render(template) {
                Ok(key) => keys.push(key),
                Err(error) => failures.push(error),
            }
        }
        if keys.is_empty() && !failures.is_empty() {
            return Err(failures.remove(0));
        }
        for failure in failures {
            eprintln!("cache: {}, key left out", error_chain(failure.as_ref()));
        }
        Ok(keys)
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form K=V")),
    }
}
