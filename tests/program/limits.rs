//! Hard limits of a run: money, steps, time. Exit code 7, and the way to go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crewline_testkit::{Gate, Script, StubReply, StubRequest, StubServer, TestApp, app::finish, script::default_reply};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};
use serde_json::json;

use crate::{
    app, fan,
    resume::{only_run, wait_for_calls},
    run_args, signal,
    workers::wait_until,
};

#[test]
fn money_is_never_overspent() {
    let server = StubServer::start(Script::text("word ".repeat(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(50).to_string());
    let args = run_args(&["--plan", "plan.json", "--max-cost", "0.03", "--concurrency", "50"]);
    let run = app.run(args).expect_code(7);
    let last = run.events().pop().unwrap();
    assert_eq!(last["status"], "limit_reached");
    // Within what one call may cost.
    let cost = last["cost_usd"].as_f64().unwrap();
    assert!((0.02..=0.03).contains(&cost), "{last}");
    assert!(last["tasks"]["completed"].as_u64().unwrap() >= 1, "{last}");
    assert_eq!(run.events_of("budget_reached").len(), 1);
    assert!(run.stderr.contains("resume"), "the way to go on is told: {}", run.stderr);
}

#[test]
fn a_cap_that_few_calls_fit_in_at_once_is_enough_for_many() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(100)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(20).to_string());
    // Three calls of `cheap` fit beside each other at their worst case; all together really cost half of that.
    for cap in ["cost", "project-cost"] {
        let before = server.calls();
        let limit = format!("--max-{cap}");
        let args = ["--plan", "plan.json", &limit, "0.03", "--concurrency", "20", "--project", cap];
        let run = app.run(run_args(&args)).expect_code(0);
        assert_eq!(server.calls() - before, 22);
        assert!(run.events().last().unwrap()["cost_usd"].as_f64().unwrap() < 0.03);
    }
}

/// The limits on cost: one is counted here, the other by the database.
const CAPS: [&str; 2] = ["--max-cost", "--max-project-cost"];

fn apart(descriptions: &[&str]) -> String {
    let task = |(number, description)| json!({"id": format!("t{number}"), "title": "T", "description": description, "role": "writer", "depends_on": []});
    let tasks: Vec<_> = descriptions.iter().enumerate().map(task).collect();
    json!({"goal": "g", "tasks": tasks}).to_string()
}

#[test]
fn nobody_waits_for_money_that_only_he_holds() {
    // The next model is asked at once, with the end of this call not recorded yet.
    let script = Script::default()
        .on_model("cheap", StubReply::text("No.").after(Duration::from_millis(200)))
        .on_model("strong", StubReply::text("Yes."));
    let server = StubServer::start(script);
    for cap in CAPS {
        let app = app();
        app.registry(&server);
        let check = json!([{"check": {"type": "contains", "text": "Yes"}}]);
        let task = |n| json!({"id": format!("t{n}"), "title": "T", "description": "Climb.", "role": "writer", "depends_on": [], "success_criteria": check});
        app.write("plan.json", &json!({"goal": "g", "tasks": (0..3).map(task).collect::<Vec<_>>()}).to_string());
        // One call of `strong` fits when those of `cheap` are over, and so does the next one after it.
        app.run(run_args(&["--plan", "plan.json", cap, "0.08"])).expect_code(0);
        // None fits, also when those of `cheap` are over.
        let run = app.run(run_args(&["--plan", "plan.json", cap, "0.06", "--project", "other"])).expect_code(7);
        assert!(run.events_of("model_call").iter().all(|it| it["model"] == "cheap"));
    }
}

#[test]
fn a_run_that_is_stopped_begins_no_call_that_waits_for_money() {
    for cap in CAPS {
        for wish in ["pause", "cancel", "signal"] {
            let gate = Gate::after(0);
            let server = StubServer::start(Script::default().behind(&gate));
            let app = app();
            app.registry(&server);
            app.write("plan.json", &apart(&["Wait."; 5]));
            // One call fits.
            let child = app.spawn(run_args(&["--plan", "plan.json", cap, "0.012"]));
            wait_for_calls(&server, 1);
            let id = only_run(&app);
            let attempts = || {
                let shown = app.run(["show", &id, "-o", "json"]).expect_code(0);
                let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
                let tasks = shown["tasks"].as_array().unwrap().clone();
                tasks.iter().filter(|it| it["kind"] != "root" && !it["attempts"].as_array().unwrap().is_empty()).count()
            };
            match wish {
                "signal" => signal(child.id(), "TERM"),
                _ => drop(app.run([wish, "--no-wait", &id]).expect_code(0)),
            }
            // Those that waited have ended.
            wait_until("the end of the others", || attempts() == 5);
            gate.open();
            finish(child, TestApp::LIMIT);
            assert_eq!(server.calls(), 1, "{cap} {wish}");
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_paid_for() {
    for reply in [StubReply::cut_stream("word ".repeat(200), 3), StubReply::close(), StubReply::malformed()] {
        let server = StubServer::start(Script::default().on_model("cheap", reply));
        let app = app();
        app.registry(&server);
        app.write("plan.json", &fan(1).to_string());
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
        let calls = run.events_of("model_call");
        let broken: Vec<_> = calls.iter().filter(|it| it["outcome"] != "ok").collect();
        assert!(!broken.is_empty(), "{calls:?}");
        // 4,096 tokens of output at two dollars a million.
        let least = 0.008;
        for call in broken {
            assert!(call["cost_usd"].as_f64().unwrap() > least, "the worst case: {call}");
            assert_eq!(call["estimated"], true, "{call}");
        }
        let cost: f64 = calls.iter().map(|it| it["cost_usd"].as_f64().unwrap()).sum();
        let told = run.events_of("run_finished")[0]["cost_usd"].as_f64().unwrap();
        assert!((told - cost).abs() < 1e-9, "{told} {cost}");

        // The cap counts it, too.
        let before = server.calls();
        let run = app.run(run_args(&["--plan", "plan.json", "--max-cost", "0.03"])).expect_code(7);
        let told = run.events_of("run_finished")[0]["cost_usd"].as_f64().unwrap();
        let asked = server.calls() - before;
        assert!(asked > 0 && asked as f64 * least <= told && told <= 0.03, "{asked} calls, {told}");
    }
}

#[test]
fn an_answer_that_is_refused_costs_nothing() {
    let server = StubServer::start(Script::default().on_model("cheap", StubReply::status(500)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let calls = run.events_of("model_call");
    let refused: Vec<_> = calls.iter().filter(|it| it["outcome"] != "ok").collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|it| it["cost_usd"] == 0.0 && it["estimated"] != true), "{refused:?}");
}

#[test]
fn a_cap_needs_prices() {
    let server = StubServer::start(Script::default());
    let app = app();
    let registry = server.registry().replace(", price: {input_per_million: 1.0, output_per_million: 2.0}", "");
    app.write("crewline.yaml", &registry);
    let run = app.run(run_args(&["Describe the tide", "--max-cost", "1"])).expect_code(3);
    assert!(run.stderr.contains("cheap") && run.stderr.contains("price"), "{}", run.stderr);
    assert_eq!(server.calls(), 0);
}

#[test]
fn steps_are_counted() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(10).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--max-steps", "4"])).expect_code(7);
    assert_eq!(server.calls(), 4);
    assert_eq!(run.events().last().unwrap()["tasks"]["completed"], 4);
}

#[test]
fn time_is_up() {
    let server = StubServer::start(Script::default().latency(Duration::from_mins(5)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--max-time", "1s"])).expect_code(7);
    assert!(run.elapsed < Duration::from_secs(30), "{:?}", run.elapsed);
    assert_eq!(run.events().last().unwrap()["status"], "limit_reached");
}

#[test]
fn a_task_that_has_spent_its_share_fails_and_the_others_go_on() {
    let server = StubServer::start(
        Script::default().when(|request| request.model == "cheap" && request.contains("Break"), StubReply::text("")),
    );
    let app = app();
    app.registry(&server);
    app.write(
        "plan.json",
        r#"{"goal": "g", "tasks": [
            {"id": "dear", "title": "Dear", "description": "Break.", "role": "coder", "depends_on": []},
            {"id": "good", "title": "Good", "description": "Fine.", "role": "coder", "depends_on": []}]}"#,
    );
    // A call of `cheap` fits, one of `strong` does not.
    let run = app.run(run_args(&["--plan", "plan.json", "--max-task-cost", "0.02"])).expect_code(7);
    let failed = run.events_of("task_failed");
    assert_eq!(failed[0]["error"]["code"], "budget.max_task_cost", "{failed:?}");
    assert_eq!(failed[0]["will_retry"], false);
    assert!(run.events_of("model_call").iter().all(|it| it["model"] == "cheap"));
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], &last["tasks"]["completed"]), (&"failed".into(), &1.into()));
    let id = last["run"].as_str().unwrap();
    app.run(["retry", id, "--max-task-cost", "1", "--out", "out"]).expect_code(0);
}

#[test]
fn a_project_is_never_overspent_by_runs_at_the_same_time() {
    let server = StubServer::start(Script::text("word ".repeat(200)));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(50).to_string());
    let args = ["--plan", "plan.json", "--max-project-cost", "0.06", "--concurrency", "20", "--out"];
    let with = |out: &'static str| {
        let mut line = vec!["run", "-o", "jsonl", "--no-input"];
        line.extend(args);
        line.push(out);
        line
    };
    let both = [app.spawn(with("one")), app.spawn(with("two"))];
    let ended: Vec<_> = both.into_iter().map(|it| finish(it, TestApp::LIMIT)).collect();
    let mut spent = 0.0;
    for run in &ended {
        assert_eq!(run.code, Some(7), "{}", run.stderr);
        let last = run.events().pop().unwrap();
        assert_eq!(
            (&last["status"], &last["error"]["code"]),
            (&"limit_reached".into(), &"budget.max_project_cost".into())
        );
        spent += last["cost_usd"].as_f64().unwrap();
    }
    assert!(spent > 0.0 && spent <= 0.06, "{spent}");
    // What is spent stays spent, for later runs as well; another project has its own.
    let third = app.run(with("three")).expect_code(7);
    assert!(spent + third.events().pop().unwrap()["cost_usd"].as_f64().unwrap() <= 0.06);
    let mut other = with("four");
    other.extend(["--project", "other", "--max-steps", "1"]);
    let other = app.run(other).expect_code(7);
    assert_eq!(other.events().pop().unwrap()["error"]["code"], "budget.max_steps");
}

/// What all calls have cost, as whoever goes on after a crash counts them: without a recorded answer at their worst case.
const BOOKS: &str = "SELECT SUM(CASE WHEN outcome IS NULL AND reply IS NULL THEN reserved_micro_usd ELSE cost_micro_usd END) FROM calls";

/// The number that a query of the program's database gives, in dollars.
async fn dollars(database: &DatabaseConnection, query: &str) -> f64 {
    let statement = Statement::from_string(database.get_database_backend(), query);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index::<i64>(0).unwrap() as f64 / 1e6
}

fn executor() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn database(app: &TestApp) -> DatabaseConnection {
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    // One connection, so that what is begun is ended there.
    Database::connect(ConnectOptions::new(url).max_connections(1).to_owned()).await.unwrap()
}

#[test]
fn a_kill_leaves_no_books_above_the_cap() {
    const CAP: f64 = 0.12;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if !well.load(Ordering::SeqCst) {
            if request.contains("Be turned away.") {
                return StubReply::status(429).retry_after(Duration::from_secs(2));
            }
            if request.contains("Take for ever.") {
                return StubReply::hang();
            }
        }
        default_reply(request).after(Duration::from_millis(500))
    }));
    let app = app();
    app.registry(&server);
    let task = |id: String, description: &str, needs: &[&str]| json!({"id": id, "title": id, "description": description, "role": "writer", "depends_on": needs});
    let mut tasks = vec![task("gate".into(), "Be there.", &[])];
    tasks.extend((0..8).map(|n| task(format!("t{n}"), "Be turned away.", &[])));
    tasks.extend((0..8).map(|n| task(format!("h{n}"), "Take for ever.", &["gate"])));
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--max-cost", "0.12", "--concurrency", "20"]));
    // The gate, those that are turned away and pause, and those that the money of these lets begin.
    wait_for_calls(&server, 1 + 8 + 8);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    let left = executor().block_on(async { dollars(&database(&app).await, BOOKS).await });
    assert!((0.06..=CAP).contains(&left), "{left}");

    is_well.store(true, Ordering::SeqCst);
    let id = only_run(&app);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--concurrency", "2"]).expect_code(0);
    let told = resumed.events().last().unwrap()["cost_usd"].as_f64().unwrap();
    assert!((left..=CAP).contains(&told), "{left} {told}");
}

#[test]
fn who_needs_money_that_comes_back_waits_for_it() {
    let server = StubServer::start(Script::new(|request: &StubRequest| {
        if request.model == "cheap" && request.contains("Be bad.") {
            return StubReply::text("").after(Duration::from_millis(1_500));
        }
        default_reply(request).after(Duration::from_secs(1))
    }));
    let app = app();
    app.registry(&server);
    let task = |id: String, description: &str| json!({"id": id, "title": "T", "description": description, "role": "writer", "depends_on": []});
    let mut tasks = vec![task("bad".into(), "Be bad.")];
    tasks.extend((0..8).map(|n| task(format!("t{n}"), "Be good.")));
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    // Nine calls of `cheap` fit, or one of `strong` when those are over.
    let child = app.spawn(run_args(&["--plan", "plan.json", "--max-cost", "0.1"]));
    wait_for_calls(&server, 9);
    executor().block_on(async {
        let database = database(&app).await;
        // Nothing can be recorded until the bad answer has come.
        database.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        database.execute_unprepared("COMMIT").await.unwrap();
    });
    let run = finish(child, TestApp::LIMIT).expect_code(0);
    assert_eq!(run.events_of("model_call").iter().filter(|it| it["model"] == "strong").count(), 1);
}

#[test]
fn what_a_crash_lost_counts_for_its_task() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        if well.load(Ordering::SeqCst) { default_reply(request) } else { StubReply::hang() }
    }));
    let app = app();
    app.registry(&server);
    let task = json!({"id": "only", "title": "T", "description": "D.", "role": "writer", "depends_on": []});
    app.write("plan.json", &json!({"goal": "g", "tasks": [task]}).to_string());
    // One call of `cheap` fits.
    let child = app.spawn(run_args(&["--plan", "plan.json", "--max-task-cost", "0.012"]));
    wait_for_calls(&server, 1);
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    is_well.store(true, Ordering::SeqCst);
    let id = only_run(&app);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(7);
    assert_eq!(resumed.events_of("task_failed")[0]["error"]["code"], "budget.max_task_cost");
    assert_eq!(server.calls(), 1);
    app.run(["retry", &id, "--max-task-cost", "1", "--out", "out"]).expect_code(0);
}

#[test]
fn the_books_are_below_the_cap_at_every_moment() {
    const CAP: f64 = 1.0;
    // All are asked at once, all answers are no good, and the next model is dearer.
    let script = Script::default().on_model("cheap", StubReply::text("").after(Duration::from_millis(500)));
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    let task =
        |n| json!({"id": format!("t{n}"), "title": "T", "description": "D.", "role": "writer", "depends_on": []});
    let tasks: Vec<_> = (0..100).map(task).collect();
    app.write("plan.json", &json!({"goal": "g", "tasks": tasks}).to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json", "--max-cost", "1", "--concurrency", "100"]));
    wait_for_calls(&server, 1);
    // A transaction begins with the run's row: so each one writes down what the one before has left.
    let trigger = format!("CREATE TRIGGER look AFTER UPDATE OF last_seq ON runs BEGIN INSERT INTO looks {BOOKS}; END");
    executor().block_on(async {
        let database = database(&app).await;
        database.execute_unprepared("CREATE TABLE looks (books INTEGER)").await.unwrap();
        database.execute_unprepared(&trigger).await.unwrap();
    });
    // How many fit beside each other decides whether all are done or the limit is reached.
    let run = finish(child, TestApp::LIMIT);
    assert!(matches!(run.code, Some(0 | 7)), "{}", run.stderr);
    let most = executor().block_on(async { dollars(&database(&app).await, "SELECT MAX(books) FROM looks").await });
    assert!((0.8..=CAP).contains(&most), "{most}");
}
