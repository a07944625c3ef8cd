//! A real crew on a real small model: contracts only, never content.

use std::{fs, time::Duration};

use crewline_testkit::{TestApp, app::finish};
use serde_json::Value;

use crate::app;

#[test]
fn a_real_small_model_runs_a_crew() {
    let Some(models) = crewline_testkit::app::models() else {
        println!("skipped: `cargo xtask test` sets up the local models");
        return;
    };
    let app = app();
    let data = models.to_str().unwrap();
    app.run(["init", "--yes", "--data-dir", data, "--output", "crewline.yaml"]).expect_code(0);
    let child = app.spawn([
        "run",
        "Write a short note on tides",
        "--data-dir",
        app.path("data").to_str().unwrap(),
        "-o",
        "jsonl",
        "--out",
        "out",
    ]);
    let run = finish(child, Duration::from_mins(10)).expect_code(0);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "completed", "{last}");
    assert!(last["tasks"]["completed"].as_u64().unwrap() >= 1);
    let report: Value = serde_json::from_slice(&fs::read(app.path("out/report.json")).unwrap()).unwrap();
    assert!(report["output_tokens"].as_u64().unwrap() > 0, "the server told its usage");
    assert!(!fs::read_to_string(app.path("out/RESULT.md")).unwrap().trim().is_empty());
    let orphans = std::process::Command::new("pgrep").args(["-f", app.dir().to_str().unwrap()]).output().unwrap();
    assert!(orphans.stdout.is_empty(), "no server is left behind: {}", String::from_utf8_lossy(&orphans.stdout));
    let _ = TestApp::LIMIT;
}
