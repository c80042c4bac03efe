//! Flipped bits, cuts, rubbish and files in each other's place, over every file of a store and
//! every format: whatever is restored is the tree that its key was saved with.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use pipeline_cache::archive::{PackOptions, UnpackOptions};
use pipeline_cache::cache::{Cache, RestoreOptions, Restored, SaveOptions};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::{Codec, FilesystemStore};

use crate::noise::noise;
use crate::trees::{Described, describe};

type Tree = BTreeMap<PathBuf, Described>;
type Files = BTreeMap<PathBuf, Vec<u8>>;

const KEYS: [&str; 2] = ["one", "two"];

/// A store with two entries, and everything needed to damage it and to see what comes of it.
struct Ground {
    dir: tempfile::TempDir,
    cache: Cache,
    files: Files,
    trees: [Tree; 2],
    pack: PackOptions,
    before: Before,
}

/// What is there before a restore.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// What the last restore left, usually the tree of the other key.
    Tree,
}

/// How often what was found.
#[derive(Debug, Default)]
struct Counts {
    cases: u32,
    noticed: u32,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cases, noticed } = self;
        write!(
            f,
            "{cases} cases, {noticed} of them noticed, the others without effect"
        )
    }
}

impl Ground {
    /// `open` makes a cache over a folder.
    async fn new(codec: Codec, before: Before, open: impl Fn(&Path) -> Cache) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(&dir.path().join("store"));
        let mut ground = Self {
            cache,
            files: Files::new(),
            trees: [Tree::new(), Tree::new()],
            pack: PackOptions::default().with_codec(codec).with_workers(2),
            before,
            dir,
        };
        for (number, key) in KEYS.iter().enumerate() {
            let tree = ground.path("work/tree");
            fs::create_dir_all(tree.join("d")).unwrap();
            fs::write(tree.join("which"), key).unwrap();
            fs::write(tree.join("d/noise"), noise(30_000, number as u64 + 7)).unwrap();
            // Enough for several frames.
            let text = format!("line of {key}\n").repeat(60_000);
            fs::write(tree.join("d/text"), text).unwrap();
            ground.save(key).await;
            ground.trees[number] = describe(&ground.path("work"));
        }
        ground.files = files_below(&ground.path("store"));
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn save(&self, key: &str) {
        let pack = self.pack.clone().with_working_folder(self.path("work"));
        let options = SaveOptions::default().with_pack(pack);
        let key = CacheKey::new(key).unwrap();
        self.cache.save(key, ["tree"], options).await.unwrap();
    }

    /// Restores both keys from a store with these files changed, and puts them back.
    async fn suffer(&self, what: &str, changed: &[(&Path, &[u8])], counts: &mut Counts) {
        for (path, bytes) in changed {
            fs::write(path, bytes).unwrap();
        }
        // What a machine remembers about its trees is no part of an entry: damage there has no
        // effect, and nothing wrong comes of it.
        let remembered = self.path("store/trees");
        let counted = changed
            .iter()
            .any(|(path, _)| !path.starts_with(&remembered));
        counts.cases += u32::from(counted || changed.is_empty());
        let store = FilesystemStore::new(self.path("store"));
        let findings = store.verify(None).await.unwrap();
        let mut noticed = false;
        let out = self.path("out");
        for (key, wanted) in KEYS.iter().zip(&self.trees) {
            let before = out.exists().then(|| describe(&out));
            let unpack = UnpackOptions::default().with_into(&out).with_workers(2);
            let options = RestoreOptions::default().with_unpack(unpack);
            let key = CacheKey::new(*key).unwrap();
            match self.cache.restore([key.clone()], options).await {
                Ok(Restored::Exact(_)) => {
                    assert!(describe(&out) == *wanted, "{what}: {key} is another tree");
                    if self.before == Before::Nothing {
                        fs::remove_dir_all(&out).unwrap();
                    }
                }
                Ok(Restored::Miss(_)) => {
                    noticed = true;
                    let after = out.exists().then(|| describe(&out));
                    assert!(
                        after == before,
                        "{what}: {key} was refused and left something"
                    );
                }
                Ok(other) => panic!("{what}: {key}: {other:?}"),
                Err(error) => panic!("{what}: {key}: {error}"),
            }
        }
        assert!(counted || changed.is_empty() || !noticed, "{what}: refused");
        assert!(
            !noticed || !findings.is_empty(),
            "{what}: verify is content"
        );
        counts.noticed += u32::from(noticed);
        for path in files_below(&self.path("store")).into_keys() {
            if !self.files.contains_key(&path) {
                fs::remove_file(path).unwrap();
            }
        }
        for (path, _) in changed {
            fs::write(path, &self.files[*path]).unwrap();
        }
    }

    async fn torture(&self, counts: &mut Counts) {
        let all: Vec<(&PathBuf, &Vec<u8>)> = self.files.iter().collect();
        for (path, good) in &all {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for at in offsets(good.len(), rounds(28, 500)) {
                let mut bad = (*good).clone();
                bad[at] ^= 1 << (at % 8);
                let what = format!("{name}: bit {} of byte {at} flipped", at % 8);
                self.suffer(&what, &[(path, &bad)], counts).await;
            }
            for at in offsets(good.len(), rounds(4, 24)) {
                let what = format!("{name}: cut at {at}");
                self.suffer(&what, &[(path, &good[..at])], counts).await;
            }
            for at in offsets(good.len(), rounds(2, 12)) {
                let mut bad = (*good).clone();
                let other = (at + good.len() / 2) % good.len();
                let length = 64.min(good.len() - at.max(other));
                for index in 0..length {
                    bad.swap(at + index, other + index);
                }
                if bad != **good {
                    let what = format!("{name}: {length} bytes at {at} and {other} swapped");
                    self.suffer(&what, &[(path, &bad)], counts).await;
                }
            }
            for more in [&b"\0"[..], b"\n", b"rubbish", good] {
                let bad = [good.as_slice(), more].concat();
                let what = format!("{name}: {} bytes added", more.len());
                self.suffer(&what, &[(path, &bad)], counts).await;
            }
        }
        for (index, (path, good)) in all.iter().enumerate() {
            for (other, content) in all.iter().skip(index + 1) {
                let what = format!("{} and {}", path.display(), other.display());
                self.suffer(&what, &[(path, content)], counts).await;
                self.suffer(&what, &[(other, good)], counts).await;
                self.suffer(&what, &[(path, content), (other, good)], counts)
                    .await;
            }
        }
    }
}

/// All of them, or a part when nobody asked for all.
fn rounds(part: usize, all: usize) -> usize {
    let full = std::env::var_os("PIPELINE_FAULTS").is_some_and(|asked| asked == "full");
    if full { all } else { part }
}

/// Spread over a length, its ends always among them.
fn offsets(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let count = count.min(length).max(1);
    let ends = [1, length.saturating_sub(1), length / 2];
    (0..count)
        .map(move |index| index * length / count)
        .chain(ends.into_iter().filter(move |&at| at < length))
}

fn files_below(top: &Path) -> Files {
    let mut found = Files::new();
    let mut left = vec![top.to_path_buf()];
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let content = fs::read(&path).unwrap();
                found.insert(path, content);
            }
        }
    }
    found
}

/// Damages stores of these formats and counts what came of it.
async fn damage(codecs: &[Codec], before: Before) -> Counts {
    let mut counts = Counts::default();
    for &codec in codecs {
        let open = |folder: &Path| Cache::new(FilesystemStore::new(folder));
        let ground = Ground::new(codec, before, open).await;
        ground.torture(&mut counts).await;
        // After all of it, both keys are served, and a save finds them taken.
        let mut none = Counts::default();
        ground.suffer("nothing", &[], &mut none).await;
        let store = FilesystemStore::new(ground.path("store"));
        assert!(store.verify(None).await.unwrap().is_empty());
        assert_eq!(none.noticed, 0);
    }
    counts
}

#[tokio::test]
async fn no_damage_goes_unnoticed_in_any_format() {
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Zstd,
        #[cfg(feature = "chunked")]
        Codec::Chunked,
    ];
    let counts = damage(&codecs, Before::Nothing).await;
    println!("{counts}");
    assert!(counts.cases as usize >= rounds(500, 2_500), "{counts:?}");
    // White space of a description may change without changing what it says.
    assert!(counts.noticed * 10 > counts.cases * 9, "{counts:?}");
}

/// A refused entry leaves the tree that is there as it is.
#[tokio::test]
async fn no_damage_gets_into_a_tree_that_is_there() {
    let codecs = [
        Codec::Zstd,
        #[cfg(feature = "chunked")]
        Codec::Chunked,
    ];
    let counts = damage(&codecs, Before::Tree).await;
    println!("{counts}");
    // What is there already is not read again, so damage to it may have no effect.
    assert!(counts.noticed * 2 > counts.cases, "{counts:?}");
}
