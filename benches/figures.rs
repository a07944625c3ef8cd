//! What Crewline costs, in one table, with the floor of the machine measured in the same run.
//!
//! `cargo bench -p crewline-cli --bench figures [-- crew|engine|context|router|memory|server|resume|dag|workers|soak]… [--runs 5] [--minutes 30]`;
//! without a name everything but `soak`. `workers` needs a server in `CREWLINE_TEST_POSTGRES`.

#![allow(clippy::expect_used, reason = "a benchmark ends where it fails")]

mod context;
mod crew;
mod engine;
mod floor;
mod measure;
mod memory;
mod router;
mod scale;
mod server;

use std::time::Duration;

use serde_json::{Value, json};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // What is measured in a process of its own is this program again.
    match words[..] {
        ["child", "floor", url, width, folder] => floor::run(url, width.parse().expect("a number"), folder),
        ["child", "engine", width, folder] => engine::run(width.parse().expect("a number"), folder),
        ["child", "context"] => context::run(),
        ["child", "router", what, url, count] => router::run(what, url, count.parse().expect("a number")),
        ["child", "memory", what, count, folder] => memory::run(what, count.parse().expect("a number"), folder),
        _ => all(&words),
    }
}

fn all(words: &[&str]) {
    let number = |name: &str, default: u64| {
        let at = words.iter().position(|it| *it == name);
        at.and_then(|at| words.get(at + 1)?.parse().ok()).unwrap_or(default)
    };
    let runs = usize::try_from(number("--runs", 5)).expect("few runs").max(1);
    let named = ["crew", "engine", "context", "router", "memory", "server", "resume", "dag", "workers", "soak"];
    let is_all = !named.iter().any(|name| words.contains(name));
    let is_wanted = |name: &str| words.contains(&name) || (is_all && name != "soak");
    let mut figures = Vec::new();
    for name in named.into_iter().filter(|name| is_wanted(name)) {
        figures.extend(match name {
            "crew" => crew::figures(runs),
            "engine" => engine::figures(runs),
            "context" => context::figures(runs),
            "router" => router::figures(runs),
            "memory" => memory::figures(runs),
            "server" => server::figures(runs),
            "resume" => server::resume(runs),
            "dag" => scale::dag(runs),
            "workers" => scale::workers(runs),
            _ => scale::soak(Duration::from_secs(number("--minutes", 30) * 60)),
        });
    }
    measure::print(&figures);
}

/// A task of a plan.
fn task(key: &str, needs: &[String]) -> Value {
    json!({
        "id": key, "title": format!("Task {key}"), "description": "Write one sentence about your part of the goal.",
        "role": "writer", "depends_on": needs
    })
}
