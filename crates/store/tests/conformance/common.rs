//! A database for one test, on either backend, and the rows most tests begin with.

/// Each test on both databases.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test] async fn $name() { $crate::common::on_sqlite(|place| super::$name(place).boxed_local()).await; })*
            use futures::FutureExt as _;
        }
        mod postgres {
            $(#[tokio::test] async fn $name() { $crate::common::on_postgres(|place| super::$name(place).boxed_local()).await; })*
            use futures::FutureExt as _;
        }
    };
}

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use crewline_store::{Change, Claim, Committed, Fence, NewAttempt, NewCall, NewOffer, NewRun, Store, Transition};
use crewline_types::{
    AttemptId, CallId, EventBody, IdSource, MicroUsd, Role, RunId, Task, TaskId, TaskKind, TaskStatus, TextHash,
    Timestamp, Usage, event::NewEvent,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, Statement};
use tokio::sync::OnceCell;

/// Where a test's database is.
pub(crate) struct Place {
    pub(crate) url: String,
    /// For looking behind the store's back.
    raw: OnceCell<DatabaseConnection>,
}

impl Place {
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    fn at(url: String) -> Self {
        Self { url, raw: OnceCell::new() }
    }

    async fn raw(&self) -> &DatabaseConnection {
        self.raw.get_or_init(async || Database::connect(&self.url).await.unwrap()).await
    }

    pub(crate) async fn execute(&self, text: &str) {
        self.raw().await.execute_unprepared(text).await.unwrap();
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        self.number(&format!("SELECT COUNT(*) FROM {from}")).await
    }

    /// The one number a query answers.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        let raw = self.raw().await;
        let statement = Statement::from_string(raw.get_database_backend(), query);
        raw.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap()
    }

    /// The first column of a query's answer.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        let raw = self.raw().await;
        let rows = raw.query_all_raw(Statement::from_string(raw.get_database_backend(), query)).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
    }

    /// The number of rows of every table.
    pub(crate) async fn counts(&self) -> BTreeMap<&'static str, i64> {
        let mut counts = BTreeMap::new();
        for table in [
            "projects",
            "runs",
            "tasks",
            "task_links",
            "attempts",
            "calls",
            "task_contexts",
            "texts",
            "events",
            "memories",
            "memory_vectors",
            "offers",
            "nodes",
            "tool_calls",
            "approvals",
            "shadows",
            "traffic",
            "launch_keys",
        ] {
            counts.insert(table, self.count(table).await);
        }
        counts
    }
}

pub(crate) async fn on_sqlite(test: impl for<'a> FnOnce(&'a Place) -> LocalBoxFuture<'a, ()>) {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::at(format!("sqlite:{}", folder.path().join("crewline.db").display()));
    test(&place).await;
}

/// Nothing here shows that a disk keeps what it was told to keep.
const FAST: &str = "options[synchronous_commit]=off";

/// In a schema of its own, which is cheaper than a database.
pub(crate) async fn on_postgres(test: impl for<'a> FnOnce(&'a Place) -> LocalBoxFuture<'a, ()>) {
    let Some(server) = server() else { return };
    let name = fresh_name();
    let mark = if server.contains('?') { '&' } else { '?' };
    let url = format!("{server}{mark}{FAST}&options[search_path]={name}");
    within(&server, test, url, [format!("CREATE SCHEMA {name}"), format!("DROP SCHEMA {name} CASCADE")]).await;
}

/// In a database of its own, for what a whole database has: its channel, its connections, its statistics.
pub(crate) async fn on_postgres_alone(test: impl for<'a> FnOnce(&'a Place) -> LocalBoxFuture<'a, ()>) {
    let Some(server) = server() else { return };
    let name = fresh_name();
    let (base, _) = server.rsplit_once('/').unwrap();
    let url = format!("{base}/{name}?{FAST}");
    within(&server, test, url, [format!("CREATE DATABASE {name}"), format!("DROP DATABASE {name} WITH (FORCE)")]).await;
}

fn fresh_name() -> String {
    format!("crewline_test_{}", TaskId::new(&mut IdSource::random()))
}

async fn within(
    server: &str,
    test: impl for<'a> FnOnce(&'a Place) -> LocalBoxFuture<'a, ()>,
    url: String,
    [create, remove]: [String; 2],
) {
    let admin = Database::connect(server).await.unwrap();
    admin.execute_unprepared(&create).await.unwrap();
    let place = Place::at(url);
    let outcome = AssertUnwindSafe(test(&place)).catch_unwind().await;
    admin.execute_unprepared(&remove).await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one setting of these tests")]
fn server() -> Option<String> {
    std::env::var("CREWLINE_TEST_POSTGRES").ok()
}

pub(crate) fn at(micros: i64) -> Timestamp {
    Timestamp(micros)
}

pub(crate) fn run_of(run: RunId, project: &str) -> NewRun {
    NewRun {
        id: run,
        project: project.into(),
        goal: "the goal".into(),
        settings: "{}".into(),
        registry: TextHash::of("registry"),
        key: None,
        at: at(1),
    }
}

pub(crate) fn root_of(run: RunId, id: TaskId) -> Task {
    Task { kind: TaskKind::Root, key: "root".into(), ..task_of(run, id, 0) }
}

pub(crate) fn task_of(run: RunId, id: TaskId, position: u32) -> Task {
    Task {
        position,
        title: "a title".into(),
        description: "a description".into(),
        duration: Some(Duration::from_millis(1_500)),
        success_criteria: vec![crewline_types::Criterion {
            criterion: "it works".into(),
            measurable: true,
            check: None,
        }],
        ..Task::new(id, run, format!("t{position}"), Role::from("coder"), at(2))
    }
}

/// A run with its root task, claimed; and how to make changes to it.
pub(crate) struct Crew {
    pub(crate) store: Store,
    pub(crate) run: RunId,
    pub(crate) epoch: u64,
    pub(crate) root: TaskId,
    pub(crate) ids: IdSource,
}

impl Crew {
    pub(crate) async fn new(place: &Place, project: &str, seed: u64) -> Self {
        let store = place.open().await;
        Self::on(store, project, seed).await
    }

    pub(crate) async fn on(store: Store, project: &str, seed: u64) -> Self {
        let mut ids = IdSource::seeded(seed);
        let (run, root) = (RunId::new(&mut ids), TaskId::new(&mut ids));
        let task = Task { kind: TaskKind::Root, ..task_of(run, root, 0) };
        store.create_run(&run_of(run, project), &task).await.unwrap();
        let epoch = store.claim_run(run, "test", Duration::from_mins(1), Claim::IfFree).await.unwrap();
        Self { store, run, epoch, root, ids }
    }

    pub(crate) fn change(&self) -> Change {
        Change::new(self.run, self.epoch, at(5))
    }

    /// Records `count` pending tasks.
    pub(crate) async fn tasks(&mut self, count: u32) -> Vec<TaskId> {
        let ids: Vec<TaskId> = (0..count).map(|_| TaskId::new(&mut self.ids)).collect();
        let mut change = self.change();
        change.tasks = (1..).zip(&ids).map(|(position, id)| task_of(self.run, *id, position)).collect();
        self.done(change).await;
        ids
    }

    pub(crate) async fn done(&self, change: Change) -> Vec<u64> {
        match self.store.commit(&[change]).await.unwrap().remove(0) {
            Committed::Done { events } => events.iter().map(|event| event.seq).collect(),
            refused @ (Committed::Stale | Committed::OverBudget { .. }) => panic!("{refused:?}"),
        }
    }

    pub(crate) async fn status(&self, task: TaskId) -> (TaskStatus, u32) {
        let tasks = self.store.tasks(self.run).await.unwrap();
        let task = tasks.iter().find(|it| it.id == task).unwrap();
        (task.status, task.attempts)
    }

    pub(crate) fn start(&self, task: TaskId, attempt: u32) -> Change {
        let mut change = self.change();
        change.transitions.push(Transition {
            attempts_from: attempt - 1,
            attempts_to: attempt,
            ..step(task, TaskStatus::Pending, TaskStatus::InProgress)
        });
        change.events.push(note(task));
        change
    }

    pub(crate) fn finish(&self, task: TaskId, attempt: u32) -> Change {
        let mut change = self.change();
        change.transitions.push(Transition {
            attempts_from: attempt,
            attempts_to: attempt,
            ..step(task, TaskStatus::InProgress, TaskStatus::Completed)
        });
        change.events.push(note(task));
        change
    }

    /// Offers the first attempts of `tasks` to the role of the same place, in that order.
    pub(crate) async fn offer(&self, tasks: &[TaskId], roles: &[&str]) {
        let mut change = self.change();
        change.offers = (0..)
            .zip(tasks)
            .zip(roles.iter().cycle())
            .map(|((rank, task), role)| NewOffer {
                id: first(*task),
                role: Role::from(*role),
                rank,
                told: String::new(),
            })
            .collect();
        self.done(change).await;
    }

    /// What a worker writes before its first call.
    pub(crate) fn intent(&self, node: &str, attempt: AttemptId) -> Change {
        let mut change = Change::new(self.run, Fence::Claim { attempt, node: Arc::from(node) }, at(7));
        change.transitions = self.start(attempt.task, attempt.number).transitions;
        change.attempts.push(NewAttempt {
            id: attempt,
            role: Role::from("coder"),
            model: "m".into(),
            input_hash: Some(TextHash::of("in")),
        });
        change.calls.push(call(attempt, 1, None));
        change.events.push(note(attempt.task));
        change
    }

    /// What a worker writes at the end.
    pub(crate) fn report(&self, node: &str, attempt: AttemptId, report: &str) -> Change {
        let mut change = Change::new(self.run, Fence::Claim { attempt, node: Arc::from(node) }, at(8));
        change.report = Some(report.into());
        change
    }

    /// The one answer to one change.
    pub(crate) async fn commit(&self, change: Change) -> Committed {
        self.store.commit(&[change]).await.unwrap().remove(0)
    }
}

/// The first attempt of a task.
pub(crate) fn first(task: TaskId) -> AttemptId {
    AttemptId { task, number: 1 }
}

/// A call that is about to be sent.
pub(crate) fn call(attempt: AttemptId, number: u32, reserved: Option<MicroUsd>) -> NewCall {
    NewCall {
        id: CallId { attempt, number },
        purpose: "task",
        model: "m".into(),
        provider: "p".into(),
        input_hash: TextHash::of("call"),
        reserved,
    }
}

pub(crate) fn step(task: TaskId, from: TaskStatus, to: TaskStatus) -> Transition {
    Transition {
        task,
        from,
        to,
        attempts_from: 0,
        attempts_to: 0,
        result: None,
        reason: None,
        model: None,
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
    }
}

pub(crate) fn note(task: TaskId) -> NewEvent {
    NewEvent::of_task(
        at(6),
        task,
        Some(1),
        EventBody::AwaitingApproval { what: "x".into(), approval: None, kind: None },
    )
}

pub(crate) fn is_done(committed: &Committed) -> bool {
    matches!(committed, Committed::Done { .. })
}
