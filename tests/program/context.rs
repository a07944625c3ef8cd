//! A person in charge of what tasks are told: looking, deciding, approving, and getting the same again.

use crewline_testkit::{Finished, Script, StubReply, StubServer, TestApp};
use serde_json::{Value, json};

use crate::{app, run_args};

/// a → c, b → c; `d` stands alone.
fn plan() -> Value {
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": format!("Task {id}"), "description": format!("Do {id}."), "role": "writer", "depends_on": needs});
    json!({"goal": "Two into one", "tasks": [task("a", &[]), task("b", &[]), task("d", &[]), task("c", &["a", "b", "d"])]})
}

struct Made {
    app: TestApp,
    server: StubServer,
    run: String,
}

fn made(script: Script) -> Made {
    let server = StubServer::start(script);
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan().to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let run = run.events()[0]["run"].as_str().unwrap().to_owned();
    server.reset();
    Made { app, server, run }
}

/// Every task says what it is.
fn script() -> Script {
    Script::new(|request| {
        let key = ["a", "b", "c", "d"].into_iter().find(|key| request.contains(&format!("Do {key}."))).unwrap_or("?");
        StubReply::text(format!("# {key}\n\nwords-of-{key}\n"))
    })
}

impl Made {
    fn run(&self, args: &[&str]) -> Finished {
        let args: Vec<String> = args.iter().map(|it| it.replace("RUN", &self.run)).collect();
        self.app.run(args)
    }

    fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&args).expect_code(0).stdout).unwrap()
    }

    /// The source of a task's result, as contexts name it.
    fn source(&self, key: &str) -> String {
        let report = self.json(&["show", "RUN"]);
        let tasks = report["tasks"].as_array().unwrap();
        let task = tasks.iter().find(|task| task["key"] == key).unwrap();
        format!("task:{}", task["id"].as_str().unwrap())
    }
}

fn item<'a>(shown: &'a Value, source: &str) -> &'a Value {
    let items = shown["items"].as_array().unwrap();
    items.iter().find(|item| item["source"] == source).unwrap_or_else(|| panic!("no {source} in {shown:#}"))
}

#[test]
fn what_an_attempt_was_told_is_explained_item_by_item() {
    let made = made(script());
    let shown = made.json(&["context", "show", "RUN/c"]);
    assert_eq!(item(&shown, "index")["tier"], "index");
    for key in ["a", "b", "d"] {
        let told = item(&shown, &made.source(key)).clone();
        assert_eq!(
            (&told["tier"], &told["form"], &told["reason"]),
            (&json!("requires"), &json!("whole"), &json!("fits"))
        );
        assert_eq!(told["title"], format!("Task {key}"));
    }
    let table = made.run(&["context", "show", "RUN/c"]).expect_code(0).stdout;
    for words in ["WHY", "the task requires it: fits", "in every bundle: fits", "Task a"] {
        assert!(table.contains(words), "{words}: {table}");
    }
    let snapshots = made.json(&["context", "snapshots", "RUN/c"]);
    assert_eq!(snapshots.as_array().unwrap().len(), 1);
    let attempt = snapshots[0]["attempt"].as_str().unwrap();
    assert_eq!(made.json(&["context", "show", attempt])["bundle"], shown["bundle"]);
    // A look at the same now gives the same bytes, and asks nobody.
    let preview = made.json(&["context", "preview", "RUN/c"]);
    assert_eq!((&preview["bundle"], &preview["budget"]), (&shown["bundle"], &shown["budget"]));
    assert_eq!(made.server.calls(), 0);
    let missing = made.run(&["context", "show", &format!("{attempt}9")]).expect_code(5);
    assert!(missing.stderr.contains("context.no_attempt"), "{}", missing.stderr);
}

#[test]
fn the_neighbours_in_the_plan_are_told_the_same_every_time() {
    let server = StubServer::start(script());
    let app = app();
    app.registry(&server);
    let task = |id: &str, needs: &[&str]| json!({"id": id, "title": format!("Task {id}"), "description": format!("Do {id}."), "role": "writer", "depends_on": needs});
    let plan =
        json!({"goal": "Beside", "tasks": [task("a", &[]), task("b", &["a"]), task("c", &["b"]), task("d", &["c"])]});
    app.write("plan.json", &plan.to_string());
    let section = || -> String {
        let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
        let run = run.events()[0]["run"].as_str().unwrap().to_owned();
        let request = server.requests().into_iter().find(|it| it.contains("# Your task: Task c\n")).unwrap().text();
        server.reset();
        let shown = app.run(["context", "show", &format!("{run}/c"), "-o", "json"]).expect_code(0);
        let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
        let told = item(&shown, "siblings");
        assert_eq!((&told["tier"], &told["form"]), (&json!("siblings"), &json!("whole")));
        let from = request.find("Source: siblings").unwrap();
        request[from..].split_inclusive("\n```\n").take(2).collect()
    };
    let one = section();
    // `b` is required, and given as a whole.
    for words in ["- `a` Task a (done): words-of-a\n", "- `d` Task d (waits for this task)\n"] {
        assert!(one.contains(words), "{words}: {one}");
    }
    assert!(!one.contains("Task b"), "{one}");
    assert_eq!(one, section(), "another run of the plan is told the same bytes");
}

#[test]
fn decisions_hold_for_what_is_made_again() {
    let made = made(script());
    let (a, b) = (made.source("a"), made.source("b"));
    made.run(&["context", "exclude", "RUN/c", "b", "--agent", "ada"]).expect_code(0);
    made.run(&["context", "pin", "RUN/c", "a"]).expect_code(0);
    let preview = made.json(&["context", "preview", "RUN/c"]);
    assert_eq!(item(&preview, &a)["tier"], "pinned");
    let out = item(&preview, &b).clone();
    assert_eq!((&out["form"], &out["reason"]), (&json!("left_out"), &json!("excluded by a person")));
    assert!(!preview["text"].as_str().unwrap().contains("words-of-b"));
    // The recorded result was made from something else now, which is said rather than passed over.
    let refused = made.run(&["replay", "RUN", "--out", "again"]).expect_code(9);
    assert!(refused.stderr.contains("what a person decided on its context"), "{}", refused.stderr);
    let again = made.run(&["replay", "RUN", "--from", "c", "-o", "jsonl", "--out", "again"]).expect_code(0);
    assert_eq!(made.server.calls(), 1);
    let asked = &made.server.requests()[0];
    assert!(asked.contains("words-of-a") && !asked.contains("words-of-b"), "the excluded result was sent");
    let child = again.events()[0]["run"].as_str().unwrap().to_owned();
    // The decisions came along, under the names of the new run.
    let shown = made.json(&["context", "show", &format!("{child}/c")]);
    let reasons: Vec<&str> =
        shown["items"].as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"excluded by a person"), "{reasons:?}");
    let diff = made.json(&["context", "diff", "RUN/c", &format!("{child}/c")]);
    assert_eq!(diff["same"], false);
    // Taken back, all is as before.
    made.run(&["context", "unpin", "RUN/c", "b"]).expect_code(0);
    made.run(&["context", "unpin", "RUN/c", &a]).expect_code(0);
    let preview = made.json(&["context", "preview", "RUN/c"]);
    for source in [&a, &b] {
        let told = item(&preview, source);
        assert_eq!((&told["tier"], &told["form"]), (&json!("requires"), &json!("whole")));
    }
}

#[test]
fn an_approved_bundle_is_sent_byte_for_byte() {
    let made = made(script());
    made.run(&["context", "exclude", "RUN/c", "d"]).expect_code(0);
    let approved = made.json(&["context", "approve", "RUN/c", "--budget", "300", "--manual", "b"]);
    assert_eq!(approved["approved"], true);
    let locked = made.run(&["context", "pin", "RUN/c", "a"]).expect_code(9);
    assert!(locked.stderr.contains("context.locked") && locked.stderr.contains("--revoke"), "{}", locked.stderr);
    let hashes: Vec<Value> = ["one", "two"]
        .into_iter()
        .map(|out| {
            let again = made.run(&["replay", "RUN", "--from", "c", "-o", "jsonl", "--out", out]).expect_code(0);
            let child = again.events()[0]["run"].as_str().unwrap().to_owned();
            made.json(&["context", "show", &format!("{child}/c")])["bundle"].clone()
        })
        .collect();
    assert_eq!(hashes, [approved["bundle"].clone(), approved["bundle"].clone()]);
    // The server heard the very bytes that were approved, both times.
    let text = approved["text"].as_str().unwrap();
    let requests = made.server.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests.iter().all(|request| request.contains(text)), "the prompt lacks the approved bundle");
    let plain = made.run(&["context", "preview", "RUN/c", "--text"]).expect_code(0);
    assert_eq!(plain.stdout, text);
    made.run(&["context", "approve", "RUN/c", "--revoke"]).expect_code(0);
    assert_eq!(made.json(&["context", "preview", "RUN/c"])["approved"], false);
}

#[test]
fn a_retry_is_told_what_was_approved() {
    let server = StubServer::start(Script::new(|request| {
        if request.contains("Do c.") { StubReply::status(400) } else { StubReply::text("# x\n\nwords\n") }
    }));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan().to_string());
    let run = app.run(run_args(&["--plan", "plan.json"]));
    let run = run.events()[0]["run"].as_str().unwrap().to_owned();
    let task = format!("{run}/c");
    let approve = ["context", "approve", &task, "--budget", "200", "-o", "json"];
    let approved: Value = serde_json::from_str(&app.run(approve).expect_code(0).stdout).unwrap();
    server.reset();
    app.run(["retry", &task, "-o", "jsonl", "--out", "again"]);
    assert!(server.calls() > 0);
    let text = approved["text"].as_str().unwrap();
    assert!(server.requests().iter().all(|request| request.contains(text)));
    let snapshots = app.run(["context", "snapshots", &task, "-o", "json"]).expect_code(0);
    let snapshots: Value = serde_json::from_str(&snapshots.stdout).unwrap();
    assert_eq!(snapshots.as_array().unwrap().last().unwrap()["bundle"], approved["bundle"]);
}

#[test]
fn memories_are_pinned_by_their_ids() {
    let made = made(script());
    let added = made.run(&["memory", "add", "The customer speaks French.", "-o", "json"]).expect_code(0);
    let id = serde_json::from_str::<Value>(&added.stdout).unwrap()["id"].as_str().unwrap().to_owned();
    let source = format!("memory:{id}");
    made.run(&["context", "pin", "RUN/a", &id[..8]]).expect_code(0);
    let preview = made.json(&["context", "preview", "RUN/a"]);
    assert_eq!(
        (&item(&preview, &source)["tier"], &item(&preview, &source)["form"]),
        (&json!("pinned"), &json!("whole"))
    );
    made.run(&["context", "exclude", "RUN/a", &source]).expect_code(0);
    let preview = made.json(&["context", "preview", "RUN/a", "--k", "50"]);
    assert!(!preview["text"].as_str().unwrap().contains("French"), "{preview:#}");
    for (wrong, code, words) in [
        (vec!["context", "pin", "RUN/a", "nonsense"], 5, "context.no_item"),
        (vec!["context", "pin", "RUN/a", "memory:ffff"], 5, "context.no_item"),
        (vec!["context", "exclude", "RUN/a", "index"], 3, "in every bundle"),
        (vec!["context", "pin", "RUN/a", "a"], 3, "what it made itself"),
        (vec!["context", "pin", "RUN", "a"], 2, "a task is wanted"),
    ] {
        let run = made.run(&wrong).expect_code(code);
        assert!(run.stderr.contains(words) && run.stdout.is_empty(), "{wrong:?}: {}", run.stderr);
    }
}

/// Texts that break what counts, cuts and fences.
fn hostile() -> String {
    let mut text = String::new();
    for round in 0..400 {
        text.push_str("👩‍👩‍👧‍👦 Длинное предложение без конца 一个长的中文句子没有空格 ");
        text.push_str(&"`".repeat(round % 9));
        text.push_str("\n```rust\nfn a() {}\n```\n\u{202e}\u{feff}e\u{301}\u{301}\u{301} 0xDEADBEEF aB3dE5gH1jKmN+pQ ");
        text.push_str(["\r\n", "\r", "\u{2028}", "\t", "Sentence. "][round % 5]);
    }
    text
}

#[test]
fn a_preview_holds_its_budget_whatever_the_texts() {
    let made = made(Script::new(|request| {
        let key = ["a", "b", "d"].into_iter().find(|key| request.contains(&format!("Do {key}.")));
        StubReply::text(key.map_or_else(|| "done".to_owned(), |key| format!("{key} {}", hostile())))
    }));
    for budget in [0_u32, 1, 16, 17, 40, 100, 333, 1_000, 4_096, 20_000, 100_000] {
        let preview = made.json(&["context", "preview", "RUN/c", "--budget", &budget.to_string()]);
        let text = preview["text"].as_str().unwrap();
        let tokens = u32::try_from(preview["tokens"].as_u64().unwrap()).unwrap();
        assert!(tokens <= budget, "{tokens} > {budget}");
        assert!(!text.contains('\u{fffd}'), "a character was cut at {budget}");
        let again = made.json(&["context", "preview", "RUN/c", "--budget", &budget.to_string()]);
        assert_eq!(again, preview, "the same inputs gave another bundle");
    }
    assert_eq!(made.server.calls(), 0);
}

#[test]
fn a_prompt_is_rendered_as_it_is_sent() {
    let server = StubServer::start(script());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan().to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let task = format!("{}/c", run.events()[0]["run"].as_str().unwrap());
    let render = || -> Value {
        let rendered = app.run(["prompt", "render", &task, "-o", "json"]).expect_code(0);
        serde_json::from_str(&rendered.stdout).unwrap()
    };
    let prompt = render();
    let sent = server.requests().iter().find(|request| request.contains("Do c.")).unwrap().text();
    for message in prompt["messages"].as_array().unwrap() {
        let text = message["text"].as_str().unwrap();
        assert!(sent.contains(text), "--- rendered\n{text}\n--- sent\n{sent}");
    }
    let parts = prompt["parts"].as_array().unwrap();
    let total: u64 = parts.iter().map(|it| it["tokens"].as_u64().unwrap()).sum();
    assert_eq!(total, prompt["tokens"].as_u64().unwrap(), "{parts:#?}");
    // A template of the project goes before the shipped one.
    app.write("config/prompts/task.j2", "Mine: {{ title }}\n{{ context }}\n");
    assert!(render()["messages"][1]["text"].as_str().unwrap().starts_with("Mine: Task c"));
}

#[test]
fn an_output_is_traced_to_what_it_was_made_from() {
    let server = StubServer::start(Script::new(|request| {
        let text = request.text();
        // `c` cites one of what it requires, and something that nobody gave it.
        let first = text.split("Source: task:").nth(1).map(|rest| rest[..8].to_owned());
        match first.filter(|_| request.contains("Do c.")) {
            Some(id) => StubReply::text(format!("# c\n\nIt is so [task:{id}], says [task:zzzzzzzz].\n")),
            None => StubReply::text("# x\n\nwords\n"),
        }
    }));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan().to_string());
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let run = run.events()[0]["run"].as_str().unwrap().to_owned();
    let report = std::fs::read_dir(app.path("out")).unwrap();
    assert!(report.count() >= 3);
    let dir = if app.path("out/report.json").is_file() { "out".to_owned() } else { format!("out/{run}") };
    let report: Value =
        serde_json::from_str(&std::fs::read_to_string(app.path(&format!("{dir}/report.json"))).unwrap()).unwrap();
    let flagged = &report["citations"][0];
    assert_eq!((&flagged["key"], &flagged["unknown"]), (&json!("c"), &json!(["zzzzzzzz"])), "{report:#}");
    assert_eq!(flagged["ignored"].as_array().unwrap().len(), 2);
    let trace = |what: &str| -> Value {
        serde_json::from_str(&app.run(["trace", what, "-o", "json"]).expect_code(0).stdout).unwrap()
    };
    let traced = trace(&format!("{run}/c"));
    assert_eq!(traced["attempt"]["number"], 1);
    assert_eq!(traced["attempt"]["calls"][0]["outcome"], "ok");
    assert_eq!(traced["context"]["items"].as_array().unwrap().len(), 4);
    assert!(traced["parameters"]["output_tokens_max"].as_u64().unwrap() > 0);
    assert_eq!(traced["citations"]["unknown"], json!(["zzzzzzzz"]));
    assert_eq!(trace(&format!("{dir}/RESULT.md")), traced);
    let table = app.run(["trace", &format!("{run}/c")]).expect_code(0).stdout;
    assert!(table.contains("cites what it was not told: zzzzzzzz") && table.contains("WHY"), "{table}");
    app.run(["trace", "plan.json"]).expect_code(3);
}

#[test]
fn requests_are_logged_without_secrets() {
    let secret = concat!("sk-", "abcdefghijklmnopqrstuvwxyz0123");
    let server = StubServer::start(Script::text(format!("# x\n\nthe key is {secret}, the badge ACME-4711\n")));
    let app = app();
    app.registry(&server);
    app.write(
        "plan.json",
        &json!({"goal": "One", "tasks": [{"id": "a", "title": "Task a", "description": format!("Use {secret}.")}]})
            .to_string(),
    );
    app.write("patterns", "# badges\nACME-[0-9]+\n");
    let run = |detail: &str, patterns: &str| {
        let mut command = app.command(run_args(&["--plan", "plan.json"]));
        command.env("CREWLINE_REQUESTS__LOG", detail).env("CREWLINE_REQUESTS__REDACT", patterns);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        crewline_testkit::app::finish(command.spawn().unwrap(), TestApp::LIMIT)
    };
    let path = app.path("data/logs/requests.jsonl");
    run("off", "").expect_code(0);
    assert!(!path.exists());
    run("metadata", "").expect_code(0);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!((&line["outcome"], line.get("said"), line.get("reply")), (&json!("ok"), None, None));
    assert!(line["input_tokens"].as_u64().unwrap() > 0);
    let made = run("full", "patterns").expect_code(0);
    let text = std::fs::read_to_string(&path).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(line["reply"], "# x\n\nthe key is [redacted], the badge [redacted]\n");
    assert!(line["said"][1]["text"].as_str().unwrap().contains("Use [redacted]."), "{line:#}");
    assert!(!text.contains(secret) && !text.contains("ACME-4711"));
    // The line is found by the prompt's hash.
    let id = made.events()[0]["run"].as_str().unwrap().to_owned();
    let traced = app.run(["trace", &format!("{id}/a"), "-o", "json"]).expect_code(0);
    let traced: Value = serde_json::from_str(&traced.stdout).unwrap();
    assert_eq!(traced["attempt"]["calls"][0]["prompt"], line["prompt"]);
    app.write("broken", "fine\n(\n");
    let broken = run("full", "broken").expect_code(2);
    assert!(broken.stderr.contains("line 2"), "{}", broken.stderr);
    assert!(run("loud", "").expect_code(3).stderr.contains("off, metadata, full"));
}
