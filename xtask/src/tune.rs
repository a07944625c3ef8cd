//! Fits the weights of memory's ranking to a data set, and writes them and their table.
//!
//! **Invariant:** the fitting itself is the product's (`crewline memory tune`); the same files and seed give the same
//! weights.

use std::{fs, path::Path, process::Command};

use crate::process::{self, Cargo, Failure};

/// Where the weights are, and the page that shows what they are worth.
const WEIGHTS: &str = "crates/memory/weights.json";
const PAGE: &str = "docs/memory.md";
const BEGIN: &str = "<!-- tuned: begin -->";
const END: &str = "<!-- tuned: end -->";

/// Runs the command on a data set; the embedding model is that of the tests.
pub(crate) fn run(cargo: &Cargo, memories: &str, queries: &str, seed: &str) -> Result<(), Failure> {
    process::run(cargo.command(&["build", "--quiet", "--release", "--package", "crewline-cli"]))?;
    let weights = cargo.root.join(WEIGHTS);
    let scratch = cargo.target.join("crewline-tune");
    let mut command = Command::new(cargo.crewline("release"));
    command.args(["memory", "tune", "--memories", memories, "--queries", queries, "--seed", seed, "-q"]);
    command.arg("--out").arg(&weights).arg("--scratch").arg(&scratch);
    command.arg("--data-dir").arg(cargo.target.join("crewline-test-data")).env("NO_COLOR", "1");
    let table = process::output(command)?;
    println!("{table}");
    let page = cargo.root.join(PAGE);
    let text = fs::read_to_string(&page).map_err(|error| Failure::File { path: page.clone(), error })?;
    let text =
        with_table(&text, &table).ok_or_else(|| Failure::Check(format!("`{PAGE}` has no place for the table")))?;
    process::write(Path::new(&page), &text)
}

/// The page with the table between its marks.
fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n```text\n{}\n```\n{END}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_replaced() {
        let page = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        let once = with_table(&page, "new\n").unwrap();
        assert_eq!(once, format!("a\n{BEGIN}\n```text\nnew\n```\n{END}\nb\n"));
        assert_eq!(with_table(&once, "new").unwrap(), once);
        assert_eq!(with_table("no marks", "new"), None);
    }
}
