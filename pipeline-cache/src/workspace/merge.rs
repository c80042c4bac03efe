//! Which layer each file comes from.

use std::collections::BTreeMap;

use super::WorkspaceLayer;
use super::conflict::Conflict;
use super::manifest::{Entry, Manifest};

/// Layers in the order in which they are applied: each after those of the jobs that its job
/// waited for, otherwise as given.
pub(super) fn in_order(layers: Vec<WorkspaceLayer>) -> Vec<WorkspaceLayer> {
    let mut left = layers;
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let next = left
            .iter()
            .position(|layer| !left.iter().any(|other| layer.is_after(other)))
            .unwrap_or(0);
        ordered.push(left.remove(next));
    }
    ordered
}

/// All files of several layers under the names they get.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// Name, entry, and which layer it is taken from.
    pub(super) entries: BTreeMap<String, (Entry, usize)>,
}

impl Merged {
    /// Puts layers on top of each other, in order.
    pub(super) fn new(layers: &[(WorkspaceLayer, Manifest)]) -> Result<Self, Conflict> {
        for (index, (layer, manifest)) in layers.iter().enumerate() {
            for (other, theirs) in &layers[..index] {
                if let Some(conflict) = Conflict::between((other, theirs), (layer, manifest)) {
                    return Err(conflict);
                }
            }
        }
        let mut merged = Self::default();
        for (index, (_, manifest)) in layers.iter().enumerate() {
            for (path, entry) in &manifest.entries {
                merged.put(path, entry, index);
            }
        }
        Ok(merged)
    }

    /// A later file takes the place of a folder with all that is in it, and the other way round.
    fn put(&mut self, path: &str, entry: &Entry, layer: usize) {
        for (at, _) in path.match_indices('/') {
            if matches!(
                self.entries.get(&path[..at]),
                Some((Entry::File { .. } | Entry::Link { .. }, _))
            ) {
                self.entries.remove(&path[..at]);
            }
        }
        if !matches!(entry, Entry::Folder { .. }) {
            let below = format!("{path}/");
            let gone: Vec<String> = self
                .entries
                .range(below.clone()..)
                .take_while(|(name, _)| name.starts_with(&below))
                .map(|(name, _)| name.clone())
                .collect();
            for name in gone {
                self.entries.remove(&name);
            }
        }
        self.entries.insert(path.to_owned(), (entry.clone(), layer));
    }

    /// How many files and links come from a layer.
    pub(super) fn used(&self, layer: usize) -> usize {
        self.entries
            .values()
            .filter(|(entry, from)| *from == layer && !matches!(entry, Entry::Folder { .. }))
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sha256Digest;

    fn layer(job: &str, after: &[&str], files: &[&str]) -> (WorkspaceLayer, Manifest) {
        let entry = |_: &&str| Entry::File {
            size: 1,
            digest: Sha256Digest::of(job.as_bytes()),
            mode: 0o644,
        };
        let manifest = Manifest {
            entries: files
                .iter()
                .map(|path| ((*path).to_owned(), entry(path)))
                .collect(),
            archived: true,
        };
        let layer = WorkspaceLayer {
            layer: Sha256Digest::of(job.as_bytes()),
            job: job.to_owned(),
            step: "persist".to_owned(),
            after: after.iter().map(|&job| job.to_owned()).collect(),
            files: files.len() as u64,
            bytes: files.len() as u64,
        };
        (layer, manifest)
    }

    #[test]
    fn the_graph_orders_layers_and_later_ones_win() {
        let a = layer("a", &[], &["x", "only-a", "d/inner"]);
        let c = layer("c", &["a", "b"], &["x", "d"]);
        let b = layer("b", &["a"], &["x", "only-b/deep"]);
        let order = in_order(vec![c.0.clone(), a.0.clone(), b.0.clone()]);
        let jobs: Vec<&str> = order.iter().map(|layer| layer.job.as_str()).collect();
        assert_eq!(jobs, ["a", "b", "c"]);

        let merged = Merged::new(&[a, b, c]).unwrap();
        let from: Vec<(&str, usize)> = merged
            .entries
            .iter()
            .map(|(path, (_, layer))| (path.as_str(), *layer))
            .collect();
        assert_eq!(
            from,
            [("d", 2), ("only-a", 0), ("only-b/deep", 1), ("x", 2)]
        );
        assert_eq!([merged.used(0), merged.used(1), merged.used(2)], [1, 1, 2]);
    }

    #[test]
    fn layers_of_jobs_side_by_side_conflict() {
        let a = layer("a", &[], &["x"]);
        let b = layer("b", &[], &["x"]);
        assert_eq!(Merged::new(&[a, b]).unwrap_err().paths, ["x"]);
    }
}
