//! The process that gives up its rights and becomes the command.
//!
//! Landlock and seccomp hold for all that the command starts, whatever it is. Both need no rights of their own.
//!
//! **Invariant:** nothing that was opened before is left open: the command has its own three streams only.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope, path_beneath_rules,
};
use rustix::{
    process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit, setsid},
    thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

use super::{
    Doing, Failure, family,
    order::{Order, Report},
    seccomp, wire,
};

/// What programs need of this machine to run at all: libraries, their settings, certificates. Nothing with a key in it.
const SYSTEM: [&str; 35] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
    "/etc/alternatives",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/login.defs",
    "/etc/machine-id",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
];
/// Devices that every program may use.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// The newest rules we have tried.
const RULES: ABI = ABI::V6;

/// Runs the stage; returns only when the command can not be started.
pub(super) fn run() -> Result<(), Failure> {
    let above = wire::standard_input().doing("read the order")?;
    let Some(order) = wire::receive::<Order>(&above).doing("read the order")? else { return Ok(()) };
    let failure = match become_command(&order) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    wire::send(&above, &Report::Failed(failure.to_string())).doing("report")
}

fn become_command(order: &Order) -> Result<std::convert::Infallible, Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).doing("ask to die with its parent")?;
    setsid().doing("make a session")?;
    let mut command = Command::new(&order.program);
    command
        .args(&order.args)
        .env_clear()
        .envs(order.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&order.dir)
        .stdin(Stdio::null());
    limit(order).doing("set limits")?;
    drop_capabilities().doing("give up capabilities")?;
    set_no_new_privs(true).doing("give up new rights")?;
    if order.with.landlock.is_some() {
        restrict_files(order).map_err(|error| Failure::new("restrict files", io::Error::other(error.to_string())))?;
    }
    if order.with.seccomp {
        seccomp::apply(order.network).doing("restrict system calls")?;
    }
    Err(Failure::new("run the program", command.exec()))
}

fn limit(order: &Order) -> rustix::io::Result<()> {
    // Outside of a namespace of its own, all processes of the user count.
    let others = if order.with.namespaces { 0 } else { family::threads_of_user() };
    let limits = [
        (Resource::Core, 0),
        (Resource::Cpu, order.cpu_seconds_max),
        (Resource::Data, order.memory_bytes_max),
        (Resource::Fsize, order.file_bytes_max),
        (Resource::Nofile, 1024),
        (Resource::Nproc, order.processes_max.saturating_add(others)),
    ];
    for (resource, most) in limits {
        // What the machine allows less of stays so.
        let most = getrlimit(resource).maximum.map_or(most, |it| it.min(most));
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
    }
    Ok(())
}

/// Capabilities are those of its own namespace, or none; without them even these are gone.
fn drop_capabilities() -> rustix::io::Result<()> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // Bits the kernel does not know are an error, and no loss; without rights there is nothing to remove.
        let _ = remove_capability_from_bounding_set(one);
    }
    let _ = clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

fn restrict_files(order: &Order) -> Result<(), Box<dyn std::error::Error>> {
    let all = AccessFs::from_all(RULES);
    let read = AccessFs::from_read(RULES);
    let device = read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    // What it starts may signal and trace itself only, whatever namespaces there are.
    let scope = Scope::from_all(RULES);
    let mut readable: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    readable.extend(order.readable.iter().cloned());
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(readable, read))?
        .add_rules(path_beneath_rules(DEVICES, device))?
        .add_rules(path_beneath_rules(&order.writable, all))?
        .restrict_self()?;
    match status.ruleset {
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        RulesetStatus::NotEnforced => Err("the kernel does not enforce it".into()),
    }
}
