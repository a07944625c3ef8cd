//! What of the confinement the kernel offers here, found by trying it.
//!
//! **Invariant:** what is found was done, in a process that ended: a version or a setting alone says nothing.

use std::{fmt, io};

use landlock::{ABI, Access as _, AccessFs, LandlockStatus, Ruleset, RulesetAttr as _};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use serde::{Deserialize, Serialize};

use super::{Doing, Failure, Stage, first, keeper::make_namespaces, mounts, order::Network, seccomp, wire};

/// What the kernel offers to confine commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that a kernel has or has not")]
pub struct Confinement {
    /// The version of Landlock: files.
    pub landlock: Option<u32>,
    /// Filters of system calls: sockets, and what reaches the machine.
    pub seccomp: bool,
    /// Namespaces of users, processes and networks: an end that nothing survives, and a network of one's own.
    pub namespaces: bool,
    /// A view of the own processes only.
    pub process_view: bool,
    /// Mounts that are read-only but where a command may write: modes, owners and times, which Landlock does not guard.
    pub held_files: bool,
    /// A bound of processes that the kernel keeps for each namespace.
    pub process_limit: bool,
    /// A loopback of its own.
    pub loopback: bool,
}

impl Confinement {
    /// What is missing for a command that is to be confined; empty when nothing is.
    pub fn missing(&self, network: Network) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if self.landlock.is_none() {
            missing.push("Landlock (files)");
        }
        if !self.namespaces {
            missing.push("namespaces (processes)");
        }
        if !self.held_files {
            missing.push("read-only mounts (modes and owners of files)");
        }
        if !self.seccomp {
            missing.push("seccomp (sockets)");
        }
        if network == Network::Loopback && !self.loopback {
            missing.push("a network namespace (loopback)");
        }
        missing
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.landlock {
            Some(version) => write!(out, "Landlock {version}")?,
            None => out.write_str("no Landlock")?,
        }
        let word = |has: bool| if has { "" } else { "no " };
        write!(out, ", {}seccomp, {}namespaces", word(self.seccomp), word(self.namespaces))
    }
}

/// Runs the stage: tries everything, and says what worked.
pub(super) fn run() -> Result<(), Failure> {
    let crewline = wire::standard_input().doing("answer")?;
    let mut found = inside().unwrap_or_default();
    found.landlock = landlock();
    // This is the last: from here on this process may do little.
    found.seccomp = rustix::thread::set_no_new_privs(true).is_ok() && seccomp::apply(Network::None).is_ok();
    wire::send(&crewline, &found).doing("answer")
}

/// The version of Landlock that was put in force on this very process; `None` below the one that also guards how files are cut.
fn landlock() -> Option<u32> {
    const LEAST: u32 = 3;
    let rules = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1)).ok()?.create().ok()?;
    let LandlockStatus::Available { effective_abi, .. } = rules.restrict_self().ok()?.landlock else { return None };
    let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9];
    let version = u32::try_from(known.iter().position(|it| *it == effective_abi)? + 1).ok()?;
    (version >= LEAST).then_some(version)
}

/// What works in namespaces; `None` when there are none.
fn inside() -> Option<Confinement> {
    make_namespaces(Network::None).ok()?;
    let (mut child, socket) = wire::start(Stage::ProbeInside).ok()?;
    let found = wire::receive(&socket).ok()?;
    child.wait().ok()?;
    found
}

/// Runs the stage: what works inside.
pub(super) fn run_inside() -> Result<(), Failure> {
    let above = wire::standard_input().doing("answer")?;
    let has_mounts = mounts::make_own().is_ok();
    let found = Confinement {
        namespaces: true,
        process_view: has_mounts && mounts::show_own_processes().is_ok(),
        process_limit: first::limit_processes(0).is_ok(),
        loopback: loopback_up().is_ok(),
        held_files: has_mounts && mounts::hold(&[]).is_ok(),
        ..Confinement::default()
    };
    wire::send(&above, &found).doing("answer")
}

/// Brings up loopback in a network namespace of one's own: `RTM_NEWLINK` for interface 1 (rtnetlink(7)).
pub(super) fn loopback_up() -> io::Result<()> {
    const NEWLINK: u16 = 16;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    const UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32_u32.to_ne_bytes());
    message.extend(NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    // Sequence and sender.
    message.extend([0; 8]);
    // Family, padding and type; then the interface, its flags and which of them are meant.
    message.extend([0; 4]);
    message.extend(1_i32.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    message.extend(UP.to_ne_bytes());
    // No protocol is rtnetlink.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &message, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer, RecvFlags::empty())?;
    // An error of zero is the acknowledgement.
    match answer.get(16..20).filter(|_| length >= 20) {
        Some([0, 0, 0, 0]) => Ok(()),
        _ => Err(io::Error::other("the kernel does not bring loopback up")),
    }
}
