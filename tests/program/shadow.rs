//! Candidates: asked copies of the crew's questions, compared, paid from money of their own, and never heard.

use std::time::{Duration, Instant};

use crewline_testkit::{Gate, Script, StubReply, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{app, run_args, traffic, workers::wait_until};

/// A registry whose role `coder` has the candidate `tiny`.
fn registry(server: &StubServer, shadow: &str) -> String {
    let tiny = "  tiny: {provider: stub, model: tiny, context_window: 32768, \
        price: {input_per_million: 0.5, output_per_million: 1.0}}\n";
    let role = format!("roles:\n  coder: {{chain: [cheap, strong], shadow: {shadow}}}");
    server.registry().replace("roles:", &format!("{tiny}{role}"))
}

/// So many tasks, each after the one before; an answer must name a broker.
fn line(count: usize) -> String {
    let task = |place: usize| {
        let needs: Vec<String> = place.checked_sub(1).map(|before| format!("t{before}")).into_iter().collect();
        json!({
            "id": format!("t{place}"), "title": format!("T{place}"), "description": "Name a broker.", "role": "coder",
            "depends_on": needs, "success_criteria": [{"check": {"type": "regex", "pattern": "Kafka|NATS"}}]
        })
    };
    json!({"goal": "g", "tasks": (0..count).map(task).collect::<Vec<_>>()}).to_string()
}

fn read(app: &TestApp, args: &[&str]) -> Value {
    serde_json::from_str(&app.run(args).expect_code(0).stdout).unwrap()
}

fn report(app: &TestApp) -> Value {
    serde_json::from_str(&std::fs::read_to_string(app.path("out/report.json")).unwrap()).unwrap()
}

#[test]
fn a_candidate_is_compared_and_never_heard() {
    let gate = Gate::after(0);
    let script = Script::default()
        .on_model("tiny", StubReply::text("NATS, says the candidate."))
        .on_model("cheap", StubReply::text("No idea."))
        .on_model("strong", StubReply::text("Kafka.").behind(&gate));
    let server = StubServer::start(script);
    let app = app();
    app.write("crewline.yaml", &registry(&server, "{model: tiny, share: 100%, cost_max: 0.5}"));
    app.write("plan.json", &line(3));
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    for count in 1..=3 {
        // A candidate that is busy is not asked: each copy is over before the task goes on.
        wait_until("a copy", || {
            let rows = read(&app, &["route", "shadows", "-o", "json"]);
            (&rows[0]["copies"], &rows[0]["open"]) == (&json!(count), &json!(0))
        });
        gate.pass(1);
    }
    let run = finish(child, TestApp::LIMIT).expect_code(0);
    for completed in run.events_of("task_completed") {
        assert_eq!(completed["model"], "strong", "{completed}");
    }
    assert!(!run.stdout.contains("tiny") && !run.stdout.contains("the candidate"), "{}", run.stdout);
    for file in std::fs::read_dir(app.path("out/tasks")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("candidate"), "{text}");
    }
    let messages = |model: &str| -> Vec<Value> {
        let requests = server.requests().into_iter().filter(|it| it.model == model);
        requests.map(|it| serde_json::from_slice::<Value>(&it.body).unwrap()["messages"].clone()).collect()
    };
    // The first question of each attempt is copied word for word; what a later model is told is not.
    let (asked, copied) = (messages("cheap"), messages("tiny"));
    assert_eq!(copied.len(), 3);
    assert!(copied.iter().all(|it| asked.contains(it)), "{copied:?}");

    let rows = read(&app, &["route", "shadows", "-o", "json"]);
    let row = &rows[0];
    assert_eq!((&row["role"], &row["model"], &row["candidate"]), (&json!("coder"), &json!("cheap"), &json!("tiny")));
    assert_eq!((&row["copies"], &row["only_candidate_accepted"], &row["open"]), (&json!(3), &json!(3), &json!(0)));
    assert_eq!((&row["accept_rate"], &row["model_accept_rate"]), (&json!(1.0), &json!(0.0)));
    let table = app.run(["route", "shadows"]).expect_code(0).stdout;
    assert!(table.contains("tiny") && table.contains("100 %") && table.contains("0 %"), "{table}");

    // Their money is told beside the run's own, everywhere.
    let costs = read(&app, &["cost", "-o", "json"]);
    let of = |model: &str| costs.as_array().unwrap().iter().find(|it| it["key"] == model).unwrap().clone();
    assert_eq!((&of("tiny")["calls"], &of("tiny")["shadow_calls"]), (&json!(0), &json!(3)));
    assert_eq!(of("tiny")["shadow_cost_usd"], row["cost_usd"]);
    assert!(row["cost_usd"].as_f64().unwrap() > 0.0 && of("cheap")["shadow_calls"] == 0);
    let table = app.run(["cost"]).expect_code(0).stdout;
    assert!(table.contains("COPIES") && table.contains("THEIR COST"), "{table}");
    let report = report(&app);
    assert_eq!((&report["calls"], &report["shadow"]["calls"]), (&json!(6), &json!(3)), "{report}");
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let shown = app.run(["show", &id]).expect_code(0).stdout;
    assert!(shown.contains("3 copies for candidates, $"), "{shown}");
    let hosts = traffic::hosts(&app, &id);
    assert_eq!(hosts[0]["sent_bytes"], traffic::sent_to(&server), "what copies send is sent by the run");

    // The candidate that takes the place of the cheap model begins with what is known of it.
    app.write("crewline.yaml", &server_with_tiny_in_the_chain(&server));
    let explained = read(&app, &["route", "explain", "--role", "coder", "--text", "Name a broker.", "-o", "json"]);
    let candidates = explained["decisions"][0]["candidates"].to_string();
    assert!(candidates.contains("tiny") && candidates.contains("3 of 3"), "{candidates}");
}

fn server_with_tiny_in_the_chain(server: &StubServer) -> String {
    let with = registry(server, "{model: tiny, share: 100%, cost_max: 0.5}");
    let place = with.find("chain: [cheap, strong], shadow").unwrap();
    let line = with[place..].lines().next().unwrap();
    with.replace(line, "chain: [tiny, strong]}")
}

#[test]
fn copies_stop_where_their_money_ends_and_leave_that_of_the_run_alone() {
    let script = Script::text("Kafka.").on_model("cheap", StubReply::text("Kafka.").after(Duration::from_millis(60)));
    let server = StubServer::start(script.on_model("tiny", StubReply::text("Kafka.")));
    let app = app();
    // The worst case of a copy is about 4,300 micro-dollars; what one costs is a few hundred at most.
    app.write("crewline.yaml", &registry(&server, "{model: tiny, share: 100%, cost_max: 0.0045}"));
    app.write("plan.json", &line(8));
    let run = app.run(run_args(&["--plan", "plan.json", "--max-cost", "0.2"])).expect_code(0);
    assert_eq!(run.events_of("task_completed").len(), 8);
    let shadow = report(&app)["shadow"].clone();
    let cost = read(&app, &["route", "shadows", "-o", "json"])[0]["cost_usd"].as_f64().unwrap();
    let calls = shadow["calls"].as_u64().unwrap();
    assert!((1..8).contains(&calls), "{shadow}");
    assert!(cost > 0.0 && cost <= 0.0045, "{cost}");

    app.write("crewline.yaml", &registry(&server, "{model: tiny, share: 100%, cost_max: 0}"));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert_eq!(run.events_of("task_completed").len(), 8);
    assert_eq!(report(&app)["shadow"], Value::Null, "nothing is sent for no money");
}

#[test]
fn a_candidate_that_hangs_or_fails_delays_nobody() {
    let script = Script::text("Kafka.").on_model("tiny", StubReply::hang());
    let server = StubServer::start(script);
    let app = app();
    app.write("crewline.yaml", &registry(&server, "{model: tiny, share: 100%, cost_max: 0.5, time_max: 700ms}"));
    app.write("plan.json", &line(4));
    let begun = Instant::now();
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let finished = run.events_of("run_finished")[0]["elapsed_ms"].as_u64().unwrap();
    assert_eq!(run.events_of("task_completed").len(), 4);
    assert!(begun.elapsed() >= Duration::from_millis(700) && begun.elapsed() < Duration::from_secs(20));
    let rows = read(&app, &["route", "shadows", "-o", "json"]);
    let copies = rows[0]["copies"].as_u64().unwrap();
    assert!(copies >= 1 && copies <= 1 + finished / 700, "one at a time: {copies} in {finished} ms");
    assert_eq!((&rows[0]["failed"], &rows[0]["open"]), (&rows[0]["copies"], &json!(0)));
    let cost = rows[0]["cost_usd"].as_f64().unwrap();
    assert!(cost >= 0.0041 * copies as f64, "what nobody knows the end of counts with its worst case: {cost}");

    server.reset();
    let failing = StubServer::start(Script::text("Kafka.").on_model("tiny", StubReply::status(500)));
    app.write("crewline.yaml", &registry(&failing, "{model: tiny, share: 100%, cost_max: 0.5}"));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert_eq!(run.events_of("task_completed").len(), 4);
    assert!(run.events_of("model_call").iter().all(|call| call["model"] == "cheap"));
}

#[test]
fn a_kill_repeats_no_copy_and_loses_no_money() {
    let script = Script::text("Kafka.").on_model("tiny", StubReply::hang());
    let gate = Gate::after(1);
    let server = StubServer::start(script.on_model("cheap", StubReply::text("Kafka.").behind(&gate)));
    let app = app();
    app.write("crewline.yaml", &registry(&server, "{model: tiny, share: 100%, cost_max: 0.5}"));
    app.write("plan.json", &line(3));
    let mut child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_until("a copy", || server.requests().iter().any(|it| it.model == "tiny"));
    child.kill().unwrap();
    finish(child, TestApp::LIMIT);
    gate.open();
    let run = crate::resume::only_run(&app);
    let before = read(&app, &["route", "shadows", "-o", "json"])[0].clone();
    assert_eq!((&before["copies"], &before["open"]), (&json!(1), &json!(1)));
    let worst = before["cost_usd"].as_f64().unwrap();
    assert!(worst > 0.004, "an open copy counts with its worst case: {worst}");

    // Without a candidate from now on: what was sent stays, and is not sent again.
    app.write("crewline.yaml", &server.registry());
    app.run(["resume", &run, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let after = read(&app, &["route", "shadows", "-o", "json"])[0].clone();
    assert_eq!(after, before);
    assert_eq!(report(&app)["shadow"], json!({"calls": 1, "open": 1, "accepted": 0, "cost_usd": before["cost_usd"]}));
    assert_eq!(server.requests().iter().filter(|it| it.model == "tiny").count(), 1);
}

#[test]
fn a_remote_candidate_is_not_asked_offline_and_none_is_asked_by_default() {
    let server = StubServer::start(Script::text("Kafka."));
    let app = app();
    app.write("plan.json", &line(2));
    let far = registry(&server, "{model: tiny, share: 100%, cost_max: 0.5}")
        .replace("models:", "  far: {type: openai_compatible, base_url: \"https://203.0.113.9/v1\"}\nmodels:")
        .replace("tiny: {provider: stub", "tiny: {provider: far");
    app.write("crewline.yaml", &far);
    app.run(run_args(&["--plan", "plan.json", "--offline"])).expect_code(0);
    assert_eq!(report(&app)["shadow"], Value::Null);
    app.registry(&server);
    app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    assert_eq!(report(&app)["shadow"], Value::Null);
    assert!(app.run(["route", "shadows"]).expect_code(0).stdout.is_empty());
    assert!(!app.run(["cost"]).expect_code(0).stdout.contains("COPIES"));
}

#[test]
fn a_candidate_that_can_not_be_is_refused_with_its_place() {
    let server = StubServer::start(Script::default());
    let app = app();
    let check = |shadow: &str| {
        app.write("crewline.yaml", &registry(&server, shadow));
        app.run(["registry", "check"])
    };
    check("{model: tiny, share: 5%, cost_max: 0.05}").expect_code(0);
    for (shadow, parts) in [
        ("{model: tinny, share: 5%, cost_max: 0.05}", ["there is no model `tinny`", "did you mean `tiny`?"]),
        ("{model: cheap, share: 5%, cost_max: 0.05}", ["in the chain of `coder` already", "name a model that is not"]),
        ("{model: tiny, share: 0%, cost_max: 0.05}", ["is no share: `0%`", "write it as `5%`"]),
        ("{model: tiny, share: 101%, cost_max: 0.05}", ["is no share: `101%`", "up to 100 %"]),
        ("{model: tiny, share: 5%, cost_max: -1}", ["`roles.coder.shadow.cost_max`", "0 and above"]),
        ("{model: tiny, share: 5%}", ["lacks `cost_max`", "may cost in one run"]),
        ("{model: tiny, shares: 5%, cost_max: 1}", ["unknown key `shares`", "did you mean `share`?"]),
        ("{model: tiny, share: 5%, cost_max: 1, time_max: soon}", ["is not a duration", "`30s`"]),
    ] {
        let refused = check(shadow).expect_code(3);
        for part in parts {
            assert!(refused.stderr.contains(part), "{part} is missing in: {}", refused.stderr);
        }
        assert!(refused.stderr.contains("crewline.yaml:"), "{}", refused.stderr);
    }
    let unpriced = registry(&server, "{model: tiny, share: 5%, cost_max: 0.05}")
        .replace(", price: {input_per_million: 0.5, output_per_million: 1.0}", "");
    app.write("crewline.yaml", &unpriced);
    let refused = app.run(["registry", "check"]).expect_code(3);
    assert!(refused.stderr.contains("`tiny` has no price, so `cost_max` could not hold"), "{}", refused.stderr);
}
