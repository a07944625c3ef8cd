//! The binary `crewline` in a directory of its own: runs it, reads its exit code, its events and its files.
//!
//! **Invariant:** nothing of the developer's machine leaks in: the environment is empty but for `PATH`, and home,
//! configuration and data are inside the directory, which is removed at the end unless it is kept.
//! **Invariant:** a program that does not end is killed after [`TestApp::LIMIT`], and one whose test ends before it, with the test.

use std::{
    ffi::OsStr,
    io::Read as _,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::StubServer;

/// A directory for one test, and the binary to run in it.
#[derive(Debug)]
pub struct TestApp {
    binary: PathBuf,
    dir: TempDir,
}

/// A program that was started. A test that fails leaves none behind: it is killed when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl From<Child> for Running {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already as a rule, and then nobody is killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its data.
    pub stdout: String,
    /// Its progress, hints and logs.
    pub stderr: String,
    /// From its start to its end.
    pub elapsed: Duration,
}

impl Finished {
    /// The events of `-o jsonl`; a line that is no JSON is a failure of the test.
    ///
    /// # Panics
    /// When a line is not JSON.
    #[expect(clippy::panic, reason = "a helper of tests, which end here")]
    pub fn events(&self) -> Vec<Value> {
        let parse = |line: &str| match serde_json::from_str(line) {
            Ok(event) => event,
            Err(error) => panic!("stdout has a line that is no event: {error}\n{line}\n--- stderr\n{}", self.stderr),
        };
        self.stdout.lines().map(parse).collect()
    }

    /// The events of one type.
    pub fn events_of(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["type"] == kind).collect()
    }

    /// Fails the test with all output unless the exit code is `code`.
    ///
    /// # Panics
    /// When it is another.
    pub fn expect_code(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "the exit code is wrong\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }
}

impl TestApp {
    /// The longest a program may run.
    pub const LIMIT: Duration = Duration::from_mins(2);

    /// Uses this binary; integration tests of the binary's package pass `env!("CARGO_BIN_EXE_crewline")`.
    ///
    /// # Panics
    /// When no directory can be made.
    #[expect(clippy::panic, reason = "a helper of tests, which end here")]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        match tempfile::Builder::new().prefix("crewline-test-").tempdir() {
            Ok(dir) => Self { binary: binary.into(), dir },
            Err(error) => panic!("no directory for the test: {error}"),
        }
    }

    /// Looks for the binary where cargo puts it: beside the running test. `None` when it is not built.
    pub fn locate() -> Option<Self> {
        let test = std::env::current_exe().ok()?;
        let name = format!("crewline{}", std::env::consts::EXE_SUFFIX);
        let binary = test.ancestors().skip(1).take(2).map(|dir| dir.join(&name)).find(|path| path.is_file())?;
        Some(Self::new(binary))
    }

    /// The directory of this test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Keeps the directory, for whoever looks for the cause of a failure.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    /// A path inside the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file inside the directory.
    ///
    /// # Panics
    /// When it cannot be written.
    #[expect(clippy::panic, reason = "a helper of tests, which end here")]
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let parent = path.parent().unwrap_or(self.dir());
        match std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text)) {
            Ok(()) => path,
            Err(error) => panic!("cannot write `{}`: {error}", path.display()),
        }
    }

    /// Writes `crewline.yaml` for the server and returns its path.
    pub fn registry(&self, server: &StubServer) -> PathBuf {
        self.write("crewline.yaml", &server.registry())
    }

    /// The binary with a clean environment; its data directory is `data` in this directory.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().current_dir(self.dir()).args(arguments).stdin(Stdio::null());
        command.envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        let data = self.path("data");
        command.env("HOME", self.dir()).env("CREWLINE_DATA_DIR", &data).env("NO_COLOR", "1");
        for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
            command.env(name, self.path(&name.to_ascii_lowercase()));
        }
        command
    }

    /// Runs the binary to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        finish(self.spawn(arguments), Self::LIMIT)
    }

    /// Starts the binary; [`finish`] waits for it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[expect(clippy::panic, reason = "a helper of tests, which end here")]
    pub fn spawn<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => child.into(),
            Err(error) => panic!("cannot start `{}`: {error}", self.binary.display()),
        }
    }
}

/// Waits for a program started with [`TestApp::spawn`] and collects its output; kills it after `limit`.
pub fn finish(child: impl Into<Running>, limit: Duration) -> Finished {
    let mut child = child.into();
    let started = Instant::now();
    let collect = |mut pipe: Box<dyn std::io::Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What came before an error is worth showing.
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = child.stdout.take().map(|pipe| collect(Box::new(pipe)));
    let stderr = child.stderr.take().map(|pipe| collect(Box::new(pipe)));
    let code = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status.code(),
            Ok(None) if started.elapsed() < limit => thread::sleep(Duration::from_millis(2)),
            Ok(None) | Err(_) => {
                // It fails only when the program has just ended.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let elapsed = started.elapsed();
    let text = |reader: Option<thread::JoinHandle<String>>| reader.and_then(|it| it.join().ok()).unwrap_or_default();
    Finished { code, stdout: text(stdout), stderr: text(stderr), elapsed }
}

/// The PostgreSQL server for tests, as `cargo xtask test` sets it up; `None` skips what needs one.
pub fn postgres() -> Option<String> {
    setting("CREWLINE_TEST_POSTGRES")
}

/// The directory with local models, as `cargo xtask test` sets it up; `None` skips what needs one.
pub fn models() -> Option<PathBuf> {
    setting("CREWLINE_TEST_MODELS").map(PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "tests are told by `cargo xtask test` what this machine has")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_does_not_outlive_who_started_it() {
        let mut command = Command::new("sleep");
        let sleeper = Running::from(command.arg("600").spawn().expect("it starts"));
        let place = PathBuf::from(format!("/proc/{}", sleeper.id()));
        assert!(place.exists());
        drop(sleeper);
        assert!(!place.exists());
    }
}
