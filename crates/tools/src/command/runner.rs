//! Starts the helper with an order, keeps what the command writes, and waits, each with a limit.
//!
//! **Invariant:** dropping the future, or crewline's end, ends the command and all it started.
//! **Invariant:** the helper inherits no environment: no key of crewline's is in any process of a command.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixStream, unix::pipe},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    Confinement,
    confine::{CONFINE_COMMAND, Limit, Order, Report},
    output::Output,
};

/// How long a probe of the kernel may take.
const PROBE_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the helper may take beyond the command's own limit: to start, and to end what is left.
const HELPER_TIME_MAX: Duration = Duration::from_secs(15);
/// Bytes of a report.
const REPORT_MAX: u64 = 64 << 10;
/// Bytes that are read at once.
const BLOCK: usize = 64 << 10;

/// Runs commands through the helper. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runner {
    helper: PathBuf,
    found: Confinement,
}

/// Why a command has no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The helper can not be started or heard.
    #[error("the helper `{}` cannot be used: {source}", helper.display())]
    Helper {
        /// Its file.
        helper: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the command wrote can not be kept.
    #[error(transparent)]
    Output(#[from] crate::Error),
}

impl Runner {
    /// Finds out what the kernel offers, by the helper: the program `crewline` itself, which knows the hidden subcommand
    /// [`CONFINE_COMMAND`]. A helper that can not be used confines nothing.
    pub async fn find(helper: &Path) -> Self {
        let found = match timeout(PROBE_TIME_MAX, probe(helper)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "confinement cannot be probed");
                Confinement::default()
            }
            Err(_) => Confinement::default(),
        };
        Self { helper: helper.to_owned(), found }
    }

    /// What the kernel offers.
    pub fn confinement(&self) -> Confinement {
        self.found
    }

    /// The same runner as if the kernel offered less.
    #[must_use]
    pub fn with(self, confinement: Confinement) -> Self {
        Self { found: confinement, ..self }
    }

    /// Runs a command; what it writes goes to `output`, at most `output_bytes_max`.
    pub(crate) async fn run(
        &self,
        order: &Order,
        output: &mut Output,
        output_bytes_max: u64,
    ) -> Result<Report, RunError> {
        let failed = |source| RunError::Helper { helper: self.helper.clone(), source };
        let (reader, writer) = io::pipe().map_err(failed)?;
        let (mut child, mut socket) = {
            let writer_again = writer.try_clone().map_err(failed)?;
            start(&self.helper, "keeper", Stdio::from(writer), Stdio::from(writer_again)).map_err(failed)?
        };
        let mut reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        let mut line = serde_json::to_vec(order).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        socket.write_all(&line).await.map_err(failed)?;
        let watched = async {
            let is_too_much = keep(&mut reader, output, output_bytes_max).await?;
            if is_too_much {
                return Ok(None);
            }
            let mut report = Vec::new();
            (&mut socket).take(REPORT_MAX).read_to_end(&mut report).await.map_err(failed)?;
            Ok::<_, RunError>(Some(report))
        };
        let report = match timeout(order.time_max + HELPER_TIME_MAX, watched).await {
            Ok(Ok(Some(report))) => serde_json::from_slice(&report).map_err(|error| failed(error.into())),
            Ok(Ok(None)) => Ok(Report::Stopped(Limit::Output)),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(Report::Stopped(Limit::Time)),
        };
        // Closed, it ends what is left and then itself; and it need not wait for us to read.
        drop((socket, reader));
        if timeout(HELPER_TIME_MAX, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
        report
    }
}

/// Reads to the end, or until there is more than `most`.
async fn keep(reader: &mut pipe::Receiver, output: &mut Output, most: u64) -> Result<bool, crate::Error> {
    let mut block = vec![0; BLOCK];
    loop {
        match reader.read(&mut block).await {
            Ok(0) | Err(_) => return Ok(false),
            Ok(length) => {
                output.write(&block[..length])?;
                if output.seen > most {
                    return Ok(true);
                }
            }
        }
    }
}

fn start(helper: &Path, stage: &str, stdout: Stdio, stderr: Stdio) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let child = Command::new(helper)
        .args([CONFINE_COMMAND, stage])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0)
        .spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

async fn probe(helper: &Path) -> io::Result<Confinement> {
    let (mut child, socket) = start(helper, "probe", Stdio::null(), Stdio::null())?;
    let mut answer = Vec::new();
    socket.take(REPORT_MAX).read_to_end(&mut answer).await?;
    child.wait().await?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The file of a program: below `dir` when it has a `/`, else where `path` says.
pub(crate) fn find_program(program: &str, dir: &Path, path: &[PathBuf]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_program = |file: &PathBuf| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return Some(dir.join(program)).filter(is_program);
    }
    path.iter().map(|it| it.join(program)).find(is_program)
}

/// Words as the system has them.
pub(crate) fn words(args: &[&str]) -> Vec<OsString> {
    args.iter().map(Into::into).collect()
}
