//! What a person decided on contexts.

use crewline_store::{BUNDLE, Change, Choice, ContextChoice};
use crewline_types::TaskId;

use crate::common::{Crew, Place, at, root_of, run_of, task_of};

on_both! {
    the_last_decision_holds
    decisions_go_with_their_run
}

fn choice(task: TaskId, item: &str, choice: Choice, when: i64) -> ContextChoice {
    ContextChoice {
        task,
        item: item.into(),
        choice,
        title: "A title".into(),
        body: (choice == Choice::Approved).then(|| "{}".to_owned()),
        agent: "ada".into(),
        at: at(when),
    }
}

async fn the_last_decision_holds(place: &Place) {
    let mut crew = Crew::new(place, "p", 1).await;
    let tasks = crew.tasks(2).await;
    let (one, two) = (tasks[0], tasks[1]);
    let store = &crew.store;
    assert_eq!(store.choices(one).await.unwrap(), []);
    let pinned = choice(one, "task:aaaaaaaa", Choice::Pin, 1);
    let approved = choice(one, BUNDLE, Choice::Approved, 2);
    assert_eq!(store.choose(&[pinned.clone(), approved.clone()]).await.unwrap(), 2);
    assert_eq!(store.choices(one).await.unwrap(), [approved.clone(), pinned]);
    let excluded = choice(one, "task:aaaaaaaa", Choice::Exclude, 3);
    store.choose(std::slice::from_ref(&excluded)).await.unwrap();
    assert_eq!(store.choices(one).await.unwrap(), [approved.clone(), excluded.clone()]);
    assert_eq!(store.choices(two).await.unwrap(), []);
    assert_eq!(store.choices_of_run(crew.run).await.unwrap(), [approved, excluded]);
    let nobody = choice("zzzzzzzz".parse().unwrap(), "task:aaaaaaaa", Choice::Pin, 1);
    assert_eq!(store.choose(&[nobody]).await.unwrap(), 0, "a decision on no task is none");
}

async fn decisions_go_with_their_run(place: &Place) {
    let crew = Crew::new(place, "p", 1).await;
    let store = &crew.store;
    let (run, root, task) = ("rrrrrrrr".parse().unwrap(), "oooooooo".parse().unwrap(), "tttttttt".parse().unwrap());
    let mut change = Change::new(run, 0, at(5));
    change.tasks.push(task_of(run, task, 1));
    change.choices.push(choice(task, "task:aaaaaaaa", Choice::Pin, 5));
    store.create_run_with(&run_of(run, "p"), &root_of(run, root), None, None, &change).await.unwrap();
    assert_eq!(store.choices_of_run(run).await.unwrap(), change.choices);
    place.execute("UPDATE runs SET status = 'failed', finished_at = 1 WHERE id = 'rrrrrrrr'").await;
    assert_eq!(store.delete_runs(&[run]).await.unwrap().runs, 1);
    assert_eq!(place.count("context_choices").await, 0);
}
