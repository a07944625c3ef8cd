//! The process of a server that speaks on its standard input and output.
//!
//! With a guard (this same program) no `kill -9` of crewline leaves it behind: see `guard`.
//!
//! **Invariant:** it ends with its whole group: a moment after its input closes, or at once when its handle is dropped.
//! **Invariant:** its environment is what the registry names and a few variables that programs need; no key of crewline's.
//! **Invariant:** what it says of itself is read on, so that it never waits for a reader; only the end of it is kept.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    pin::Pin,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{
    io::{AsyncRead, ReadBuf},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::{
    guard::{GUARD_COMMAND, PIPED_WORD},
    managed::STOP_LIMIT,
    providers::excerpt,
    reload::Env,
};

/// Variables that programs need and that tell nothing.
const USUAL: [&str; 10] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TERM", "TMPDIR", "TZ"];
/// Bytes of what it says of itself that are kept.
const TAIL_BYTES: usize = 4 << 10;
/// Characters of it that an error shows.
const TAIL_CHARS_MAX: usize = 400;

/// How processes are started.
#[derive(Debug, Clone, Default)]
pub(super) struct Launcher {
    pub(super) guard: Option<PathBuf>,
    /// Where servers run.
    pub(super) folder: PathBuf,
    pub(super) env: Option<Env>,
}

/// A server that runs.
pub(super) struct Process {
    child: Child,
    tail: Arc<Mutex<Vec<u8>>>,
}

impl Launcher {
    /// Starts a server; it speaks through what comes back.
    pub(super) fn start(
        &self,
        name: &str,
        words: &[String],
        env: &[(String, SecretString)],
    ) -> std::io::Result<(Process, ChildStdin, ChildStdout)> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        let (program, rest) = words.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
        let mut command = if let Some(guard) = &self.guard {
            let mut command = Command::new(guard);
            command.arg(GUARD_COMMAND).arg("--");
            command.arg(format!("{PIPED_WORD}{}", std::process::id())).args(words);
            command
        } else {
            let mut command = Command::new(program);
            command.args(rest);
            command
        };
        command.env_clear();
        if let Some(read) = self.env {
            command.envs(USUAL.iter().filter_map(|name| Some((*name, read(name)?))));
        }
        command.envs(env.iter().map(|(name, value)| (name, value.expose_secret())));
        // Its own group: Ctrl-C on the terminal is for crewline.
        let mut child = command
            .current_dir(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("a pipe is missing");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = child.stdout.take().ok_or_else(missing)?;
        let errors = child.stderr.take().ok_or_else(missing)?.into_owned_fd()?;
        let tail = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&tail);
        // A thread, not a task: it ends with the pipe, whatever becomes of the runtime.
        std::thread::Builder::new().name("mcp-stderr".into()).spawn(move || {
            let mut pipe = std::fs::File::from(errors);
            let mut block = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut block) {
                let mut tail = kept.lock().unwrap_or_else(PoisonError::into_inner);
                tail.extend_from_slice(&block[..count]);
                let excess = tail.len().saturating_sub(TAIL_BYTES);
                tail.drain(..excess);
            }
        })?;
        Ok((Process { child, tail }, input, output))
    }
}

impl Process {
    /// The end of what it said of itself, on one line; empty when that is nothing.
    pub(super) fn tail(&self, secrets: &[SecretString]) -> String {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        let from = text.char_indices().rev().nth(TAIL_CHARS_MAX).map_or(0, |it| it.0);
        excerpt(&text.as_bytes()[from..], TAIL_CHARS_MAX + 1, secrets)
    }

    /// Gives what it said at its end a moment to come through.
    pub(super) async fn settle(&self) {
        for _ in 0..20 {
            if Arc::strong_count(&self.tail) == 1 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until it has ended after its input was closed, and ends it when it does not.
    pub(super) async fn end(mut self) {
        let _ = timeout(STOP_LIMIT, self.child.wait()).await;
        self.kill();
        let _ = timeout(STOP_LIMIT, self.child.wait()).await;
    }

    fn kill(&self) {
        if let Some(pid) = self.child.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it started goes with it; `kill_on_drop` is for the one process.
        self.kill();
    }
}

/// Where a server runs, below the data directory.
pub(super) fn folder(data_dir: &Path) -> PathBuf {
    std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).join("mcp")
}

/// Reads lines of a bounded length. A longer one ends the stream: its sender is not waited for.
pub(super) struct Bounded<R> {
    inner: R,
    line: usize,
    line_max: usize,
    is_passed: Arc<AtomicBool>,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R, line_max: usize, is_passed: Arc<AtomicBool>) -> Self {
        Self { inner, line: 0, line_max, is_passed }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Bounded<R> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        std::task::ready!(Pin::new(&mut this.inner).poll_read(context, into))?;
        let read = &into.filled()[before..];
        // The line that is open at the end; lines that end within one read are as short as the reader's buffer.
        this.line = match read.iter().rposition(|it| *it == b'\n') {
            Some(at) => read.len() - at - 1,
            None => this.line + read.len(),
        };
        if this.line > this.line_max {
            this.is_passed.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(std::io::Error::other("a message is too long")));
        }
        Poll::Ready(Ok(()))
    }
}
