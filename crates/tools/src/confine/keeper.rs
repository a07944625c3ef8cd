//! The process between crewline and a command: it makes the namespaces, watches, and ends everything.
//!
//! **Invariant:** it waits for nothing without a limit but its order.
//! **Invariant:** crewline closing the socket ends the command.

use std::{
    io,
    os::unix::net::UnixStream,
    process::Child,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitOptions, getegid, geteuid, getpid, set_child_subreaper, setpriority_process, setsid, wait},
};

use super::{
    Doing, Failure, Stage, family,
    first::ended_of,
    order::{Ended, Limit, Network, Order, Report},
    wire,
};

/// Between two looks at what a command takes, at least.
const TICK: Duration = Duration::from_millis(25);
/// Of the keeper, in steps of `nice`.
const PRIORITY: i32 = -10;
/// A look may take this part of the time: one in so many.
const LOOK_SHARE: u32 = 20;

/// Runs the stage.
pub(super) fn run() -> Result<(), Failure> {
    let crewline = wire::standard_input().doing("read the order")?;
    let Some(order) = wire::receive::<Order>(&crewline).doing("read the order")? else { return Ok(()) };
    // Signals of crewline's terminal are crewline's.
    let _ = setsid();
    let report = keep(&order, &crewline).unwrap_or_else(|failure| Report::Failed(failure.to_string()));
    wire::send(&crewline, &report).doing("report")
}

fn keep(order: &Order, crewline: &UnixStream) -> Result<Report, Failure> {
    let stage = if order.with.namespaces {
        make_namespaces(order.network).doing("make namespaces")?;
        Stage::First
    } else {
        set_child_subreaper(Some(getpid())).doing("take in orphans")?;
        Stage::Enter
    };
    let (child, socket) = wire::start(stage).doing("start")?;
    // Where it may, it goes before what it watches: a thousand processes must not keep it from the processor.
    let _ = setpriority_process(None, PRIORITY);
    wire::send(&socket, order).doing("pass the order on")?;
    let mut watch = Watch { order, crewline, socket, child, started: Instant::now(), tick: TICK };
    let report = watch.until_it_ends(stage);
    watch.end(stage);
    report
}

/// New namespaces for what this process starts; the same user inside as outside.
pub(super) fn make_namespaces(network: Network) -> io::Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let mut flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC;
    if network != Network::Host {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

struct Watch<'a> {
    order: &'a Order,
    crewline: &'a UnixStream,
    /// The stage below; it says how it went.
    socket: UnixStream,
    child: Child,
    started: Instant,
    tick: Duration,
}

impl Watch<'_> {
    fn until_it_ends(&mut self, stage: Stage) -> Result<Report, Failure> {
        let mut is_heard = false;
        loop {
            let mut sockets = vec![PollFd::new(self.crewline, PollFlags::IN)];
            if !is_heard {
                sockets.push(PollFd::new(&self.socket, PollFlags::IN));
            }
            match poll(&mut sockets, Some(&timespec(self.tick))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Failure::new("wait", error)),
            }
            let is_ready = |at: usize| sockets.get(at).is_some_and(|it| !it.revents().is_empty());
            let (is_left, has_news) = (is_ready(0), is_ready(1));
            if is_left {
                // Crewline has nothing more to say: it is gone, or has given up.
                return Ok(Report::Stopped(Limit::Time));
            }
            if has_news {
                is_heard = true;
                if let Some(report) = wire::receive::<Report>(&self.socket).doing("hear of the command")? {
                    return Ok(report);
                }
                if stage == Stage::First {
                    return Ok(Report::Failed("its first process was killed".to_owned()));
                }
            }
            if stage == Stage::Enter
                && is_heard
                && let Some(ended) = self.take_in()
            {
                return Ok(Report::Ended(ended));
            }
            if let Some(limit) = self.limit_reached() {
                return Ok(Report::Stopped(limit));
            }
        }
    }

    /// Takes away orphans that have ended, and says how the command did.
    fn take_in(&self) -> Option<Ended> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if u32::try_from(pid.as_raw_nonzero().get()) == Ok(self.child.id()) {
                return Some(ended_of(status));
            }
        }
        None
    }

    fn limit_reached(&mut self) -> Option<Limit> {
        if self.started.elapsed() >= self.order.time_max {
            return Some(Limit::Time);
        }
        let looked = Instant::now();
        let usage = family::usage();
        self.tick = TICK.max(looked.elapsed() * LOOK_SHARE);
        // The stages themselves are two processes at most.
        if usage.processes > self.order.processes_max.saturating_add(2) {
            Some(Limit::Processes)
        } else if usage.memory_bytes > self.order.memory_bytes_max {
            Some(Limit::Memory)
        } else {
            None
        }
    }

    /// Ends whatever is left, and returns when it is gone.
    fn end(&mut self, stage: Stage) {
        if stage == Stage::First {
            // The kernel kills the whole namespace before it lets its first process go.
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            family::kill_all();
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: i64::from(time.subsec_nanos()) }
}
