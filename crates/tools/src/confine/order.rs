//! What a command may do, and how it ended: the words between crewline and its helper.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// A command, and all that holds for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The program's file.
    pub(crate) program: PathBuf,
    /// What it is called with.
    pub(crate) args: Vec<OsString>,
    /// Where it starts.
    pub(crate) dir: PathBuf,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Files and directories it may read and run.
    pub(crate) readable: Vec<PathBuf>,
    /// Directories it may change.
    pub(crate) writable: Vec<PathBuf>,
    /// What it may reach.
    pub(crate) network: Network,
    /// How long it may take.
    pub(crate) time_max: Duration,
    /// Seconds of CPU of each process.
    pub(crate) cpu_seconds_max: u64,
    /// Bytes of memory of all processes.
    pub(crate) memory_bytes_max: u64,
    /// Processes and threads.
    pub(crate) processes_max: u64,
    /// Bytes of a file it writes.
    pub(crate) file_bytes_max: u64,
    /// What of the kernel is to be used; all of it must work.
    pub(crate) with: super::Confinement,
}

/// What a command may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing, not even itself.
    #[default]
    None,
    /// Itself: servers that it starts and asks on 127.0.0.1. Nothing of this machine.
    Loopback,
    /// All that this machine reaches.
    Host,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// It ran.
    Ended(Ended),
    /// It was stopped at a limit.
    Stopped(Limit),
    /// It never started.
    Failed(String),
}

/// How a command ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// A limit of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// It took too long.
    Time,
    /// It had too many processes and threads.
    Processes,
    /// Its processes took too much memory.
    Memory,
    /// It wrote too much.
    Output,
}
