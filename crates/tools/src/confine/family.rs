//! The processes a command has started, found from the outside.

use std::{collections::HashMap, fs, process};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// All that a family takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Usage {
    /// Processes and threads.
    pub(super) processes: u64,
    /// Bytes in memory; what processes share counts for each of them.
    pub(super) memory_bytes: u64,
}

/// What all descendants of this process take.
pub(super) fn usage() -> Usage {
    let page = rustix::param::page_size() as u64;
    let mut all = Usage::default();
    for pid in descendants() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let resident = fs::read_to_string(format!("/proc/{pid}/statm")).ok();
        let resident = resident.and_then(|it| it.split(' ').nth(1)?.parse::<u64>().ok());
        all.processes += threads as u64;
        all.memory_bytes += resident.unwrap_or(0) * page;
    }
    all
}

/// Kills all descendants of this process, until there are none.
///
/// Only right in a process that takes in orphans: then no descendant can hide, and one that is killed starts no other.
pub(super) fn kill_all() {
    loop {
        for pid in descendants() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        // Those that are dead are taken away, so that they are not found again; without children there is nothing left.
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}

/// All descendants of this process.
///
/// Not every kernel lists the children of a process, so all processes are asked for their parent.
fn descendants() -> Vec<i32> {
    let mut found = Vec::new();
    let (Ok(own), Ok(processes)) = (i32::try_from(process::id()), fs::read_dir("/proc")) else { return found };
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|it| it.parse().ok()) else { continue };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut ahead = vec![own];
    while let Some(pid) = ahead.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(&below);
        ahead.extend(below);
    }
    found
}

/// The parent of a process: the second word behind its name, which may have anything in it but ends at the last bracket.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|it| *it == b')')?;
    str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().nth(1)?.parse().ok()
}
