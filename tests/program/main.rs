//! The whole program, from outside: the binary, a model server, files and exit codes.
//!
//! **Invariant:** nothing here looks inside; what a test asserts is what a user sees.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests end where they fail")]

mod act;
mod again;
mod approvals;
mod bad_input;
mod connections;
mod context;
mod control;
mod failures;
mod further;
mod handoff;
mod injection;
mod keys;
mod kills;
mod launches;
mod limits;
mod local;
mod looking;
mod mcp;
mod memory;
mod models;
mod network;
mod operate;
mod outage;
mod plans;
mod postgres;
mod reach;
mod reload;
mod remote;
mod repair;
mod resume;
mod router;
mod run;
mod schedule;
mod secrets;
mod serve;
mod shadow;
mod shared;
mod tasks;
mod templates;
mod tokens;
mod tools;
mod traffic;
mod verify;
mod workers;

use std::process::Command;

use crewline_testkit::TestApp;
use serde_json::{Value, json};

fn app() -> TestApp {
    TestApp::new(env!("CARGO_BIN_EXE_crewline"))
}

/// A plan file: one task, then `width` that need it, then one that needs them all.
fn fan(width: usize) -> Value {
    let mut tasks = vec![json!({
        "id": "first", "title": "First", "description": "Say what matters.", "role": "researcher", "depends_on": []
    })];
    let middle: Vec<String> = (0..width).map(|n| format!("m{n}")).collect();
    tasks.extend(middle.iter().map(|id| {
        json!({"id": id, "title": format!("Part {id}"), "description": "Work on one part.", "role": "writer", "depends_on": ["first"]})
    }));
    tasks.push(json!({
        "id": "last", "title": "Last", "description": "Put it together.", "role": "writer", "depends_on": middle
    }));
    json!({"goal": "A fan", "tasks": tasks})
}

/// Sends a signal by its name.
fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// `run` with the usual flags of a test.
fn run_args<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["run", "-o", "jsonl", "--out", "out", "--no-input"];
    args.extend(extra);
    args
}
