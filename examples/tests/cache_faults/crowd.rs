//! Programs that work on one store at once.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::is_full;
use crate::place::{Place, STORE, Tree, restoring, saving, tree_of};

/// Two keys with trees of their own that share most content, as archives and as chunks.
#[test]
fn ten_processes_save_restore_evict_and_collect_at_once() {
    let place = Place::stored(100, 4, "chunked");
    let wanted = place.versions();
    let lasts = Duration::from_secs(if is_full() { 60 } else { 8 });
    let started = Instant::now();
    let counts = std::sync::Mutex::new(BTreeMap::<_, u64>::new());
    std::thread::scope(|scope| {
        for worker in 0..10 {
            let (place, wanted, counts) = (&place, &wanted, &counts);
            scope.spawn(move || {
                let mut runs = 0;
                while runs == 0 || started.elapsed() < lasts {
                    // Workers of one kind take both keys in turn.
                    let which = (worker + runs) % 2;
                    runs += 1;
                    let (what, code) = one_of_the_crowd(place, worker, which, &wanted[which]);
                    *counts.lock().unwrap().entry((what, code)).or_default() += 1;
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap();
    println!("{counts:?} in {:?}", started.elapsed());
    for met in [("save", 0), ("restore", 0), ("evict", 0), ("gc", 0)] {
        assert!(counts.contains_key(&met), "{met:?}: {counts:?}");
    }
    place.expect(0, &["verify", "--store", "../store"]);
    place.no_debris(STORE);
}

/// One run. Says what was done and how it ended.
fn one_of_the_crowd(
    place: &Place,
    worker: usize,
    which: usize,
    wanted: &Tree,
) -> (&'static str, i32) {
    let key = format!("shared{which}");
    let out = format!("worker{worker}");
    let into = format!("../{out}");
    let codec = if worker == 1 { "zstd" } else { "chunked" };
    let in_store = ["--store", STORE];
    let (what, rest, fine) = match worker {
        0..=3 => (
            "save",
            vec!["--key", &key, "--codec", codec, "tree"],
            &[0][..],
        ),
        4..=6 => ("restore", vec!["--key", &key, "--into", &into], &[0, 3][..]),
        // May find nothing, or an entry that is being read.
        7 => ("evict", vec!["--key", &key], &[0, 1, 3][..]),
        8 => ("gc", vec!["--chunk-age", "2"], &[0][..]),
        _ => ("gc", vec!["--max-bytes", "0"], &[0][..]),
    };
    let output = place
        .command(&[&[what], &in_store[..], &rest].concat())
        // Each version where it was restored to.
        .current_dir(place.path(["one", "two"][which]))
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(fine.contains(&code), "{what} {rest:?}: {code}: {stderr}");
    if code == 1 {
        assert!(stderr.contains("being restored"), "{stderr}");
    }
    if (what, code) == ("restore", 0) {
        let found = tree_of(&place.path(&out).join("tree"));
        assert!(found == *wanted, "worker {worker}");
    }
    (what, code)
}

/// Whoever comes first wins, and every reader sees that one content for ever.
#[test]
fn of_many_writers_of_one_key_one_wins_for_every_reader() {
    let place = Place::new(40);
    for version in 3..9 {
        let tree = place.path(&format!("writer{version}/tree"));
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("who"), format!("{version}").repeat(5_000)).unwrap();
    }
    let rounds = crate::rounds(100);
    for round in 0..rounds {
        let key = format!("race{round}");
        let mut writers: Vec<Child> = (3..9)
            .map(|version| {
                place
                    .command(&saving(STORE, &key))
                    .current_dir(place.path(&format!("writer{version}")))
                    .stdout(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let mut seen = Vec::new();
        while seen.len() < 2 || writers.iter_mut().any(|w| w.try_wait().unwrap().is_none()) {
            if place
                .run(&restoring(STORE, &key, "../seen"))
                .status
                .success()
            {
                seen.push(tree_of(&place.path("seen/tree")));
            }
        }
        for writer in &mut writers {
            assert!(writer.wait().unwrap().success());
        }
        assert!(seen.iter().all(|tree| *tree == seen[0]), "round {round}");
        place.expect(0, &["evict", "--store", "../store", "--key", &key]);
    }
    place.expect(0, &["verify", "--store", "../store"]);
    place.no_debris(STORE);
}
