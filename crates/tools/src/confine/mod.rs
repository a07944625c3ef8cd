//! The confinement of commands: the processes between crewline and a command, all of them this same program.
//!
//! ```text
//! crewline ─ keeper ─ first ─ command ─ …
//! ```
//!
//! The *keeper* gets an [`Order`] on its standard input, makes namespaces where the kernel offers them, and watches: time,
//! processes, memory, and whether crewline still lives. The *first* process of the namespace takes in orphans; when it ends, the
//! kernel kills whatever is left, in whatever session. A last process gives up its rights (limits, capabilities, Landlock, seccomp)
//! and becomes the command. Where there are no namespaces, the keeper itself takes in orphans and kills them.
//!
//! Commands before threads: each of these is small, has no async runtime, and needs no `unsafe` between fork and exec.
//!
//! **Invariant:** when the keeper ends, however it ends, so does everything the command started.
//! **Invariant:** a command starts only with all that its order asks for in force; otherwise the keeper says what failed.

mod enter;
mod family;
mod first;
mod keeper;
mod mounts;
mod order;
mod probe;
mod seccomp;
mod wire;

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Write as _},
    os::fd::RawFd,
};

use nix::unistd::close;
pub use order::Network;
pub(crate) use order::{Ended, Limit, Order, Report};
pub use probe::Confinement;

/// The hidden subcommand of the helper.
pub const CONFINE_COMMAND: &str = "confine";
/// The exit code of a helper that can not do its work.
const FAILED: i32 = 125;
/// Standard error: what is open beyond is not meant for a helper.
const STREAM_LAST: RawFd = 2;

/// The part that a process of the helper plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Stands between crewline and the rest.
    Keeper,
    /// The first process of a namespace.
    First,
    /// Becomes the command.
    Enter,
    /// Finds out what the kernel offers.
    Probe,
    /// The same, from inside.
    ProbeInside,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Keeper, Self::First, Self::Enter, Self::Probe, Self::ProbeInside];

    fn as_str(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::First => "first",
            Self::Enter => "enter",
            Self::Probe => "probe",
            Self::ProbeInside => "probe-inside",
        }
    }
}

/// The hidden subcommand `confine STAGE`. Takes the words behind it; blocks; returns the exit code for the process.
pub fn confine_main(args: &[OsString]) -> i32 {
    close_inherited();
    let stage = match args {
        [name] => Stage::ALL.into_iter().find(|it| Some(it.as_str()) == name.to_str()),
        _ => None,
    };
    let done = match stage {
        Some(Stage::Keeper) => keeper::run(),
        Some(Stage::First) => first::run(),
        Some(Stage::Enter) => enter::run(),
        Some(Stage::Probe) => probe::run(),
        Some(Stage::ProbeInside) => probe::run_inside(),
        None => Err(Failure::new("start", io::Error::other("this is for crewline itself"))),
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            // Whoever waits for us has been told on the wire; this is for who is not.
            let _ = writeln!(io::stderr(), "error: {failure}");
            FAILED
        }
    }
}

/// Closes what whoever started crewline left open for its children: a command would have it, whatever it may open itself.
fn close_inherited() {
    let Ok(open) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> = open.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok()).collect();
    for file in open.into_iter().filter(|file| *file > STREAM_LAST) {
        // The list was a file itself, and is closed already.
        let _ = close(file);
    }
}

/// What could not be done.
#[derive(Debug)]
struct Failure {
    what: &'static str,
    source: io::Error,
}

impl Failure {
    fn new(what: &'static str, source: impl Into<io::Error>) -> Self {
        Self { what, source: source.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "cannot {}: {}", self.what, self.source)
    }
}

/// Names what could not be done.
trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure::new(what, source))
    }
}
