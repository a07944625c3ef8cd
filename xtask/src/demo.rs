//! A crew at work without any key: builds, fetches small local models, runs one goal.
//!
//! **Invariant:** nothing outside the checkout is written; every command is shown as it is run.

use std::process::Command;

use crate::process::{self, Cargo, Failure, Steps};

/// What the crew does when nobody says.
pub(crate) const GOAL: &str = "Write a short guide to making good tea: the leaves, the water, and the time";

/// Keys that would make `crewline init` choose a paid model.
const KEYS: [&str; 3] = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENROUTER_API_KEY"];

/// Runs the demonstration.
pub(crate) fn run(cargo: &Cargo, goal: &str) -> Result<(), Failure> {
    let dir = cargo.target.join("demo-data");
    let (registry, out) = (dir.join("crewline.yaml"), dir.join("out"));
    let crewline = |arguments: &[&str]| {
        let mut command = Command::new(cargo.crewline("release"));
        command.current_dir(&cargo.root).args(arguments).arg("--data-dir").arg(&dir);
        for key in KEYS {
            command.env_remove(key);
        }
        command
    };
    let mut steps = Steps::default();
    steps.step("build", || process::run(cargo.command(&["build", "--release", "--package", "crewline-cli"])))?;
    steps.step("local models", || process::run(crewline(&["setup", "--local", "--yes"])))?;
    steps.step("registry", || {
        if registry.is_file() {
            println!("{} is there already", registry.display());
            return Ok(());
        }
        let mut command = crewline(&["init", "--yes"]);
        command.arg("--registry").arg(&registry);
        process::run(command)
    })?;
    steps.step("crew", || {
        let mut command = crewline(&["run", goal, "--offline", "--no-input"]);
        command.arg("--registry").arg(&registry).arg("--out").arg(&out);
        process::run(command)
    })?;
    steps.show_times();
    println!("\nThe result:  {}", out.join("RESULT.md").display());
    println!("All files:   {}", out.display());
    println!("Once more:   cargo xtask demo \"another goal\"");
    Ok(())
}
