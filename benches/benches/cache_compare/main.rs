//! Saving and restoring with pipeline-cache, against the programs people cache with: GNU tar with
//! zstd and with gzip, bsdtar, restic, borg and casync.
//!
//! ```text
//! cargo bench -p pipeline-benches --bench cache_compare -- --set venv --rounds 3 --work /dev/shm
//! ```
//!
//! The data sets are made once, in a folder that later runs use again. In every round every
//! contender does the same thing once, in turn, each as a process of its own (ours too), with
//! dirty pages flushed before; the ratio to the baseline, `tar | zstd -T0 -3`, is taken round by
//! round and its median is printed. Bytes are what lies on disk afterwards, or what a second save
//! adds to it; peak memory is that of the largest process. The first restore of each contender is
//! compared with the source: names, modes, sizes, times, links, contents. `% full` is what a save
//! adds in terms of the same contender's full one; `x walk` is the time in terms of two threads
//! that only look at every file.
//!
//! Nobody syncs what they write, ours included; `ours-synced` is the library's default, which
//! does. What was measured, and where a target is missed, is in `benches/README.md`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its result"
)]
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

mod bombs;
mod contender;
mod data_set;
mod measure;
mod ours;
mod table;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;

use contender::{Contender, Kind};
use data_set::DataSet;
use table::{Operation, Table};

#[derive(Debug, Parser)]
struct Options {
    /// Data sets, separated by commas: venv, target, many, blob, small.
    #[arg(long, value_delimiter = ',', default_value = "venv")]
    set: Vec<DataSet>,
    /// Contenders beside the baseline, separated by commas. Default: all that are installed.
    #[arg(long, value_delimiter = ',')]
    peer: Vec<Kind>,
    /// What to do, separated by commas. Default: everything a contender can do.
    #[arg(long, value_delimiter = ',')]
    operation: Vec<Operation>,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Folder to work in: on tmpfs, or on the file system of interest.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Folder that data sets are kept in.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Threads of ours. Default: what the library takes.
    #[arg(long)]
    workers: Option<usize>,
    /// Refuse bombs instead.
    #[arg(long)]
    bombs: bool,
    /// Only make the data sets.
    #[arg(long)]
    make: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("measured-child") => return measure::child(&arguments[2..]),
        Some("bomb-child") => return bombs::child(),
        Some("our-child") => return ours::child(&arguments[2..]),
        _ => {}
    }
    let options = Options::parse();
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let data = options.data.clone().unwrap_or_else(|| scratch.join("data"));
    let top = options.work.clone().unwrap_or(scratch);
    fs::create_dir_all(&top).unwrap();
    let work = tempfile::Builder::new()
        .prefix("cache-compare-")
        .tempdir_in(top)
        .unwrap();
    if options.bombs {
        return bombs::run(work.path());
    }
    for &set in &options.set {
        let tree = set.make(&data);
        if !options.make {
            run(&options, set, &tree, work.path());
        }
    }
}

fn run(options: &Options, set: DataSet, tree: &Path, work: &Path) {
    let wanted = |kind: Kind| options.peer.is_empty() || options.peer.contains(&kind);
    let mut contenders = Vec::new();
    for kind in Kind::ALL {
        if kind != Kind::TarZstd && !wanted(kind) {
            continue;
        }
        match Contender::prepare(kind, tree, &work.join(kind.name()), options.workers) {
            Ok(contender) => contenders.push(contender),
            Err(missing) => eprintln!("{}: {missing}, left out", kind.name()),
        }
    }
    let mut table = Table::new(set, tree, options.rounds);
    for round in 0..options.rounds {
        // Nobody always comes after the same other.
        let count = contenders.len();
        contenders.rotate_left(round.min(count.saturating_sub(1)));
        for operation in Operation::ALL {
            if !options.operation.is_empty() && !options.operation.contains(&operation) {
                continue;
            }
            if operation == Operation::Edited {
                let edits = tree::Edits::make(tree, round);
                measure::flush(tree);
                step(&mut contenders, operation, round, tree, &mut table);
                edits.undo();
            } else {
                step(&mut contenders, operation, round, tree, &mut table);
            }
            if operation == Operation::RestoreEdited {
                contenders.iter().for_each(Contender::forget_restored);
            }
        }
        for contender in &contenders {
            contender.clear();
        }
    }
    table.print();
}

fn step(
    contenders: &mut [Contender],
    operation: Operation,
    round: usize,
    tree: &Path,
    table: &mut Table,
) {
    for contender in contenders {
        let Some(command) = contender.command(operation) else {
            continue;
        };
        let before = tree::bytes_below(contender.stored());
        contender.get_ready(operation);
        let cost = measure::run(&command, contender.folder());
        let added = tree::bytes_below(contender.stored()).saturating_sub(before);
        table.add(contender.kind(), operation, round, cost, added);
        if round == 0 && operation.is_restore() && contender.kind() != Kind::Walk {
            for difference in tree::differences(tree, &contender.restored()) {
                table.note(format!(
                    "{} {operation}: {difference}",
                    contender.kind().name()
                ));
            }
        }
    }
}
