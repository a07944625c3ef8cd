//! Keys: they reach their provider, and nothing else; and offline, nothing leaves.

use std::{fs, path::Path, time::Duration};

use crewline_testkit::{Script, StubReply, StubServer, TestApp, app::finish};

use crate::{app, fan, run_args};

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
