//! Collects costs and prints ratios.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use clap::ValueEnum;

use crate::contender::Kind;
use crate::data_set::DataSet;
use crate::measure::{self, Cost};
use crate::tree;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Operation {
    /// Into an empty store.
    Save,
    /// Into an empty folder.
    Restore,
    /// Save after nothing changed.
    Unchanged,
    /// Save after 1 % of the files were edited.
    Edited,
    /// Restore where everything is there already.
    RestoreOver,
    /// Restore where everything is there and 1 % of the files were edited.
    RestoreEdited,
}

impl Operation {
    pub(crate) const ALL: [Self; 6] = [
        Self::Save,
        Self::Restore,
        Self::RestoreOver,
        Self::RestoreEdited,
        Self::Unchanged,
        Self::Edited,
    ];

    pub(crate) fn is_restore(self) -> bool {
        self == Self::Restore || self.is_onto_a_tree()
    }

    pub(crate) fn is_onto_a_tree(self) -> bool {
        matches!(self, Self::RestoreOver | Self::RestoreEdited)
    }

    /// Whether looking at every file is most of it.
    pub(crate) fn is_compared_with_walk(self) -> bool {
        self.is_onto_a_tree() || matches!(self, Self::Unchanged | Self::Edited)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Save => "save",
            Self::Restore => "restore",
            Self::Unchanged => "unchanged",
            Self::Edited => "edited",
            Self::RestoreOver => "restore-over",
            Self::RestoreEdited => "restore-edited",
        })
    }
}

#[derive(Default)]
struct Row {
    costs: BTreeMap<usize, Cost>,
    bytes: u64,
}

pub(crate) struct Table {
    title: String,
    rows: BTreeMap<(Operation, Kind), Row>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(set: DataSet, tree: &Path, rounds: usize) -> Self {
        let size = tree::size(tree);
        Self {
            title: format!(
                "{set:?}: {} files, {} folders, {:.1} MB by inode; {rounds} rounds",
                size.files,
                size.folders,
                size.bytes as f64 / 1e6
            ),
            rows: BTreeMap::new(),
            notes: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        kind: Kind,
        operation: Operation,
        round: usize,
        cost: Cost,
        bytes: u64,
    ) {
        let row = self.rows.entry((operation, kind)).or_default();
        row.costs.insert(round, cost);
        row.bytes = bytes;
    }

    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.title);
        println!(
            "{:14} {:12} {:>8} {:>8} {:>22} {:>8} {:>9} {:>7} {:>7} {:>8} {:>7}",
            "operation",
            "contender",
            "wall s",
            "cpu s",
            "wall ratio (min-max)",
            "cpu r.",
            "MB",
            "% full",
            "size x",
            "peak MB",
            "x walk"
        );
        for ((operation, kind), row) in &self.rows {
            let values = |of: fn(&Cost) -> f64| sorted(row.costs.values().map(of));
            let base = self
                .rows
                .get(&(self.baseline_of(*operation), Kind::TarZstd));
            let walk = self.rows.get(&(*operation, Kind::Walk));
            let full = self.rows.get(&(Operation::Save, *kind));
            let ratios = |of: fn(&Cost) -> f64| sorted(paired(base, row, of));
            let wall = ratios(|cost| cost.wall);
            let range = match (wall.first(), wall.last()) {
                (Some(least), Some(most)) => {
                    format!("{:.2} ({least:.2}-{most:.2})", median(&wall))
                }
                _ => "-".into(),
            };
            let base_bytes = base.map_or(0, |base| base.bytes);
            println!(
                "{operation:14} {:12} {:8.3} {:8.3} {range:>22} {:8.2} {:9.2} {:7.2} {:7.3} {:8.1} {:7.2}",
                kind.name(),
                median(&values(|cost| cost.wall)),
                median(&values(|cost| cost.cpu)),
                median(&ratios(|cost| cost.cpu)),
                row.bytes as f64 / 1e6,
                100.0 * row.bytes as f64 / full.map_or(f64::NAN, |full| full.bytes as f64),
                row.bytes as f64 / base_bytes.max(1) as f64,
                row.costs.values().map(|cost| cost.peak).max().unwrap_or(0) as f64 / 1e6,
                1.0 / median(&sorted(paired(walk, row, |cost| cost.wall))),
            );
        }
        for note in self.notes.iter().chain(&self.digest_and_sync()) {
            println!("{note}");
        }
    }

    /// The share of a save that goes into what makes it safe.
    fn digest_and_sync(&self) -> Option<String> {
        let synced = self.rows.get(&(Operation::Save, Kind::OursSynced))?;
        let unsynced = self.rows.get(&(Operation::Save, Kind::Ours))?;
        // Every frame by whoever made it, and the whole by whoever writes it.
        let digest = 2.0 * measure::sha256_time(synced.bytes);
        let share = |of: fn(&Cost) -> f64, digest: f64| {
            let shares = synced.costs.iter().filter_map(|(round, cost)| {
                let without = unsynced.costs.get(round)?;
                Some((of(cost) - of(without) + digest) / of(cost))
            });
            100.0 * median(&sorted(shares))
        };
        Some(format!(
            "digest and sync of ours-synced: {:.1} % of the wall clock, {:.1} % of the processor \
             time (SHA-256 {digest:.3} s, on two threads)",
            share(|cost| cost.wall, digest / 2.0),
            share(|cost| cost.cpu, digest),
        ))
    }

    /// Whoever always stores everything is compared with the first time.
    fn baseline_of(&self, operation: Operation) -> Operation {
        if self.rows.contains_key(&(operation, Kind::TarZstd)) {
            operation
        } else {
            Operation::Save
        }
    }
}

/// What one costs in terms of another, for every round that has both.
fn paired(base: Option<&Row>, row: &Row, of: fn(&Cost) -> f64) -> impl Iterator<Item = f64> {
    row.costs.iter().filter_map(move |(round, cost)| {
        let base = base?.costs.get(round)?;
        Some(of(base) / of(cost))
    })
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}
