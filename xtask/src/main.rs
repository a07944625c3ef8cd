//! The project's chores: `cargo xtask <command>`.
//!
//! Where is what: [`arch`] who may depend on whom, [`test`] everything CI checks, [`demo`] a crew without a key,
//! [`generated`] files written by the binary, [`documented`] reference pages against the sources, [`promises`] what the
//! runtime promises against its tests, [`audit`] advisories and licences, [`chaos`] killing and freezing real processes,
//! [`tune`] the weights of memory, [`postgres`] a server for tests, [`process`] how programs are run and steps are shown.
//!
//! **Invariant:** it needs no crate of the workspace, so that it is built in seconds; what the product can do is done by
//! running the product.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod arch;
mod audit;
mod chaos;
#[cfg(test)]
mod compose;
mod demo;
mod documented;
mod generated;
mod postgres;
mod process;
mod promises;
mod test;
mod tune;

use std::process::ExitCode;

use process::{Cargo, Failure};

const USAGE: &str = "\
The project's chores.

Usage: cargo xtask <command>

  test [--fast]    set up what tests need, then run every check and test; --fast: no models, no PostgreSQL
  ci               the same as `test`
  demo [\"goal\"]    build, fetch small local models and run a real crew without any key
  arch             fail on a dependency that must not be
  pages            fail on reference pages that differ from the sources, and on promises without their tests
  gen [--check]    write the generated files, or fail when they are out of date
  tune-memory MEMORIES QUERIES [SEED]
                   fit the weights of memory's ranking to a data set
  audit            look for advisories and licences (cargo-audit, cargo-deny)
  bench [filter]   run the benchmarks
  chaos [options]  kill, freeze and starve real processes, and check from outside that nothing is lost:
                     --seconds S | --minutes M   how long (default: 60 s on each database)
                     --database sqlite|postgres|URL   where (default: a file, then a server of its own, which it crashes)
                     --seed N --rounds N --kills N --lanes N   what, and how much at a time
                     --unfenced   a binary without fences, which must break the promise
                     --release    the binary as it is shipped

Environment:
  CREWLINE_TEST_POSTGRES   the URL of a PostgreSQL server for tests (default: one is found or started)
  CREWLINE_ADVISORY_DB     a directory with the advisory database, for work without a network

Example: cargo xtask test --fast
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            eprintln!("error: {message}\n\n{USAGE}");
            ExitCode::from(2)
        }
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Failure> {
    match words {
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["test" | "ci"] => test::run(&Cargo::find()?, test::Scope::All),
        ["test" | "ci", "--fast"] => test::run(&Cargo::find()?, test::Scope::Fast),
        ["demo"] => demo::run(&Cargo::find()?, demo::GOAL),
        ["demo", goal] if !goal.starts_with('-') => demo::run(&Cargo::find()?, goal),
        ["arch"] => arch::run(&Cargo::find()?),
        ["pages"] => {
            let cargo = Cargo::find()?;
            documented::run(&cargo)?;
            promises::run(&cargo)
        }
        ["gen"] => generated::run(&Cargo::find()?, generated::Mode::Write),
        ["gen", "--check"] => generated::run(&Cargo::find()?, generated::Mode::Check),
        ["tune-memory", memories, queries] => tune::run(&Cargo::find()?, memories, queries, "1"),
        ["tune-memory", memories, queries, seed] => tune::run(&Cargo::find()?, memories, queries, seed),
        ["audit"] => audit::run(&Cargo::find()?),
        ["chaos", rest @ ..] => chaos::run(&Cargo::find()?, &chaos::Options::parse(rest)?),
        ["bench", rest @ ..] => {
            let mut arguments = vec!["bench", "--package", "crewline-cli"];
            arguments.extend(rest);
            process::run(Cargo::find()?.command(&arguments))
        }
        [command, ..] => Err(Failure::Usage(format!("there is no command `{command}` with these arguments"))),
    }
}
