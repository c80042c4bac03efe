//! Who made a container or network, written into its labels, and whether that program still lives.

use std::collections::HashMap;
use std::fs;

use pipeline_core::Scope;

/// Every container and network of this crate carries it; the value names the owner.
pub(crate) const OWNER_LABEL: &str = "pipeline.owner";
/// The name of what carries the labels: an image that is made of a container hands its labels on to
/// other people's containers.
pub(crate) const NAME_LABEL: &str = "pipeline.name";
pub(crate) const SCOPE_LABEL: &str = "pipeline.scope";
pub(crate) const JOB_LABEL: &str = "pipeline.job";
pub(crate) const ROLE_LABEL: &str = "pipeline.role";

/// A process, such that no other one is ever taken for it: kernel, namespace of process numbers,
/// number, and the time at which it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Which kernel since which boot, and which namespace of process numbers.
    place: String,
    pid: u32,
    /// In ticks since boot; a number that is given to another process has another time.
    started: u64,
}

/// What can be said of an owner from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    Alive,
    Dead,
    /// Another machine or boot, or a namespace that cannot be seen from here.
    Unknown,
}

impl Owner {
    /// This process. `None` where the system does not tell (there is no `/proc`).
    pub(crate) fn current() -> Option<Self> {
        let pid = std::process::id();
        Some(Self {
            place: place()?,
            pid,
            started: started(pid)?,
        })
    }

    /// As the value of [`OWNER_LABEL`].
    pub(crate) fn label(&self) -> String {
        format!("{}/{}/{}", self.place, self.pid, self.started)
    }

    /// The owner that a label names.
    pub(crate) fn parse(label: &str) -> Option<Self> {
        let mut parts = label.rsplitn(3, '/');
        let started = parts.next()?.parse().ok()?;
        let pid = parts.next()?.parse().ok()?;
        let place = parts.next()?.to_owned();
        Some(Self {
            place,
            pid,
            started,
        })
    }

    /// Whether it lives, as far as this process can see.
    pub(crate) fn liveness(&self) -> Liveness {
        let here = place();
        if here.as_ref() != Some(&self.place) {
            here.map_or(Liveness::Unknown, |here| self.liveness_elsewhere(&here))
        } else if started(self.pid) == Some(self.started) {
            Liveness::Alive
        } else {
            Liveness::Dead
        }
    }

    /// Whether it lives in another namespace. Only the kernel's first one sees into all others.
    fn liveness_elsewhere(&self, here: &str) -> Liveness {
        let Some((boot, namespace)) = self.place.split_once('/') else {
            return Liveness::Unknown;
        };
        // Without the first process, other users' processes are hidden from us.
        if here != format!("{boot}/{FIRST_NAMESPACE}") || status(1).is_none() {
            return Liveness::Unknown;
        }
        let Ok(entries) = fs::read_dir("/proc") else {
            return Liveness::Unknown;
        };
        let mut verdict = Liveness::Dead;
        let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        for process in processes {
            let Some(inner) = inner_number(process) else {
                continue;
            };
            match fs::read_link(format!("/proc/{process}/ns/pid")) {
                // Its start is not compared: a namespace may have a clock of its own.
                Ok(found) if found.as_os_str() == namespace && inner == self.pid => {
                    return Liveness::Alive;
                }
                Ok(_) => {}
                // It has ended meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(_) => verdict = Liveness::Unknown,
            }
        }
        verdict
    }
}

/// The namespace of process numbers that the kernel starts with, on every Linux.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

fn status(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/status")).ok()
}

/// The number of a living process in its own namespace, if that is not the first one.
fn inner_number(pid: u32) -> Option<u32> {
    let status = status(pid)?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    if field("State:")?.trim_start().starts_with(['Z', 'X']) {
        return None;
    }
    let numbers = field("NSpid:")?;
    numbers.split_whitespace().skip(1).last()?.parse().ok()
}

/// The labels of what belongs to a job.
pub(crate) fn labels(scope: &Scope, job: &str, role: &str) -> HashMap<String, String> {
    let owner = Owner::current().map_or_else(|| "unknown".to_owned(), |owner| owner.label());
    HashMap::from([
        (OWNER_LABEL.to_owned(), owner),
        (SCOPE_LABEL.to_owned(), scope.as_str().to_owned()),
        (JOB_LABEL.to_owned(), job.to_owned()),
        (ROLE_LABEL.to_owned(), role.to_owned()),
    ])
}

fn place() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

/// When a living process started. A zombie does nothing any more and counts as dead.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    // Field 22 of the line; the first one behind the name is field 3.
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_a_child_that_ended_does_not() {
        let owner = Owner::current().unwrap();
        assert_eq!(Owner::parse(&owner.label()), Some(owner.clone()));
        assert_eq!(owner.liveness(), Liveness::Alive);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let other = Owner {
            pid: child.id(),
            started: started(child.id()).unwrap(),
            ..owner.clone()
        };
        assert_eq!(other.liveness(), Liveness::Alive);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(other.liveness(), Liveness::Dead);
        // The same number, given to another process.
        let reused = Owner {
            started: owner.started + 1,
            ..owner.clone()
        };
        assert_eq!(reused.liveness(), Liveness::Dead);
        let far = Owner {
            place: "elsewhere".to_owned(),
            ..owner
        };
        assert_eq!(far.liveness(), Liveness::Unknown);
    }

    /// A program in a container has a namespace of its own each time.
    #[test]
    #[ignore = "needs root and util-linux"]
    fn a_process_in_another_namespace_is_seen_from_the_first_one() {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};

        let mut child = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "sh", "-c"])
            .arg("echo ready; read -r line")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        printed.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let namespace = format!("/proc/{}/ns/pid_for_children", child.id());
        let namespace = fs::read_link(namespace).unwrap();
        let owner = Owner::current().unwrap();
        let (boot, here) = owner.place.split_once('/').unwrap();
        let seen = |verdict| match here {
            FIRST_NAMESPACE => verdict,
            _ => Liveness::Unknown,
        };
        let inside = Owner {
            place: format!("{boot}/{}", namespace.display()),
            pid: 1,
            started: 0,
        };
        assert_eq!(inside.liveness(), seen(Liveness::Alive));
        let other = Owner {
            pid: 2,
            ..inside.clone()
        };
        assert_eq!(other.liveness(), seen(Liveness::Dead));
        let other_boot = Owner {
            place: format!("0{boot}/{}", namespace.display()),
            ..inside.clone()
        };
        assert_eq!(other_boot.liveness(), Liveness::Unknown);
        child.kill().unwrap();
        child.wait().unwrap();
        while inside.liveness() != seen(Liveness::Dead) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
