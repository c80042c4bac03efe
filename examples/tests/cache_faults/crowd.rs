//! Programs that work on one store at once.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::is_full;
use crate::place::{Place, STORE, restoring, saving, tree_of};

#[test]
fn ten_processes_save_restore_and_evict_at_once() {
    let place = Place::new(100);
    let wanted = tree_of(&place.path("two/tree"));
    let lasts = Duration::from_secs(if is_full() { 60 } else { 5 });
    let started = Instant::now();
    let mut runs = 0_u64;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..10)
            .map(|worker| {
                let (place, wanted) = (&place, &wanted);
                scope.spawn(move || {
                    let key = format!("shared{}", worker % 2);
                    let out = format!("worker{worker}");
                    let into = format!("../{out}");
                    let mut runs = 0;
                    while runs == 0 || started.elapsed() < lasts {
                        runs += 1;
                        let (arguments, fine) = match worker % 5 {
                            0 | 1 => (vec!["save", "--key", &key, "tree"], &[0][..]),
                            2 | 3 => (vec!["restore", "--key", &key, "--into", &into], &[0, 3][..]),
                            // May find nothing, or an entry that is being read.
                            _ => (vec!["evict", "--key", &key], &[0, 1, 3][..]),
                        };
                        let store = ["--store", "../store"];
                        let output =
                            place.run(&[&arguments[..1], &store, &arguments[1..]].concat());
                        let code = output.status.code().unwrap();
                        let stderr = String::from_utf8_lossy(&output.stderr);
                        assert!(fine.contains(&code), "{arguments:?}: {code}: {stderr}");
                        if code == 1 {
                            assert!(stderr.contains("being restored"), "{stderr}");
                        }
                        if arguments[0] == "restore" && code == 0 {
                            let found = tree_of(&place.path(&out).join("tree"));
                            assert!(found == *wanted, "worker {worker}");
                        }
                    }
                    runs
                })
            })
            .collect();
        for worker in workers {
            runs += worker.join().unwrap();
        }
    });
    println!("{runs} runs in {:?}", started.elapsed());
    place.expect(0, &["verify", "--store", "../store"]);
    place.no_debris(STORE);
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
