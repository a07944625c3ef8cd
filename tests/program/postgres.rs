//! The same program on PostgreSQL: one URL instead of a file.

use crewline_testkit::{Script, StubServer, app::postgres};
use sea_orm::{ConnectionTrait, Database};

use crate::{app, fan, run_args};

/// Runs one statement outside any transaction.
fn administer(url: &str, statement: &str) {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    executor.block_on(async {
        let connection = Database::connect(url).await.unwrap();
        connection.execute_unprepared(statement).await.unwrap();
        connection.close().await.unwrap();
    });
}

#[test]
fn a_run_on_postgres_is_the_same_run() {
    let Some(server_url) = postgres() else {
        println!("skipped: `cargo xtask test` sets up PostgreSQL");
        return;
    };
    let name = format!("crewline_program_{}", std::process::id());
    administer(&server_url, &format!("CREATE DATABASE {name}"));
    let (base, _) = server_url.rsplit_once('/').unwrap();
    let url = format!("{base}/{name}");

    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("plan.json", &fan(20).to_string());
    let run = app.run(run_args(&["--plan", "plan.json", "--database", &url])).expect_code(0);
    let last = run.events().pop().unwrap();
    assert_eq!(last["tasks"]["completed"], 22);
    assert_eq!(server.calls(), 22);
    let ps = app.run(["ps", "--all", "-o", "json", "--database", &url]).expect_code(0);
    assert!(ps.stdout.contains(last["run"].as_str().unwrap()), "{}", ps.stdout);
    assert!(!app.path("data/crewline.db").exists(), "no file beside the server");

    administer(&server_url, &format!("DROP DATABASE {name} WITH (FORCE)"));
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
