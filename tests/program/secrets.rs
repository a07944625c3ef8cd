//! Keys: they reach their provider, and nothing else; and offline, nothing leaves.

use std::{fs, path::Path, time::Duration};

use crewline_testkit::{Running, Script, StubReply, StubServer, TestApp, app::finish};

use crate::{
    app, fan, run_args,
    serve::{free_port, get, post, wait_until_ready},
};

const KEY: &str = "sk-canary-7f3a9c21";
const HEADER: &str = "header-canary-51e0";

/// All files below a folder that hold `needle`.
fn files_with(folder: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if let Ok(bytes) = fs::read(&path)
            && bytes.windows(needle.len()).any(|it| it == needle.as_bytes())
        {
            found.push(path.display().to_string());
        }
    }
    found
}

fn with_keys(app: &TestApp, words: &[&str]) -> crewline_testkit::Finished {
    let mut command = app.command(words);
    command.env("CANARY_KEY", KEY).env("CANARY_HEADER", HEADER);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    finish(command.spawn().unwrap(), TestApp::LIMIT)
}

/// A server that repeats the key in all it says: errors, an answer that is none, and the metrics and logs of a run with it.
#[test]
fn a_key_is_found_nowhere() {
    let echo = format!(r#"{{"error":{{"message":"your key {KEY} and {HEADER} are fine","type":"x"}}}}"#);
    let script = Script::default()
        .on_call(1, StubReply::status(500))
        .on_call(2, StubReply::raw(echo.clone()))
        .on_call(3, StubReply::raw(format!("not json {KEY} {HEADER}")));
    let server = StubServer::start(script);
    let app = app();
    let registry = server.registry().replace(
        "type: openai_compatible,",
        "type: openai_compatible, api_key: \"env:CANARY_KEY\", headers: {x-team: \"env:CANARY_HEADER\"},",
    );
    app.write("crewline.yaml", &registry);
    app.write("plan.json", &fan(2).to_string());
    let mut words = run_args(&["--plan", "plan.json", "-vvv", "--metrics-addr", "127.0.0.1:0"]);
    words.dedup();
    let run = with_keys(&app, &words).expect_code(0);
    let shown = with_keys(&app, &["show", "-o", "json"]);
    let registry = with_keys(&app, &["registry", "show", "-o", "json"]).expect_code(0);
    let doctor = with_keys(&app, &["doctor", "-o", "json"]);
    let requests = server.requests();
    assert!(!requests.is_empty() && requests.iter().all(|it| it.authorization == Some(format!("Bearer {KEY}"))));
    for needle in [KEY, HEADER, &KEY[3..]] {
        for (name, finished) in [("run", &run), ("show", &shown), ("registry", &registry), ("doctor", &doctor)] {
            assert!(!finished.stdout.contains(needle), "{name} shows it on stdout: {}", finished.stdout);
            assert!(!finished.stderr.contains(needle), "{name} shows it on stderr: {}", finished.stderr);
        }
        assert_eq!(files_with(app.dir(), needle), Vec::<String>::new());
    }
    assert!(run.stdout.contains("***"), "the echo was there, blanked: {}", run.stdout);
}

/// A server whose models repeat the key in what they get wrong: nothing of it in the metrics, the events, the reload's answer or the log.
#[test]
fn a_key_is_in_no_metric() {
    let failure = StubReply::raw(format!(r#"{{"error":{{"message":"your key {KEY} and {HEADER}","type":"x"}}}}"#));
    let not_json = StubReply::raw(format!("not json {KEY} {HEADER}"));
    let server = StubServer::start(Script::default().on_call(1, failure).on_call(2, not_json));
    let app = app();
    let registry = server.registry().replace(
        "type: openai_compatible,",
        "type: openai_compatible, api_key: \"env:CANARY_KEY\", headers: {x-team: \"env:CANARY_HEADER\"},",
    );
    app.write("crewline.yaml", &registry);
    let port = free_port();
    let mut command = app.command(["serve", "--addr", &format!("127.0.0.1:{port}"), "-vvv"]);
    command.env("CANARY_KEY", KEY).env("CANARY_HEADER", HEADER);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = Running::from(command.spawn().unwrap());
    wait_until_ready(port);
    let plan = serde_json::json!({"goal": "g", "tasks": [
        {"id": "a", "title": "A", "description": "Say a word.", "role": "coder", "depends_on": []}]});
    let body = serde_json::json!({"goal": "g", "plan": plan}).to_string();
    let (status, launched) = post(port, "/api/v1/runs", &body);
    assert_eq!(status, 201, "{launched}");
    let run = launched["run"].as_str().unwrap();
    let (_, events) = get(port, &format!("/api/v1/runs/{run}/events")).unwrap();
    assert!(events.contains("run_finished"), "{events}");
    app.write("crewline.yaml", &registry.replace("env:CANARY_KEY", "env:MISSING_KEY"));
    let (_, reloaded) = post(port, "/api/v1/registry/reload", "");
    app.write("crewline.yaml", &registry.replace("version: 1", "version: 2"));
    let (_, refused) = post(port, "/api/v1/registry/reload", "");
    let (_, metrics) = get(port, "/metrics").unwrap();
    assert!(metrics.contains("crewline_llm_requests_total") && metrics.contains("crewline_registry_reloads_total"));
    crate::signal(child.id(), "TERM");
    let ended = finish(child, TestApp::LIMIT);
    let told = [metrics, events, reloaded.to_string(), refused.to_string(), ended.stdout, ended.stderr];
    for needle in [KEY, HEADER, &KEY[3..]] {
        assert!(told.iter().all(|it| !it.contains(needle)), "{needle} is told: {told:?}");
        assert_eq!(files_with(app.dir(), needle), Vec::<String>::new());
    }
}

/// Offline, a private address is asked straight, whatever proxy the environment names; a public one not at all.
#[test]
fn offline_no_proxy_is_asked() {
    let proxy = StubServer::start(Script::default());
    for (host, offline, calls) in
        [("10.255.255.1", true, false), ("10.255.255.1", false, true), ("192.0.2.7", true, false)]
    {
        proxy.reset();
        let app = app();
        app.write(
            "crewline.yaml",
            &format!(
                "version: 1\nproviders:\n  p: {{type: openai_compatible, base_url: \"http://{host}:9/v1\"}}\nmodels:\n  \
                 m: {{provider: p, model: m, context_window: 8000, timeouts: {{connect: 300ms, total: 1s}}}}\n\
                 roles:\n  default: {{chain: [m]}}\npolicies: {{attempts_max: 1}}\n"
            ),
        );
        app.write("plan.json", &fan(1).to_string());
        let mut words = run_args(&["--plan", "plan.json"]);
        if offline {
            words.push("--offline");
        }
        let mut command = app.command(&words);
        let address = format!("http://127.0.0.1:{}", proxy.port());
        command.env("http_proxy", &address).env("HTTP_PROXY", &address).env("ALL_PROXY", &address);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let run = finish(command.spawn().unwrap(), Duration::from_mins(1));
        assert_eq!(proxy.calls() > 0, calls, "{host} {offline}: {} {}", run.stdout, run.stderr);
    }
}
