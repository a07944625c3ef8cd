//! What operators do: prune, back up, check, and stop runs over HTTP.

use crewline_testkit::{Script, StubServer, TestApp};
use serde_json::Value;

use crate::{app, fan, resume::texts, run_args};

fn made(app: &TestApp) -> String {
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    run.events()[0]["run"].as_str().unwrap().to_owned()
}

fn json(app: &TestApp, args: &[&str]) -> Value {
    serde_json::from_str(&app.run(args).expect_code(0).stdout).unwrap()
}

fn runs(app: &TestApp) -> Vec<String> {
    let runs = json(app, &["ps", "-a", "-o", "json"]);
    runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

/// How many rows all tables of a new run with so many tasks have, and the bytes of the file.
fn rows_and_bytes(server: &StubServer, width: usize) -> (i64, i64) {
    let app = app();
    app.registry(server);
    app.write("plan.json", &fan(width).to_string());
    app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let file = app.path("data/crewline.db");
    let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'";
    let counts: Vec<String> =
        texts(&file, tables).iter().map(|it| format!("(SELECT COUNT(*) FROM \"{it}\")")).collect();
    let number = |query: &str| texts(&file, query)[0].parse::<i64>().unwrap();
    let rows = number(&format!("SELECT CAST({} AS TEXT)", counts.join(" + ")));
    (rows, number("SELECT CAST(page_count * page_size AS TEXT) FROM pragma_page_count, pragma_page_size"))
}

#[test]
fn a_task_adds_as_much_to_the_database_however_many_there_are() {
    let server = StubServer::start(Script::default());
    let [few, some, many] = [20, 80, 320].map(|width| rows_and_bytes(&server, width));
    let (rows, more_rows) = ((some.0 - few.0) / 60, (many.0 - some.0) / 240);
    assert!((1..=16).contains(&rows) && more_rows <= rows, "rows a task: {rows}, later {more_rows}");
    let (bytes, more_bytes) = ((some.1 - few.1) / 60, (many.1 - some.1) / 240);
    assert!(more_bytes <= 2 * bytes && bytes <= 32_768, "bytes a task: {bytes}, later {more_bytes}");
}

#[test]
fn old_runs_are_pruned_with_a_yes() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let made: Vec<String> = (0..3).map(|_| made(&app)).collect();
    app.run(["prune"]).expect_code(2);
    let preview = json(&app, &["prune", "--keep", "1", "--dry-run", "-o", "json"]);
    assert_eq!((&preview["dry_run"], preview["runs"].as_array().unwrap().len()), (&true.into(), 2));
    let refused = app.run(["prune", "--keep", "1", "--no-input"]).expect_code(3);
    assert!(refused.stderr.contains("--yes"), "{}", refused.stderr);
    assert_eq!(runs(&app).len(), 3, "nothing is forgotten without a yes");
    let young = json(&app, &["prune", "--older-than", "1d", "--yes", "-o", "json"]);
    assert_eq!(young["runs"].as_array().unwrap().len(), 0);

    let pruned = json(&app, &["prune", "--keep", "1", "--yes", "-o", "json"]);
    assert_eq!((&pruned["deleted"]["runs"], &pruned["deleted"]["tasks"]), (&2.into(), &10.into()));
    assert_eq!(runs(&app), [made[2].clone()], "the newest is kept");
    app.run(["show", &made[0]]).expect_code(5);
    app.run(["show", &made[2], "--out", "again"]).expect_code(0);
    app.run(["db", "check"]).expect_code(0);
}

#[test]
fn what_could_be_resumed_is_pruned_only_when_asked_for() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    app.run(run_args(&["--plan", "plan.json", "--max-steps", "1"])).expect_code(7);
    let kept = json(&app, &["prune", "--keep", "0", "--yes", "-o", "json"]);
    assert_eq!(kept["runs"].as_array().unwrap().len(), 0);
    let pruned = json(&app, &["prune", "--keep", "0", "--all", "--yes", "-o", "json"]);
    assert_eq!(pruned["deleted"]["runs"], 1);
    assert!(runs(&app).is_empty());
}

#[test]
fn a_replay_outlives_what_it_was_made_from() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let parent = made(&app);
    let run = app.run(["replay", &parent, "-o", "jsonl", "--out", "again"]).expect_code(0);
    let child = run.events()[0]["run"].as_str().unwrap().to_owned();
    json(&app, &["prune", "--keep", "1", "--yes", "-o", "json"]);
    assert_eq!(runs(&app), std::slice::from_ref(&child));
    app.run(["show", &child, "--out", "third"]).expect_code(0);
    server.reset();
    app.run(["replay", &child, "--out", "fourth"]).expect_code(0);
    assert_eq!(server.calls(), 0);
    app.run(["db", "check"]).expect_code(0);
}

#[test]
fn a_backup_is_a_database() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = made(&app);
    let copy = json(&app, &["db", "backup", "copy.db", "-o", "json"]);
    assert!(copy["bytes"].as_u64().unwrap() > 10_000, "{copy}");
    app.run(["db", "backup", "copy.db"]).expect_code(9);
    let shown = json(&app, &["show", &run, "--database", "sqlite:copy.db", "-o", "json"]);
    assert_eq!(shown["status"], "completed");
    json(&app, &["db", "migrate", "-o", "json"]);
}

#[test]
fn a_check_finds_what_is_wrong() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = made(&app);
    let sound = app.run(["db", "check", "-o", "json"]).expect_code(0);
    assert_eq!(sound.stdout.trim(), "[]");
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        use sea_orm::ConnectionTrait;
        let database = sea_orm::Database::connect(url).await.unwrap();
        database.execute_unprepared("DELETE FROM events WHERE seq = 3").await.unwrap();
        database.close().await.unwrap();
    });
    let found = app.run(["db", "check", "-o", "jsonl"]).expect_code(1);
    let problem: Value = serde_json::from_str(found.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&problem["rule"], &problem["subject"]), (&"event.gap".into(), &run.as_str().into()));
    let text = app.run(["db", "check"]).expect_code(1).stdout;
    assert!(text.contains("event.gap") && text.contains(&run), "{text}");
}
