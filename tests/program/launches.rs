//! Launching once over HTTP: what is sent again with its `Idempotency-Key` is the run that is there.

use std::time::Duration;

use crewline_testkit::{
    Script, StubServer, TestApp,
    app::finish,
    client::{free_port, post_with},
};
use serde_json::{Value, json};

use crate::{app, fan, resume::wait_for_calls, serve::wait_until_ready, signal, workers::World};

/// An answer: its status, whether the run was there, and the run or the code of the problem.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    is_replayed: bool,
    names: String,
}

fn launch_with(port: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let answer = post_with(port, "/api/v1/runs", headers, body).unwrap();
    let json: Value = serde_json::from_str(&answer.body).unwrap();
    let names = json["run"].as_str().or(json["code"].as_str()).unwrap().to_owned();
    Answer { status: answer.status, is_replayed: answer.head.contains("idempotent-replayed: true"), names }
}

fn launch(port: u16, key: &str, body: &str) -> Answer {
    launch_with(port, &[("idempotency-key", key)], body)
}

fn runs(app: &TestApp) -> usize {
    let shown = app.run(["ps", "--all", "-o", "json"]).expect_code(0);
    serde_json::from_str::<Vec<Value>>(&shown.stdout).unwrap().len()
}

#[test]
fn a_launch_that_is_sent_again_is_the_run_that_is_there() {
    let server = StubServer::start(Script::default().latency(Duration::from_millis(100)));
    let app = app();
    app.registry(&server);
    let port = free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    let start = || {
        let child = app.spawn(["serve", "--addr", &address]);
        wait_until_ready(port);
        child
    };
    let child = start();
    let body = json!({"goal": "Describe the tide", "plan": fan(3)}).to_string();
    let first = launch(port, "one", &body);
    assert_eq!((first.status, first.is_replayed), (201, false));
    let again = Answer { is_replayed: true, ..launch(port, "one", &body) };
    assert_eq!((again.status, &again.names), (201, &first.names));
    // In other words, and between quotes as the draft has it.
    let same = format!("{{\"strategy\": \"dag\",  \"limits\": {{}}, {}", &body[1..]);
    assert_eq!(launch(port, "\"one\"", &same), again);
    let reused = launch(port, "one", &json!({"goal": "Describe the moon", "plan": fan(3)}).to_string());
    assert_eq!((reused.status, reused.names.as_str()), (422, "run.key_reused"));
    // What is refused takes no key.
    assert_eq!(launch(port, "two", r#"{"goal": " "}"#).status, 422);

    wait_for_calls(&server, 1);
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
    let child = start();
    assert_eq!(launch(port, "one", &body), again, "also after a crash");
    let second = launch(port, "two", &body);
    assert!(second.status == 201 && !second.is_replayed && second.names != first.names, "{second:?}");
    for run in [&first.names, &second.names] {
        let (_, events) = crate::serve::get(port, &format!("/api/v1/runs/{run}/events")).unwrap();
        assert!(events.contains("run_finished") && events.contains("completed"), "{events}");
    }
    let calls = server.calls();
    assert_eq!(launch(port, "one", &body), again, "also when it is done");
    assert_eq!((runs(&app), server.calls()), (2, calls));

    let long = "k".repeat(256);
    for (key, name) in [("", "no key"), (long.as_str(), "a long one"), ("sch\u{f6}n", "other letters")] {
        let refused = launch(port, key, &body);
        assert_eq!((refused.status, refused.names.as_str()), (422, "api.idempotency_key"), "{name}");
    }
    let twice = launch_with(port, &[("idempotency-key", "three"), ("idempotency-key", "four")], &body);
    assert_eq!((twice.status, twice.names.as_str()), (422, "api.idempotency_key"));
    assert_eq!(runs(&app), 2);

    // A key goes with its run.
    app.run(["prune", "--keep", "0", "--yes"]).expect_code(0);
    let new = launch(port, "one", &body);
    assert!(new.status == 201 && !new.is_replayed && new.names != first.names, "{new:?}");
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
}

#[test]
fn of_launches_at_once_one_is_made_by_whichever_server() {
    let Some(mut world) = World::new("launches", Script::default()) else { return };
    let ports = [free_port().unwrap(), free_port().unwrap()];
    for port in ports {
        world.start(&["serve", "--addr", &format!("127.0.0.1:{port}")], crate::workers::LONG);
        wait_until_ready(port);
    }
    let body = json!({"goal": "Describe the tide", "plan": fan(1)}).to_string();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asked: Vec<_> =
            ports.iter().cycle().take(8).map(|port| scope.spawn(|| launch(*port, "at once", &body))).collect();
        asked.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|it| it.status == 201 && it.names == answers[0].names), "{answers:?}");
    assert_eq!(answers.iter().filter(|it| !it.is_replayed).count(), 1, "{answers:?}");
    assert_eq!(world.end_of(&answers[0].names)["status"], "completed");
    assert_eq!(world.server.calls(), 3, "it is paid for once");
}

#[test]
fn the_keys_of_one_caller_are_not_those_of_another() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let token = |name: &str| {
        let made = app.run(["keys", "create", name, "--scope", "run"]).expect_code(0);
        format!("Bearer {}", made.stdout.trim())
    };
    let tokens = [token("ada"), token("bob")];
    let port = free_port().unwrap();
    let child = app.spawn(["serve", "--addr", &format!("127.0.0.1:{port}")]);
    wait_until_ready(port);
    let body = json!({"goal": "Describe the tide", "plan": fan(1)}).to_string();
    let of = |token: &str| launch_with(port, &[("authorization", token), ("idempotency-key", "one")], &body);
    let [ada, bob] = [of(&tokens[0]), of(&tokens[1])];
    assert!(!ada.is_replayed && !bob.is_replayed && ada.names != bob.names, "{ada:?} {bob:?}");
    assert_eq!(of(&tokens[0]), Answer { is_replayed: true, ..ada });
    signal(child.id(), "KILL");
    finish(child, TestApp::LIMIT);
}
