//! The same program on PostgreSQL: one URL instead of a file.

use crewline_testkit::{Script, StubServer, app::postgres};
use sea_orm::ConnectionTrait;

use crate::{app, fan, run_args};

/// A database of one test, dropped with it.
pub struct Database {
    server: String,
    name: String,
    /// Where it is.
    pub url: String,
}

impl Database {
    /// `None`, and a line saying so, where there is no server.
    pub fn create(name: &str) -> Option<Self> {
        let Some(server) = postgres() else {
            println!("skipped: `cargo xtask test` sets up PostgreSQL");
            return None;
        };
        let name = format!("crewline_program_{name}_{}", std::process::id());
        administer(&server, &format!("CREATE DATABASE {name}"));
        let (base, _) = server.rsplit_once('/').unwrap();
        let url = format!("{base}/{name}");
        Some(Self { server, name, url })
    }

    /// Changes rows behind the program's back.
    pub fn execute(&self, statement: &str) {
        administer(&self.url, statement);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        administer(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// Runs one statement outside any transaction.
fn administer(url: &str, statement: &str) {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let connection = sea_orm::Database::connect(url).await.unwrap();
        connection.execute_unprepared(statement).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_run_on_postgres_is_the_same_run() {
    let Some(database) = Database::create("run") else { return };
    let url = &database.url;

    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(20).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--database", url])).expect_code(0);
    let last = run.events().pop().unwrap();
    assert_eq!(last["tasks"]["completed"], 22);
    assert_eq!(server.calls(), 22);
    let ps = app.run(["ps", "--all", "-o", "json", "--database", url]).expect_code(0);
    assert!(ps.stdout.contains(last["run"].as_str().unwrap()), "{}", ps.stdout);
    assert!(!app.path("data/crewline.db").exists(), "no file beside the server");
}

#[test]
fn an_unreachable_database_is_a_backend_error() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let run = app.run(run_args(&["goal", "--database", "postgres://crew:secret-word@127.0.0.1:1/none"])).expect_code(6);
    assert!(run.stderr.contains("127.0.0.1"), "{}", run.stderr);
    assert!(!run.stderr.contains("secret-word"), "a password is never shown: {}", run.stderr);
    assert_eq!(server.calls(), 0);
}
