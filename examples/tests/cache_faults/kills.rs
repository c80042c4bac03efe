//! Programs that are killed at any moment.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::place::{Place, STORE, restoring, saving, saving_as, tree_of};
use crate::rounds;

/// Random moments of a command, until so many of its kills met a process that was still running.
struct Moments {
    seed: u64,
    random: u64,
    /// What moments are spread over. It follows what is met, since a busy machine is slower at
    /// one time than at another.
    span: Duration,
    wanted: u64,
    met: u64,
    tries: u64,
}

impl Moments {
    /// The seed is told, and `PIPELINE_FAULTS_SEED` sets it.
    fn new(wanted: u64, typical: Duration) -> Self {
        let given = std::env::var("PIPELINE_FAULTS_SEED").ok();
        let seed = given.map_or_else(
            || RandomState::new().build_hasher().finish(),
            |given| given.parse().unwrap(),
        );
        Self {
            seed,
            random: seed | 1,
            span: typical,
            wanted,
            met: 0,
            tries: 0,
        }
    }

    /// The number of the try and its moment; `None` when enough were met.
    fn next(&mut self) -> Option<(u64, Duration)> {
        if self.met >= self.wanted {
            return None;
        }
        let (seed, met) = (self.seed, self.met);
        assert!(self.tries < self.wanted * 8, "seed {seed}: only {met} met");
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.tries += 1;
        let share = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        Some((self.tries - 1, self.span.mul_f64(share)))
    }

    /// Notes whether a kill met a process that was still running.
    fn note(&mut self, met: bool) {
        self.met += u64::from(met);
        self.span = self.span.mul_f64(if met { 1.01 } else { 0.98 });
    }
}

impl fmt::Display for Moments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            met, tries, seed, ..
        } = self;
        write!(f, "{met} of {tries} met a process (seed {seed})")
    }
}

/// Kills restores of two versions over each other: the tree is always one of them.
fn kill_restores(place: &Place) -> String {
    let versions = place.versions();
    let restore = |key| restoring(STORE, key, "../out");
    place.expect(0, &restore("two"));
    let mut moments = Moments::new(rounds(300), place.typical(&restore("one")));
    while let Some((index, moment)) = moments.next() {
        let key = if index % 2 == 0 { "two" } else { "one" };
        moments.note(place.kill(moment, &restore(key)));
        let tree = place.path("out/tree");
        assert!(versions.contains(&tree_of(&tree)), "mixed after {moment:?}");
    }
    place.expect(0, &["verify", "--store", STORE]);
    place.no_debris(STORE);
    format!("restores: {moments}")
}

#[test]
fn no_killed_restore_leaves_a_mixed_tree() {
    println!("{}", kill_restores(&Place::new(120)));
}

#[test]
fn no_killed_restore_of_chunks_leaves_a_mixed_tree() {
    println!("{}", kill_restores(&Place::stored(120, 1, "chunked")));
}

/// Most files are kept from the tree that is there.
#[test]
fn no_killed_incremental_restore_leaves_a_mixed_tree() {
    println!("{}", kill_restores(&Place::stored(400, 10, "zstd")));
}

#[test]
fn no_killed_incremental_restore_of_chunks_leaves_a_mixed_tree() {
    println!("{}", kill_restores(&Place::stored(400, 10, "chunked")));
}

/// Where nothing was before, there is nothing or all of it.
#[test]
fn a_killed_first_restore_leaves_nothing_or_everything() {
    let place = Place::new(120);
    let wanted = tree_of(&place.path("two/tree"));
    let restore = restoring(STORE, "two", "../out");
    let mut moments = Moments::new(rounds(100), place.typical(&restore));
    let tree = place.path("out/tree");
    while let Some((_, moment)) = moments.next() {
        std::fs::remove_dir_all(&tree).unwrap_or_default();
        moments.note(place.kill(moment, &restore));
        if tree.exists() {
            assert_eq!(tree_of(&tree), wanted, "a part after {moment:?}");
        }
    }
    println!("first restores: {moments}");
    place.no_debris(STORE);
}

const KEYS: [&str; 5] = ["k0", "k1", "k2", "k3", "k4"];

#[test]
fn killed_saves_and_evictions_leave_no_half_entry() {
    let place = Place::new(120);
    let wanted = tree_of(&place.path("two/tree"));
    let evicting = |key| ["evict", "--store", STORE, "--key", key];
    let collecting = ["gc", "--store", STORE, "--max-bytes", "2000000"];
    let mut saves = Moments::new(rounds(200), place.typical(&saving(STORE, "k0")));
    let mut evictions = Moments::new(rounds(200), place.typical(&evicting("k0")));
    let mut collections = Moments::new(rounds(200), place.typical(&collecting));
    loop {
        let save = saves.next();
        let (eviction, collection) = (evictions.next(), collections.next());
        let Some((index, _)) = save.or(eviction).or(collection) else {
            break;
        };
        let key = KEYS[index as usize % KEYS.len()];
        if let Some((_, moment)) = save {
            saves.note(place.kill(moment, &saving(STORE, key)));
        } else {
            // Something to evict and to collect.
            place.expect(0, &saving(STORE, key));
        }
        if let Some((_, moment)) = eviction {
            let other = KEYS[(index as usize + 2) % KEYS.len()];
            place.run(&saving(STORE, other));
            evictions.note(place.kill(moment, &evicting(other)));
        }
        if let Some((_, moment)) = collection {
            collections.note(place.kill(moment, &collecting));
        }
        place.expect(0, &["verify", "--store", STORE]);
        if index % 8 == 0 {
            let restore = restoring(STORE, key, "../found");
            if place.run(&restore).status.success() {
                assert_eq!(tree_of(&place.path("found/tree")), wanted);
            }
        }
    }
    println!("saves: {saves}; evictions: {evictions}; collections: {collections}");
    place.no_debris(STORE);
}

const CHUNKS: &str = "../chunks";

fn saving_chunks(key: &str) -> [&str; 8] {
    saving_as("chunked", CHUNKS, key)
}

/// Savers that share chunks, collectors that take them away, both killed at any moment.
#[test]
fn killed_chunked_saves_and_collections_never_give_a_wrong_tree() {
    let place = Place::new(120);
    let versions = place.versions();
    let start = |folder: &str, arguments: &[&str]| {
        let mut command = place.command(arguments);
        command
            .current_dir(place.path(folder))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let typical = place.typical(&saving_chunks("k0"));
    let collect = [
        "gc",
        "--store",
        CHUNKS,
        "--max-age",
        "0",
        "--chunk-age",
        "0",
    ];
    // Both run at once, so they have their moments in common.
    let mut moments = Moments::new(rounds(200), typical);
    let mut collections = 0;
    while let Some((index, moment)) = moments.next() {
        let key = format!("k{}", index % 3);
        let folder = if index % 2 == 0 { "one" } else { "two" };
        let mut saver = start(folder, &saving_chunks(&key));
        let mut collector = start("work", &collect);
        std::thread::sleep(moment);
        let end = |child: &mut Child| {
            let running = child.try_wait().unwrap().is_none();
            // Some collections and savings run to their end.
            if index % 4 < 3 {
                child.kill().unwrap();
            }
            child.wait().unwrap();
            running && index % 4 < 3
        };
        collections += u64::from(end(&mut collector));
        if index % 4 < 3 {
            moments.note(end(&mut saver));
        } else {
            end(&mut saver);
        }
        let into = format!("../restored-{key}");
        // Nothing, or an entry that lost its chunks, is fine; a wrong tree is not.
        if place.run(&restoring(CHUNKS, &key, &into)).status.success() {
            let tree = place.path(&format!("restored-{key}/tree"));
            assert!(versions.contains(&tree_of(&tree)), "wrong after {moment:?}");
        }
    }
    println!("chunked saves: {moments}; collections: {collections}");
    assert!(collections > 0, "no collection was killed");
    // Whatever happened, saving heals the key.
    for key in ["k0", "k1", "k2"] {
        place.expect(0, &saving_chunks(key));
        let into = format!("../last-{key}");
        let restore = restoring(CHUNKS, key, &into);
        if place.run(&restore).status.success() {
            let tree = place.path(&format!("last-{key}/tree"));
            assert!(versions.contains(&tree_of(&tree)));
            continue;
        }
        // The key was there without its chunks, which only the restore could find out.
        place.expect(0, &saving_chunks(key));
        place.expect(0, &restore);
    }
    place.expect(0, &["verify", "--store", CHUNKS]);
}
