//! The first process of a command's namespace: it starts the command and takes in orphans.
//!
//! **Invariant:** it ends when the command does, and with it everything in the namespace.

use std::io;

use rustix::process::{Signal, WaitOptions, WaitStatus, set_parent_process_death_signal, wait};

use super::{
    Doing, Failure, Stage, mounts,
    order::{Ended, Network, Order, Report},
    wire,
};

/// The kernel wants at least so many in a namespace.
const PID_MAX_LEAST: u64 = 301;

/// Runs the stage.
pub(super) fn run() -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing("ask to die with the keeper")?;
    let keeper = wire::standard_input().doing("read the order")?;
    let Some(order) = wire::receive::<Order>(&keeper).doing("read the order")? else { return Ok(()) };
    let report = match prepare(&order).and_then(|()| command(&order)) {
        Ok(report) => report,
        Err(failure) => Report::Failed(failure.to_string()),
    };
    wire::send(&keeper, &report).doing("report")
}

/// Makes the namespace one's own.
fn prepare(order: &Order) -> Result<(), Failure> {
    if order.with.process_view || order.with.held_files {
        mounts::make_own().doing("make mounts of its own")?;
    }
    if order.with.process_view {
        mounts::show_own_processes().doing("mount `/proc`")?;
    }
    if order.with.process_limit {
        limit_processes(order.processes_max).doing("limit processes")?;
    }
    if order.network == Network::Loopback {
        super::probe::loopback_up().doing("bring loopback up")?;
    }
    // The last: what is set above is set in files.
    if order.with.held_files {
        mounts::hold(&order.writable).doing("make what is not its own read-only")?;
    }
    Ok(())
}

/// The kernel's own bound for this namespace: a bomb hits it before the keeper sees it.
pub(super) fn limit_processes(processes_max: u64) -> io::Result<()> {
    if !has_own_bound() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // Room for this process and the one that becomes the command.
    let most = processes_max.saturating_add(4).max(PID_MAX_LEAST);
    std::fs::write("/proc/sys/kernel/pid_max", most.to_string())
}

/// Before Linux 6.14 the same file is the bound of the whole machine.
fn has_own_bound() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|it| it.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(14))
}

/// Starts the command, takes in orphans, and returns when the command has ended.
fn command(order: &Order) -> Result<Report, Failure> {
    let (child, socket) = wire::start(Stage::Enter).doing("start")?;
    wire::send(&socket, order).doing("pass the order on")?;
    // It closes the socket by becoming the command, or says why it can not.
    if let Some(failure) = wire::receive::<Report>(&socket).doing("hear of the command")? {
        return Ok(failure);
    }
    let command = i32::try_from(child.id()).ok();
    loop {
        let ended = wait(WaitOptions::empty()).doing("wait for the command")?;
        if let Some((pid, status)) = ended
            && Some(pid.as_raw_nonzero().get()) == command
        {
            return Ok(Report::Ended(ended_of(status)));
        }
    }
}

pub(super) fn ended_of(status: WaitStatus) -> Ended {
    match status.exit_status() {
        Some(code) => Ended::Code(code),
        None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
    }
}
