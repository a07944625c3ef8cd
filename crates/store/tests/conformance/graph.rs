//! What people change of a graph, in one transaction and never over somebody else's change.

use crewline_store::{Change, Committed, RunMove, Transition};
use crewline_types::{
    EventBody, LinkKind, Priority, RunStatus, TaskDetails, TaskKind, TaskStatus, Text,
    event::{NewEvent, TaskAction},
};

use crate::common::{Crew, Place, at};

on_both! {
    a_change_by_hand_is_written_as_a_whole
    whoever_was_slower_changes_nothing
    an_index_has_versions
}

fn changed(at_second: i64) -> NewEvent {
    let body = EventBody::TaskChanged {
        key: "t1".into(),
        action: TaskAction::Updated,
        agent: "ada".into(),
        detail: "title".into(),
    };
    NewEvent::of_run(at(at_second), body)
}

async fn a_change_by_hand_is_written_as_a_whole(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let ids = crew.tasks(3).await;
    let (one, two, three) = (ids[0], ids[1], ids[2]);
    let store = &crew.store;
    place.execute("UPDATE runs SET status = 'interrupted', finished_at = 1, owner = NULL, lease_until = NULL").await;
    let row = store.run(crew.run).await.unwrap().unwrap();
    let mut change = Change::new(crew.run, row.epoch, at(9));
    change.last_seq = Some(row.last_seq);
    change.links = vec![(two, one, LinkKind::Requires), (three, one, LinkKind::Refers)];
    let mut edited = store.tasks(crew.run).await.unwrap().into_iter().find(|task| task.id == two).unwrap();
    edited.title = "Better".into();
    edited.kind = TaskKind::Composite;
    edited.parent = Some(one);
    edited.position = 77;
    edited.priority = Priority::new(9).unwrap();
    change.edits.push(edited.clone());
    let details = TaskDetails { assignee: Some("ada".into()), deadline: Some(at(99_000)), ..TaskDetails::default() };
    change.details.push((three, details.clone()));
    change.transitions.push(Transition::new(three, TaskStatus::Pending, TaskStatus::Cancelled));
    change.run_moved = Some(RunMove { from: RunStatus::Interrupted, to: RunStatus::Completed, at: at(9) });
    change.events.push(changed(9));
    assert!(matches!(store.commit(&[change]).await.unwrap()[..], [Committed::Done { .. }]));
    let tasks = store.tasks(crew.run).await.unwrap();
    let found = tasks.iter().find(|task| task.id == two).unwrap();
    assert_eq!(*found, edited);
    assert_eq!(tasks.iter().find(|task| task.id == three).unwrap().status, TaskStatus::Cancelled);
    assert_eq!(store.details(crew.run).await.unwrap(), [(three, details)].into());
    assert_eq!(store.run(crew.run).await.unwrap().unwrap().status, RunStatus::Completed);
    assert_eq!(store.links(crew.run).await.unwrap().len(), 2);
    let row = store.run(crew.run).await.unwrap().unwrap();
    let mut change = Change::new(crew.run, row.epoch, at(10));
    change.links_removed = vec![(two, one, LinkKind::Requires), (two, one, LinkKind::Refers)];
    change.events.push(changed(10));
    store.commit(&[change]).await.unwrap();
    assert_eq!(store.links(crew.run).await.unwrap(), [(three, one, LinkKind::Refers)]);
}

async fn whoever_was_slower_changes_nothing(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let one = crew.tasks(1).await[0];
    let store = &crew.store;
    let row = store.run(crew.run).await.unwrap().unwrap();
    let change = |title: &str| {
        let mut change = Change::new(crew.run, row.epoch, at(9));
        change.last_seq = Some(row.last_seq);
        change.details.push((one, TaskDetails { assignee: Some(title.into()), ..TaskDetails::default() }));
        change.events.push(changed(9));
        change
    };
    assert!(matches!(store.commit(&[change("first")]).await.unwrap()[..], [Committed::Done { .. }]));
    assert_eq!(store.commit(&[change("second")]).await.unwrap(), [Committed::Stale]);
    assert_eq!(store.details(crew.run).await.unwrap()[&one].assignee.as_deref(), Some("first"));
    let after = store.run(crew.run).await.unwrap().unwrap().last_seq;
    assert_eq!(after, row.last_seq + 1, "a stale change has no events");
}

async fn an_index_has_versions(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let store = &crew.store;
    for (text, by) in [("one", None), ("two", Some("ada"))] {
        let row = store.run(crew.run).await.unwrap().unwrap();
        let mut change = Change::new(crew.run, row.epoch, at(9));
        let text = Text::from(text);
        change.index = Some(text.hash);
        change.index_by = by.map(Into::into);
        change.texts.push(text);
        store.commit(&[change]).await.unwrap();
    }
    let versions = store.index_versions(crew.run).await.unwrap();
    let shown: Vec<(u32, &str)> = versions.iter().map(|it| (it.version, it.agent.as_str())).collect();
    assert_eq!(shown, [(1, "crew"), (2, "ada")]);
    assert_eq!(store.run(crew.run).await.unwrap().unwrap().index, Some(versions[1].text));
    // An earlier version is not swept with the texts that nothing names.
    place.execute("UPDATE texts SET touched_at = 0").await;
    store.delete_runs(&[]).await.unwrap();
    assert_eq!(store.texts(&[versions[0].text]).await.unwrap().len(), 1);
}
