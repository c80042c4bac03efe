//! What a power cut leaves on a disk.

use std::collections::BTreeMap;

use crate::disk_contents::{Inode, Inodes, Kind};

/// What a power cut leaves of changes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    /// Nothing.
    Nothing,
    /// All names; the content behind them is zeros.
    Names,
    /// Each name and each content by chance: old, new, torn or zeros.
    Some(u64),
}

impl Survives {
    /// What is there when the power is back.
    pub(crate) fn from(self, now: &Inodes, synced: &Inodes) -> Inodes {
        let mut chance = match self {
            Self::Some(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            _ => 0,
        };
        let mut choose = |among: u64| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            chance % among
        };
        let mut after = Inodes::new();
        for (&number, new) in now {
            let old = synced.get(&number);
            if old == Some(new) {
                after.insert(number, new.clone());
                continue;
            }
            let kind = match (&new.kind, old.map(|old| &old.kind)) {
                (Kind::Folder(new), old) => {
                    let empty = BTreeMap::new();
                    let old = match old {
                        Some(Kind::Folder(old)) => old,
                        _ => &empty,
                    };
                    Kind::Folder(match self {
                        Self::Nothing => old.clone(),
                        Self::Names => new.clone(),
                        Self::Some(_) => old
                            .keys()
                            .chain(new.keys())
                            .filter_map(|name| {
                                let from = if choose(2) == 0 { old } else { new };
                                Some((name.clone(), *from.get(name)?))
                            })
                            .collect(),
                    })
                }
                (Kind::File(new), old) => {
                    let empty = Vec::new();
                    let old = match old {
                        Some(Kind::File(old)) => old,
                        _ => &empty,
                    };
                    let choice = match self {
                        Self::Nothing => 0,
                        Self::Names => 1,
                        Self::Some(_) => choose(4),
                    };
                    Kind::File(match choice {
                        0 => old.clone(),
                        1 => vec![0; new.len()],
                        2 => new[..new.len() / 2].to_vec(),
                        _ => new.clone(),
                    })
                }
                (Kind::Link(target), _) => Kind::Link(target.clone()),
            };
            let from = old.unwrap_or(new);
            after.insert(
                number,
                Inode {
                    kind,
                    ..from.clone()
                },
            );
        }
        after
    }
}
