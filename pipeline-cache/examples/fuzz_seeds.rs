//! Writes what the fuzzers in `fuzz/` start from: the hostile archives, and good ones.

use std::error::Error;
use std::path::Path;

use pipeline_cache::archive::{DeclaredPaths, PackOptions, pack};
use pipeline_cache::store::Codec;
use pipeline_cache::testing::{hostile_archives, readers};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name a folder")?;
    let folder = Path::new(&folder);
    let write = |target: &str, name: &str, bytes: &[u8]| -> Result<(), Box<dyn Error>> {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        Ok(std::fs::write(folder.join(format!("seed-{name}")), bytes)?)
    };

    let work = tempfile::tempdir()?;
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("d"))?;
    std::fs::write(tree.join("d/file"), "content")?;
    std::fs::write(tree.join("x".repeat(120)), "long name")?;
    std::fs::hard_link(tree.join("d/file"), tree.join("twin"))?;
    std::os::unix::fs::symlink("/nowhere", tree.join("link"))?;
    let sparse = std::fs::File::create(tree.join("sparse"))?;
    sparse.set_len(1 << 20)?;
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (1 << 20) - 3)?;
    let mut good = Vec::new();
    for codec in [Codec::None, Codec::Gzip, Codec::Zstd] {
        let options = PackOptions::default()
            .with_working_folder(work.path())
            .with_codec(codec);
        let mut bytes = Vec::new();
        pack(&DeclaredPaths::new(["tree"])?, &options, &mut bytes)?;
        good.push((codec, bytes));
    }
    write("tar", "good", &good[0].1)?;
    for (codec, bytes) in &good {
        write("restore", &format!("good-{codec}"), bytes)?;
    }
    let zstd = &good[2].1;
    // The index is the last frame, and its length stands near its end.
    let length = zstd[zstd.len() - 12..][..4].try_into()?;
    let at = zstd.len() - u32::from_le_bytes(length) as usize;
    let index = &zstd[at..];
    readers::read_frame_index(index, zstd.len() as u64)?;
    let mut input = (zstd.len() as u64).to_le_bytes().to_vec();
    input.extend_from_slice(index);
    write("index", "good", &input)?;

    for archive in hostile_archives(Path::new("/outside")) {
        if archive.codec == Codec::None && archive.bytes.len() < 8192 {
            write("tar", archive.name, &archive.bytes)?;
            for block in archive.bytes.chunks(512).take(4) {
                if readers::read_header(block).is_ok() {
                    write("pax", archive.name, block)?;
                }
            }
        }
        if archive.bytes.len() < 8192 {
            write("restore", archive.name, &archive.bytes)?;
        }
    }
    write(
        "pax",
        "records",
        b"30 mtime=1700000000.123456789\n11 path=a/b\n",
    )?;

    for (number, template) in [
        r#"v1-{{ .Branch }}-{{ checksum "requirements.txt" }}"#,
        r#"{{ arch }}-{{ platform }}-{{ epoch }}-{{ tool "python" }}"#,
        r#"{{ .Environment.HOME }}-{{ .Revision }}-{{ .BuildNum }}-{{checksum "a" "b*"}}"#,
        "{{ .CheckoutKey }} plain {{ checksum \"a\\\"b\" }}",
    ]
    .iter()
    .enumerate()
    {
        write("template", &number.to_string(), template.as_bytes())?;
    }
    write("metadata", "good", &description(work.path())?)?;
    write(
        "bucket_index",
        "good",
        br#"{"format":1,"parts":1,"entries":[{"name":"a.json","tag":"1","document":"{}"}]}"#,
    )?;
    #[cfg(feature = "chunked")]
    for (target, bytes) in chunks(work.path())? {
        write(target, "good", &bytes)?;
    }
    Ok(())
}

/// A fuzz target and an input for it.
#[cfg(feature = "chunked")]
type Seed = (&'static str, Vec<u8>);

/// A chunked entry, its segment, and what is remembered of its tree.
#[cfg(feature = "chunked")]
fn chunks(work: &Path) -> Result<Vec<Seed>, Box<dyn Error>> {
    use std::io::Read as _;

    use pipeline_cache::archive::StatCache;
    use pipeline_cache::cache::{Cache, SaveOptions};
    use pipeline_cache::key::CacheKey;
    use pipeline_cache::store::{CacheStoreExt as _, MemoryStore};

    let remembered = work.join("remembered");
    let cache = Cache::new(MemoryStore::new()).with_stat_cache(StatCache::in_folder(&remembered));
    let pack = PackOptions::default()
        .with_working_folder(work)
        .with_codec(Codec::Chunked);
    let options = SaveOptions::default().with_pack(pack);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let mut found = Vec::new();
    runtime.block_on(async {
        cache.save(CacheKey::new("key")?, ["tree"], options).await?;
        for entry in cache.store().list("").await? {
            let target = if entry.is_shared_part() {
                "segment"
            } else {
                "manifest"
            };
            let mut bytes = Vec::new();
            if let Some(stored) = cache.store().get(&entry.key).await? {
                stored.payload.reader().read_to_end(&mut bytes)?;
            }
            found.push((target, bytes));
        }
        Ok::<_, Box<dyn Error>>(())
    })?;
    for file in std::fs::read_dir(remembered)? {
        let bytes = std::fs::read(file?.path())?;
        let record = pipeline_cache::testing::chunk_readers::tree_record_in(&bytes)
            .ok_or("a damaged record")?;
        found.push(("record", record.to_vec()));
    }
    Ok(found)
}

fn description(work: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    use pipeline_cache::cache::{Cache, SaveOptions};
    use pipeline_cache::key::CacheKey;
    use pipeline_cache::store::MemoryStore;

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let cache = Cache::new(MemoryStore::new());
    let saved = runtime.block_on(cache.save(
        CacheKey::new("key")?,
        ["tree"],
        SaveOptions::in_folder(work),
    ))?;
    match saved {
        pipeline_cache::cache::Saved::Stored(report) => Ok(report.metadata.to_document()?),
        _ => Err("not stored".into()),
    }
}
