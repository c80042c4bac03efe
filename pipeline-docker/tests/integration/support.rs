//! What several tests use.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

use pipeline_docker::builder::{
    BuildRequest, BuiltImage, DaemonlessBuilder, ImageOutput, ImageSpec,
};
use pipeline_docker::oci::{Descriptor, LayoutImage, OciLayout, Platform};

/// Makes a tree from `path`, `path/` (a folder), `path -> target` (a link) and `path *` (executable).
pub(crate) fn tree(root: &Path, entries: &[&str]) {
    for entry in entries {
        if let Some((path, target)) = entry.split_once(" -> ") {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, path).unwrap();
        } else if entry.ends_with('/') {
            fs::create_dir_all(root.join(entry)).unwrap();
        } else {
            let path = root.join(entry.trim_end_matches(" *"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("content of {entry}\n")).unwrap();
            if entry.ends_with(" *") {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }
}

pub(crate) fn build(spec: ImageSpec, layout: &Path) -> BuiltImage {
    build_with(&DaemonlessBuilder::new(), spec, layout)
}

pub(crate) fn build_with(
    builder: &DaemonlessBuilder,
    spec: ImageSpec,
    layout: &Path,
) -> BuiltImage {
    builder
        .build_blocking(&BuildRequest::layers(
            spec,
            ImageOutput::layout(layout, "test"),
        ))
        .unwrap()
}

pub(crate) fn open(built: &BuiltImage, layout: &Path) -> LayoutImage {
    OciLayout::open(layout)
        .unwrap()
        .image(&built.manifest, &Platform::host())
        .unwrap()
}

/// One line per entry of a layer: type, mode, owner, name, target.
pub(crate) fn listing(layout: &Path, layer: &Descriptor) -> Vec<String> {
    let file = OciLayout::open(layout).unwrap().open_blob(layer).unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(file)
        .read_to_end(&mut tar)
        .unwrap();
    let mut archive = tar::Archive::new(&tar[..]);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.username().unwrap(), Some(""));
            let kind = match header.entry_type() {
                tar::EntryType::Directory => 'd',
                tar::EntryType::Symlink => 'l',
                tar::EntryType::Link => 'h',
                _ => '-',
            };
            let target = entry
                .link_name()
                .unwrap()
                .map(|target| format!(" -> {}", target.display()))
                .unwrap_or_default();
            format!(
                "{kind} {:04o} {}:{} {}{target}",
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                entry.path().unwrap().display(),
            )
        })
        .collect()
}

/// Runs a program and fails with its output when it does.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
