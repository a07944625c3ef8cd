//! `cargo xtask test`: sets up what tests need and runs every check, in the order of what fails fastest.
//!
//! **Invariant:** the first step that fails ends it, is named, and makes the exit code 1.
//! **Invariant:** the last line says `N passed, N failed`; a failed check that is no test counts as one.
//! **Invariant:** what it sets up is inside the target directory and is stopped at the end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    arch, chaos, documented, generated, postgres,
    process::{self, Cargo, Counts, Failure, Steps},
    promises,
};

/// How long real processes are killed and frozen, on each database.
const CHAOS_TIME: Duration = Duration::from_secs(30);

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything.
    All,
    /// What needs neither local models nor PostgreSQL.
    Fast,
}

/// Runs everything.
pub(crate) fn run(cargo: &Cargo, scope: Scope) -> Result<(), Failure> {
    let mut steps = Steps::default();
    let outcome = run_steps(cargo, scope, &mut steps);
    steps.show_times();
    let (counts, outcome) = match outcome {
        Ok(counts) => (counts, Ok(())),
        Err(failure) => {
            let step = steps.failed.unwrap_or("setup");
            let counts = match failure {
                Failure::Tests(counts) => counts,
                Failure::Usage(_)
                | Failure::Start { .. }
                | Failure::Program { .. }
                | Failure::File { .. }
                | Failure::Check(_)
                | Failure::Reported => Counts { passed: 0, failed: 1 },
            };
            (counts, Err(Failure::Check(format!("the step `{step}` failed: {failure}"))))
        }
    };
    // The message comes before the closing line, which must be the last.
    if let Err(failure) = &outcome {
        println!("\nerror: {failure}");
    }
    println!("\n{} passed, {} failed", counts.passed, counts.failed);
    outcome.map_err(|_| Failure::Reported)
}

fn run_steps(cargo: &Cargo, scope: Scope, steps: &mut Steps) -> Result<Counts, Failure> {
    steps.step("fmt", || process::run(cargo.command(&["fmt", "--all", "--check"])))?;
    steps.step("arch", || arch::run(cargo))?;
    steps.step("clippy", || {
        process::run(cargo.command(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    })?;
    if scope == Scope::All {
        steps.step("clippy of the build without fences", || {
            let words = ["clippy", "--workspace", "--all-targets", "--features", "crewline-cli/unfenced", "--quiet"];
            process::run(cargo.command(&[&words[..], &["--", "-D", "warnings"]].concat()))
        })?;
    }
    steps.step("build", || process::run(cargo.command(&["build", "--workspace", "--bins", "--quiet"])))?;
    steps.step("drift of generated files", || generated::compare(cargo, generated::Mode::Check))?;
    steps.step("reference pages", || documented::run(cargo))?;
    steps.step("promises", || promises::run(cargo))?;
    let needs = match scope {
        Scope::All => Needs {
            postgres: Some(steps.step("PostgreSQL", || postgres::prepare(cargo))?),
            models: Some(steps.step("local models", || models(cargo))?),
        },
        Scope::Fast => Needs { postgres: None, models: None },
    };
    let mut counts = Counts::default();
    if has_doc_tests(&cargo.root.join("crates")) {
        let found = steps
            .step("doc tests", || process::count(needs.apply(cargo.command(&["test", "--workspace", "--doc"]))))?;
        counts = found;
    }
    let found = steps.step("tests", || process::count(needs.apply(runner(cargo))))?;
    counts.passed += found.passed;
    // PostgreSQL runs until here.
    drop(needs);
    if scope == Scope::All {
        steps.step("chaos", || chaos::run(cargo, &chaos::Options::of(CHAOS_TIME)))?;
    }
    Ok(counts)
}

/// What tests are told about this machine.
struct Needs {
    postgres: Option<postgres::Server>,
    models: Option<PathBuf>,
}

impl Needs {
    fn apply(&self, mut command: Command) -> Command {
        match &self.postgres {
            Some(server) => command.env("CREWLINE_TEST_POSTGRES", &server.url),
            None => command.env_remove("CREWLINE_TEST_POSTGRES"),
        };
        match &self.models {
            Some(dir) => command.env("CREWLINE_TEST_MODELS", dir),
            None => command.env_remove("CREWLINE_TEST_MODELS"),
        };
        command
    }
}

/// cargo-nextest when it is installed, else `cargo test`.
fn runner(cargo: &Cargo) -> Command {
    let mut probe = cargo.command(&["nextest", "--version"]);
    let has_nextest = probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if has_nextest {
        return cargo.command(&["nextest", "run", "--workspace", "--no-fail-fast"]);
    }
    println!("cargo-nextest is not installed: using `cargo test`");
    cargo.command(&["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast"])
}

/// Puts the local models into the target directory; what is there already is only checked.
fn models(cargo: &Cargo) -> Result<PathBuf, Failure> {
    let dir = cargo.target.join("crewline-test-data");
    let mut command = Command::new(cargo.crewline("debug"));
    command.current_dir(&cargo.root).args(["setup", "--local", "--yes", "--data-dir"]).arg(&dir);
    process::run(command)?;
    Ok(dir)
}

/// Whether any source has an example that runs: `cargo test --doc` links every crate once for nothing otherwise.
fn has_doc_tests(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return has_doc_tests(&path);
        }
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        is_source && fs::read_to_string(&path).is_ok_and(|text| has_runnable_example(&text))
    })
}

fn has_runnable_example(source: &str) -> bool {
    let mut is_open = false;
    for line in source.lines() {
        let line = line.trim_start();
        let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else { continue };
        let Some(info) = text.trim_start().strip_prefix("```") else { continue };
        let opens = !is_open;
        is_open = opens;
        let words = ["", "rust", "no_run", "should_panic", "compile_fail", "edition2024"];
        if opens && words.contains(&info.trim()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_examples_are_doc_tests() {
        assert!(has_runnable_example("/// Adds.\n/// ```\n/// assert!(true);\n/// ```\nfn add() {}"));
        assert!(has_runnable_example("//! ```text\n//! a\n//! ```\n//! ```no_run\n//! b();\n//! ```"));
        assert!(!has_runnable_example("//! ```text\n//! a -> b\n//! ```\nlet fence = \"```\";"));
        assert!(!has_runnable_example("/// ```yaml\n/// a: 1\n/// ```"));
    }
}
