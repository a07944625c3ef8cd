//! The processes a command has started, found from the outside.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::MetadataExt as _,
    process,
};

use rustix::process::{Pid, Signal, WaitOptions, geteuid, getpgrp, kill_process, kill_process_group, wait};

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
    for Member { pid, .. } in descendants() {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let resident = fs::read_to_string(format!("/proc/{pid}/statm")).ok();
        let resident = resident.and_then(|it| it.split(' ').nth(1)?.parse::<u64>().ok());
        all.processes += threads as u64;
        all.memory_bytes += resident.unwrap_or(0) * page;
    }
    all
}

/// How many processes and threads the user of this process has.
pub(super) fn threads_of_user() -> u64 {
    let own = geteuid().as_raw();
    let Ok(processes) = fs::read_dir("/proc") else { return 0 };
    let processes = processes.flatten().filter(|it| it.metadata().is_ok_and(|it| it.uid() == own));
    processes.map(|it| fs::read_dir(it.path().join("task")).map_or(0, Iterator::count) as u64).sum()
}

/// Kills all descendants of this process, until there are none.
///
/// Whole process groups first: the kernel signals a group at once, so that a bomb, which starts processes faster than they are
/// found one by one, can not run ahead.
///
/// Only right in a process that takes in orphans: then no descendant can hide, and one that is killed starts no other.
pub(super) fn kill_all() {
    let own = getpgrp().as_raw_nonzero().get();
    loop {
        let found = descendants();
        let groups: BTreeSet<i32> = found.iter().map(|it| it.group).filter(|it| *it != own).collect();
        for group in groups.into_iter().filter_map(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        for pid in found.into_iter().filter_map(|it| Pid::from_raw(it.pid)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        // Those that are dead are taken away, so that they are not found again; without children there is nothing left.
        if wait(WaitOptions::empty()).is_err() {
            return;
        }
        while matches!(wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}

/// A process that a command has started.
#[derive(Debug, Clone, Copy)]
struct Member {
    pid: i32,
    group: i32,
}

/// All descendants of this process.
///
/// Not every kernel lists the children of a process, so all processes are asked for their parent.
fn descendants() -> Vec<Member> {
    let mut found = Vec::new();
    let (Ok(own), Ok(processes)) = (i32::try_from(process::id()), fs::read_dir("/proc")) else { return found };
    let mut children: HashMap<i32, Vec<Member>> = HashMap::new();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|it| it.parse().ok()) else { continue };
        if let Some((parent, group)) = kin(pid) {
            children.entry(parent).or_default().push(Member { pid, group });
        }
    }
    let mut ahead = vec![own];
    while let Some(pid) = ahead.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        ahead.extend(below.iter().map(|it| it.pid));
        found.extend(below);
    }
    found
}

/// The parent and the group of a process: the second and the third word behind its name, which may have anything in it but ends
/// at the last bracket.
fn kin(pid: i32) -> Option<(i32, i32)> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|it| *it == b')')?;
    let mut words = str::from_utf8(&stat[end + 1..]).ok()?.split_whitespace().skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}
