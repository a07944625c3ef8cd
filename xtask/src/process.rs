//! Running programs, and showing the steps of a longer chore.
//!
//! **Invariant:** a program that fails ends the chore, and the message names the program.
//! **Invariant:** the environment is read here only.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Why a chore ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Called in a way that is not understood.
    Usage(String),
    /// A program could not be started.
    Start { program: String, error: std::io::Error },
    /// A program said it failed.
    Program { program: String, code: Option<i32> },
    /// A file could not be read or written.
    File { path: PathBuf, error: std::io::Error },
    /// A check found something.
    Check(String),
    /// Said already.
    Reported,
    /// Tests failed; counts of passed and failed.
    Tests(Counts),
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Check(message) => out.write_str(message),
            Self::Start { program, error } => write!(out, "cannot start `{program}`: {error}"),
            Self::Program { program, code: Some(code) } => write!(out, "`{program}` ended with exit code {code}"),
            Self::Program { program, code: None } => write!(out, "`{program}` was ended by a signal"),
            Self::File { path, error } => write!(out, "cannot use `{}`: {error}", path.display()),
            Self::Reported => Ok(()),
            Self::Tests(Counts { failed, .. }) => write!(out, "{failed} tests failed"),
        }
    }
}

/// What a test runner counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// The checkout, and how cargo is called in it.
pub(crate) struct Cargo {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
    program: String,
}

impl Cargo {
    /// Asks cargo where it builds.
    pub(crate) fn find() -> Result<Self, Failure> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_path_buf();
        let metadata = metadata(&root)?;
        let program = setting("CARGO").unwrap_or_else(|| "cargo".into());
        Ok(Self { root, target: metadata.target_directory.into_std_path_buf(), program })
    }

    /// Cargo with these arguments, in the checkout.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root);
        // Set for this program's own build; the inner cargo must not take it for its own.
        command.env_remove("CARGO_MANIFEST_DIR").env_remove("CARGO_PKG_NAME");
        command
    }

    /// The binary `crewline` of this profile, as cargo builds it.
    pub(crate) fn crewline(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join(format!("crewline{}", std::env::consts::EXE_SUFFIX))
    }
}

/// What cargo says about the workspace; members only.
pub(crate) fn metadata(root: &Path) -> Result<cargo_metadata::Metadata, Failure> {
    let mut command = cargo_metadata::MetadataCommand::new();
    command.manifest_path(root.join("Cargo.toml")).no_deps();
    command.exec().map_err(|error| Failure::Check(format!("cargo does not describe the workspace: {error}")))
}

/// An environment variable that is set and not empty.
#[expect(clippy::disallowed_methods, reason = "chores are told by the environment what a machine has")]
pub(crate) fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where a program is: in one of `dirs`, else on the PATH.
pub(crate) fn find_program(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    let path = setting("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    dirs.iter().chain(&on_path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let quote = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(quote(program)).chain(command.get_args().map(quote)).collect::<Vec<_>>().join(" ")
}

/// Runs a program to its end; its output goes where ours goes.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    println!("$ {}", line(&command));
    let status = command.status().map_err(|error| Failure::Start { program: line(&command), error })?;
    if status.success() { Ok(()) } else { Err(Failure::Program { program: line(&command), code: status.code() }) }
}

/// Runs a program and gives what it wrote to stdout.
pub(crate) fn output(mut command: Command) -> Result<String, Failure> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| Failure::Start { program: line(&command), error })?;
    if !output.status.success() {
        return Err(Failure::Program { program: line(&command), code: output.status.code() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a test runner, passes its output on, and counts what its summary says.
pub(crate) fn count(mut command: Command) -> Result<Counts, Failure> {
    println!("$ {}", line(&command));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Failure::Start { program: line(&command), error })?;
    // Two threads, so that neither pipe fills while the other is read.
    let stderr = child.stderr.take().map(|pipe| thread::spawn(move || tally(pipe, |line| eprintln!("{line}"))));
    let mut tallied = child.stdout.take().map(|pipe| tally(pipe, |line| println!("{line}"))).unwrap_or_default();
    tallied.add(stderr.and_then(|reader| reader.join().ok()).unwrap_or_default());
    let counts = tallied.counts();
    let status = child.wait().map_err(|error| Failure::Start { program: line(&command), error })?;
    match (status.success(), counts.failed) {
        (true, 0) => Ok(counts),
        (_, 1..) => Err(Failure::Tests(counts)),
        (false, 0) => Err(Failure::Program { program: line(&command), code: status.code() }),
    }
}

/// What the lines of a test runner say.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// By cargo-nextest, of everything.
    whole: Option<Counts>,
    /// By the test binaries, each of its own tests.
    parts: Counts,
}

impl Tally {
    fn add(&mut self, more: Self) {
        self.whole = self.whole.or(more.whole);
        self.parts.passed += more.parts.passed;
        self.parts.failed += more.parts.failed;
    }

    /// cargo-nextest shows what a failed test printed, and with it the summary of its binary: that test counts once.
    fn counts(self) -> Counts {
        self.whole.unwrap_or(self.parts)
    }
}

fn tally(pipe: impl std::io::Read, show: impl Fn(&str)) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(pipe).split(b'\n') {
        // A broken pipe ends the output, not the tests.
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        show(&line);
        if let Some(found) = summary(&line) {
            tally.add(found);
        }
    }
    tally
}

/// Reads a summary line of cargo-nextest or of `cargo test`.
fn summary(line: &str) -> Option<Tally> {
    let line = line.trim();
    // "Summary [   0.127s] 13 tests run: 11 passed (1 slow), 2 failed, 1 timed out, 1 skipped"
    if let Some(rest) = line.strip_prefix("Summary [") {
        return Some(Tally { whole: Some(read_counts(rest.split_once(" run: ")?.1)), ..Tally::default() });
    }
    // "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
    let text = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    Some(Tally { parts: read_counts(text), ..Tally::default() })
}

fn read_counts(text: &str) -> Counts {
    let mut counts = Counts::default();
    for part in text.split([',', ';']) {
        let mut words = part.split_whitespace();
        let (Some(Ok(number)), Some(word)) = (words.next().map(str::parse::<u64>), words.next()) else { continue };
        match word {
            "passed" => counts.passed += number,
            "failed" | "timed" | "exec" => counts.failed += number,
            _ => {}
        }
    }
    counts
}

/// The steps of a chore: each has a title, its time is shown, the first that fails is named.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Duration)>,
    /// The step that failed.
    pub(crate) failed: Option<&'static str>,
}

impl Steps {
    /// Runs one step.
    pub(crate) fn step<T>(
        &mut self,
        title: &'static str,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        println!("\n=== {title}");
        let started = Instant::now();
        let outcome = work();
        let elapsed = started.elapsed();
        self.done.push((title, elapsed));
        match &outcome {
            Ok(_) => println!("=== {title}: {:.1} s", elapsed.as_secs_f64()),
            Err(_) => self.failed = Some(title),
        }
        outcome
    }

    /// Shows the time of each step.
    pub(crate) fn show_times(&self) {
        println!("\n=== times");
        for (title, elapsed) in &self.done {
            println!("{:>8.1} s  {title}", elapsed.as_secs_f64());
        }
        let total: Duration = self.done.iter().map(|(_, elapsed)| *elapsed).sum();
        println!("{:>8.1} s  all", total.as_secs_f64());
    }
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::File { path: path.to_path_buf(), error })
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| Failure::File { path: path.to_path_buf(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_counted() {
        for (line, passed, failed) in [
            ("     Summary [   0.127s] 13 tests run: 13 passed, 1 skipped", 13, 0),
            (
                "     Summary [  61.2s] 20 tests run: 15 passed (2 slow), 3 failed, 1 timed out, 1 exec failed, 4 skipped",
                15,
                5,
            ),
            ("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s", 12, 0),
            ("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out", 1, 2),
        ] {
            assert_eq!(summary(line).map(Tally::counts), Some(Counts { passed, failed }), "{line}");
        }
        assert!(summary("test a::passed ... ok").is_none());
    }

    #[cfg(unix)]
    #[test]
    fn a_runner_that_fails_is_a_failure_with_its_counts() {
        let script = |text: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", text]);
            command
        };
        let summary = "echo ' Summary [ 1s] 3 tests run: 2 passed, 1 failed' >&2; exit 100";
        assert!(matches!(count(script(summary)), Err(Failure::Tests(Counts { passed: 2, failed: 1 }))));
        let shown = format!("echo '    test result: FAILED. 0 passed; 1 failed; 0 ignored'; {summary}");
        assert!(matches!(count(script(&shown)), Err(Failure::Tests(Counts { passed: 2, failed: 1 }))));
        assert!(matches!(count(script("exit 3")), Err(Failure::Program { code: Some(3), .. })));
        let good = count(script("echo 'test result: ok. 4 passed; 0 failed'")).unwrap();
        assert_eq!(good, Counts { passed: 4, failed: 0 });
    }

    #[test]
    fn commands_can_be_pasted() {
        let mut command = Command::new("/somewhere/crewline");
        command.args(["run", "it's a goal", "--out", "a/b", ""]);
        assert_eq!(line(&command), r"crewline run 'it'\''s a goal' --out a/b ''");
    }
}
