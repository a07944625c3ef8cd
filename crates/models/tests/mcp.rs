//! Servers of tools against real processes and sockets: what they offer, how they fail, and that none is left behind.
//!
//! This program is the tests (no word), the guard (`managed-guard`), a server that does as it is told (`serve`), servers that
//! do not (`mute`, `babble`, `broken`), and a crewline that will be killed (`own`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is its own harness, and the server it tests")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_models::{
    McpReach, McpServerConfig, Mode, Options, Registry, Tally, managed_guard_main,
    mcp::{McpError, McpReply, McpServers, McpTool},
};
use crewline_testkit::{ToolServer, client::free_port, serve_tools_on_stdio};
use harness::{Guard, gone, is_alive, kill};
use serde_json::{Value, json};

mod harness;

fn main() {
    let (word, rest) = harness::word();
    match word.as_str() {
        "managed-guard" => std::process::exit(managed_guard_main(rest)),
        "serve" => tokio::runtime::Runtime::new().unwrap().block_on(serve_tools_on_stdio()).unwrap(),
        "mute" => std::thread::sleep(Duration::from_hours(1)),
        "babble" => babble(),
        "broken" => {
            eprintln!("loading\nno such file: very-secret-token");
            std::process::exit(3);
        }
        "own" => own(Path::new(&rest[0])),
        _ => harness::run(all! {
            tools_of_both_kinds_are_listed_and_called a_server_sees_nothing_of_our_environment_but_the_usual
            a_tool_that_changed_is_not_called a_call_that_hangs_is_given_up a_server_that_dies_is_started_again
            a_server_that_keeps_ending_is_left_alone what_is_no_server_is_said_so what_is_too_large_is_not_read
            offline_no_server_elsewhere_is_asked a_dropped_handle_ends_the_process no_process_survives_a_kill
        }),
    }
}

/// Never ends its first line.
fn babble() {
    let block = vec![b'x'; 1 << 20];
    let mut out = std::io::stdout();
    while out.write_all(&block).is_ok() {}
    std::thread::sleep(Duration::from_hours(1));
}

/// A crewline that asks its server once, says its process id and that of what it started, and waits to be killed.
fn own(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (servers, config) = stdio(folder, "serve", "", Guard::Yes);
        let child = call(&servers, &config, "spawn", json!({})).await.unwrap();
        println!("{}", child.text);
        std::future::pending::<()>().await;
    });
}

fn registry(server: &str) -> Registry {
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n  m: {{provider: p, model: m, context_window: 1000}}\n\
         roles:\n  default: {{chain: [m]}}\nmcp_servers:\n  s: {server}\n"
    );
    let env = |name: &str| (name == "TOKEN").then(|| "very-secret-token".to_owned());
    Registry::parse(&text, "test", &env).unwrap()
}

fn options(folder: &Path, guard: Guard, mode: Mode) -> Options {
    // What a process has in its environment beside the usual is not passed on.
    let env = |name: &str| Some(format!("value of {name}"));
    Options { data_dir: folder.to_owned(), guard: guard.program(), mode, env: Some(env), ..Options::default() }
}

fn stdio(folder: &Path, word: &str, more: &str, guard: Guard) -> (McpServers, Arc<McpServerConfig>) {
    let program = std::env::current_exe().unwrap();
    let program = serde_json::to_string(program.to_str().unwrap()).unwrap();
    let server = format!("{{command: [{program}, {word}], env: {{A_TOKEN: env:TOKEN}}{more}}}");
    let config = Arc::clone(registry(&server).mcp_servers().next().unwrap());
    (McpServers::new(&options(folder, guard, Mode::Online)), config)
}

fn http(folder: &Path, url: &str, mode: Mode) -> (McpServers, Arc<McpServerConfig>) {
    let server =
        format!("{{url: \"{url}\", headers: {{Authorization: env:TOKEN}}, call_timeout: 1m, start_timeout: 1m}}");
    let config = Arc::clone(registry(&server).mcp_servers().next().unwrap());
    (McpServers::new(&options(folder, Guard::No, mode)), config)
}

async fn tool(servers: &McpServers, config: &Arc<McpServerConfig>, name: &str) -> Result<McpTool, McpError> {
    Ok(servers.tools(config).await?.tool(&format!("s.{name}")).unwrap().clone())
}

async fn call(
    servers: &McpServers,
    config: &Arc<McpServerConfig>,
    name: &str,
    arguments: Value,
) -> Result<McpReply, McpError> {
    let tool = tool(servers, config, name).await?;
    servers.call(config, &tool, "k", arguments.as_object().unwrap().clone()).await
}

async fn tools_of_both_kinds_are_listed_and_called(folder: &Path) {
    let server = ToolServer::start().unwrap();
    for (servers, config) in [stdio(folder, "serve", "", Guard::Yes), http(folder, &server.url(), Mode::Offline)] {
        let tally = Tally::default();
        let servers = servers.tallied(tally.clone());
        let found = servers.tools(&config).await.unwrap();
        let asked: Vec<_> = tally.take().iter().map(|(host, it)| (host.to_string(), it.received > 0)).collect();
        let is_process = matches!(config.reach, McpReach::Command { .. });
        assert_eq!(asked, if is_process { vec![] } else { vec![("127.0.0.1".to_owned(), true)] });
        assert!(found.refused.is_empty());
        assert_eq!(&*found.tool("s.echo").unwrap().description, "Gives a text back.");
        let reply = call(&servers, &config, "echo", json!({"text": "hä\nho"})).await.unwrap();
        assert_eq!(reply, McpReply { text: "hä\nho".into(), is_error: false });
        let reply = call(&servers, &config, "fail", json!({})).await.unwrap();
        assert_eq!(reply, McpReply { text: "it did not succeed".into(), is_error: true });
        let (one, two) =
            tokio::join!(call(&servers, &config, "count", json!({})), call(&servers, &config, "count", json!({})));
        let mut both = [one.unwrap().text, two.unwrap().text];
        both.sort();
        assert_eq!(both, ["1", "2"]);
        servers.shutdown().await;
    }
}

async fn a_server_sees_nothing_of_our_environment_but_the_usual(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let (servers, config) = stdio(folder, "serve", "", guard);
        let reply = call(&servers, &config, "env", json!({})).await.unwrap();
        let mut names: Vec<&str> = reply.text.split(' ').collect();
        names.sort_unstable();
        let usual = ["A_TOKEN", "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER"];
        assert_eq!(names, usual);
        servers.shutdown().await;
    }
}

async fn a_tool_that_changed_is_not_called(folder: &Path) {
    let server = ToolServer::start().unwrap();
    for (servers, config) in [stdio(folder, "serve", "", Guard::Yes), http(folder, &server.url(), Mode::Online)] {
        let before = tool(&servers, &config, "echo").await.unwrap();
        call(&servers, &config, "change", json!({})).await.unwrap();
        let text = json!({"text": "x"}).as_object().unwrap().clone();
        // What it says of the change may come a moment after its answer.
        let started = Instant::now();
        loop {
            match servers.call(&config, &before, "k", text.clone()).await {
                Err(McpError::Changed { tool, .. }) => break assert_eq!(tool, "echo"),
                other => assert!(other.is_ok() && started.elapsed() < Duration::from_secs(30), "{other:?}"),
            }
        }
        let after = tool(&servers, &config, "echo").await.unwrap();
        assert_ne!(after.hash, before.hash);
        assert_eq!(servers.call(&config, &after, "k", text).await.unwrap().text, "x");
        servers.shutdown().await;
    }
}

async fn a_call_that_hangs_is_given_up(folder: &Path) {
    let (servers, config) = stdio(folder, "serve", ", call_timeout: 3s", Guard::Yes);
    let pid = call(&servers, &config, "spawn", json!({})).await.unwrap().text.parse().unwrap();
    for _ in 0..2 {
        let error = call(&servers, &config, "hang", json!({})).await.unwrap_err();
        assert_eq!(error, McpError::Timeout { server: "s".into(), limit: Duration::from_secs(3) });
    }
    // A server that does not answer twice is ended with all that it started, and started again.
    gone(pid);
    assert_eq!(call(&servers, &config, "count", json!({})).await.unwrap().text, "1");
    servers.shutdown().await;
}

async fn a_server_that_dies_is_started_again(folder: &Path) {
    let (servers, config) = stdio(folder, "serve", "", Guard::Yes);
    for _ in 0..2 {
        assert_eq!(call(&servers, &config, "count", json!({})).await.unwrap().text, "1");
        let error = call(&servers, &config, "die", json!({})).await.unwrap_err();
        assert!(matches!(error, McpError::Gone { .. }), "{error}");
    }
    assert_eq!(call(&servers, &config, "echo", json!({"text": "again"})).await.unwrap().text, "again");
    servers.shutdown().await;
}

async fn a_server_that_keeps_ending_is_left_alone(folder: &Path) {
    let (servers, config) = stdio(folder, "broken", "", Guard::Yes);
    let started = Instant::now();
    let mut last = None;
    for _ in 0..20 {
        let error = servers.tools(&config).await.unwrap_err();
        assert!(!error.to_string().contains("very-secret-token"), "{error}");
        match &error {
            McpError::Start { message, .. } => assert!(message.contains("no such file: ***"), "{message}"),
            McpError::Down { last, .. } => assert!(last.contains("no such file"), "{last}"),
            other => panic!("{other}"),
        }
        last = Some(error);
    }
    assert!(matches!(last, Some(McpError::Down { .. })));
    assert!(started.elapsed() < Duration::from_mins(1));
    servers.shutdown().await;
}

async fn what_is_no_server_is_said_so(folder: &Path) {
    let (servers, config) = stdio(folder, "mute", ", start_timeout: 500ms", Guard::Yes);
    let error = servers.tools(&config).await.unwrap_err();
    assert_eq!(error.to_string(), "`s` does not start: it was not ready within 0.5 s");
    let (servers, config) = stdio(folder, "babble", "", Guard::Yes);
    let error = servers.tools(&config).await.unwrap_err();
    assert_eq!(error.to_string(), "`s` does not start: it ended before it said what it is");
    let server = "{command: [/no/such/program]}";
    let config = Arc::clone(registry(server).mcp_servers().next().unwrap());
    for guard in [Guard::Yes, Guard::No] {
        let servers = McpServers::new(&options(folder, guard, Mode::Online));
        let error = servers.tools(&config).await.unwrap_err().to_string();
        assert!(error.contains("cannot run"), "{error}");
    }
    let nobody = free_port().unwrap();
    let (servers, config) = http(folder, &format!("http://127.0.0.1:{nobody}/mcp"), Mode::Online);
    let error = servers.tools(&config).await.unwrap_err().to_string();
    assert!(error.starts_with("`s` does not start: ") && !error.contains("secret"), "{error}");
}

async fn what_is_too_large_is_not_read(folder: &Path) {
    let server = ToolServer::start().unwrap();
    for (servers, config) in [stdio(folder, "serve", ", call_timeout: 60s", Guard::Yes), {
        let more = format!("{{url: \"{}\", call_timeout: 60s}}", server.url());
        let config = Arc::clone(registry(&more).mcp_servers().next().unwrap());
        (McpServers::new(&options(folder, Guard::No, Mode::Online)), config)
    }] {
        let reply = call(&servers, &config, "huge", json!({"mib": 8})).await.unwrap();
        assert_eq!(reply.text.len(), 8 << 20);
        let error = call(&servers, &config, "huge", json!({"mib": 100})).await.unwrap_err();
        assert!(matches!(error, McpError::TooLarge { .. } | McpError::Gone { .. }), "{error}");
        // The next call finds it connected again.
        assert_eq!(call(&servers, &config, "echo", json!({"text": "on"})).await.unwrap().text, "on");
        servers.shutdown().await;
    }
}

async fn offline_no_server_elsewhere_is_asked(folder: &Path) {
    // A name of a private network is judged when it is resolved, an address or public name before.
    for url in ["https://mcp.example.com/mcp", "http://93.184.216.34/mcp"] {
        let (servers, config) = http(folder, url, Mode::Offline);
        let error = servers.tools(&config).await.unwrap_err();
        assert!(matches!(error, McpError::Offline { .. }), "{error}");
    }
}

async fn a_dropped_handle_ends_the_process(folder: &Path) {
    for guard in [Guard::Yes, Guard::No] {
        let (servers, config) = stdio(folder, "serve", "", guard);
        let pid: i32 = call(&servers, &config, "spawn", json!({})).await.unwrap().text.parse().unwrap();
        assert!(is_alive(pid));
        drop(servers);
        gone(pid);
    }
}

async fn no_process_survives_a_kill(folder: &Path) {
    let (mut own, pid) = harness::own(folder);
    assert!(is_alive(pid));
    kill(i32::try_from(own.id()).unwrap());
    own.wait().unwrap();
    gone(pid);
}
