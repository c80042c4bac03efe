//! What the wrapper shell of a command reports, and how it is taken out of the command's output.

use pipeline_core::ExitStatus;

/// The wrapper: one command in a process group of its own, with reports.
pub(super) const WRAPPER: &str = include_str!("wrapper.sh");
/// What keeps the container up.
pub(super) const HOLDER: &str = include_str!("holder.sh");
/// Ends what commands left behind.
pub(super) const SWEEP: &str = include_str!("sweep.sh");

/// Longer reports do not exist; what looks like the beginning of one is output after all.
const LONGEST: usize = 64 * 1024;

/// A report of the wrapper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The command runs; the group has this number inside the container.
    Started { group: i32 },
    /// There is no such directory.
    NoFolder,
    /// There is no such program in the directories named.
    Missing { searched: String },
    /// The program is there and cannot be executed.
    Denied,
    /// The command itself has ended.
    Ended(Ended),
}

/// How a command ended, as the wrapper saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// How many processes of the container were ended for want of memory, in all its life.
    pub(super) out_of_memory: u64,
    /// Processes that still live: of this command, or of others that run at the same time.
    pub(super) left: Vec<i32>,
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match verb {
            "start" => Self::Started {
                group: rest.parse().ok()?,
            },
            "folder" => Self::NoFolder,
            "missing" => Self::Missing {
                searched: rest.to_owned(),
            },
            "denied" => Self::Denied,
            "end" => {
                let mut words = rest.split(' ');
                let how = words.next()?;
                let code: i32 = words.next()?.parse().ok()?;
                let status = match how {
                    "exited" => ExitStatus::Exited(code),
                    "signaled" | "dumped" => ExitStatus::Signaled {
                        signal: code - 128,
                        core_dumped: how == "dumped",
                    },
                    _ => return None,
                };
                Self::Ended(Ended {
                    status,
                    out_of_memory: words.next()?.parse().ok()?,
                    left: words.filter_map(|word| word.parse().ok()).collect(),
                })
            }
            _ => return None,
        })
    }
}

/// Splits standard error into output and reports, however it is cut into pieces.
#[derive(Debug)]
pub(super) struct RecordScanner {
    mark: Vec<u8>,
    /// The beginning of what may be a report.
    held: Vec<u8>,
}

/// What a piece of standard error was made of.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) output: Vec<u8>,
    pub(super) records: Vec<Record>,
}

impl RecordScanner {
    pub(super) fn new(word: &str) -> Self {
        Self {
            mark: format!("\u{1e}{word} ").into_bytes(),
            held: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Scanned {
        let mut scanned = Scanned::default();
        if self.held.is_empty() && !bytes.contains(&0x1e) {
            scanned.output = bytes.to_vec();
            return scanned;
        }
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while !rest.is_empty() {
            let Some(at) = rest.iter().position(|byte| *byte == 0x1e) else {
                scanned.output.extend_from_slice(rest);
                break;
            };
            scanned.output.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let known = rest.len().min(self.mark.len());
            if rest[..known] != self.mark[..known] {
                scanned.output.push(rest[0]);
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| *byte == b'\n');
            let Some(end) = end else {
                if rest.len() < LONGEST {
                    self.held = rest.to_vec();
                } else {
                    scanned.output.extend_from_slice(rest);
                }
                break;
            };
            // The mark has no line feed, so it is complete here.
            let text = String::from_utf8_lossy(&rest[self.mark.len().min(end)..end]);
            match Record::parse(&text) {
                Some(record) => scanned.records.push(record),
                None => scanned.output.extend_from_slice(&rest[..=end]),
            }
            rest = &rest[end + 1..];
        }
        scanned
    }

    /// What was held back when the stream ended.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// A word that no output has by chance.
pub(super) fn unguessable() -> String {
    use std::hash::{BuildHasher, RandomState};
    // Keyed anew by the system's random source each time.
    format!(
        "{:016x}{:016x}",
        RandomState::new().hash_one(std::process::id()),
        RandomState::new().hash_one(std::time::SystemTime::now()),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reports_are_read() {
        let parse = |text| Record::parse(text).unwrap();
        assert_eq!(parse("start 17"), Record::Started { group: 17 });
        assert_eq!(
            parse("missing /bin:/a b"),
            Record::Missing {
                searched: "/bin:/a b".to_owned()
            }
        );
        let Record::Ended(ended) = parse("end signaled 137 2 40 41") else {
            panic!("the command has ended")
        };
        assert_eq!(
            (ended.status, ended.out_of_memory, ended.left),
            (
                ExitStatus::Signaled {
                    signal: 9,
                    core_dumped: false
                },
                2,
                vec![40, 41]
            )
        );
        for wrong in ["", "end", "end exited", "start x", "end odd 1 0"] {
            assert_eq!(Record::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        /// However the stream is cut, output and reports come out whole and apart.
        #[test]
        fn any_cut(cuts in proptest::collection::vec(1usize..9, 1..200)) {
            let text = "a\u{1e}b\u{1e}WOR\u{1e}WORD start 7\nerr\u{1e}WORD end exited 3 0 9\n\
                        \u{1e}WORD nonsense\ntail\u{1e}WOR";
            let mut scanner = RecordScanner::new("WORD");
            let (mut output, mut records) = (Vec::new(), Vec::new());
            let mut rest = text.as_bytes();
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                let scanned = scanner.push(piece);
                output.extend(scanned.output);
                records.extend(scanned.records);
                rest = after;
            }
            output.extend(scanner.finish());
            prop_assert_eq!(
                String::from_utf8(output).unwrap(),
                "a\u{1e}b\u{1e}WORerr\u{1e}WORD nonsense\ntail\u{1e}WOR"
            );
            prop_assert_eq!(records.len(), 2);
        }
    }
}
