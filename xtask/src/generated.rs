//! Files the binary writes about itself, so that reference pages never tell another story than the program.
//!
//! **Invariant:** `--check` changes nothing.

use std::process::Command;

use crate::process::{self, Cargo, Failure};

/// Whether to write or to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes what has changed.
    Write,
    /// Fails when something would change.
    Check,
}

/// A file, and the arguments that make `crewline` print it.
const FILES: [(&str, &[&str]); 2] =
    [("config/crewline.schema.json", &["registry", "schema"]), ("docs/cli.md", &["docs", "cli"])];

/// Builds the binary and writes or compares the files.
pub(crate) fn run(cargo: &Cargo, mode: Mode) -> Result<(), Failure> {
    process::run(cargo.command(&["build", "--quiet", "--package", "crewline-cli"]))?;
    compare(cargo, mode)
}

/// Writes or compares the files with the binary that is built.
pub(crate) fn compare(cargo: &Cargo, mode: Mode) -> Result<(), Failure> {
    let mut stale = Vec::new();
    for (name, arguments) in FILES {
        let mut command = Command::new(cargo.crewline("debug"));
        // The same on every machine: no colours, a fixed width, nobody's settings.
        command.args(arguments).current_dir(&cargo.root).env("NO_COLOR", "1").env("COLUMNS", "100");
        let expected = with_final_newline(&process::output(command)?);
        let path = cargo.root.join(name);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found == expected {
            println!("{name}: up to date");
        } else if mode == Mode::Write {
            process::write(&path, &expected)?;
            println!("{name}: written");
        } else {
            stale.push(format!("{name}: {}", first_difference(&found, &expected)));
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(Failure::Check(format!("generated files are out of date; run `cargo xtask gen`:\n  {}", stale.join("\n  "))))
}

fn with_final_newline(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

fn first_difference(found: &str, expected: &str) -> String {
    if found.is_empty() {
        return "it is not there".into();
    }
    let (mut left, mut right) = (found.lines(), expected.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (left, right) if left == right => {}
            (left, right) => {
                let show =
                    |line: Option<&str>| line.map_or("the end of the file".into(), |line| format!("`{}`", line.trim()));
                return format!("line {number} is {}, the program says {}", show(left), show(right));
            }
        }
    }
    "only the line ends differ".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_shown() {
        assert_eq!(first_difference("", "a\n"), "it is not there");
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), "line 2 is `b`, the program says `c`");
        assert_eq!(first_difference("a\n", "a\nc\n"), "line 2 is the end of the file, the program says `c`");
        assert_eq!(first_difference("a\r\n", "a\n"), "only the line ends differ");
    }
}
