//! [`Lower`]: what the layers below hold, as far as it matters for the next one.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};

use crate::foreign_tar::ForeignTar;

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    Symlink(Vec<u8>),
    Other,
}

/// What one layer does: its entries in order, whiteouts included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing(pub(super) Vec<(Vec<u8>, Node)>);

/// The union of some layers. Paths are relative, without slashes at either end.
#[derive(Debug, Clone, Default)]
pub(super) struct Lower {
    nodes: BTreeMap<Vec<u8>, Node>,
}

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// As many links as Linux follows in one path.
const MAX_LINKS: usize = 40;

impl Listing {
    /// Reads the entries of a layer's tar.
    pub(super) fn read(tar: impl Read) -> io::Result<Self> {
        let mut archive = ForeignTar::new(tar);
        let mut entries = Vec::new();
        for entry in archive.entries()? {
            let entry = entry?;
            let node = match entry.header().entry_type() {
                tar::EntryType::Directory => Node::Folder,
                tar::EntryType::Symlink => Node::Symlink(
                    entry
                        .link_name_bytes()
                        .map(|name| name.into_owned())
                        .unwrap_or_default(),
                ),
                tar::EntryType::XGlobalHeader => continue,
                _ => Node::Other,
            };
            let path = normal(&entry.path_bytes());
            if !path.is_empty() {
                entries.push((path, node));
            }
        }
        Ok(Self(entries))
    }

    /// A compact form for the layer cache: kind, path, target, each ended by a zero byte.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (path, node) in &self.0 {
            let (kind, target): (u8, &[u8]) = match node {
                Node::Folder => (b'd', &[]),
                Node::Symlink(target) => (b'l', target),
                Node::Other => (b'f', &[]),
            };
            bytes.push(kind);
            bytes.extend_from_slice(path);
            bytes.push(0);
            bytes.extend_from_slice(target);
            bytes.push(0);
        }
        bytes
    }

    /// Reads the compact form; `None` when it is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut entries = Vec::new();
        let mut parts = bytes
            .strip_suffix(&[0])
            .map(|bytes| bytes.split(|byte| *byte == 0));
        if let Some(parts) = &mut parts {
            while let Some(head) = parts.next() {
                let (kind, path) = head.split_first()?;
                let target = parts.next()?;
                let node = match kind {
                    b'd' => Node::Folder,
                    b'l' => Node::Symlink(target.to_vec()),
                    b'f' => Node::Other,
                    _ => return None,
                };
                entries.push((path.to_vec(), node));
            }
        } else if !bytes.is_empty() {
            return None;
        }
        Some(Self(entries))
    }
}

impl Lower {
    /// Puts a layer on top.
    pub(super) fn push(&mut self, layer: &Listing) {
        // Whiteouts are about the layers below only, wherever they stand in the layer.
        for (path, _) in &layer.0 {
            let (folder, name) = split(path);
            if name == OPAQUE {
                self.remove_below(folder);
            } else if let Some(gone) = name.strip_prefix(WHITEOUT) {
                let gone = join(folder, gone);
                self.remove_below(&gone);
                self.nodes.remove(&gone);
            }
        }
        for (path, node) in &layer.0 {
            if split(path).1.starts_with(WHITEOUT) {
                continue;
            }
            if *node != Node::Folder && self.nodes.get(path) == Some(&Node::Folder) {
                self.remove_below(path);
            }
            self.nodes.insert(path.clone(), node.clone());
        }
    }

    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Where `path` really is once the links of lower layers are followed, the last part included.
    ///
    /// `None` when the links go in circles.
    pub(super) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let mut todo: VecDeque<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
        let mut done: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                done = split(&done).0.to_vec();
                continue;
            }
            let next = join(&done, &part);
            if let Some(Node::Symlink(target)) = self.nodes.get(&next) {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                if target.first() == Some(&b'/') {
                    done.clear();
                }
                for part in parts(target)
                    .map(<[u8]>::to_vec)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                {
                    todo.push_front(part);
                }
            } else {
                done = next;
            }
        }
        Some(done)
    }

    fn remove_below(&mut self, folder: &[u8]) {
        if folder.is_empty() {
            self.nodes.clear();
            return;
        }
        let start = join(folder, b"");
        let doomed: Vec<Vec<u8>> = self
            .nodes
            .range(start.clone()..)
            .take_while(|(path, _)| path.starts_with(&start))
            .map(|(path, _)| path.clone())
            .collect();
        for path in doomed {
            self.nodes.remove(&path);
        }
    }
}

/// The parts of a path that mean something.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

pub(super) fn normal(path: &[u8]) -> Vec<u8> {
    parts(path).collect::<Vec<_>>().join(&b'/')
}

/// Folder and name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(place) => (
            path.get(..place).unwrap_or_default(),
            path.get(place + 1..).unwrap_or_default(),
        ),
        None => (&[], path),
    }
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() {
        return name.to_vec();
    }
    [folder, name].join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(entries: &[(&str, Node)]) -> Listing {
        Listing(
            entries
                .iter()
                .map(|(path, node)| (path.as_bytes().to_vec(), node.clone()))
                .collect(),
        )
    }

    fn link(target: &str) -> Node {
        Node::Symlink(target.as_bytes().to_vec())
    }

    #[test]
    fn links_of_lower_layers_are_followed() {
        let mut lower = Lower::default();
        lower.push(&listing(&[
            ("usr", Node::Folder),
            ("usr/bin", Node::Folder),
            ("bin", link("usr/bin")),
            ("abs", link("/usr/./bin/")),
            ("usr/up", link("../bin")),
            ("loop", link("loop")),
        ]));
        let resolve = |path: &str| {
            lower
                .resolve(path.as_bytes())
                .map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(resolve("bin/tool").unwrap(), "usr/bin/tool");
        assert_eq!(resolve("abs/tool").unwrap(), "usr/bin/tool");
        assert_eq!(resolve("usr/up/tool").unwrap(), "usr/bin/tool");
        assert_eq!(resolve("new/tool").unwrap(), "new/tool");
        assert_eq!(resolve("loop/x"), None);
    }

    #[test]
    fn whiteouts_and_replacements() {
        let mut lower = Lower::default();
        lower.push(&listing(&[
            ("a", Node::Folder),
            ("a/b", Node::Other),
            ("a-b", Node::Other),
            ("c", Node::Folder),
            ("c/d", Node::Other),
            ("e", Node::Folder),
            ("e/f", Node::Other),
        ]));
        lower.push(&listing(&[
            ("a/new", Node::Other),
            (".wh.a", Node::Other),
            ("a", Node::Folder),
            ("c/.wh..wh..opq", Node::Other),
            ("e", Node::Other),
        ]));
        let left: Vec<&[u8]> = lower.nodes.keys().map(Vec::as_slice).collect();
        assert_eq!(left, [&b"a"[..], b"a-b", b"a/new", b"c", b"e"]);
    }

    #[test]
    fn compact_form_round_trips() {
        for listing in [
            Listing::default(),
            listing(&[
                ("a", Node::Folder),
                ("a/b", link("x\ny")),
                ("ü", Node::Other),
            ]),
        ] {
            assert_eq!(Listing::from_bytes(&listing.to_bytes()), Some(listing));
        }
        assert_eq!(Listing::from_bytes(b"d"), None);
        assert_eq!(Listing::from_bytes(b"zpath\0\0"), None);
    }
}
