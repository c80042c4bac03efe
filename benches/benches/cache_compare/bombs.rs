//! What it costs to refuse 10 GiB of zeros in a small archive.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use pipeline_cache::cache::{Cache, RestoreOptions, Restored};
use pipeline_cache::key::CacheKey;
use pipeline_cache::store::FilesystemStore;
use pipeline_cache::testing::hostile_bombs;

use crate::measure;
use crate::tree;

pub(crate) fn run(work: &Path) {
    println!("\n10 GiB in little: taken into a store and restored with default limits");
    for bomb in hostile_bombs() {
        let folder = work.join(bomb.name);
        let out = folder.join("out");
        fs::create_dir_all(&out).unwrap();
        fs::write(folder.join("bomb"), &bomb.bytes).unwrap();
        let exe = std::env::current_exe().unwrap();
        let cost = measure::run(&format!("{} bomb-child", exe.display()), &folder);
        println!(
            "{:10} {:5.1} MB: refused after {:.1} s, processor {:.1} s, peak {:.1} MB, {} left",
            bomb.name,
            bomb.bytes.len() as f64 / 1e6,
            cost.wall,
            cost.cpu,
            cost.peak as f64 / 1e6,
            match tree::list(&out).len() {
                0 => "nothing".into(),
                count => format!("{count} entries"),
            },
        );
        tree::remove(&folder);
    }
}

/// In the folder that holds `bomb` and `out`.
pub(crate) fn child() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let cache = Cache::new(FilesystemStore::new("stored"));
    let key = CacheKey::new("bomb").unwrap();
    runtime.block_on(async {
        let now = SystemTime::now();
        cache.import(key.clone(), "bomb", now).await.unwrap();
        let options = RestoreOptions::in_folder("out");
        let restored = cache.restore([key], options).await.unwrap();
        assert!(matches!(restored, Restored::Miss(_)), "{restored:?}");
    });
}
