//! Finds processes by the tags in their environment, which children inherit and which a
//! change of process group or session does not remove.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use crate::target::local::folders::Folders;

/// Every process of a target carries it; the value is the target's folder.
pub(super) const TARGET_TAG: &str = "PIPELINE_DEPLOY_TARGET";
/// Every process of one supervisor carries it; the value is unique.
pub(super) const SUPERVISOR_TAG: &str = "PIPELINE_DEPLOY_SUPERVISOR";
/// One spawned process and its descendants carry it; the value is unique.
pub(super) const PROCESS_TAG: &str = "PIPELINE_DEPLOY_PROCESS";

/// Ends what a supervisor that was killed left running.
///
/// The caller holds the supervisor's lock, so everything that is found is left over.
pub(in crate::target::local) async fn end_orphans(folders: &Folders) {
    // A program may have overwritten the place of its environment, so groups whose leader
    // is recorded and still the same process are ended as well.
    for (leader, start) in recorded(folders) {
        if start_time(leader).as_deref() == Some(start.as_str()) {
            let _ = kill_process_group(leader, Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(3);
            while start_time(leader).as_deref() == Some(start.as_str()) {
                if Instant::now() > deadline {
                    let _ = kill_process_group(leader, Signal::KILL);
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        let _ = fs::remove_file(folders.processes().join(pid_text(leader)));
    }
    let tag = tag(TARGET_TAG, &folders.root().to_string_lossy());
    end_tagged(&tag, Duration::from_secs(3)).await;
}

/// Ends what this supervisor started and what is still running. Its successor's processes
/// carry the same target's tag and are left alone.
pub(super) async fn end_own() {
    end_tagged(&tag(SUPERVISOR_TAG, &own_name()), Duration::from_secs(3)).await;
}

/// This process's number and start time: unique for ever.
pub(super) fn own_name() -> String {
    let pid = rustix::process::getpid();
    format!("{}-{}", pid_text(pid), start_time(pid).unwrap_or_default())
}

/// Waits until a process that is about to end has ended.
pub(in crate::target::local) async fn process_gone(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    while start_time(pid).is_some() && Instant::now() < deadline {
        sleep(Duration::from_millis(2)).await;
    }
}

/// Ends all processes with a tag: politely, and by force after `grace`.
pub(super) async fn end_tagged(tag: &[u8], grace: Duration) {
    let deadline = Instant::now() + grace;
    let mut asked = Vec::new();
    loop {
        let found = tagged(tag);
        if found.is_empty() {
            return;
        }
        for pid in found {
            if Instant::now() >= deadline {
                signal(pid, tag, Signal::KILL);
            } else if !asked.contains(&pid) {
                asked.push(pid);
                signal(pid, tag, Signal::TERM);
            }
        }
        // One that cannot be killed (in the kernel, or somebody else's) must not hold us.
        if Instant::now() > deadline + Duration::from_secs(5) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// The text of a tag as it stands in an environment.
pub(super) fn tag(name: &str, value: &str) -> Vec<u8> {
    format!("{name}={value}").into_bytes()
}

/// Remembers a group leader for [`end_orphans`].
pub(super) fn record(folders: &Folders, leader: Pid) {
    if let Some(start) = start_time(leader) {
        let _ = fs::write(folders.processes().join(pid_text(leader)), start);
    }
}

pub(super) fn forget(folders: &Folders, leader: Pid) {
    let _ = fs::remove_file(folders.processes().join(pid_text(leader)));
}

fn recorded(folders: &Folders) -> Vec<(Pid, String)> {
    let Ok(entries) = fs::read_dir(folders.processes()) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let start = fs::read_to_string(entry.path()).ok()?;
            Some((Pid::from_raw(pid)?, start))
        })
        .collect()
}

fn pid_text(pid: Pid) -> String {
    pid.as_raw_nonzero().to_string()
}

/// When a living process started, in the kernel's ticks; with the number it names a process
/// for ever. `None` for zombies: they are over.
fn start_time(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid_text(pid))).ok()?;
    // The name in parentheses may hold anything, so count from the last parenthesis: state
    // is the first field after it, the start time the twentieth.
    let fields: Vec<_> = stat
        .get(stat.rfind(')')? + 1..)?
        .split_whitespace()
        .collect();
    match fields.first() {
        Some(&("Z" | "X")) | None => None,
        Some(_) => fields.get(19).map(|start| (*start).to_owned()),
    }
}

fn tagged(tag: &[u8]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = rustix::process::getpid();
    entries
        .flatten()
        .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .filter(|pid| *pid != own && carries(*pid, tag))
        .collect()
}

fn carries(pid: Pid, tag: &[u8]) -> bool {
    // Processes that end meanwhile and those of other users read as nothing.
    fs::read(format!("/proc/{}/environ", pid_text(pid)))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == tag))
}

fn signal(pid: Pid, tag: &[u8], signal: Signal) {
    // The descriptor pins the process: a number that is reused meanwhile is not hit.
    if let Ok(pinned) = pidfd_open(pid, PidfdFlags::empty())
        && carries(pid, tag)
    {
        let _ = pidfd_send_signal(pinned, signal);
    }
}
