//! A database for one test, on either backend, and the rows most tests begin with.

use std::{collections::BTreeMap, panic::AssertUnwindSafe};

use crewline_store::{NewRun, Store};
use crewline_types::{MicroUsd, Priority, Role, RunId, Task, TaskId, TaskKind, TaskStatus, TextHash, Timestamp, Usage};
use futures::{FutureExt as _, future::BoxFuture};
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, Statement};

/// Where a test's database is.
pub(crate) struct Place {
    pub(crate) url: String,
}

impl Place {
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }

    async fn raw(&self) -> DatabaseConnection {
        Database::connect(&self.url).await.unwrap()
    }

    pub(crate) async fn execute(&self, text: &str) {
        let raw = self.raw().await;
        raw.execute_unprepared(text).await.unwrap();
        raw.close().await.unwrap();
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        let raw = self.raw().await;
        let statement = Statement::from_string(raw.get_database_backend(), format!("SELECT COUNT(*) FROM {from}"));
        let count = raw.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        raw.close().await.unwrap();
        count
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
        ] {
            counts.insert(table, self.count(table).await);
        }
        counts
    }
}

pub(crate) async fn on_sqlite(test: impl for<'a> FnOnce(&'a Place) -> BoxFuture<'a, ()>) {
    let folder = tempfile::tempdir().unwrap();
    let place = Place { url: format!("sqlite:{}", folder.path().join("crewline.db").display()) };
    test(&place).await;
}

pub(crate) async fn on_postgres(test: impl for<'a> FnOnce(&'a Place) -> BoxFuture<'a, ()>) {
    let Some(server) = server() else { return };
    let admin = Database::connect(&server).await.unwrap();
    let name = format!("crewline_test_{}", TaskId::new(&mut crewline_types::IdSource::random()));
    admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    let place = Place { url: format!("{base}/{name}") };
    let outcome = AssertUnwindSafe(test(&place)).catch_unwind().await;
    admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
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
        at: at(1),
    }
}

pub(crate) fn task_of(run: RunId, id: TaskId, position: u32) -> Task {
    Task {
        id,
        run,
        parent: None,
        key: format!("t{position}").into(),
        position,
        kind: TaskKind::Atomic,
        title: "a title".into(),
        description: "a description".into(),
        role: Role::from("coder"),
        priority: Priority::default(),
        status: TaskStatus::Pending,
        success_criteria: vec![crewline_types::Criterion { criterion: "it works".into(), measurable: true }],
        attempts: 0,
        result: None,
        reason: None,
        model: None,
        usage: Usage::default(),
        cost: MicroUsd::ZERO,
        created_at: at(2),
        started_at: None,
        finished_at: None,
    }
}
