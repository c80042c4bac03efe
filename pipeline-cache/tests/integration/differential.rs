//! Whatever our strict reader of tar accepts, others read the same way: Python's tarfile entry by
//! entry with content, GNU tar by name. Archives that readers disagree about are how files are
//! smuggled past a check.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use pipeline_cache::archive::{DeclaredPaths, PackOptions, pack};
use pipeline_cache::store::Codec;
use pipeline_cache::testing::hostile_archives;
use pipeline_cache::testing::readers::{TarEntry, TarKind, read_tar};

const BLOCK: usize = 512;

/// Lists archives for as long as somebody asks: a length and an archive in, lines out.
const PYTHON: &str = r#"
import hashlib, io, json, sys, tarfile

def normal(name):
    parts = name.encode("utf-8", "surrogateescape").split(b"/")
    return b"/".join(part for part in parts if part not in (b"", b"."))

while True:
    length = sys.stdin.buffer.read(8)
    if not length:
        break
    data = sys.stdin.buffer.read(int.from_bytes(length, "little"))
    try:
        archive = tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8")
        entries = []
        for member in archive:
            link = member.linkname.encode("utf-8", "surrogateescape")
            if member.issym():
                kind = "link"
            elif member.islnk():
                kind, link = "hard link", normal(member.linkname)
            elif member.isdir():
                kind = "folder"
            elif member.isreg():
                kind = "file"
            else:
                kind = "other"
            digest = ""
            if kind == "file" and not member.issparse():
                digest = hashlib.sha256(archive.extractfile(member).read()).hexdigest()
            entries.append([normal(member.name).hex(), kind, member.size, link.hex(),
                            member.mode & 0o7777, int(member.mtime // 1), digest,
                            member.name.endswith("/")])
        print(json.dumps(entries))
    except Exception as error:
        print(json.dumps(str(error) or "error"))
    sys.stdout.flush()
"#;

struct Python {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// One entry as another reader sees it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: String,
    kind: String,
    length: u64,
    link: String,
    mode: u64,
    mtime: i64,
    digest: String,
}

impl Python {
    fn new() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", PYTHON])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn list(&mut self, archive: &[u8]) -> Result<Vec<Seen>, String> {
        let input = self.input.as_mut().unwrap();
        input
            .write_all(&(archive.len() as u64).to_le_bytes())
            .unwrap();
        input.write_all(archive).unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let Some(entries) = value.as_array() else {
            return Err(value.as_str().unwrap_or_default().to_owned());
        };
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        Ok(entries
            .iter()
            .map(|entry| Seen {
                path: text(&entry[0]),
                // A name that ends with a slash is a folder's, says everybody else.
                kind: match (text(&entry[1]), entry[7].as_bool()) {
                    (kind, Some(true)) if kind == "file" => "folder".to_owned(),
                    (kind, _) => kind,
                },
                length: entry[2].as_u64().unwrap(),
                link: text(&entry[3]),
                mode: entry[4].as_u64().unwrap(),
                mtime: entry[5].as_i64().unwrap_or(i64::MAX),
                digest: text(&entry[6]),
            })
            .collect())
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says what two readers disagree about.
fn disagreement(ours: &[TarEntry], theirs: &[Seen]) -> Option<String> {
    if ours.len() != theirs.len() {
        return Some(format!("{} entries and {}", ours.len(), theirs.len()));
    }
    ours.iter().zip(theirs).find_map(|(ours, theirs)| {
        let (kind, length, link, digest) = match &ours.kind {
            TarKind::File {
                length,
                stored,
                is_sparse,
                ..
            } => {
                let digest = (!is_sparse).then(|| stored.to_string());
                ("file", *length, String::new(), digest.unwrap_or_default())
            }
            TarKind::Folder => ("folder", 0, String::new(), String::new()),
            TarKind::Symlink(target) => ("link", 0, hex(target), String::new()),
            TarKind::HardLink(target) => ("hard link", 0, hex(target), String::new()),
            other => panic!("{other:?}"),
        };
        let is_link = kind.ends_with("link");
        let same = hex(&ours.path) == theirs.path
            && kind == theirs.kind
            && length == theirs.length
            && (!is_link || link == theirs.link)
            && u64::from(ours.mode) == theirs.mode
            // Python keeps times as floating point numbers.
            && ours.mtime.0.abs_diff(theirs.mtime) <= (ours.mtime.0.unsigned_abs() >> 50) + 1
            && (kind == "folder" || digest == theirs.digest);
        (!same).then(|| format!("{ours:?} and {theirs:?}"))
    })
}

/// Names as GNU tar lists them, normalised. `None` when it reports an error.
fn gnu_names(folder: &Path, archive: &[u8]) -> Option<Vec<Vec<u8>>> {
    let file = folder.join("archive.tar");
    fs::write(&file, archive).unwrap();
    let output = Command::new("tar")
        .args(["--list", "--quoting-style=escape", "-P", "-f"])
        .arg(&file)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    output.status.success().then(|| {
        let lines = output.stdout.strip_suffix(b"\n").unwrap_or(&output.stdout);
        if lines.is_empty() {
            return Vec::new();
        }
        lines
            .split(|&byte| byte == b'\n')
            .map(|line| {
                let name = unescape(line);
                let parts = name.split(|&byte| byte == b'/');
                let parts: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
                parts.join(&b'/')
            })
            .collect()
    })
}

fn unescape(line: &[u8]) -> Vec<u8> {
    let mut name = Vec::new();
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            name.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'a') => name.push(7),
            Some(b'b') => name.push(8),
            Some(b't') => name.push(b'\t'),
            Some(b'n') => name.push(b'\n'),
            Some(b'v') => name.push(11),
            Some(b'f') => name.push(12),
            Some(b'r') => name.push(b'\r'),
            Some(digit @ b'0'..=b'7') => {
                let rest = [bytes.next().unwrap(), bytes.next().unwrap()];
                let digits = [digit, rest[0], rest[1]];
                let value = digits
                    .iter()
                    .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                name.push(value as u8);
            }
            Some(other) => name.push(other),
            None => {}
        }
    }
    name
}

/// What other readers are known to do differently, with what is accepted by ours.
fn is_known_difference(archive: &[u8]) -> bool {
    archive.chunks_exact(BLOCK).any(|block| {
        // Python joins GNU tar's times onto the name, as if they were a prefix.
        (&block[257..263] == b"ustar " || block[257..263] == [0; 6])
            && block[345..500].iter().any(|&byte| byte != 0)
            && read_header_at(block)
    })
}

fn read_header_at(block: &[u8]) -> bool {
    pipeline_cache::testing::readers::read_header(block).is_ok()
}

/// Pseudo-random numbers that are the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

fn mend(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest + 1..).find(|length| *length == rest + length.to_string().len());
    let mut record = format!("{} {key}=", length.unwrap()).into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}

fn header(kind: u8, name: &[u8], size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"14524770400\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    mend(&mut block);
    block
}

/// A header with its content, padded.
fn entry(kind: u8, name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut bytes = header(kind, name, content.len());
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

/// Changes an archive the way that confuses readers, most often with a checksum that fits.
fn mutate(archive: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = archive.to_vec();
    for _ in 0..=chance.below(3) {
        let blocks = bytes.len() / BLOCK;
        if blocks == 0 {
            break;
        }
        let at = chance.below(blocks) * BLOCK;
        match chance.below(10) {
            0 => {
                let field = chance.of(&[0, 100, 124, 136, 156, 157, 257, 345]);
                bytes[at + field + chance.below(8)] ^= 1 << chance.below(8);
                mend(&mut bytes[at..at + BLOCK]);
            }
            1 => {
                bytes[at + 156] = chance.of(b"0012575xgLKSA\0");
                mend(&mut bytes[at..at + BLOCK]);
            }
            2 => {
                let value = chance.of(&[
                    &b"00000000000\0"[..],
                    b"00000000001\0",
                    b"00000001000\0",
                    b"       1000 ",
                    b"77777777777\0",
                    b"\x80\0\0\0\0\0\0\0\0\0\x02\0",
                    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"-0000000001\0",
                    b"000001 0000\0",
                ]);
                let field = chance.of(&[124, 136]);
                bytes[at + field..at + field + 12].copy_from_slice(value);
                mend(&mut bytes[at..at + BLOCK]);
            }
            3 => {
                let key = chance.of(&[
                    "path",
                    "linkpath",
                    "size",
                    "mtime",
                    "hdrcharset",
                    "comment",
                    "uid",
                    "uname",
                    "charset",
                    "SCHILY.xattr.user.a",
                    "GNU.sparse.name",
                    "GNU.sparse.realsize",
                    "GNU.sparse.map",
                    "GNU.sparse.major",
                ]);
                let value = chance.of(&[
                    &b"other"[..],
                    b"a/b/",
                    b"./c//d",
                    b"0",
                    b"1",
                    b"512",
                    b"1000",
                    b"1.5",
                    b"-7.25",
                    b"BINARY",
                    b"0,5",
                    b"\xff\xfe",
                    b"two\nlines",
                    b"a=b",
                ]);
                let mut records = record(key, value);
                if chance.below(4) == 0 {
                    records.extend(record("path", b"second"));
                }
                let kind = chance.of(b"xxxg");
                let added = entry(kind, b"PaxHeaders/x", &records);
                bytes.splice(at..at, added);
            }
            4 => {
                let name =
                    chance.of(&[&b"long\0"[..], b"long/\0", b"x\0y\0", b"no end", b"../up\0"]);
                let kind = chance.of(b"LK");
                bytes.splice(at..at, entry(kind, b"././@LongLink", name));
            }
            5 => {
                let added = entry(b'0', b"added", b"content");
                bytes.splice(at..at, added);
            }
            6 => {
                bytes.drain(at..at + BLOCK);
            }
            7 => {
                let copy = bytes[at..at + BLOCK].to_vec();
                let to = chance.below(blocks) * BLOCK;
                bytes.splice(to..to, copy);
            }
            8 => {
                let magic = chance.of(&[&b"ustar\x0000"[..], b"ustar  \0", &[0; 8]]);
                bytes[at + 257..at + 265].copy_from_slice(magic);
                mend(&mut bytes[at..at + BLOCK]);
            }
            _ => {
                let byte = chance.below(bytes.len());
                bytes[byte] = chance.of(b"\0 /.0179\xff");
            }
        }
    }
    bytes
}

/// Good archives of every format that is at hand.
fn good_archives(folder: &Path) -> Vec<Vec<u8>> {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("d/e")).unwrap();
    fs::write(tree.join("d/file"), "content").unwrap();
    fs::write(tree.join("d/e/block"), [7; 512]).unwrap();
    fs::write(tree.join("n".repeat(140)), "long").unwrap();
    fs::hard_link(tree.join("d/file"), tree.join("twin")).unwrap();
    symlink("../some/where", tree.join("d/link")).unwrap();
    symlink("t".repeat(130), tree.join("far")).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(300_000).unwrap();
    sparse.write_all_at(b"middle", 150_000).unwrap();
    let mut archives = Vec::new();
    let options = PackOptions::default()
        .with_working_folder(folder)
        .with_codec(Codec::None);
    let mut ours = Vec::new();
    pack(&DeclaredPaths::new(["tree"]).unwrap(), &options, &mut ours).unwrap();
    archives.push(ours);
    for format in ["pax", "gnu", "ustar", "oldgnu", "v7"] {
        let output = Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["-b1", "-cf", "-", "tree/d", "tree/twin"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "{format}");
        archives.push(output.stdout);
    }
    for format in ["pax", "gnu"] {
        let output = Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["-b1", "-cSf", "-", "tree"])
            .current_dir(folder)
            .output()
            .unwrap();
        archives.push(output.stdout);
    }
    archives
}

/// `PIPELINE_CACHE_CORPUS` names a folder of more archives, such as a fuzzer finds them.
fn found_archives() -> Vec<Vec<u8>> {
    let Some(folder) = std::env::var_os("PIPELINE_CACHE_CORPUS") else {
        return Vec::new();
    };
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect()
}

#[test]
fn whatever_we_accept_python_and_gnu_tar_read_the_same_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut python = Python::new();
    let good = good_archives(dir.path());
    for archive in &good {
        assert!(read_tar(&archive[..]).is_ok());
    }
    let hostile = hostile_archives(Path::new("/outside"))
        .into_iter()
        .filter(|archive| archive.codec == Codec::None && archive.bytes.len() < 1 << 20)
        .map(|archive| archive.bytes);
    let mut archives: Vec<Vec<u8>> = good.into_iter().chain(hostile).collect();
    let bases = archives.len();
    archives.extend(found_archives());
    let all = std::env::var_os("PIPELINE_FAULTS").is_some_and(|asked| asked == "full");
    let mutations = if all { 200_000 } else { 20_000 };
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut accepted, mut by_gnu) = (0, 0);
    let mut disagreements: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..archives.len() + mutations {
        let mutated;
        let archive = match archives.get(number) {
            Some(archive) => archive,
            None => {
                let base = chance.below(bases);
                mutated = mutate(&archives[base], &mut chance);
                &mutated
            }
        };
        let Ok(ours) = read_tar(&archive[..]) else {
            continue;
        };
        if is_known_difference(archive) {
            continue;
        }
        accepted += 1;
        let mut differs = match python.list(archive) {
            Ok(theirs) => disagreement(&ours, &theirs).map(|what| format!("Python: {what}")),
            Err(error) => Some(format!("Python refuses: {error}")),
        };
        if differs.is_none() && (number < archives.len() || accepted % 20 == 0) {
            by_gnu += 1;
            let names: Vec<&[u8]> = ours.iter().map(|entry| &entry.path[..]).collect();
            differs = match gnu_names(dir.path(), archive) {
                Some(theirs) if theirs == names => None,
                Some(theirs) => Some(format!("GNU tar: {names:?} and {theirs:?}")),
                None => Some("GNU tar refuses".to_owned()),
            };
        }
        if let Some(what) = differs {
            let count = disagreements.entry(what.clone()).or_default();
            *count += 1;
            if *count == 1
                && let Some(folder) = std::env::var_os("PIPELINE_CACHE_DISAGREEMENTS")
            {
                let file = Path::new(&folder).join(format!("{number}.tar"));
                fs::write(&file, archive).unwrap();
                println!("{}: {what}", file.display());
            }
        }
    }
    println!("{accepted} accepted archives read the same by Python, {by_gnu} by GNU tar");
    assert!(accepted > mutations / 20, "only {accepted} were accepted");
    assert!(
        disagreements.is_empty(),
        "{} kinds: {:#?}",
        disagreements.len(),
        disagreements.iter().take(12).collect::<Vec<_>>()
    );
}
