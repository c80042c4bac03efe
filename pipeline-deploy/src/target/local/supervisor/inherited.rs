//! What a supervisor must not keep of the program that started it.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const CLOSE_ON_EXEC: u32 = 0o2_000_000;

/// Closes descriptors that the starting program had left open for its children.
///
/// A lock file or a pipe of a shell would otherwise be held as long as the site is up:
/// `flock lock deploy` would never give the lock back. Everything that this process opened
/// itself closes on exec, which tells the two apart.
pub(super) fn close_descriptors() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        if flags(number).is_some_and(|flags| flags & CLOSE_ON_EXEC == 0) {
            let _ = nix::unistd::close(number);
        }
    }
}

fn flags(number: i32) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
    u32::from_str_radix(flags.trim(), 8).ok()
}

/// Allows as many open files as the system lets us: a relayed connection takes two. Gives
/// the number.
pub(super) fn raise_file_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // More than this is never used; some programs walk through all possible numbers.
    const ENOUGH: u64 = 16 * 1024;
    let wanted = maximum.unwrap_or(ENOUGH).min(ENOUGH);
    let had = current.unwrap_or(ENOUGH);
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    if wanted > had && setrlimit(Resource::Nofile, raised).is_ok() {
        wanted
    } else {
        had
    }
}
