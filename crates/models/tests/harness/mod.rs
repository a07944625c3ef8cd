//! A harness for tests that are several programs in one: it runs those that are named, as the usual one would, and knows processes.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A test: a name, and what is done in a folder of its own.
pub type Test = (&'static str, fn(PathBuf));

/// Tests by their names: functions that take a folder and wait.
#[macro_export]
macro_rules! all {
    ($($name:ident)*) => { &[$((stringify!($name), |folder: PathBuf| $crate::harness::wait_for($name(&folder)))),*] };
}

/// Whether programs are started below a guard.
#[derive(Clone, Copy)]
pub enum Guard {
    Yes,
    No,
}

impl Guard {
    /// The guard's program: this one.
    pub fn program(self) -> Option<PathBuf> {
        match self {
            Self::Yes => Some(std::env::current_exe().unwrap()),
            Self::No => None,
        }
    }
}

/// The word that says which program this is, and what follows it.
pub fn word() -> (String, Vec<OsString>) {
    let mut args = std::env::args_os().skip(1);
    let word = args.next().and_then(|it| it.into_string().ok()).unwrap_or_default();
    (word, args.collect())
}

/// Waits for a test on an executor of its own.
pub fn wait_for(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// Runs the tests whose names hold the first word of the command line, or lists them.
pub fn run(all: &[Test]) {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let has = |flag: &str| args.iter().any(|it| it == flag);
    // None of them is ignored.
    if has("--ignored") {
        return;
    }
    if has("--list") {
        for (name, _) in all {
            println!("{name}: test");
        }
        return;
    }
    let filter = args.iter().filter_map(|it| it.to_str()).find(|it| !it.starts_with('-'));
    let fits = |name: &str| filter.is_none_or(|it| if has("--exact") { name == it } else { name.contains(it) });
    for (name, test) in all.iter().filter(|it| fits(it.0)) {
        let folder = tempfile::tempdir().unwrap();
        test(folder.path().to_owned());
        println!("test {name} ... ok");
    }
}

/// Whether a process runs. One that nobody reaps does not: orphans of a test may wait for an init that never does.
pub fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = state.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z');
    test_kill_process(Pid::from_raw(pid).unwrap()).is_ok() && !is_zombie
}

/// Waits until a process is gone.
pub fn gone(pid: i32) {
    let started = Instant::now();
    while is_alive(pid) {
        assert!(started.elapsed() < Duration::from_secs(30), "{pid} is an orphan");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Kills a process, without a word.
pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Starts this program as a crewline that will be killed; the answer has what its first line says.
pub fn own(folder: &Path) -> (std::process::Child, i32) {
    use std::io::BufRead as _;
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.arg("own").arg(folder).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = line.trim().parse().unwrap();
    (child, pid)
}
