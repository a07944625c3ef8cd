//! What a confined command can reach: a script tries files, processes, services and the kernel, and prints what it reached.
//!
//! **Invariant:** the same script is run without confinement first, so that what it does not reach is held by nothing else.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use crewline_testkit::{TestApp, app::finish};
use crewline_tools::{Approval, Confinement, ToolCall, Unconfined};
use serde_json::{Value, json};

use crate::tools::{desk, in_executor, toolbox};

const SCRIPT: &str = include_str!("data/reach.pl");

/// A process of the same user, with secrets and sockets; it ends with its standard input.
struct Victim {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Victim {
    fn start(app: &TestApp) -> Self {
        let mut child = Command::new("perl")
            .args(["-e", include_str!("data/victim.pl")])
            .arg(app.dir())
            .env("SECRET", "top-secret")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Self { child, stdin }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// A secret, its owner, and a server of this machine.
struct Outside {
    app: TestApp,
    victim: Victim,
    server: TcpListener,
}

impl Outside {
    fn new() -> Self {
        let app = desk();
        let victim = Victim::start(&app);
        Self { app, victim, server: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// What the script is called with.
    fn args(&self) -> Vec<String> {
        let dir = self.app.dir().canonicalize().unwrap().display().to_string();
        let port = self.server.local_addr().unwrap().port();
        vec!["-e".to_owned(), SCRIPT.to_owned(), dir, self.victim.child.id().to_string(), port.to_string()]
    }

    /// Runs a program that inherits the secret as an open file, as a careless parent leaves it.
    fn with_open_secret(&self, program: &Path, args: &[String]) -> String {
        let mut command = Command::new("bash");
        command.args(["-c", "exec 9< secret.txt; cd w; exec \"$0\" \"$@\""]).arg(program).args(args);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| name == "PATH"));
        command.current_dir(self.app.dir()).env("HOME", self.app.dir()).env("CREWLINE_DATA_DIR", self.app.path("data"));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ended = finish(child, TestApp::LIMIT);
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn in_confinement(&self, network: &str) -> BTreeSet<String> {
        let arguments = json!({"program": "perl", "args": self.args()}).to_string();
        let call =
            ["tools", "call", "run_command", "--args", &arguments, "--workspace", ".", "-o", "json", "--no-input"];
        let args = [&call[..], &["--allow", "perl **", "--network", network]].concat();
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let said = self.with_open_secret(Path::new(env!("CARGO_BIN_EXE_crewline")), &args);
        let seen: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(seen["outcome"], "ok", "{seen}");
        reached(seen["text"].as_str().unwrap())
    }
}

/// What a command says that it reached.
fn reached(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| !line.starts_with('[')).map(str::to_owned).collect()
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a_confined_command_reaches_nothing_outside() {
    let outside = Outside::new();
    let free = reached(&outside.with_open_secret(Path::new("perl"), &outside.args()));
    let any_user = "read write link rename make directory list root home mode owner times inherited environment files_of \
                    root_of signal shared_memory stream abstract datagram server socket_2 socket_10 socket_16 limits";
    assert!(free.is_superset(&words(any_user)), "the script can tell: {free:?}");

    assert_eq!(outside.in_confinement("none"), words(""));
    // Kinds of sockets are what a loopback of its own needs: IPv4, IPv6, and asking the kernel for addresses.
    assert_eq!(outside.in_confinement("loopback"), words("socket_2 socket_10 socket_16"));
    assert_eq!(fs::read_to_string(outside.app.path("secret.txt")).unwrap(), "top-secret");
}

#[test]
fn without_namespaces_what_is_reached_is_what_the_policy_asks_about() {
    let outside = Outside::new();
    in_executor(async {
        let less = |found: Confinement| Confinement {
            landlock: found.landlock,
            seccomp: found.seccomp,
            ..Confinement::default()
        };
        let toolbox = toolbox(&outside.app, less, Unconfined::Run).await;
        let arguments = json!({"program": "perl", "args": outside.args()});
        let call = ToolCall { key: "k", name: "run_command", arguments: &arguments, approval: Approval::Missing };
        let seen = toolbox.call(call).await;
        assert_eq!(reached(&seen.text), words("mode owner times attribute limits shared_memory"), "{}", seen.text);
    });
}
