//! What a task made is committed before anything that needs it begins.

use std::time::Duration;

use crewline_engine::plan;
use crewline_store::Change;
use crewline_testkit::{Gate, Script, StubReply};
use crewline_types::{EventBody, RunStatus, TaskStatus, event::NewEvent};
use serde_json::json;

use crate::{
    Limits,
    actor::tell,
    detour::Detour,
    journal::Message,
    survival::{World, request, world_with},
};

const LIMIT: Duration = Duration::from_mins(1);

/// How often the model was asked for the task of that title.
fn asked_for(world: &World, title: &str) -> usize {
    let heading = format!("# Your task: {title}\n");
    world.server.requests().iter().filter(|it| it.contains(&heading)).count()
}

#[tokio::test]
async fn what_needs_a_task_begins_after_its_result_is_committed() {
    let gate = Gate::after(0);
    let script = Script::default().on_text("# Your task: Beside\n", StubReply::text("Beside.").behind(&gate));
    let world = world_with(script, Limits::default(), |registry| registry).await;
    // The first result of a task.
    let is_result = |change: &Change| change.transitions.iter().any(|it| it.to == TaskStatus::Completed);
    let (journal, mut results) = Detour::of(&world.handle, is_result).await;

    let task = |title: &str, needs: &[&str]| json!({"id": title, "title": title, "description": title, "role": "coder", "depends_on": needs});
    let tasks = [task("First", &[]), task("Second", &["First"]), task("Beside", &[]), task("Next", &["Beside"])];
    let document = plan::document_from_value(&json!({"goal": "g", "tasks": tasks})).unwrap();
    let run = world.handle.launch(request(document)).await.unwrap();
    let result = tokio::time::timeout(LIMIT, results.recv()).await.expect("a result").unwrap();
    // All that follows from it is in the same change.
    let Message::Record(change, _) = &result else { panic!("{result:?}") };
    let is_completed = |it: &NewEvent| matches!(it.body, EventBody::TaskCompleted { .. });
    assert_eq!(change.events.iter().filter(|it| is_completed(it)).count(), 1);
    assert_eq!((change.attempts_ended.len(), change.calls_ended.len(), change.memories.is_empty()), (1, 1, false));
    let text = change.transitions[0].result;
    assert!(change.texts.iter().any(|it| Some(it.hash) == text), "with its text");
    // The manager has made it and does not hear that it is committed, while others go their way.
    gate.open();
    let others = async {
        while asked_for(&world, "Next") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, others).await.expect("the others go on");
    assert_eq!(asked_for(&world, "Second"), 0, "it needs what is not committed");

    tell(&journal, result);
    let events = world.events(run).await;
    let Some(EventBody::RunFinished { status, .. }) = events.last().map(|it| &it.body) else { panic!("{events:?}") };
    assert_eq!((*status, asked_for(&world, "Second")), (RunStatus::Completed, 1));
}
