//! A real crew on a real small model: contracts only, never content.

use std::{fs, process::Command, time::Duration};

use crewline_testkit::app::finish;
use serde_json::Value;

use crate::app;

#[test]
fn a_real_small_model_runs_a_crew() {
    let Some(models) = crewline_testkit::app::models() else {
        println!("skipped: `cargo xtask test` sets up the local models");
        return;
    };
    let app = app();
    let data = app.path("data");
    fs::create_dir_all(&data).unwrap();
    for part in ["models", "runtime"] {
        std::os::unix::fs::symlink(models.join(part), data.join(part)).unwrap();
    }
    app.run(["init", "--yes"]).expect_code(0);
    let child = app.spawn(["run", "Write a short note on tides", "-o", "jsonl", "--out", "out", "--offline"]);
    let run = finish(child, Duration::from_mins(10)).expect_code(0);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "completed", "{last}");
    assert!(last["tasks"]["completed"].as_u64().unwrap() >= 1);
    let report: Value = serde_json::from_slice(&fs::read(app.path("out/report.json")).unwrap()).unwrap();
    assert!(report["output_tokens"].as_u64().unwrap() > 0, "the server told its usage");
    assert!(!fs::read_to_string(app.path("out/RESULT.md")).unwrap().trim().is_empty());
    // The test's own folder is in the arguments of everything that was started for it.
    let left = Command::new("pgrep").args(["-f", app.dir().to_str().unwrap()]).output().unwrap();
    assert!(left.stdout.is_empty(), "no server is left behind: {}", String::from_utf8_lossy(&left.stdout));
}
