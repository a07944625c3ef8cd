//! Advisories (cargo-audit) and licences, bans and sources (cargo-deny), with the tools that are installed.
//!
//! **Invariant:** with a local advisory database nothing is fetched.

use std::{path::PathBuf, process::Stdio};

use crate::process::{self, Cargo, Failure, Steps, setting};

/// Runs what is installed.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Failure> {
    let has = |tool: &str| {
        let mut command = cargo.command(&[tool, "--version"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let (has_audit, has_deny) = (has("audit"), has("deny"));
    if !has_audit && !has_deny {
        return Err(Failure::Check(
            "neither cargo-audit nor cargo-deny is installed; run `cargo install --locked cargo-audit cargo-deny`"
                .into(),
        ));
    }
    let mut steps = Steps::default();
    if has_audit {
        steps.step("advisories", || {
            let database = database(cargo).map(|path| path.display().to_string());
            let mut arguments = vec!["audit"];
            if let Some(path) = &database {
                arguments.extend(["--db", path, "--no-fetch", "--stale"]);
            }
            process::run(cargo.command(&arguments))
        })?;
    } else {
        println!("cargo-audit is not installed: advisories are left to cargo-deny");
    }
    if has_deny {
        steps.step("licences, bans and sources", || {
            let advisories: &[&str] = if has_audit { &[] } else { &["advisories"] };
            let mut arguments = vec!["deny", "check", "licenses", "bans", "sources"];
            arguments.extend(advisories);
            process::run(cargo.command(&arguments))
        })?;
    } else {
        println!("cargo-deny is not installed: licences, bans and sources are not checked");
    }
    Ok(())
}

/// A database that is there already: named by the environment, or beside the checkout.
fn database(cargo: &Cargo) -> Option<PathBuf> {
    let named = setting("CREWLINE_ADVISORY_DB").map(PathBuf::from);
    let beside = || Some(cargo.root.parent()?.join("shared/advisory-db")).filter(|path| path.is_dir());
    named.or_else(beside)
}
