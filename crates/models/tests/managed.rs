//! Managed servers against real processes: one start for all, restarts, and no orphan however things end.
//!
//! This program is three in one: the tests (no word), the guard (`managed-guard`), the fake model server (`serve`), and a crewline
//! that will be killed (`own`). It has its own `main`, as the guard needs one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is its own harness, and the server it tests")]

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crewline_models::{
    ChatMessage, ChatRequest, Error, ManagedFailure, Models, Options, Registry, Speaker, managed_guard_main,
};
use crewline_types::ModelAlias;
use harness::{Guard, gone, is_alive, kill};

mod harness;

fn main() {
    let (word, rest) = harness::word();
    match word.as_str() {
        "managed-guard" => std::process::exit(managed_guard_main(rest)),
        "serve" => serve(&rest),
        "own" => own(Path::new(&rest[0])),
        _ => harness::run(all! {
            one_start_serves_all a_dead_server_is_started_again a_caller_that_goes_away_leaves_the_start_to_the_next
            a_server_that_breaks_says_why a_server_that_is_never_ready a_taken_port_is_tried_again
            a_program_that_is_missing a_dropped_handle_ends_the_server no_orphan_survives_a_kill
        }),
    }
}

/// The fake model server: `serve PORT MODE`. Answers a chat with its process id and a variable of its environment.
fn serve(args: &[OsString]) {
    let port: u16 = args[0].to_str().unwrap().parse().unwrap();
    let mode = args[1].to_str().unwrap();
    match mode {
        "broken" => {
            eprintln!("loading\nno such weights");
            std::process::exit(3);
        }
        "taken" => {
            // The first start finds its port taken; the mark is beside the log.
            let mark = Path::new(&args[2]);
            if !mark.exists() {
                std::fs::write(mark, "").unwrap();
                eprintln!("bind: Address already in use");
                std::process::exit(1);
            }
        }
        _ => {}
    }
    eprintln!("started {}", std::process::id());
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    for stream in listener.incoming() {
        let mode = mode.to_owned();
        std::thread::spawn(move || answer(stream.unwrap(), &mode));
    }
}

fn answer(stream: TcpStream, mode: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, body) = if first.starts_with("GET /health") {
            (if mode == "never_ready" { "503 Busy" } else { "200 OK" }, String::new())
        } else {
            #[expect(clippy::disallowed_methods, reason = "what a server sees is what is tested")]
            let secret = std::env::var_os("MANAGED_TEST_SECRET").is_some();
            let text = format!("{} secret={secret}", std::process::id());
            (
                "200 OK",
                serde_json::json!({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).to_string(),
            )
        };
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// A crewline that asks its managed model once, says the server's process id, and waits to be killed.
fn own(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let models = models(folder, "good", "30s", Guard::Yes);
        println!("{}", pid(&models).await.unwrap());
        std::future::pending::<()>().await;
    });
}

fn models(folder: &Path, mode: &str, start_timeout: &str, guard: Guard) -> Models {
    let program = std::env::current_exe().unwrap();
    let program = serde_json::to_string(program.to_str().unwrap()).unwrap();
    let text = format!(
        "version: 1\nproviders:\n  p:\n    type: openai_compatible\n    api_key: env:MANAGED_TEST_SECRET\n    \
         managed: {{command: [{program}, serve, \"{{port}}\", {mode}, \"{{data_dir}}/mark\"], start_timeout: {start_timeout}}}\n\
         models:\n  m: {{provider: p, model: m, context_window: 1000}}\nroles:\n  default: {{chain: [m]}}\n"
    );
    let registry = Registry::parse(&text, "test", &|_| Some("key".into())).unwrap();
    let options = Options { data_dir: folder.to_owned(), guard: guard.program(), ..Options::default() };
    Models::new(Arc::new(registry), options).unwrap()
}

/// The process id of the server that answers.
async fn pid(models: &Models) -> Result<i32, Error> {
    let request = ChatRequest {
        messages: vec![ChatMessage::new(Speaker::User, "who are you?")],
        output_tokens_max: 10,
        schema: None,
        temperature: None,
        tools: None,
    };
    let reply = models.chat(&ModelAlias::from("m"), &request).await?;
    let (pid, secret) = reply.text.split_once(' ').unwrap();
    assert_eq!(secret, "secret=false", "the server must not see keys");
    Ok(pid.parse().unwrap())
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn starts(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("logs/managed-p.log")).unwrap_or_default().matches("started").count()
}

async fn one_start_serves_all(folder: &Path) {
    let models = models(folder, "good", "30s", Guard::Yes);
    assert_eq!(starts(folder), 0, "nothing starts before the first call");
    let pids = futures::future::join_all((0..100).map(|_| pid(&models))).await;
    let first = *pids[0].as_ref().unwrap();
    assert!(pids.iter().all(|it| *it.as_ref().unwrap() == first));
    assert_eq!(starts(folder), 1);
    models.shutdown().await;
    assert!(!is_alive(first));
    // It can be needed again.
    assert_ne!(pid(&models).await.unwrap(), first);
    models.shutdown().await;
}

async fn a_dead_server_is_started_again(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let models = models(folder, "good", "30s", guard);
        let first = pid(&models).await.unwrap();
        kill(first);
        gone(first);
        let mut second = pid(&models).await;
        // The guard needs a moment to see it, until when the call fails in a way that may be tried again.
        while let Err(error) = second {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
            second = pid(&models).await;
        }
        let second = second.unwrap();
        assert_ne!(first, second);
        models.shutdown().await;
        gone(second);
    }
}

async fn a_caller_that_goes_away_leaves_the_start_to_the_next(folder: &Path) {
    let models = models(folder, "good", "30s", Guard::Yes);
    for _ in 0..5 {
        let _ = tokio::time::timeout(Duration::from_millis(1), pid(&models)).await;
    }
    pid(&models).await.unwrap();
    assert_eq!(starts(folder), 1);
    models.shutdown().await;
}

async fn a_server_that_breaks_says_why(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let models = models(folder, "broken", "30s", guard);
        let error = pid(&models).await.unwrap_err();
        let Error::ManagedFailed { failure, log_tail, log, .. } = &error else { panic!("{error}") };
        assert_eq!((*failure, log_tail.as_str()), (ManagedFailure::Exited, "loading\nno such weights"));
        assert!(log.ends_with("logs/managed-p.log") && error.is_retryable());
        let shown = error.to_string();
        assert!(shown.contains("exit status: 3") && shown.ends_with(": no such weights"), "{shown}");
        let mut last = error;
        for _ in 0..5 {
            last = pid(&models).await.unwrap_err();
        }
        assert!(matches!(last, Error::ManagedFailed { failure: ManagedFailure::KeepsEnding, .. }), "{last}");
        assert!(!last.is_retryable());
    }
}

async fn a_server_that_is_never_ready(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let models = models(folder, "never_ready", "3s", guard);
        let error = pid(&models).await.unwrap_err();
        assert!(matches!(error, Error::ManagedFailed { failure: ManagedFailure::NotReady, .. }), "{error}");
        let log = std::fs::read_to_string(folder.join("logs/managed-p.log")).unwrap();
        let server = log.lines().last().unwrap().strip_prefix("started ").unwrap().parse().unwrap();
        gone(server);
    }
}

async fn a_taken_port_is_tried_again(folder: &Path) {
    let models = models(folder, "taken", "30s", Guard::Yes);
    pid(&models).await.unwrap();
    assert!(folder.join("mark").exists());
    models.shutdown().await;
}

async fn a_program_that_is_missing(folder: &Path) {
    for guard in [None, Some(std::env::current_exe().unwrap())] {
        for command in
            ["[/nowhere/server, \"{port}\"]", "[cat, \"{port}\", \"{model}\"], model: \"{data_dir}/none.gguf\""]
        {
            let text = format!(
                "version: 1\nproviders:\n  p: {{type: openai_compatible, managed: {{command: {command}}}}}\n\
                 models:\n  m: {{provider: p, model: m, context_window: 1000}}\nroles:\n  default: {{chain: [m]}}\n"
            );
            let registry = Registry::parse(&text, "test", &|_| None).unwrap();
            let options = Options { data_dir: folder.to_owned(), guard: guard.clone(), ..Options::default() };
            let models = Models::new(Arc::new(registry), options).unwrap();
            let error = pid(&models).await.unwrap_err();
            assert!(matches!(error, Error::ManagedFailed { failure: ManagedFailure::CannotRun, .. }), "{error}");
            assert!(!error.is_retryable() && error.hint().unwrap().contains("crewline setup --local"));
            let shown = error.to_string();
            assert!(shown.contains("/nowhere/server") || shown.contains("none.gguf"), "{shown}");
        }
    }
}

async fn a_dropped_handle_ends_the_server(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let models = models(folder, "good", "30s", guard);
        let server = pid(&models).await.unwrap();
        drop(models);
        gone(server);
    }
}

/// The sharp end: `kill -9` of crewline, then of the guard.
async fn no_orphan_survives_a_kill(folder: &Path) {
    for victim in ["crewline", "guard"] {
        let (mut crewline, server) = harness::own(folder);
        assert!(is_alive(server));
        let guard = parent_of(server);
        if victim == "guard" {
            kill(guard);
        } else {
            kill(i32::try_from(crewline.id()).unwrap());
        }
        gone(server);
        let _ = crewline.kill();
        crewline.wait().unwrap();
        gone(guard);
    }
}
