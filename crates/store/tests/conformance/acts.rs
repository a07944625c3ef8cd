//! Calls of tools and what a person is asked: written before they are made, decided once, forgotten with their run.

use std::time::Duration;

use crewline_store::{
    ApprovalFilter, Backend, Claim, Committed, NewApproval, NewDecision, NewToolCall, RunEnd, ToolCallEnd, Transition,
};
use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, AttemptId, CallId, Effect, LinkKind, RunStatus, Task, TaskId, TaskStatus,
    Text, ToolCallId, ToolOutcome,
};

use crate::common::{Crew, Place, at, task_of};

on_both! {
    a_call_is_kept_from_its_intent_to_its_outcome
    what_is_decided_stays
    a_run_ends_as_waiting_only_while_nothing_more_is_decided
    with_a_decision_the_run_goes_on_that_waited_for_it
    all_questions_of_a_run_are_read
    acts_go_with_their_run
    a_task_is_given_to_another_role
    what_a_task_asked_for_is_there_when_it_is_done_or_not_at_all
}

async fn end(crew: &Crew, status: RunStatus) {
    let mut change = crew.change();
    change.run_status = Some(RunEnd { status, finished_at: at(9), error: None });
    crew.done(change).await;
}

fn call_of(task: TaskId, place: u32) -> ToolCallId {
    let attempt = AttemptId { task, number: 1 };
    ToolCallId { call: CallId { attempt, number: 1 }, place }
}

fn asked_for(id: ToolCallId, effect: Effect, is_begun: bool) -> NewToolCall {
    NewToolCall {
        id,
        asked_as: format!("call_{}", id.place),
        tool: "run_command".into(),
        arguments: Text::from("{}").hash,
        digest: Text::from("digest").hash,
        effect,
        is_begun,
    }
}

fn approval(crew: &Crew, task: TaskId, subject: &str) -> NewApproval {
    NewApproval {
        id: ApprovalId::of(crew.run, subject),
        task: Some(task),
        kind: ApprovalKind::Tool,
        subject: subject.into(),
        detail: Text::from("{}").hash,
        digest: Text::from("digest").hash,
    }
}

fn decision(crew: &Crew, subject: &str, state: ApprovalState) -> NewDecision {
    let (id, run) = (ApprovalId::of(crew.run, subject), crew.run);
    NewDecision { id, run, state, by: "ann".into(), message: None, at: at(7), undoes: None }
}

async fn a_call_is_kept_from_its_intent_to_its_outcome(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    crew.done(crew.start(task, 1)).await;
    let (made, waits) = (call_of(task, 0), call_of(task, 1));
    let mut intent = crew.change();
    intent.texts.push(Text::from("{}"));
    intent.tool_calls = vec![asked_for(made, Effect::Unsafe, true), asked_for(waits, Effect::Read, false)];
    crew.done(intent).await;
    let rows = crew.store.tool_calls_of(task).await.unwrap();
    assert_eq!(
        rows.iter().map(|it| (it.id, it.begun_by, it.outcome)).collect::<Vec<_>>(),
        [(made, Some(1), None), (waits, None, None)]
    );
    assert_eq!((rows[0].effect, &*rows[0].asked_as, &*rows[0].tool), (Effect::Unsafe, "call_0", "run_command"));
    let end = |id, outcome, text: &str| ToolCallEnd {
        id,
        outcome,
        output: Text::from(text).hash,
        elapsed: Duration::from_millis(3),
    };
    let mut outcome = crew.change();
    outcome.texts.extend([Text::from("done"), Text::from("late")]);
    outcome.tool_calls_ended.push(end(made, ToolOutcome::Ok, "done"));
    outcome.tool_calls_begun.push((waits, 2));
    crew.done(outcome).await;
    // What is known is not known otherwise later.
    let mut late = crew.change();
    late.tool_calls_ended.push(end(made, ToolOutcome::Failed, "late"));
    late.tool_calls_begun.push((made, 3));
    crew.done(late).await;
    let rows = crew.store.tool_calls(crew.run).await.unwrap();
    assert_eq!((rows[0].outcome, rows[0].output), (Some(ToolOutcome::Ok), Some(Text::from("done").hash)));
    assert_eq!((rows[0].begun_by, rows[1].begun_by, rows[0].elapsed), (Some(1), Some(2), Duration::from_millis(3)));
}

async fn what_is_decided_stays(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    for _ in 0..2 {
        // Asked again, it is the same question.
        let mut change = crew.change();
        change.texts.push(Text::from("{}"));
        change.approvals = vec![approval(&crew, task, "one"), approval(&crew, task, "two")];
        crew.done(change).await;
    }
    let pending = ApprovalFilter { run: Some(crew.run), is_pending: true };
    assert_eq!(crew.store.approvals(pending).await.unwrap().len(), 2);
    let id = ApprovalId::of(crew.run, "one");
    let decision =
        |state, by: &str| NewDecision { by: by.into(), message: Some("m".into()), ..decision(&crew, "one", state) };
    assert!(crew.store.decide(&decision(ApprovalState::Approved, "ann")).await.unwrap());
    assert!(!crew.store.decide(&decision(ApprovalState::Rejected, "bob")).await.unwrap(), "it is decided");
    let row = crew.store.approvals_like(id.as_str()).await.unwrap().remove(0);
    assert_eq!(
        (row.state, row.decided_by.as_deref(), row.message.as_deref()),
        (ApprovalState::Approved, Some("ann"), Some("m"))
    );
    assert_eq!((row.decided_at, row.task, row.digest), (Some(at(7)), Some(task), Text::from("digest").hash));
    assert_eq!(crew.store.approvals(pending).await.unwrap().len(), 1);
    assert_eq!(crew.store.approvals(ApprovalFilter::default()).await.unwrap().len(), 2);
    // Only what waits still can be withdrawn.
    let mut change = crew.change();
    change.approvals_withdrawn = vec![id, ApprovalId::of(crew.run, "two"), ApprovalId::of(crew.run, "none")];
    change.approvals = vec![approval(&crew, task, "three")];
    crew.done(change).await;
    let left: Vec<_> = crew.store.approvals(ApprovalFilter::default()).await.unwrap().iter().map(|it| it.id).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&id) && left.contains(&ApprovalId::of(crew.run, "three")), "{left:?}");
}

async fn with_a_decision_the_run_goes_on_that_waited_for_it(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let names = ["running", "other reason", "nobody", "the reason", "again"];
    let mut change = crew.change();
    change.texts.push(Text::from("{}"));
    change.approvals = names.map(|name| approval(&crew, task, name)).into();
    crew.done(change).await;
    let status = async || crew.store.run(crew.run).await.unwrap().unwrap().status;
    let decide = async |name, undoes| {
        let yes = NewDecision { undoes, ..decision(&crew, name, ApprovalState::Approved) };
        assert!(crew.store.decide(&yes).await.unwrap());
        status().await
    };
    let end = async |error: &str| {
        let epoch = crew.store.run(crew.run).await.unwrap().unwrap().epoch;
        let mut change = crewline_store::Change::new(crew.run, epoch, at(9));
        let (status, error) = (RunStatus::Interrupted, Some(error.to_owned()));
        change.run_status = Some(RunEnd { status, finished_at: at(9), error });
        crew.done(change).await;
    };
    assert_eq!(decide("running", Some("run.waits")).await, RunStatus::Running);
    end(r#"{"code":"run.stopped","message":"m"}"#).await;
    assert_eq!(decide("other reason", Some("run.waits")).await, RunStatus::Interrupted);
    crew.store.claim_run(crew.run, "me", Duration::from_mins(1), Claim::Force).await.unwrap();
    end(r#"{"code":"run.waits","message":"m"}"#).await;
    assert_eq!(decide("nobody", None).await, RunStatus::Interrupted);
    assert_eq!(decide("the reason", Some("run.waits")).await, RunStatus::Running);
    // Nobody has it: whoever manages runs takes it up.
    assert_eq!(crew.store.orphaned_runs().await.unwrap(), [crew.run]);
    assert_eq!(decide("again", Some("run.waits")).await, RunStatus::Running);
}

async fn a_run_ends_as_waiting_only_while_nothing_more_is_decided(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let mut change = crew.change();
    change.texts.push(Text::from("{}"));
    change.approvals = vec![approval(&crew, task, "one"), approval(&crew, task, "two")];
    crew.done(change).await;
    let waiting = |decided_max| {
        let mut end = crew.change();
        end.run_status = Some(RunEnd { status: RunStatus::Interrupted, finished_at: at(9), error: None });
        end.decided_max = Some(decided_max);
        end
    };
    let yes = decision(&crew, "one", ApprovalState::Approved);
    if crew.store.backend() == Backend::Postgres {
        // Who is writing for the run may have counted already: whoever decides waits for that.
        let turn = crew.store.turn([crew.run].into()).await.unwrap();
        let mut deciding = crate::proxy::spawn({
            let (store, yes) = (crew.store.clone(), yes.clone());
            async move { store.decide(&yes).await }
        });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut deciding).await;
        assert!(early.is_err(), "nothing is decided in the middle of it");
        assert!(matches!(crew.store.commit_in(turn, &[crew.change()]).await.unwrap()[..], [Committed::Done { .. }]));
        assert!(deciding.await.unwrap().unwrap());
    } else {
        assert!(crew.store.decide(&yes).await.unwrap());
    }
    assert_eq!(crew.store.commit(&[waiting(0)]).await.unwrap(), [Committed::Stale]);
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().status, RunStatus::Running);
    assert!(matches!(crew.store.commit(&[waiting(1)]).await.unwrap()[..], [Committed::Done { .. }]));
    assert_eq!(crew.store.run(crew.run).await.unwrap().unwrap().status, RunStatus::Interrupted);
}

async fn a_task_is_given_to_another_role(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let mut change = crew.change();
    change.handed_over.push((tasks[0], "tester".into()));
    crew.done(change).await;
    let rows = crew.store.tasks(crew.run).await.unwrap();
    let role = |task: TaskId| rows.iter().find(|it| it.id == task).unwrap().role.to_string();
    assert_eq!(role(tasks[0]), "tester");
    assert_ne!(role(tasks[1]), "tester");
}

async fn what_a_task_asked_for_is_there_when_it_is_done_or_not_at_all(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let [author, last] = crew.tasks(2).await[..] else { panic!("two tasks were made") };
    let new = TaskId::new(&mut crew.ids);
    let done = |attempts| {
        let mut change = crew.change();
        let (from, to) = (TaskStatus::Pending, TaskStatus::Completed);
        change.transitions.push(Transition {
            attempts_from: attempts,
            attempts_to: 1,
            ..Transition::new(author, from, to)
        });
        change.tasks.push(Task { created_by: Some(author), ..task_of(crew.run, new, 9) });
        change.links = vec![(new, author, LinkKind::Requires), (last, new, LinkKind::Requires)];
        change
    };
    assert_eq!(crew.store.commit(&[done(7)]).await.unwrap(), [Committed::Stale]);
    assert_eq!(crew.store.tasks(crew.run).await.unwrap().len(), 3, "the root and the two");
    assert!(crew.store.links(crew.run).await.unwrap().is_empty());
    crew.done(done(0)).await;
    let rows = crew.store.tasks(crew.run).await.unwrap();
    let of = |id: TaskId| rows.iter().find(|it| it.id == id).unwrap();
    assert_eq!((of(author).status, of(new).status), (TaskStatus::Completed, TaskStatus::Pending));
    assert_eq!((of(new).created_by, of(last).created_by), (Some(author), None));
    assert_eq!(crew.store.links(crew.run).await.unwrap().len(), 2);
}

async fn acts_go_with_their_run(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let mut change = crew.start(task, 1);
    change.texts.push(Text::from("{}"));
    change.tool_calls.push(asked_for(call_of(task, 0), Effect::Read, true));
    change.approvals.push(approval(&crew, task, "one"));
    crew.done(change).await;
    end(&crew, RunStatus::Failed).await;
    crew.store.delete_runs(&[crew.run]).await.unwrap();
    assert_eq!((place.count("tool_calls").await, place.count("approvals").await), (0, 0));
}

async fn all_questions_of_a_run_are_read(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let task = crew.tasks(1).await[0];
    let mut change = crew.change();
    change.texts.push(Text::from("{}"));
    change.approvals = (0..1_001).map(|number| approval(&crew, task, &format!("question {number}"))).collect();
    crew.done(change).await;
    for is_pending in [true, false] {
        let filter = ApprovalFilter { run: Some(crew.run), is_pending };
        assert_eq!(crew.store.approvals(filter).await.unwrap().len(), 1_001);
        let filter = ApprovalFilter { run: None, is_pending };
        assert_eq!(crew.store.approvals(filter).await.unwrap().len(), 1_000, "of a whole database only so many");
    }
    assert_eq!(crew.store.approvals_pending().await.unwrap(), 1_001);
}
