//! What a process uses, as the kernel tells it.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::resource::{UsageWho, getrusage};

/// What one process used from its start to its end.
pub struct Used {
    /// User and system time of all its threads.
    pub cpu: Duration,
    /// From its start to its end.
    pub wall: Duration,
    /// The most memory it held.
    pub peak_mib: f64,
}

/// User and system time of all children that have ended.
fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the system tells");
    let time = |it: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(it.tv_sec() * 1_000_000 + it.tv_usec()).unwrap_or_default())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// Runs `command` to its end, watching its peak memory in `/proc`.
pub fn measure(command: &mut Command) -> Used {
    let before = children_cpu();
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
    let mut peak_mib = 0.0_f64;
    let status = loop {
        peak_mib = peak_mib.max(status_mib(&child, "VmHWM:").unwrap_or(0.0));
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "the program failed: {status}");
    Used { cpu: children_cpu().saturating_sub(before), wall: start.elapsed(), peak_mib }
}

/// A field of `/proc/<pid>/status` in MiB; none when the process is gone.
pub fn status_mib(child: &Child, field: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
