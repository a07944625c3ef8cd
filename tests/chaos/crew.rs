//! A process of the product under test: started, watched, frozen, killed.
//!
//! **Invariant:** a process never outlives its [`Process`].

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

pub use nix::sys::signal::Signal;
use nix::{sys::signal, unistd::Pid};
use serde_json::Value;

/// How often a process is looked at.
pub const GLANCE: Duration = Duration::from_millis(1);

/// A line of stdout, and when it came, counted from the start of the process.
type Line = (Duration, String);

/// A running or ended process.
pub struct Process {
    child: Child,
    started: Instant,
    lines: Arc<Mutex<Vec<Line>>>,
    reader: Option<thread::JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its stderr is added to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> std::io::Result<Self> {
        let stderr = File::options().create(true).append(true).open(log)?;
        let started = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn()?;
        let lines = Arc::<Mutex<Vec<Line>>>::default();
        let kept = Arc::clone(&lines);
        let reader = child.stdout.take().map(|pipe| {
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines() {
                    // The last line of a killed process may be half a character.
                    let Ok(line) = line else { break };
                    hold(&kept).push((started.elapsed(), line));
                }
            })
        });
        Ok(Self { child, started, lines, reader, status: None })
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends a signal; one that comes too late does nothing.
    pub fn signal(&self, signal: Signal) {
        if let (None, Ok(pid)) = (self.status, i32::try_from(self.child.id())) {
            let _ = signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_some()
    }

    /// Waits for its end; `None` when it does not come within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let from = Instant::now();
        while !self.has_ended() {
            if from.elapsed() > limit {
                return None;
            }
            thread::sleep(GLANCE);
        }
        if let Some(reader) = self.reader.take() {
            // It ends with the pipe.
            let _ = reader.join();
        }
        self.status
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().map(|status| self.status = Some(status));
        self.wait(Duration::from_secs(1));
    }

    /// The events it has shown so far, each with the time since its start; a line that was cut off is left out.
    pub fn events(&self) -> Vec<(Duration, Value)> {
        let lines = hold(&self.lines);
        lines.iter().filter_map(|(at, line)| Some((*at, serde_json::from_str(line).ok()?))).collect()
    }

    /// When the first event of this kind came.
    pub fn first(&self, kind: &str) -> Option<Duration> {
        self.events().into_iter().find(|(_, event)| event["type"] == kind).map(|(at, _)| at)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
