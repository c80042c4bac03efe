//! Disks that fill up, caches that must not, and memory.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use pipeline_core::error_chain;
use pipeline_docker::builder::{
    BaseImage, BuildRequest, DaemonlessBuilder, ImageOutput, ImageSpec, LayerCache,
    LayerCacheLimits, LayerOrigin, LayerSpec,
};
use pipeline_docker::oci::OciLayout;
use tempfile::tempdir;

use crate::support::{build, build_with, run};

/// A file system of a few MiB.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let place = at.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=3m", "tmpfs", place]);
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.0).status());
    }
}

/// Writes bytes that do not compress.
fn noise(path: &Path, size: usize) {
    let mut state = size as u64 | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes.take(size).collect::<Vec<u8>>()).unwrap();
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

fn image(layer: &Path) -> ImageSpec {
    ImageSpec::new(BaseImage::Scratch).with_layer(LayerSpec::copy(layer, "/app"))
}

#[test]
#[ignore = "needs root to mount a small file system"]
fn a_full_disk_ends_a_build_and_leaves_nothing() {
    let dir = tempdir().unwrap();
    let app = dir.path().join("app");
    noise(&app.join("noise"), 4_000_000);
    let small = Small::mount(&dir.path().join("small"));
    let out = small.0.join("layout");
    let request = BuildRequest::layers(image(&app), ImageOutput::layout(&out, "test"));
    let error = DaemonlessBuilder::new()
        .build_blocking(&request)
        .unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("No space left on device") && text.contains("copy to /app"),
        "{text}"
    );
    let layout = OciLayout::open(&out).unwrap();
    assert_eq!(layout.tags().unwrap(), [""; 0]);
    assert_eq!(files(&out.join(".staging")), 0);
    assert_eq!(files(&out.join("blobs/sha256")), 0);
    // With room again the same layout is good.
    noise(&app.join("noise"), 1_000_000);
    let built = build(image(&app), &out);
    layout.verify_blob(&built.manifest).unwrap();
}

#[test]
#[ignore = "needs root to mount a small file system"]
fn a_full_disk_under_the_layer_cache_costs_the_cache_only() {
    let dir = tempdir().unwrap();
    let app = dir.path().join("app");
    noise(&app.join("noise"), 4_000_000);
    let small = Small::mount(&dir.path().join("small"));
    let folder = small.0.join("cache");
    let builder = || DaemonlessBuilder::new().with_layer_cache(LayerCache::open(&folder).unwrap());
    for out in ["one", "two"] {
        let built = build_with(&builder(), image(&app), &dir.path().join(out));
        assert_eq!(built.layers[0].origin, LayerOrigin::New);
    }
    assert_eq!(files(&folder.join("blobs/.staging")), 0);
    assert_eq!(files(&folder.join("blobs/blobs/sha256")), 0);
}

#[test]
fn the_layer_cache_is_kept_small() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("cache");
    let cache = || LayerCache::open(&folder).unwrap();
    let count = std::cell::Cell::new(0);
    let origin = |app: &str| {
        count.set(count.get() + 1);
        let builder = DaemonlessBuilder::new().with_layer_cache(cache());
        let out = dir.path().join(format!("out{}", count.get()));
        let built = build_with(&builder, image(&dir.path().join(app)), &out);
        // What a layout has stays whole, whatever the cache loses.
        let limits = LayerCacheLimits::default();
        cache().evict(&limits, SystemTime::now()).unwrap();
        for layer in &crate::support::open(&built, &out).manifest.layers {
            OciLayout::open(&out).unwrap().verify_blob(layer).unwrap();
        }
        built.layers[0].origin
    };
    let age = |hours: u64| {
        for scheme in fs::read_dir(folder.join("layers")).unwrap() {
            for record in fs::read_dir(scheme.unwrap().path()).unwrap() {
                let record = File::options()
                    .append(true)
                    .open(record.unwrap().path())
                    .unwrap();
                let before = record.metadata().unwrap().modified().unwrap();
                record
                    .set_modified(before - Duration::from_secs(hours * 3600))
                    .unwrap();
            }
        }
    };
    use LayerOrigin::{Cached, New};
    for (number, app) in ["a", "b", "c"].into_iter().enumerate() {
        noise(&dir.path().join(app).join("noise"), 100_000 + number);
        assert_eq!(origin(app), New);
        age(1);
    }
    // It is three hours old, and is used again.
    assert_eq!(origin("a"), Cached);
    let limits = LayerCacheLimits::default().with_bytes(250_000);
    let done = cache().evict(&limits, SystemTime::now()).unwrap();
    assert_eq!(done.removed, 1, "{done:?}");
    assert!(
        done.removed_bytes > 100_000 && done.kept_bytes < 250_000,
        "{done:?}"
    );
    assert_eq!(files(&folder.join("blobs/blobs/sha256")), 2);
    assert_eq!((origin("a"), origin("c")), (Cached, Cached));
    assert_eq!(origin("b"), New);

    // A blob without a record is of no use, but may be about to get one.
    let stray = folder.join("blobs/blobs/sha256").join("0".repeat(64));
    fs::write(&stray, "stray").unwrap();
    let limits = LayerCacheLimits::default().with_unused_for(Duration::from_secs(1800));
    let done = cache().evict(&limits, SystemTime::now()).unwrap();
    assert_eq!((done.removed, stray.exists()), (0, true), "{done:?}");
    let later = SystemTime::now() + Duration::from_secs(7200);
    let done = cache().evict(&limits, later).unwrap();
    assert_eq!((done.removed, done.kept_bytes), (4, 0), "{done:?}");
    assert_eq!(files(&folder.join("blobs/blobs/sha256")), 0);
    assert_eq!(origin("a"), New);
}

/// Tells the test in the child where to work.
const FOLDER: &str = "FOLDER_OF_THE_MEMORY_TEST";
const GIB: u64 = 1 << 30;
const LIMIT_KIB: u64 = 64 * 1024;

/// The peak counts for the process, so the build happens in one of its own: this test, run again
/// by itself.
#[test]
#[ignore = "reads 2 GiB"]
fn a_layer_of_a_gigabyte_is_built_in_64_mib() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let dir = tempdir().unwrap();
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name, "--include-ignored", "--nocapture"])
            .env(FOLDER, dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}{errors}");
        // Or a changed name would run no test in the child, and succeed.
        assert!(text.contains("peak of the build"), "{text}");
        return;
    };
    let app = folder.join("app");
    fs::create_dir(&app).unwrap();
    let mut large = File::create(app.join("large")).unwrap();
    // Something to compress now and then, without filling the disk.
    for place in 0..256 {
        large.seek(SeekFrom::Start(place * (GIB / 256))).unwrap();
        large.write_all(&place.to_le_bytes().repeat(8192)).unwrap();
    }
    large.set_len(GIB).unwrap();
    assert!(large.metadata().unwrap().blocks() < GIB / 4 / 512);
    let cache = LayerCache::open(folder.join("cache")).unwrap();
    let builder = DaemonlessBuilder::new().with_layer_cache(cache);
    let first = build_with(&builder, image(&app), &folder.join("one"));
    let again = build_with(&builder, image(&app), &folder.join("two"));
    assert_eq!(again.layers[0].origin, LayerOrigin::Cached);
    assert_eq!(first.digest(), again.digest());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("peak of the build: {peak} KiB");
    assert!(peak < LIMIT_KIB, "the build took {peak} KiB");
}
