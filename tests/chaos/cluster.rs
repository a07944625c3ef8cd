//! The PostgreSQL server that chaos may crash: one that was started for it alone.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// Starts after a crash; shared memory is free again when the last process of the old server has noticed.
const STARTS_MAX: u32 = 60;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(250);

/// A server of our own.
#[derive(Debug)]
pub struct Cluster {
    pg_ctl: PathBuf,
    data: PathBuf,
    user: Option<(u32, u32)>,
    options: String,
    /// One disturbance at a time.
    turn: Mutex<()>,
    restarts: AtomicU64,
    /// Counts crashes and recoveries.
    changes: AtomicU64,
}

impl Cluster {
    /// The server that keeps its files in `data`.
    pub fn new(pg_ctl: PathBuf, data: PathBuf, user: Option<(u32, u32)>, options: String) -> Self {
        Self {
            pg_ctl,
            data,
            user,
            options,
            turn: Mutex::default(),
            restarts: AtomicU64::new(0),
            changes: AtomicU64::new(0),
        }
    }

    /// Restarts so far; each may have lost a call of every run.
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::SeqCst)
    }

    /// Another number after each crash and after each recovery: whoever sees the same one twice had a server in between,
    /// or none all the time.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Whether the server is down at the moment.
    pub fn is_down(&self) -> bool {
        self.changes() % 2 == 1
    }

    /// Stops the server as a crash would, and starts it again.
    pub fn restart(&self) -> io::Result<()> {
        self.crash(|| self.control(&["-m", "immediate", "-w", "-t", "60", "restart"]))
    }

    fn crash(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.restarts.fetch_add(1, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        let done = work();
        self.changes.fetch_add(1, Ordering::SeqCst);
        done
    }

    /// Kills the server, and starts it again after `pause`.
    pub fn kill(&self, pause: Duration) -> io::Result<()> {
        self.crash(|| self.kill_and_start(pause))
    }

    fn kill_and_start(&self, pause: Duration) -> io::Result<()> {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid"))?;
        let pid = file.lines().next().and_then(|line| line.trim().parse().ok());
        let pid = pid.ok_or_else(|| io::Error::other("postmaster.pid has no number"))?;
        signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        thread::sleep(pause);
        let mut last = io::Error::other("it was not tried");
        for _ in 0..STARTS_MAX {
            match self.control(&["-w", "-t", "60", "-o", &self.options, "start"]) {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
            thread::sleep(PAUSE);
        }
        Err(last)
    }

    fn control(&self, arguments: &[&str]) -> io::Result<()> {
        let mut command = Command::new(&self.pg_ctl);
        command.arg("-D").arg(&self.data).arg("-l").arg(self.data.join("server.log")).args(arguments);
        // The caller's directory may be closed to the account.
        command.current_dir(Path::new("/")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let status = command.status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("pg_ctl {arguments:?}: {status}"))) }
    }
}
