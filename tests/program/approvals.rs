//! A person in charge: plans, contexts, calls of tools and questions wait for a decision, and cost nothing meanwhile.

use crewline_testkit::{Script, StubReply, StubRequest, StubServer, TestApp, app::finish};
use serde_json::{Value, json};

use crate::{
    app, fan,
    resume::{only_run, wait_for_calls},
    run_args, signal,
};

/// One task of a role with tools.
fn one_task() -> String {
    json!({"goal": "One thing", "tasks": [
        {"id": "only", "title": "Only", "description": "Do the one thing.", "role": "keeper", "depends_on": []}
    ]})
    .to_string()
}

/// A registry whose role `keeper` has these rules.
fn with_tools(app: &TestApp, server: &StubServer, rules: &str) {
    let text = server.registry().replace("roles:", &format!("roles:\n  keeper: {{tools: {rules}}}"));
    app.write("crewline.yaml", &text);
}

/// What a model says that asks for one call, and answers when it was told what came of it.
fn asks_for(action: &Value) -> Script {
    let action = action.clone();
    Script::new(
        move |request: &StubRequest| {
            if request.contains("Result of `") { StubReply::json(&done()) } else { StubReply::json(&action) }
        },
    )
}

fn done() -> Value {
    json!({"action": "final", "text": "It is done."})
}

fn approvals(app: &TestApp, extra: &[&str]) -> Vec<Value> {
    let mut args = vec!["approvals", "-o", "json"];
    args.extend(extra);
    serde_json::from_str(&app.run(args).expect_code(0).stdout).unwrap()
}

/// A run whose plan waits for a yes, and its id.
fn plan_that_waits() -> (StubServer, TestApp, String) {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(1).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--approve", "plan"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    (server, app, id)
}

#[test]
fn a_plan_waits_for_a_yes_and_then_runs() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(2).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--approve", "plan"])).expect_code(8);
    let asked = run.events_of("awaiting_approval");
    assert_eq!((asked.len(), &asked[0]["kind"]), (1, &json!("plan")));
    let last = run.events().pop().unwrap();
    assert_eq!((&last["status"], &last["error"]["code"]), (&json!("interrupted"), &json!("run.awaiting_approval")));
    assert_eq!(server.calls(), 0, "nothing runs before the yes");
    let id = last["run"].as_str().unwrap();

    let waiting = approvals(&app, &[id]);
    assert_eq!((waiting.len(), &waiting[0]["state"]), (1, &json!("pending")));
    assert!(waiting[0]["detail"].as_str().unwrap().contains("m0 (writer): Part m0"), "{waiting:?}");
    // Without a decision it goes on waiting.
    app.run(["resume", id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(8);
    assert_eq!(approvals(&app, &[]).len(), 1, "it is asked once");

    let yes = app.run(["approve", id, "-m", "fine"]).expect_code(0);
    assert!(yes.stderr.contains(&format!("crewline resume {id}")), "{}", yes.stderr);
    let approval = waiting[0]["id"].as_str().unwrap();
    app.run(["reject", approval]).expect_code(9);
    let resumed = app.run(["resume", id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events().last().unwrap()["tasks"]["completed"], 4);
    let decided = approvals(&app, &["--all"]);
    assert_eq!((&decided[0]["state"], &decided[0]["message"]), (&json!("approved"), &json!("fine")));
    assert!(decided[0]["decided_by"].is_string() && decided[0]["decided_at"].is_string(), "{decided:?}");
}

#[test]
fn a_yes_after_an_edit_is_for_the_plan_as_it_is_then() {
    let (server, app, id) = plan_that_waits();
    let before = approvals(&app, &[&id]);
    let task = format!("{id}/m0");
    app.run(["task", "update", &task, "--title", "Another part"]).expect_code(0);
    let now = approvals(&app, &[&id]);
    assert_eq!(now.len(), 1, "what was asked about the plan before is gone: {now:?}");
    assert_ne!(now[0]["id"], before[0]["id"]);
    assert!(now[0]["detail"].as_str().unwrap().contains("m0 (writer): Another part"), "{now:?}");
    // What is changed back is asked as it was.
    app.run(["task", "update", &task, "--title", "Part m0"]).expect_code(0);
    assert_eq!(approvals(&app, &[&id])[0]["detail"], before[0]["detail"]);
    // How to tell that it is done, and when it may begin, are of the plan as well.
    app.run(["task", "update", &task, "--criterion", "It rhymes", "--planned-for", "2020-01-01T00:00:00Z"])
        .expect_code(0);
    let now = approvals(&app, &[&id]);
    let detail = now[0]["detail"].as_str().unwrap();
    assert!(detail.contains("  done when: It rhymes\n  not before 2020-01-01T00:00:00"), "{detail}");
    app.run(["approve", &id]).expect_code(0);

    // A yes is for no other plan.
    app.run(["task", "delete", &format!("{id}/last")]).expect_code(0);
    app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(8);
    assert_eq!(server.calls(), 0);
    let smaller = approvals(&app, &[&id]);
    assert!(!smaller[0]["detail"].as_str().unwrap().contains("last (writer)"), "{smaller:?}");
    app.run(["approve", &id]).expect_code(0);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert!(resumed.events_of("awaiting_approval").is_empty() && server.calls() >= 2);
}

#[test]
fn a_rejected_plan_ends_its_run() {
    let (server, app, id) = plan_that_waits();
    app.run(["reject", &id, "-m", "too small"]).expect_code(0);
    let ended = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(1);
    let error = &ended.events().pop().unwrap()["error"];
    assert_eq!(error["code"], "approval.rejected");
    assert!(error["message"].as_str().unwrap().contains("too small"), "{error}");
    assert_eq!(server.calls(), 0);
}

#[test]
fn a_call_waits_for_a_yes_and_no_answer_is_bought_twice() {
    let action = json!({"action": "memory_store", "arguments": {"text": "Brokers need disks."}});
    let server = StubServer::start(asks_for(&action));
    let app = app();
    with_tools(&app, &server, "{memory_store: ask}");
    app.write("plan.json", &one_task());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    assert!(run.events_of("tool_call").is_empty(), "nothing is done before the yes");
    assert_eq!(run.events().last().unwrap()["tasks"]["awaiting_approval"], 1);
    let waiting = approvals(&app, &[&id]);
    assert_eq!(waiting[0]["kind"], "tool");
    let detail: Value = serde_json::from_str(waiting[0]["detail"].as_str().unwrap()).unwrap();
    assert_eq!((&detail["tool"], &detail["arguments"]), (&json!("memory_store"), &action["arguments"]));

    app.run(["approve", waiting[0]["id"].as_str().unwrap()]).expect_code(0);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let calls = resumed.events_of("tool_call");
    assert_eq!((calls.len(), &calls[0]["tool"], &calls[0]["outcome"]), (1, &json!("memory_store"), &json!("ok")));
    assert_eq!(server.calls(), 2, "the answer that asked for the call was recorded");
    let found = app.run(["memory", "search", "brokers", "-o", "json"]).expect_code(0);
    assert!(found.stdout.contains("Brokers need disks."), "{}", found.stdout);
}

#[test]
fn a_yes_is_for_one_call_and_for_no_other_of_the_same_task() {
    let store = |text: &str| json!({"action": "memory_store", "arguments": {"text": text}});
    // Another call of the same tool, and then the first one word for word.
    let wishes = [store("Brokers need disks."), store("Brokers need more."), store("Brokers need disks.")];
    let said = wishes.clone();
    let server = StubServer::start(Script::new(move |request: &StubRequest| {
        let told: usize = request.messages.iter().map(|it| it.text.matches("Result of `").count()).sum();
        StubReply::json(said.get(told).unwrap_or(&done()))
    }));
    let app = app();
    with_tools(&app, &server, "{memory_store: ask}");
    app.write("plan.json", &one_task());
    let mut run = app.run(run_args(&["--plan", "plan.json"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    for (made, wish) in wishes.iter().enumerate() {
        assert_eq!(run.events_of("awaiting_approval").len(), 1, "{made}: {}", run.stdout);
        let waiting = approvals(&app, &[&id]);
        let detail: Value = serde_json::from_str(waiting[0]["detail"].as_str().unwrap()).unwrap();
        assert_eq!((waiting.len(), &detail["arguments"]), (1, &wish["arguments"]), "{waiting:?}");
        let logged = app.run(["logs", &id, "-o", "jsonl"]).expect_code(0);
        assert_eq!(logged.events_of("tool_call").len(), made, "only what was approved is made");
        app.run(["approve", waiting[0]["id"].as_str().unwrap()]).expect_code(0);
        let code = if made + 1 < wishes.len() { 8 } else { 0 };
        run = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(code);
    }
    let logged = app.run(["logs", &id, "-o", "jsonl"]).expect_code(0);
    assert_eq!(logged.events_of("tool_call").len(), wishes.len());
    assert_eq!(approvals(&app, &["--all"]).len(), wishes.len(), "each was asked about once");
}

#[test]
fn a_yes_to_something_else_is_no_yes() {
    let action = json!({"action": "memory_store", "arguments": {"text": "Brokers need disks."}});
    let server = StubServer::start(asks_for(&action));
    let app = app();
    with_tools(&app, &server, "{memory_store: ask}");
    app.write("plan.json", &one_task());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    app.run(["approve", &id]).expect_code(0);
    // As if the same place of the same answer had held another call when the person was asked.
    in_database(&app, "UPDATE approvals SET digest = randomblob(length(digest))");
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(8);
    assert!(resumed.events_of("tool_call").is_empty(), "{}", resumed.stdout);
    assert_eq!(approvals(&app, &[&id]).len(), 1, "it is asked about this one");
    app.run(["approve", &id]).expect_code(0);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out", "--no-input"]).expect_code(0);
    assert_eq!((resumed.events_of("tool_call").len(), server.calls()), (1, 2));
}

/// Changes rows behind the program's back.
fn in_database(app: &TestApp, statement: &str) {
    use sea_orm::{ConnectionTrait, Database};
    let url = format!("sqlite:{}", app.path("data/crewline.db").display());
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let database = Database::connect(url).await.unwrap();
        assert_eq!(database.execute_unprepared(statement).await.unwrap().rows_affected(), 1);
        database.close().await.unwrap();
    });
}

#[test]
fn a_rejected_call_is_not_made_and_its_specialist_reads_why() {
    let action = json!({"action": "memory_store", "arguments": {"text": "Brokers need disks."}});
    let server = StubServer::start(asks_for(&action));
    let app = app();
    // A rule allows it; the person wants to be asked all the same.
    with_tools(&app, &server, "{memory_store: allow}");
    app.write("plan.json", &one_task());
    let run = app.run(run_args(&["--plan", "plan.json", "--approve", "tools"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    app.run(["reject", &id, "-m", "that is a secret"]).expect_code(0);
    let resumed = app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert_eq!(resumed.events_of("tool_call")[0]["outcome"], "refused");
    assert!(server.requests().last().unwrap().contains("that is a secret"));
    assert_eq!(server.calls(), 2);
}

#[test]
fn a_question_is_answered_with_a_text() {
    let action = json!({"action": "ask_person", "arguments": {"question": "Which region?"}});
    let server = StubServer::start(asks_for(&action));
    let app = app();
    with_tools(&app, &server, "{ask_person: allow}");
    app.write("plan.json", &one_task());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(8);
    assert_eq!(run.events_of("awaiting_approval")[0]["what"], "Which region?");
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let refused = app.run(["approve", &id]).expect_code(3);
    assert!(refused.stderr.contains("crewline answer"), "{}", refused.stderr);
    app.run(["answer", &id, "the northern one"]).expect_code(0);
    app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    assert!(server.requests().last().unwrap().contains("the person answers: the northern one"));
}

#[test]
fn a_context_is_given_as_it_was_approved() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &one_task());
    let run = app.run(run_args(&["--plan", "plan.json", "--approve", "context"])).expect_code(8);
    let id = run.events()[0]["run"].as_str().unwrap().to_owned();
    let waiting = approvals(&app, &[&id]);
    assert_eq!((&waiting[0]["kind"], server.calls()), (&json!("context"), 0));
    app.run(["approve", &id]).expect_code(0);
    app.run(["resume", &id, "-o", "jsonl", "--out", "out"]).expect_code(0);
    let shown: Vec<Value> = serde_json::from_str(waiting[0]["detail"].as_str().unwrap()).unwrap();
    let sent: Vec<String> = server.requests()[0].messages.iter().map(|it| it.text.clone()).collect();
    assert_eq!(sent, shown.iter().map(|it| it["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>());
}

#[test]
fn what_waits_survives_a_crash() {
    let action = json!({"action": "memory_store", "arguments": {"text": "Brokers need disks."}});
    let slow = Script::new(|request: &StubRequest| {
        StubReply::text(format!("Result of: {}", request.first_line())).after(std::time::Duration::from_mins(1))
    });
    let keeper = StubReply::json(&action);
    let server = StubServer::start(slow.on_text("# Your task: Only", keeper));
    let app = app();
    with_tools(&app, &server, "{memory_store: ask}");
    let mut plan: Value = serde_json::from_str(&one_task()).unwrap();
    plan["tasks"].as_array_mut().unwrap().push(json!({
        "id": "slow", "title": "Slow", "description": "Take long.", "role": "writer", "depends_on": []
    }));
    app.write("plan.json", &plan.to_string());
    let child = app.spawn(run_args(&["--plan", "plan.json"]));
    wait_for_calls(&server, 2);
    for _ in 0..1_000 {
        if !approvals(&app, &[]).is_empty() {
            break;
        }
    }
    signal(child.id(), "KILL");
    assert_eq!(finish(child, TestApp::LIMIT).code, None);
    let waiting = approvals(&app, &[]);
    assert_eq!((waiting.len(), &waiting[0]["state"]), (1, &json!("pending")));
    assert_eq!(waiting[0]["run"].as_str().unwrap(), only_run(&app));
}

#[test]
fn what_was_never_asked_is_not_found() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    for line in [&["approve", "zzzzzzzz"][..], &["reject", "zzzzzzzz"], &["answer", "zzzzzzzz", "x"]] {
        let refused = app.run(line.iter()).expect_code(5);
        assert!(refused.stderr.contains("approval.not_found"), "{}", refused.stderr);
    }
    app.run(["run", "x", "--approve", "everything"]).expect_code(2);
}
