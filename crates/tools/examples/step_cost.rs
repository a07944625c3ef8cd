//! What one call of a tool costs in CPU time, the work of the tool itself included: `cargo run --release -p crewline-tools
//! --example step_cost`.
//!
//! CPU is that of the whole process, blocking threads included.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::{error::Error, time::Duration};

use crewline_tools::{Approval, Journal, Limits, OutputStore, ToolCall, Toolbox, Tree, TreeLimits, files};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

const ROUNDS: u32 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("w");
    std::fs::create_dir(&root)?;
    std::fs::write(root.join("a.txt"), "line\n".repeat(200))?;
    let tree = Tree::open(&root, TreeLimits::default())?;
    let started = cpu();
    for _ in 0..ROUNDS {
        toolbox(dir.path(), &tree)?;
    }
    println!("{:<12} {:>6.1} µs", "a toolbox", micros(cpu().saturating_sub(started)));
    let toolbox = toolbox(dir.path(), &tree)?;
    for (name, arguments) in [
        ("read_file", json!({"path": "a.txt"})),
        ("write_file", json!({"path": "b.txt", "content": "hello\n"})),
        ("list_files", json!({})),
        ("search_files", json!({"pattern": "nothing"})),
        ("read_file", json!({"path": 1})),
    ] {
        let started = cpu();
        for _ in 0..ROUNDS {
            call(&toolbox, name, &arguments).await;
        }
        println!("{name:<12} {:>6.1} µs", micros(cpu().saturating_sub(started)));
    }
    Ok(())
}

async fn call(toolbox: &Toolbox, name: &str, arguments: &Value) {
    toolbox.call(ToolCall { key: "a/1/0", name, arguments, approval: Approval::Missing }).await;
}

fn toolbox(dir: &std::path::Path, tree: &Tree) -> Result<Toolbox, crewline_tools::Error> {
    let mut toolbox = Toolbox::new(OutputStore::new(&dir.join("outputs")), Limits::default())?;
    files::add_reading(&mut toolbox, tree)?;
    files::add_writing(&mut toolbox, tree, &Journal::none())?;
    Ok(toolbox)
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(ROUNDS)
}
