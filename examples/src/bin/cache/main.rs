//! The cache crate from the command line.
//!
//! Exit codes: 0 done, already present or restored; 3 no cache found; 1 error, one line on stderr.

#![expect(
    clippy::print_stderr,
    reason = "a program says what went wrong on standard error"
)]

mod args;

use std::env::current_dir;
use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser as _;
use pipeline_cache::archive::{ExistingFiles, PackOptions, UnpackOptions, Unreadable};
use pipeline_cache::cache::{
    Cache, Match, MatchPolicy, Miss, RestoreOptions, Restored, SaveOptions, Saved,
};
use pipeline_cache::chunked::CollectOptions;
use pipeline_cache::key::{CacheKey, RenderedKey};
use pipeline_cache::store::{CacheStore as _, DeleteOutcome, EvictionPolicy, FilesystemStore};
use pipeline_core::error_chain;

use crate::args::{Cli, Command};

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
        Err(error) => return fail(&error_chain(&error)),
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
        Some(Err(error)) => fail(&error_chain(error.as_ref())),
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
            entry,
            codec,
            level,
            skip_unreadable,
            paths,
        } => {
            let mut pack = PackOptions::default()
                .with_working_folder(current_dir()?)
                .with_codec(codec.into());
            pack.level = level;
            if skip_unreadable {
                pack.unreadable = Unreadable::Skip;
            }
            let options = SaveOptions::default().with_pack(pack);
            let key = entry.render()?;
            report_saved(&entry.store.cache().save(key, paths, options).await?)
        }
        Command::Restore {
            candidates,
            into,
            verbose,
            replace,
        } => {
            let mut unpack = UnpackOptions::default().with_working_folder(current_dir()?);
            unpack.into = into;
            if replace {
                unpack.existing = ExistingFiles::Replace;
            }
            let keys = candidates.render()?;
            restore(&candidates.store.cache(), keys, unpack, verbose).await
        }
        Command::List { store, json } => list(&store.open(), json).await,
        Command::Verify { store, key, facts } => {
            let key = key.map(|key| facts.render(&key)).transpose()?;
            verify(&store.open(), key.as_ref().map(RenderedKey::key)).await
        }
        Command::Repair { store } => repair(&store.open()).await,
        Command::Import { entry, file } => {
            let key = entry.render()?;
            let saved = entry
                .store
                .cache()
                .import(key, file, SystemTime::now())
                .await?;
            report_saved(&saved)
        }
        Command::Export { entry, file } => {
            let key = entry.render()?;
            match entry.store.cache().export(key.key(), file).await? {
                Some(_) => Ok(ExitCode::SUCCESS),
                None => not_found(key.key()),
            }
        }
        Command::Evict { entry } => {
            let key = entry.render()?;
            match entry.store.open().delete(key.key()).await? {
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
            chunk_age,
        } => {
            let min_age = Duration::from_secs(chunk_age);
            gc(&store.open(), max_idle, max_age, max_bytes, min_age).await
        }
        Command::Explain {
            candidates,
            json,
            newest_prefix,
        } => {
            let policy = if newest_prefix {
                MatchPolicy::NewestPrefix
            } else {
                MatchPolicy::default()
            };
            let keys = candidates.render()?;
            let found = candidates.store.cache().explain(&keys, policy).await?;
            if json {
                explain_json(found)
            } else {
                explain(found)
            }
        }
        Command::Key { template, facts } => say(facts.render(&template)?.key().as_str()),
    }
}

fn report_saved(saved: &Saved) -> Outcome {
    match saved {
        Saved::Stored(report) => {
            for skipped in &report.skipped {
                eprintln!("cache: {skipped}");
            }
            let metadata = &report.metadata;
            let bytes = report.stored_bytes;
            let mut text = format!("stored {} ({bytes} bytes)", metadata.key);
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
    unpack: UnpackOptions,
    verbose: bool,
) -> Outcome {
    let options = RestoreOptions::default().with_unpack(unpack);
    match cache.restore(keys, options).await? {
        Restored::Exact(entry) | Restored::Prefix(entry) => {
            for rejected in &entry.rejected {
                eprintln!("cache: {}: {}", rejected.key, error_chain(&rejected.error));
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
                say(&format!(
                    "  {} files kept, {} written",
                    entry.unpacked.kept, entry.unpacked.written
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Restored::Miss(mut miss) => match miss.rejected.is_empty() {
            // Something was there and could not be used: that is not "not found".
            false => {
                let rejected = miss.rejected.remove(0);
                Err(format!("{}: {}", rejected.key, error_chain(&rejected.error)).into())
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
    let mut entries = store.list("").await?;
    entries.retain(|entry| !entry.is_shared_part());
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

async fn repair(store: &FilesystemStore) -> Outcome {
    let report = store.repair().await?;
    for finding in &report.removed {
        say(&format!("removed {finding}"))?;
    }
    say(&format!(
        "{} damaged entries removed, {} left-over files removed, {} bytes freed",
        report.removed.len(),
        report.swept.files,
        report.bytes
    ))?;
    match report.in_use.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(finding) => Err(format!("{finding}; it is being restored, repair again").into()),
    }
}

async fn gc(
    store: &FilesystemStore,
    max_idle: Option<u64>,
    max_age: Option<u64>,
    max_bytes: Option<u64>,
    min_age: Duration,
) -> Outcome {
    let days = |days: u64| Duration::from_secs(days.saturating_mul(24 * 60 * 60));
    let mut policy = EvictionPolicy::default();
    policy.max_idle = max_idle.map(days);
    policy.max_age = max_age.map(days);
    policy.max_total_bytes = max_bytes;
    let cache = Cache::new(store.clone());
    let plan = cache.plan_eviction(&policy, SystemTime::now()).await?;
    let options = CollectOptions::default().with_min_age(min_age);
    let done = cache.evict(&plan, options).await?;
    for entry in &done.leased {
        eprintln!("cache: {}: is being restored, kept", entry.key);
    }
    for (entry, _) in &done.evicted {
        say(&format!("evicted {}", entry.key))?;
    }
    let chunks = done.chunks;
    if chunks.removed > 0 {
        say(&format!(
            "{} chunk segments removed ({} bytes)",
            chunks.removed, chunks.removed_bytes
        ))?;
    }
    let swept = store.sweep().await?;
    say(&format!(
        "{} entries evicted, {} left-over files removed",
        done.evicted.len(),
        swept.files
    ))
}

/// `{"found": …}` or `{"missed": …}`.
fn explain_json(found: Result<Match, Miss>) -> Outcome {
    let (answer, code) = match found {
        Ok(found) => {
            let exact = found.is_exact();
            let found = serde_json::json!({ "found": found, "exact": exact });
            (found, ExitCode::SUCCESS)
        }
        Err(miss) => {
            let missed = serde_json::json!({ "missed": miss });
            (missed, ExitCode::from(NOT_FOUND))
        }
    };
    say(&serde_json::to_string_pretty(&answer)?)?;
    Ok(code)
}

fn explain(found: Result<Match, Miss>) -> Outcome {
    match found {
        Ok(found) if found.is_exact() => say(&format!("{} is there", found.entry.key)),
        Ok(found) => say(&format!("{} finds {}", found.candidate, found.entry.key)),
        Err(miss) => {
            say(&miss.to_string())?;
            Ok(ExitCode::from(NOT_FOUND))
        }
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
