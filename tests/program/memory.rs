//! `crewline memory`: what is kept, found, shown and forgotten, and that no project sees another's.

use std::{collections::BTreeSet, fs, time::Duration};

use crewline_testkit::{
    Script, StubReply, StubServer, TestApp,
    app::finish,
    cross_encoder::{Shape, write},
};
use serde_json::{Value, json};

use crate::{app, run_args};

/// Kills of one ingest.
const KILLS: u64 = 10;

/// The data of a command that has to work.
fn data(app: &TestApp, args: &[&str]) -> Value {
    let mut all = vec!["memory"];
    all.extend(args);
    all.extend(["-o", "json"]);
    serde_json::from_str(&app.run(all).expect_code(0).stdout).unwrap()
}

fn list(app: &TestApp, args: &[&str]) -> Vec<Value> {
    let value = data(app, args);
    value.as_array().unwrap_or_else(|| panic!("{value}")).clone()
}

fn add(app: &TestApp, project: &str, text: &str) -> String {
    data(app, &["add", text, "--project", project])["id"].as_str().unwrap().to_owned()
}

/// The memories of a project as `export` writes them.
fn exported(app: &TestApp, project: &str) -> Vec<Value> {
    let lines = app.run(["memory", "export", "--project", project]).expect_code(0).stdout;
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(memories: &[Value]) -> BTreeSet<String> {
    memories.iter().map(|it| it["text"].as_str().unwrap().to_owned()).collect()
}

fn plan(title: &str, tasks: &[(&str, &str, &[&str])]) -> String {
    let task = |(id, role, needs): &(&str, &str, &[&str])| {
        json!({"id": id, "title": format!("{title} {id}"), "description": format!("{title} {id} now."), "role": role,
            "depends_on": needs})
    };
    json!({"goal": title, "tasks": tasks.iter().map(task).collect::<Vec<_>>()}).to_string()
}

#[test]
fn two_projects_with_the_same_texts_never_see_each_other() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let shared = "The harbour gauge is read at noon by the pilot";
    let (here, there) = (add(&app, "sea", shared), add(&app, "land", shared));
    assert_ne!(here, there, "the same text is another memory in another project");
    let secret = add(&app, "sea", "The harbour gauge code is QUOKKA-7");

    for (project, count) in [("sea", 2), ("land", 1), ("nobody", 0)] {
        let found = list(&app, &["search", "harbour gauge code QUOKKA-7", "--project", project]);
        assert_eq!(found.len(), count, "{project}");
        assert!(found.iter().all(|it| it["project"] == project), "{found:?}");
        assert_eq!(list(&app, &["ls", "--project", project]).len(), count);
        assert_eq!(exported(&app, project).len(), count);
        assert_eq!(data(&app, &["stats", "--project", project])["memories"], count);
    }
    // Nothing of the other project is named, shown, marked or forgotten by its id.
    for args in [
        vec!["show", &secret],
        vec!["pin", &secret],
        vec!["unpin", &secret],
        vec!["forget", &secret, "--yes"],
        vec!["add", "another text for it", "--supersedes", &secret],
    ] {
        let mut all = vec!["memory", "--project", "land"];
        all.extend(args.iter().map(|it| &**it));
        let refused = app.run(all).expect_code(5);
        assert!(!refused.stderr.contains("QUOKKA") && refused.stdout.is_empty(), "{}", refused.stderr);
    }
    assert_eq!(exported(&app, "land").len(), 1, "nothing was half written");
    assert_eq!(data(&app, &["reset", "--project", "land", "--yes"])["forgotten"], 1);
    assert_eq!(exported(&app, "sea").len(), 2, "forgetting one project leaves the other");

    // A run recalls what its own project knows.
    app.write("ask.json", &plan("Harbour gauge code", &[("a", "writer", &[])]));
    for (project, sees) in [("sea", true), ("land", false)] {
        server.reset();
        app.run(run_args(&["--plan", "ask.json", "--project", project])).expect_code(0);
        let has = server.requests().iter().any(|it| it.contains("QUOKKA-7"));
        assert_eq!(has, sees, "{project}");
        assert_eq!(exported(&app, project).iter().any(|it| it.to_string().contains("QUOKKA-7")), sees);
    }
}

#[test]
fn summaries_of_a_run_are_followed_forgotten_and_made_again() {
    let reply = StubReply::text("We decided to use port 8443, because 443 is taken. See `src/port.rs`.");
    let other = StubReply::text("We decided to listen on the loopback address only.");
    let server = StubServer::start(Script::default().on_text("Port a now.", reply).on_text("Port b now.", other));
    let app = app();
    app.registry(&server);
    app.write("plan.json", &plan("Port", &[("a", "coder", &[]), ("b", "tester", &["a"])]));
    let run = app.run(run_args(&["--plan", "plan.json"])).expect_code(0);
    let kinds: BTreeSet<String> =
        run.events_of("summary_ready").iter().map(|it| it["kind"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["handoff_summary", "project_summary", "task_summary"].map(str::to_owned).into());
    let stored = run.events_of("memory_stored").len();
    assert_eq!(exported(&app, "default").len(), stored, "every memory was told of");

    let project = &list(&app, &["ls", "--type", "project_summary"])[0];
    let down = data(&app, &["show", project["id"].as_str().unwrap()]);
    let port = down["sources"].as_array().unwrap().iter().find(|it| it["text"].as_str().unwrap().contains("8443"));
    let port = port.unwrap_or_else(|| panic!("the summary leads down to the task: {down}"));
    assert_eq!(port["type"], "task_summary");
    let up = data(&app, &["show", port["id"].as_str().unwrap()]);
    let above: BTreeSet<&str> =
        up["summaries"].as_array().unwrap().iter().map(|it| it["type"].as_str().unwrap()).collect();
    assert_eq!(above, ["handoff_summary", "project_summary"].into());

    let id = port["id"].as_str().unwrap();
    let planned = data(&app, &["forget", id, "--dry-run"]);
    assert_eq!(planned["forgotten"].as_array().unwrap().len(), 3, "{planned}");
    assert_eq!(planned["dry_run"], true);
    assert_eq!(exported(&app, "default").len(), stored, "nothing is forgotten by a dry run");
    let unsure = app.run(["memory", "forget", id, "--no-input"]);
    assert_ne!(unsure.code, Some(0), "nobody agreed");
    assert_eq!(exported(&app, "default").len(), stored);
    let done = data(&app, &["forget", id, "--yes"]);
    assert_eq!(done["forgotten"], planned["forgotten"]);
    let left = exported(&app, "default");
    assert!(left.iter().all(|it| !it.to_string().contains("8443")), "{left:?}");
    assert!(list(&app, &["search", "8443"]).iter().all(|it| !it.to_string().contains("8443")));
    let again = &list(&app, &["ls", "--type", "project_summary"])[0];
    assert_eq!(done["made_again"], json!([again["id"]]));
    assert!(again["text"].as_str().unwrap().contains("loopback"), "{again}");
    assert!(list(&app, &["rollup"]).is_empty(), "it is up to date");
}

#[test]
fn a_newer_statement_goes_before_an_older_one_that_is_kept() {
    let app = app();
    let old = add(&app, "default", "The port of the service is 8443");
    data(&app, &["add", "The port of the service is 9443", "--supersedes", &old]);
    let found = list(&app, &["search", "port of the service"]);
    assert_eq!(found[0]["text"], "The port of the service is 9443");
    assert_eq!(found[1]["superseded_by"], found[0]["id"]);
    assert_eq!(data(&app, &["show", found[0]["id"].as_str().unwrap()])["replaces"][0]["id"], found[1]["id"]);
}

#[test]
fn pins_lead_and_can_be_taken_back() {
    let app = app();
    let plain = add(&app, "default", "The tide table is printed in the harbour office");
    add(&app, "default", "The tide table is in the harbour");
    let first = |app: &TestApp| list(app, &["search", "tide table harbour"])[0]["id"].as_str().unwrap().to_owned();
    assert_ne!(first(&app), plain, "the shorter one fits better");
    assert_eq!(list(&app, &["pin", &plain[..12]])[0]["pinned"], true);
    assert_eq!(first(&app), plain);
    assert_eq!(list(&app, &["ls", "--pinned"]).len(), 1);
    list(&app, &["unpin", &plain]);
    assert_ne!(first(&app), plain);
    assert!(list(&app, &["ls", "--pinned"]).is_empty());
}

#[test]
fn an_export_is_imported_without_loss() {
    let app = app();
    let old = add(&app, "one", "The first decision was a broker");
    data(&app, &["add", "The second decision was a queue in the database", "--supersedes", &old, "--project", "one"]);
    data(
        &app,
        &[
            "add",
            "Ümlaute, \"quotes\" and\nlines 漢字",
            "--type",
            "quote",
            "--pin",
            "--importance",
            "900",
            "--project",
            "one",
        ],
    );
    let before = exported(&app, "one");
    app.run(["memory", "export", "--project", "one", "--out", "one.jsonl"]).expect_code(0);
    assert_eq!(data(&app, &["import", "one.jsonl", "--project", "one"])["known"], 3, "the same project knows it all");
    assert_eq!(data(&app, &["import", "one.jsonl", "--project", "two"])["added"], 3);
    assert_eq!(data(&app, &["import", "one.jsonl", "--project", "two"])["known"], 3, "twice is once");
    let after = exported(&app, "two");
    let plain = |memories: &[Value]| -> Vec<Value> {
        let ids: Vec<Value> = memories.iter().map(|it| it["id"].clone()).collect();
        let place = |id: &Value| json!(ids.iter().position(|it| it == id));
        let of = |it: &Value| {
            let mut it = it.clone();
            let by = place(&it["superseded_by"]);
            let all = it.as_object_mut().unwrap();
            all.retain(|key, _| !["id", "seq", "project", "superseded_by"].contains(&key.as_str()));
            all.insert("by".to_owned(), by);
            it
        };
        memories.iter().map(of).collect()
    };
    assert_eq!(plain(&before), plain(&after));
    assert!(before.iter().zip(&after).all(|(one, two)| one["id"] != two["id"]), "ids belong to their project");
}

#[test]
fn documents_are_cut_where_they_may_be_cut() {
    let app = app();
    let code = "```rust\nfn open(path: &Path) -> Result<Store> {\n\n    Store::at(path)\n}\n```";
    let filler = "The store keeps the rows of every task of the crew. ".repeat(20);
    app.write("guide.md", &format!("# Store\n\n{filler}\n\n## Opening\n\n{code}\n\n## Closing\n\n{filler}Words that differ at the end.\n\n## Thanks\n"));
    let first = data(&app, &["ingest", "guide.md"]);
    assert!(first["added"].as_u64().unwrap() >= 3, "{first}");
    let pieces = exported(&app, "default");
    assert!(texts(&pieces).iter().any(|it| it.contains(code)), "a code block stays whole: {:?}", texts(&pieces));
    assert!(pieces.iter().all(|it| it["type"] == "design_doc" && it["metadata"]["path"] == "guide.md"));
    assert!(pieces.iter().all(|it| it["tokens"].as_u64().unwrap() <= 220), "{pieces:?}");
    let again = data(&app, &["ingest", "guide.md"]);
    assert_eq!((again["added"].as_u64(), exported(&app, "default").len()), (Some(0), pieces.len()));

    app.write("chat.txt", "Thanks!\n\nSounds good, let me know.\n");
    let chat = data(&app, &["ingest", "chat.txt"]);
    assert_eq!((chat["added"].as_u64(), chat["left_out"].as_u64()), (Some(0), Some(1)), "{chat}");
}

#[test]
fn bad_input_is_named_and_leaves_nothing() {
    let app = app();
    app.write("good.md", "The parser must refuse empty plans.");
    fs::write(app.path("bytes.md"), [0xff, 0xfe, 0x00]).unwrap();
    app.write("bad.jsonl", "{\"id\": 7}\n");
    let cases: [(&[&str], &str); 9] = [
        (&["add", " "], "text"),
        (&["add", "a text that is kept", "--importance", "1001"], "1001"),
        (&["add", "a text that is kept", "--task", "nope"], "nope"),
        (&["add", "a text that is kept", "--supersedes", "ffff"], "ffff"),
        (&["ingest", "good.md", "none.md"], "none.md"),
        (&["ingest", "good.md", "bytes.md"], "bytes.md"),
        (&["import", "bad.jsonl"], "bad.jsonl"),
        (&["show", "zzzz"], "zzzz"),
        (&["search", "x", "--top-k", "0"], "0"),
    ];
    for (args, named) in cases {
        let mut all = vec!["memory"];
        all.extend(args);
        let refused = app.run(all);
        assert!(refused.code.is_some_and(|code| code != 0 && code != 101), "{args:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(named), "{args:?}: {}", refused.stderr);
        assert!(refused.stdout.is_empty(), "{args:?}: stdout is for data");
        assert!(exported(&app, "default").is_empty(), "{args:?}: nothing is half written");
    }
}

#[test]
fn a_reranker_is_used_where_it_is_and_refused_where_it_is_named_and_broken() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    add(&app, "default", "coin coin coin of rust");
    add(&app, "default", "a coin that is made of gold, they say");
    let search = ["search", "coin"];
    let named = ["search", "coin", "--reranker", "here"];
    let refused = app.run(["memory", "search", "coin", "--reranker", "here"]);
    assert!(refused.code.is_some_and(|code| code != 0 && code != 101) && refused.stdout.is_empty());
    assert!(refused.stderr.contains("can not be"), "{}", refused.stderr);
    let Some(models) = crewline_testkit::app::models() else {
        println!("skipped: `cargo xtask test` sets up ONNX Runtime");
        return;
    };
    let data_dir = app.path("data");
    std::os::unix::fs::symlink(models.join("runtime"), data_dir.join("runtime")).unwrap();
    app.run(["memory", "search", "coin", "--reranker", "here"]).expect_code(3);
    let refused = app.run(["run", "x", "--reranker", "here"]).expect_code(3);
    assert!(refused.stderr.contains("there is no such folder"), "{}", refused.stderr);

    write(&app.path("here"), &[("gold", 9.0), ("rust", -9.0)], Shape::Rows).unwrap();
    assert!(list(&app, &search)[0]["text"].as_str().unwrap().contains("rust"));
    let found = list(&app, &named);
    assert!(found[0]["text"].as_str().unwrap().contains("gold"), "{found:?}");
    assert!(found[1]["why"]["rerank"].as_f64().unwrap() < 0.0, "{found:?}");
    let doctor = |args: &[&str]| {
        let mut all = vec!["doctor", "-o", "json"];
        all.extend(args);
        let checks: Vec<Value> = serde_json::from_str(&app.run(all).stdout).unwrap();
        checks.into_iter().find(|check| check["name"] == "reranker").unwrap()
    };
    assert!(doctor(&[])["detail"].as_str().unwrap().starts_with("none"));
    assert_eq!(doctor(&["--reranker", "here"])["state"], "ok");

    // In the data directory it needs no name, and one that is broken is only told.
    let own = data_dir.join("models/reranker");
    write(&own, &[("gold", 9.0), ("rust", -9.0)], Shape::Rows).unwrap();
    assert!(list(&app, &search)[0]["text"].as_str().unwrap().contains("gold"));
    assert!(list(&app, &["search", "coin", "--reranker", "none"])[0]["text"].as_str().unwrap().contains("rust"));
    fs::write(own.join("model.onnx"), "a page that says: not found").unwrap();
    let found = app.run(["memory", "search", "coin", "-o", "json"]).expect_code(0);
    assert!(found.stderr.contains("its `model.onnx` is no ONNX model"), "{}", found.stderr);
    assert_eq!(doctor(&[])["state"], "warning");
    assert_eq!(doctor(&["--reranker", own.to_str().unwrap()])["state"], "broken");
}

#[test]
fn the_rule_of_what_is_kept_is_shown_and_changed() {
    let reply = StubReply::text("The parser refuses a plan whose tasks depend on each other in a circle.");
    let server = StubServer::start(
        Script::default().on_text("Check a now.", reply).on_text("Greet a now.", StubReply::text("All fine!")),
    );
    let app = app();
    app.registry(&server);
    // What a run says again is counted, what says nothing is not kept.
    app.write("plan.json", &plan("Check", &[("a", "coder", &[])]));
    app.write("greet.json", &plan("Greet", &[("a", "coder", &[])]));
    for plan in ["plan.json", "plan.json", "plan.json", "greet.json"] {
        app.run(run_args(&["--plan", plan])).expect_code(0);
    }
    let kept = list(&app, &["ls", "--type", "task_summary"]);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["repeats"], 2);

    let rules = data(&app, &["rules"]);
    assert_eq!((&rules["words_min"], &rules["same_min"]), (&json!(3), &json!(0.9)));
    app.write("data/memory-rules.json", r#"{"words_min": 0, "same_min": 2}"#);
    assert_eq!(data(&app, &["rules"])["words_min"], 0);
    for plan in ["plan.json", "greet.json"] {
        app.run(run_args(&["--plan", plan])).expect_code(0);
    }
    assert_eq!(list(&app, &["ls", "--type", "task_summary"]).len(), 3, "now everything is kept");
    app.write("data/memory-rules.json", r#"{"words": 1}"#);
    let refused = app.run(["memory", "rules"]).expect_code(3);
    assert!(refused.stderr.contains("memory.rules") && refused.stderr.contains("words"), "{}", refused.stderr);
}

#[test]
fn an_ingest_that_is_killed_again_and_again_loses_nothing_and_keeps_nothing_twice() {
    let mut names = vec!["memory".to_owned(), "ingest".to_owned()];
    let (app, whole) = (app(), app());
    for n in 0..40 {
        let name = format!("doc{n}.md");
        let fact = |p: usize| format!("Fact {n} of {p} is number {}. {}\n\n", n * 1_000 + p, "It is long. ".repeat(20));
        let text: String = (0..40).map(fact).collect();
        app.write(&name, &text);
        whole.write(&name, &text);
        names.push(name);
    }
    whole.run(&names).expect_code(0);
    let wanted = texts(&exported(&whole, "default"));
    for kill in 1..=KILLS {
        let child = app.spawn(&names);
        // The kill comes once so many memories are there, so it meets the work and not the start.
        let target = kill * wanted.len() as u64 / (KILLS + 1);
        let pid = child.id();
        while data(&app, &["stats"])["memories"].as_u64().unwrap() < target {}
        crate::signal(pid, "KILL");
        finish(child, Duration::from_secs(10));
        let kept = exported(&app, "default");
        assert_eq!(texts(&kept).len(), kept.len(), "none twice");
        assert!(texts(&kept).is_subset(&wanted));
    }
    app.run(&names).expect_code(0);
    let kept = exported(&app, "default");
    assert_eq!(texts(&kept), wanted, "none lost");
    assert_eq!(kept.len(), wanted.len(), "none twice");
}
