//! What a process uses, as the kernel tells it, and the table of what was measured.

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

/// This program again, as a child that does `words` only.
pub fn own(words: &[String]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it has a path"));
    command.arg("child").args(words);
    command
}

/// A field of `/proc/<pid>/status` in MiB; none when the process is gone.
pub fn status_mib(child: &Child, field: &str) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Ends a process with what it started, when a benchmark ends early, too.
pub struct Running(pub Child);

impl Running {
    pub fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One figure, measured some times.
pub struct Figure {
    what: String,
    unit: &'static str,
    target: &'static str,
    values: Vec<f64>,
    /// The same of the floor, measured in between.
    floor: Vec<f64>,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, target: &'static str, values: Vec<f64>) -> Self {
        Self { what: what.into(), unit, target, values, floor: Vec::new() }
    }

    pub fn over(self, floor: Vec<f64>) -> Self {
        Self { floor, ..self }
    }
}

/// Prints what was measured as one table, in Markdown.
#[expect(clippy::print_stdout, reason = "a benchmark's result is its output")]
pub fn print(figures: &[Figure]) {
    println!("| work | target | min | median | floor, median | ratio of medians |");
    println!("|---|---|---|---|---|---|");
    for figure in figures {
        let (least, middle) = (min(&figure.values), median(&figure.values));
        let number = |value: f64| match value.abs() {
            size if size >= 100.0 => format!("{value:.0} {}", figure.unit),
            size if size >= 10.0 => format!("{value:.1} {}", figure.unit),
            _ => format!("{value:.3} {}", figure.unit),
        };
        let (floor, ratio) = if figure.floor.is_empty() {
            (String::new(), String::new())
        } else {
            let floor = median(&figure.floor);
            (number(floor), format!("{:.1}", middle / floor))
        };
        let Figure { what, target, .. } = figure;
        println!("| {what} | {target} | {} | {} | {floor} | {ratio} |", number(least), number(middle));
    }
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
