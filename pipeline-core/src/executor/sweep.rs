//! Finding and ending processes that left their process group.
//!
//! A process group is no kill boundary: `setsid` and a double fork escape it.
//! Every process is therefore started with a variable that names its scope;
//! children inherit it wherever they go. What clears its environment on
//! purpose is not found, which the environment's facts say.

use std::{collections::BTreeSet, fmt, fs, time::Duration};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The variable that carries the scope of a process.
pub const SCOPE_VARIABLE: &str = "PIPELINE_SCOPE";

/// Names a set of processes: everything below a data folder, a run or a job.
///
/// Scopes nest by their parts, as paths do: `store/run-7` holds
/// `store/run-7/test`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope(String);

impl Scope {
    /// The outermost scope. The name should be unique on the machine.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(part(name))
    }

    /// A scope inside this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(format!("{}/{}", self.0, part(name)))
    }

    /// The value of [`SCOPE_VARIABLE`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn holds(&self, other: &str) -> bool {
        other
            .strip_prefix(&self.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The processes of this user that belong to the scope. Zombies are left
    /// out: they hold nothing.
    #[must_use]
    pub fn processes(&self) -> BTreeSet<u32> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return BTreeSet::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != std::process::id() && self.holds_process(*pid))
            .collect()
    }

    fn holds_process(&self, pid: u32) -> bool {
        // A zombie's environment reads as empty.
        let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else {
            return false;
        };
        environ.split(|byte| *byte == 0).any(|variable| {
            std::str::from_utf8(variable)
                .ok()
                .and_then(|text| text.strip_prefix(SCOPE_VARIABLE)?.strip_prefix('='))
                .is_some_and(|scope| self.holds(scope))
        })
    }

    /// Kills every process of the scope and of the scopes inside it, until
    /// none is left or `limit` is over.
    pub async fn kill(&self, limit: Duration) -> Survivors {
        let deadline = tokio::time::Instant::now() + limit;
        let mut ended = BTreeSet::new();
        loop {
            let alive = self.processes();
            if alive.is_empty() || tokio::time::Instant::now() >= deadline {
                return Survivors {
                    ended: ended.len(),
                    alive: alive.into_iter().collect(),
                };
            }
            for pid in alive {
                if self.kill_one(pid) {
                    ended.insert(pid);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Through a descriptor, and looked at again after it was opened, so that
    /// a number that was given to somebody else is never hit.
    fn kill_one(&self, pid: u32) -> bool {
        let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
            return false;
        };
        let Ok(handle) = pidfd_open(raw, PidfdFlags::empty()) else {
            return false;
        };
        self.holds_process(pid) && pidfd_send_signal(&handle, Signal::KILL).is_ok()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn part(name: &str) -> String {
    name.chars()
        .map(|c| if c == '/' || c.is_control() { '-' } else { c })
        .collect()
}

/// What a clean-up of processes found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Survivors {
    /// How many processes had outlived their parent and were ended.
    pub ended: usize,
    /// Process numbers that could not be ended in time.
    pub alive: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_nest_by_parts() {
        let run = Scope::new("data").child("run-1");
        assert!(run.holds("data/run-1") && run.holds("data/run-1/test/2"));
        assert!(!run.holds("data/run-10") && !run.holds("data"));
        assert_eq!(Scope::new("a/b").as_str(), "a-b");
    }
}
