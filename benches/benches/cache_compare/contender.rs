//! Who is compared, and how each is called.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

use crate::table::Operation;
use crate::tree::{Edits, remove};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The baseline.
    TarZstd,
    TarGzip,
    Bsdtar,
    Restic,
    Borg,
    Casync,
    /// A zstd archive in a folder as store.
    Ours,
    /// The same, synced before it counts as stored: the library's default.
    OursSynced,
    /// The same with gzip.
    OursGzip,
    /// Chunks: what is stored already is neither stored nor read again.
    OursChunked,
    /// Two threads that only look at every file: what nobody can be faster than who looks whether
    /// something changed.
    Walk,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::TarZstd,
        Self::TarGzip,
        Self::Bsdtar,
        Self::Restic,
        Self::Borg,
        Self::Casync,
        Self::Ours,
        Self::OursSynced,
        Self::OursGzip,
        Self::OursChunked,
        Self::Walk,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::TarZstd => "tar-zstd",
            Self::TarGzip => "tar-gzip",
            Self::Bsdtar => "bsdtar",
            Self::Restic => "restic",
            Self::Borg => "borg",
            Self::Casync => "casync",
            Self::Ours => "ours",
            Self::OursSynced => "ours-synced",
            Self::OursGzip => "ours-gzip",
            Self::OursChunked => "ours-chunked",
            Self::Walk => "walk",
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::TarZstd => &["tar", "zstd"],
            Self::TarGzip => &["tar", "gzip"],
            Self::Bsdtar => &["bsdtar"],
            Self::Restic => &["restic"],
            Self::Borg => &["borg"],
            Self::Casync => &["casync"],
            _ => &[],
        }
    }

    /// Whether it is a process of this program.
    fn is_own(self) -> bool {
        self.programs().is_empty()
    }

    /// Whether a second save stores only what is new.
    fn is_incremental(self) -> bool {
        matches!(
            self,
            Self::Restic | Self::Borg | Self::Casync | Self::OursChunked
        )
    }
}

pub(crate) struct Contender {
    kind: Kind,
    source: PathBuf,
    folder: PathBuf,
    workers: Option<usize>,
    saves: usize,
}

impl Contender {
    /// Makes its folder. The error names a program that is missing.
    pub(crate) fn prepare(
        kind: Kind,
        source: &Path,
        folder: &Path,
        workers: Option<usize>,
    ) -> Result<Self, String> {
        for program in kind.programs() {
            let known = Command::new(program)
                .arg(if *program == "restic" {
                    "version"
                } else {
                    "--version"
                })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if known.is_err() {
                return Err(format!("{program} is not installed"));
            }
        }
        fs::create_dir_all(folder.join("stored")).unwrap();
        Ok(Self {
            kind,
            source: source.to_path_buf(),
            folder: folder.to_path_buf(),
            workers,
            saves: 0,
        })
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it wrote on saving.
    pub(crate) fn stored(&self) -> PathBuf {
        self.folder.join("stored")
    }

    /// Where its restore went.
    pub(crate) fn restored(&self) -> PathBuf {
        match self.kind {
            // restic puts back the whole path.
            Kind::Restic => self
                .folder
                .join("out")
                .join(self.source.strip_prefix("/").unwrap()),
            kind if kind.is_own() => self
                .folder
                .join("out")
                .join(self.source.file_name().unwrap()),
            _ => self.folder.join("out"),
        }
    }

    /// What is done before the clock starts.
    pub(crate) fn get_ready(&mut self, operation: Operation) {
        match operation {
            Operation::Save => {
                self.clear();
                fs::create_dir_all(self.stored()).unwrap();
                let init = match self.kind {
                    Kind::Restic => "RESTIC_PASSWORD=x restic init -q -r stored/repository",
                    Kind::Borg => "BORG_BASE_DIR=$PWD/borg borg init -e none stored/repository",
                    _ => return,
                };
                let made = Command::new("bash")
                    .args(["-c", init])
                    .current_dir(&self.folder)
                    .stdout(Stdio::null())
                    .status()
                    .unwrap();
                assert!(made.success(), "{init}: {made}");
            }
            Operation::Restore => fs::create_dir_all(self.folder.join("out")).unwrap(),
            Operation::RestoreEdited if self.kind != Kind::Walk => {
                // Nobody puts this back: the restore does.
                drop(Edits::make(&self.restored(), self.saves));
            }
            _ => {}
        }
    }

    /// Removes what was restored.
    pub(crate) fn forget_restored(&self) {
        remove(&self.folder.join("out"));
    }

    pub(crate) fn clear(&self) {
        for name in ["out", "stored", "borg", "cache"] {
            remove(&self.folder.join(name));
        }
    }

    /// The command line for an operation; `None` when it has no such thing.
    pub(crate) fn command(&mut self, operation: Operation) -> Option<String> {
        let source = self.source.display();
        if self.kind == Kind::Walk {
            let exe = std::env::current_exe().unwrap();
            return operation
                .is_compared_with_walk()
                .then(|| format!("{} our-child walk walk {source} 2 -", exe.display()));
        }
        if self.kind == Kind::Restic && operation.is_onto_a_tree() {
            // It fails at links that are there already.
            return None;
        }
        let is_save = !operation.is_restore();
        if is_save {
            self.saves += 1;
            // A second full archive is the same as the first but for what was edited.
            if operation == Operation::Unchanged && !self.kind.is_incremental() {
                return None;
            }
        }
        let name = match operation {
            Operation::Edited => "edited",
            Operation::Unchanged => "unchanged",
            _ => "full",
        };
        let n = self.saves;
        Some(match (self.kind, is_save) {
            (Kind::TarZstd, true) => {
                format!("tar -cf - -C {source} . | zstd -T0 -3 -q -o stored/{name}-{n}")
            }
            (Kind::TarZstd, false) => "zstd -dcq stored/full-* | tar -xf - -C out".into(),
            (Kind::TarGzip, true) => {
                format!("tar -cf - -C {source} . | gzip > stored/{name}-{n}")
            }
            (Kind::TarGzip, false) => "gzip -dc < stored/full-* | tar -xf - -C out".into(),
            (Kind::Bsdtar, true) => {
                format!("bsdtar --zstd -cf stored/{name}-{n} -C {source} .")
            }
            (Kind::Bsdtar, false) => "bsdtar -xf stored/full-* -C out".into(),
            (Kind::Restic, true) => format!(
                "RESTIC_PASSWORD=x restic backup -q --cache-dir cache -r stored/repository {source}"
            ),
            (Kind::Restic, false) => "RESTIC_PASSWORD=x restic restore latest -q \
                 --cache-dir cache -r stored/repository --target out"
                .into(),
            (Kind::Borg, true) => format!(
                "export BORG_BASE_DIR=$PWD/borg; repository=$PWD/stored/repository; cd {source} && \
                 borg create -C zstd,3 $repository::{n} ."
            ),
            (Kind::Borg, false) => "export BORG_BASE_DIR=$PWD/borg; \
                 last=$(borg list --short --last 1 stored/repository); \
                 cd out && borg extract ../stored/repository::$last"
                .into(),
            (Kind::Casync, true) => {
                format!("casync make --store=stored/chunks stored/{name}-{n}.caidx {source} 2>&1")
            }
            (Kind::Casync, false) => {
                "casync extract --store=stored/chunks stored/full-*.caidx out".into()
            }
            _ => {
                let verb = if is_save { "save" } else { "restore" };
                let exe = std::env::current_exe().unwrap();
                format!(
                    "{} our-child {verb} {} {source} {} {name}{}",
                    exe.display(),
                    self.kind.name(),
                    self.workers.unwrap_or(0),
                    if is_save { format!("-{n}") } else { "-".into() },
                )
            }
        })
    }
}
