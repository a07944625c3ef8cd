//! What a task made is committed before anything that needs it begins.

use std::time::Duration;

use crewline_engine::plan;
use crewline_testkit::{Gate, Script, StubReply};
use crewline_types::{EventBody, RunStatus, TaskStatus};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    Limits,
    actor::tell,
    journal::Message,
    survival::{World, request, world_with},
};

const LIMIT: Duration = Duration::from_mins(1);

/// Stands in the journal's place and passes everything on, except for the first result of a task: that is put aside.
struct Detour;

struct Ways {
    journal: ActorRef<Message>,
    aside: Option<mpsc::UnboundedSender<Message>>,
}

impl Actor for Detour {
    type Msg = Message;
    type State = Ways;
    type Arguments = Ways;

    async fn pre_start(&self, _myself: ActorRef<Message>, ways: Ways) -> Result<Ways, ActorProcessingErr> {
        Ok(ways)
    }

    async fn handle(
        &self,
        _myself: ActorRef<Message>,
        message: Message,
        ways: &mut Ways,
    ) -> Result<(), ActorProcessingErr> {
        let is_result = match &message {
            Message::Record(change, _) => change.transitions.iter().any(|it| it.to == TaskStatus::Completed),
            Message::Committed(_) => false,
        };
        match ways.aside.take_if(|_| is_result) {
            Some(aside) => aside.send(message).unwrap(),
            None => tell(&ways.journal, message),
        }
        Ok(())
    }
}

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
    let rooms = world.handle.rooms();
    let journal = rooms.journal.current().unwrap();
    let (aside, mut results) = mpsc::unbounded_channel();
    let ways = Ways { journal: journal.clone(), aside: Some(aside) };
    let (detour, _) = Actor::spawn(None, Detour, ways).await.unwrap();
    rooms.journal.enter(detour);

    let task = |title: &str, needs: &[&str]| json!({"id": title, "title": title, "description": title, "role": "coder", "depends_on": needs});
    let tasks = [task("First", &[]), task("Second", &["First"]), task("Beside", &[]), task("Next", &["Beside"])];
    let document = plan::document_from_value(&json!({"goal": "g", "tasks": tasks})).unwrap();
    let run = world.handle.launch(request(document)).await.unwrap();
    let result = tokio::time::timeout(LIMIT, results.recv()).await.expect("a result").unwrap();
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
