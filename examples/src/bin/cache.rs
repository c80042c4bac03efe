//! The cache crate from the command line.
//!
//! Exit codes: 0 done, already present or restored; 3 no cache found; 1 error, one line on stderr.

#![expect(
    clippy::print_stderr,
    reason = "a program says what went wrong on standard error"
)]

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use pipeline_cache::archive::{PackOptions, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions, Saved};
use pipeline_cache::key::{CacheKey, HostArch, KeyContext, KeyTemplate, RenderedKey};
use pipeline_cache::store::{
    CacheStore as _, Codec, DeleteOutcome, EvictionPolicy, FilesystemStore, plan_eviction,
};

/// Saves and restores folders under keys.
#[derive(Debug, Parser)]
#[command(name = "cache", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Store paths under a key; a key that is taken is left as it is.
    Save {
        #[command(flatten)]
        store: StoreArgs,
        /// Key or key template.
        #[arg(long)]
        key: String,
        /// Compression.
        #[arg(long, default_value = "zstd")]
        codec: CodecArg,
        /// Compression level.
        #[arg(long, allow_negative_numbers = true)]
        level: Option<i32>,
        #[command(flatten)]
        facts: Facts,
        /// Files and folders, relative to the current folder or absolute.
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Bring back the first entry that a key finds: exactly, else the newest that starts with it.
    Restore {
        #[command(flatten)]
        store: StoreArgs,
        /// Keys or key templates, in order of preference.
        #[arg(long, required = true)]
        key: Vec<String>,
        /// Put everything below this folder.
        #[arg(long)]
        into: Option<PathBuf>,
        #[command(flatten)]
        facts: Facts,
        /// Say what was restored, or which inputs of the key changed.
        #[arg(long)]
        verbose: bool,
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
    /// Make an archive of other tools an entry.
    Import {
        #[command(flatten)]
        store: StoreArgs,
        /// Key or key template.
        #[arg(long)]
        key: String,
        #[command(flatten)]
        facts: Facts,
        /// A .tar, .tar.gz or .tar.zst file.
        file: PathBuf,
    },
    /// Copy an entry's archive to a file.
    Export {
        #[command(flatten)]
        store: StoreArgs,
        /// Key or key template.
        #[arg(long)]
        key: String,
        #[command(flatten)]
        facts: Facts,
        /// File to write.
        file: PathBuf,
    },
    /// Remove one entry.
    Evict {
        #[command(flatten)]
        store: StoreArgs,
        /// Key or key template.
        #[arg(long)]
        key: String,
        #[command(flatten)]
        facts: Facts,
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
    },
    /// Say which entry keys would find, or which input changed.
    Explain {
        #[command(flatten)]
        store: StoreArgs,
        /// Keys or key templates, in order of preference.
        #[arg(long, required = true)]
        key: Vec<String>,
        #[command(flatten)]
        facts: Facts,
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
struct StoreArgs {
    /// Folder of the store.
    #[arg(long = "store", value_name = "DIR")]
    folder: PathBuf,
}

impl StoreArgs {
    fn open(self) -> FilesystemStore {
        FilesystemStore::new(self.folder)
    }

    fn cache(self) -> Cache {
        Cache::new(self.open())
    }
}

/// What key templates are rendered from.
#[derive(Debug, Args)]
struct Facts {
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
enum CodecArg {
    Gzip,
    Zstd,
    None,
}

type Outcome = Result<ExitCode, Box<dyn Error>>;

const NOT_FOUND: u8 = 3;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            return fail(first.trim_start_matches("error: "));
        }
        Err(help) => {
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&chain(&error)),
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = run(cli.command) => Some(outcome),
            () = interrupted() => None,
        }
    });
    // An interrupted operation stops at its next block and cleans up after itself.
    runtime.shutdown_timeout(Duration::from_secs(5));
    match outcome {
        Some(Ok(code)) => code,
        Some(Err(error)) => fail(&chain(error.as_ref())),
        None => {
            fail("interrupted");
            ExitCode::from(INTERRUPTED)
        }
    }
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process, as they do by default.
        _ => std::future::pending().await,
    }
}

async fn run(command: Command) -> Outcome {
    match command {
        Command::Save {
            store,
            key,
            codec,
            level,
            facts,
            paths,
        } => save(&store.cache(), facts.render(&key)?, codec, level, paths).await,
        Command::Restore {
            store,
            key,
            into,
            facts,
            verbose,
        } => restore(&store.cache(), facts.render_all(&key)?, into, verbose).await,
        Command::List { store, json } => list(&store.open(), json).await,
        Command::Verify { store, key, facts } => {
            let key = key.map(|key| facts.render(&key)).transpose()?;
            verify(&store.open(), key.as_ref().map(RenderedKey::key)).await
        }
        Command::Import {
            store,
            key,
            facts,
            file,
        } => {
            let key = facts.render(&key)?;
            let saved = store.cache().import(key, file, SystemTime::now()).await?;
            report_saved(&saved)
        }
        Command::Export {
            store,
            key,
            facts,
            file,
        } => {
            let key = facts.render(&key)?;
            match store.cache().export(key.key(), file).await? {
                Some(_) => Ok(ExitCode::SUCCESS),
                None => not_found(key.key()),
            }
        }
        Command::Evict { store, key, facts } => {
            let key = facts.render(&key)?;
            match store.open().delete(key.key()).await? {
                DeleteOutcome::Deleted => say(&format!("evicted {key}")),
                DeleteOutcome::Leased => Err(format!("{key}: is being restored; try again").into()),
                _ => not_found(key.key()),
            }
        }
        Command::Gc {
            store,
            max_idle,
            max_age,
            max_bytes,
        } => gc(&store.open(), max_idle, max_age, max_bytes).await,
        Command::Explain { store, key, facts } => {
            explain(&store.cache(), &facts.render_all(&key)?).await
        }
        Command::Key { template, facts } => say(facts.render(&template)?.key().as_str()),
    }
}

async fn save(
    cache: &Cache,
    key: RenderedKey,
    codec: CodecArg,
    level: Option<i32>,
    paths: Vec<String>,
) -> Outcome {
    let mut pack = PackOptions::default()
        .with_working_folder(std::env::current_dir()?)
        .with_codec(match codec {
            CodecArg::Gzip => Codec::Gzip,
            CodecArg::Zstd => Codec::Zstd,
            CodecArg::None => Codec::None,
        });
    pack.level = level;
    let options = SaveOptions::default().with_pack(pack);
    let saved = cache.save(key, paths, options).await?;
    report_saved(&saved)
}

fn report_saved(saved: &Saved) -> Outcome {
    match saved {
        Saved::Stored(report) => {
            for path in &report.skipped {
                eprintln!("cache: {path}: neither a file nor a folder nor a link, left out");
            }
            let metadata = &report.metadata;
            let mut text = format!("stored {} ({} bytes)", metadata.key, metadata.packed_size);
            for path in &metadata.paths {
                write!(text, "\n  * {path}")?;
            }
            say(&text)
        }
        Saved::Exists(metadata) => say(&format!("already present: {}", metadata.key)),
        _ => Err("unknown answer of the cache".into()),
    }
}

async fn restore(
    cache: &Cache,
    keys: Vec<RenderedKey>,
    into: Option<PathBuf>,
    verbose: bool,
) -> Outcome {
    let mut unpack = UnpackOptions::default().with_working_folder(std::env::current_dir()?);
    unpack.into = into;
    let options = RestoreOptions::default().with_unpack(unpack);
    match cache.restore(keys, options).await? {
        Restored::Exact(entry) | Restored::Prefix(entry) => {
            for rejected in &entry.rejected {
                eprintln!("cache: {}: {}", rejected.key, chain(&rejected.error));
            }
            say(&format!("restored {}", entry.metadata.key))?;
            if verbose {
                for path in &entry.metadata.paths {
                    say(&format!("  * {path}"))?;
                }
                say(&format!(
                    "  {} bytes, {} entries, unpacked in {:.3} s",
                    entry.metadata.packed_size,
                    entry.unpacked.entries,
                    entry.unpacked.unpack_time.as_secs_f64()
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Restored::Miss(mut miss) => match miss.rejected.is_empty() {
            // Something was there and could not be used: that is not "not found".
            false => {
                let rejected = miss.rejected.remove(0);
                Err(format!("{}: {}", rejected.key, chain(&rejected.error)).into())
            }
            true => {
                eprintln!("cache: {miss}");
                Ok(ExitCode::from(NOT_FOUND))
            }
        },
        _ => Err("unknown answer of the cache".into()),
    }
}

async fn list(store: &FilesystemStore, json: bool) -> Outcome {
    let entries = store.list("").await?;
    if json {
        return say(&serde_json::to_string_pretty(&entries)?);
    }
    for entry in entries {
        say(&format!(
            "{}\t{}\t{}\t{}",
            entry.key,
            entry.packed_size,
            entry.codec,
            entry.paths.join(" ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(store: &FilesystemStore, key: Option<&CacheKey>) -> Outcome {
    let findings = store.verify(key).await?;
    if let Some(first) = findings.first() {
        let more = findings.len() - 1;
        let mut text = first.to_string();
        if more > 0 {
            write!(text, " (and {more} more damaged)")?;
        }
        return Err(text.into());
    }
    match key {
        Some(key)
            if store
                .list(key.as_str())
                .await?
                .iter()
                .all(|e| e.key != *key) =>
        {
            not_found(key)
        }
        _ => say("verified, no damage found"),
    }
}

async fn gc(
    store: &FilesystemStore,
    max_idle: Option<u64>,
    max_age: Option<u64>,
    max_bytes: Option<u64>,
) -> Outcome {
    let days = |days: u64| Duration::from_secs(days.saturating_mul(24 * 60 * 60));
    let mut policy = EvictionPolicy::default();
    policy.max_idle = max_idle.map(days);
    policy.max_age = max_age.map(days);
    policy.max_total_bytes = max_bytes;
    let plan = plan_eviction(store.list("").await?, &policy, SystemTime::now());
    for (entry, _) in &plan.remove {
        match store.delete(&entry.key).await? {
            DeleteOutcome::Leased => eprintln!("cache: {}: is being restored, kept", entry.key),
            _ => say(&format!("evicted {}", entry.key)).map(drop)?,
        }
    }
    let swept = store.sweep().await?;
    say(&format!(
        "{} entries evicted, {} left-over files removed",
        plan.remove.len(),
        swept.files
    ))
}

async fn explain(cache: &Cache, keys: &[RenderedKey]) -> Outcome {
    match cache.explain(keys).await? {
        Ok(found) if found.is_exact() => say(&format!("{} is there", found.entry.key)),
        Ok(found) => say(&format!("{} finds {}", found.candidate, found.entry.key)),
        Err(miss) => {
            say(&miss.to_string())?;
            Ok(ExitCode::from(NOT_FOUND))
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

    fn render(&self, template: &str) -> Result<RenderedKey, Box<dyn Error>> {
        Ok(KeyTemplate::parse(template)?.render(&self.context()?)?)
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
            eprintln!("cache: {}, key left out", chain(failure.as_ref()));
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

fn not_found(key: &CacheKey) -> Outcome {
    eprintln!("cache: no cache is found for key {key}");
    Ok(ExitCode::from(NOT_FOUND))
}

/// One line on standard output; a reader that went away is no error.
fn say(text: &str) -> Outcome {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn fail(message: &str) -> ExitCode {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    eprintln!("cache: {line}");
    ExitCode::FAILURE
}

/// An error with its causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}
