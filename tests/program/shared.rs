//! Controlling and repeating runs that servers and workers share.

use std::time::Duration;

use crewline_testkit::{Gate, Script, StubReply};
use serde_json::Value;

use crate::{
    fan, signal,
    traffic::sent_to,
    workers::{LONG, World, wait_until},
};

impl World {
    /// Runs a command on the shared database, and answers what it prints as JSON.
    fn json(&self, args: &[&str], code: i32) -> Value {
        let mut all = args.to_vec();
        all.extend(["--database", &self.database.url, "-o", "json", "-q"]);
        let run = self.app.run(all).expect_code(code);
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {}", run.stdout))
    }
}

#[test]
fn a_shared_run_is_paused_resumed_and_cancelled() {
    let gate = Gate::after(1);
    let script = Script::default().behind(&gate).latency(Duration::from_millis(300));
    let Some(mut world) = World::new("stop", script) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    // More than can be done before a slow machine looks for the next wish.
    let run = world.submit(&fan(100));
    wait_until("some calls", || world.server.calls() == 3);
    world.json(&["pause", "--no-wait", &run], 0);
    gate.open();
    assert_eq!(world.json(&["pause", &run], 0)[0]["status"], "interrupted");
    let paused = world.show(&run);
    assert_eq!(paused["counts"]["in_progress"], 0, "{paused:#}");
    let calls = world.server.calls();
    assert_eq!(paused["counts"]["completed"], calls, "what ran was let to its end");

    // Whoever resumes it works on it alone.
    let end = world.json(&["resume", &run, "--out", "out", "--max-steps", "4"], 7);
    assert_eq!(end["status"], "limit_reached");
    assert_eq!(world.json(&["cancel", &run], 0)[0]["status"], "cancelled");
    let end = world.show(&run);
    assert_eq!((&end["counts"]["pending"], &end["counts"]["in_progress"]), (&0.into(), &0.into()), "{end:#}");
}

#[test]
fn a_shared_run_is_killed_at_its_workers() {
    let Some(mut world) = World::new("kill", Script::default().on_call(1, StubReply::hang())) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "2"], LONG);
    let run = world.submit(&fan(3));
    wait_until("a call", || world.server.calls() >= 1);
    assert_eq!(world.json(&["kill", &run], 0)[0]["status"], "cancelled");
    wait_until("the end of the call", || world.server.hung_up() >= 1);
    let end = world.show(&run);
    assert_eq!(end["counts"]["cancelled"], 5, "{end:#}");
    assert!(end["cost_usd"].as_f64().unwrap() > 0.0, "the call that was broken off is charged: {end:#}");
    // The worker is free for others.
    assert!(world.app.run(["db", "check", "--database", &world.database.url]).code == Some(0));
}

#[test]
fn a_run_whose_server_is_frozen_is_stopped_by_who_asks() {
    for (command, status) in [("pause", "interrupted"), ("cancel", "cancelled"), ("kill", "cancelled")] {
        let gate = Gate::after(1);
        let script = Script::default().behind(&gate);
        let Some(mut world) = World::new(&format!("frozen{command}"), script) else { return };
        let frozen = world.serve("0");
        world.start(&["worker", "--slots", "2"], LONG);
        let run = world.submit(&fan(6));
        wait_until("some calls", || world.server.calls() == 3);
        signal(frozen, "STOP");
        world.end_leases(frozen);
        assert_eq!(world.json(&[command, &run], 0)[0]["status"], status);
        gate.open();
        // It goes on, and finds that the run is no longer its own.
        signal(frozen, "CONT");
        signal(frozen, "TERM");
        world.ended(frozen).expect_code(0);
        let end = world.show(&run);
        assert_eq!((&end["status"], &end["counts"]["in_progress"]), (&status.into(), &0.into()), "{end:#}");
        assert_eq!(world.server.calls(), 3, "nothing more is begun");
    }
}

#[test]
fn what_workers_made_is_replayed_without_a_call() {
    let Some(mut world) = World::new("replay", Script::default()) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    let run = world.submit(&fan(6));
    assert_eq!(world.end_of(&run)["status"], "completed");
    let calls = world.server.calls();
    assert_eq!(world.show(&run)["hosts"][0]["sent_bytes"], sent_to(&world.server), "what workers send is the run's");
    let replayed = world.json(&["replay", &run, "--out", "out"], 0);
    assert_eq!(replayed["hosts"], Value::Array(Vec::new()));
    assert_eq!((&replayed["status"], &replayed["calls"]), (&"completed".into(), &0.into()));
    assert_eq!(world.server.calls(), calls, "worker and manager name the same inputs");
    world.json(&["fork", &run, "--from", "m3", "--out", "out"], 0);
    assert_eq!(world.server.calls(), calls + 2);
    assert!(world.app.run(["db", "check", "--database", &world.database.url]).code == Some(0));
}

#[test]
fn a_shared_run_is_tried_again() {
    let script = Script::default().on_text("Put it together", StubReply::status(500));
    let Some(mut world) = World::new("retry", script) else { return };
    world.serve("0");
    world.start(&["worker", "--slots", "3"], LONG);
    let run = world.submit(&fan(3));
    assert_eq!(world.end_of(&run)["status"], "failed");
    let mended = crewline_testkit::StubServer::start(Script::default());
    world.app.registry(&mended);
    let end = world.json(&["retry", &format!("{run}/last"), "--model", "strong", "--out", "out"], 0);
    assert_eq!((&end["status"], mended.calls()), (&"completed".into(), 1));
}
