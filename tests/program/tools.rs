//! Tools by hand: what they do, and that a command gets neither out nor away.

use std::{
    fs,
    io::Read as _,
    net::TcpListener,
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crewline_testkit::{Finished, TestApp, app::finish};
use crewline_tools::{
    Approval, CommandLimits, CommandPlace, CommandPolicy, CommandRule, Confinement, Limits, Outcome, OutputStore,
    RunCommand, Runner, ToolCall, Toolbox, Tree, TreeLimits, Unconfined,
};
use serde_json::{Value, json};

use crate::app;

/// A workspace in the directory of the test, beside a secret.
pub(crate) fn desk() -> TestApp {
    let app = app();
    fs::create_dir(app.path("w")).unwrap();
    app.write("secret.txt", "top-secret");
    app
}

fn call(app: &TestApp, tool: &str, arguments: &Value, extra: &[&str]) -> Finished {
    let arguments = arguments.to_string();
    let args = ["tools", "call", tool, "--args", &arguments, "--workspace", "w", "-o", "json", "--no-input"];
    app.run(args.iter().chain(extra))
}

fn value(run: &Finished) -> Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}\n{}\n{}", run.stdout, run.stderr))
}

/// Runs a line of a shell, which the policy allows by name.
fn shell(app: &TestApp, line: &str, extra: &[&str]) -> Value {
    let arguments = json!({"program": "bash", "args": ["-c", line]});
    value(&call(app, "run_command", &arguments, &[&["--allow", "bash **"], extra].concat()))
}

/// How many processes of this machine have `mark` in their command line.
fn living(mark: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|it| fs::read(it.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(mark)).count()
}

/// A word that no other process has in its command line.
fn mark(name: &str) -> String {
    format!("mark-{name}-{}-{}", std::process::id(), fastrand::u64(..))
}

/// Waits until something is so; a test that waits in vain fails.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < TestApp::LIMIT, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn tools_are_listed_shown_and_called() {
    let app = desk();
    let list = app.run(["tools", "ls", "-o", "json"]).expect_code(0);
    let listed: Vec<Value> = serde_json::from_str(&list.stdout).unwrap();
    let named = |run_only: bool| -> Vec<&Value> {
        listed.iter().filter(|it| it["run_only"] == run_only).map(|it| &it["name"]).collect()
    };
    let expected = [
        "edit_file",
        "git_commit",
        "git_diff",
        "git_log",
        "git_status",
        "http_fetch",
        "list_files",
        "read_file",
        "read_output",
        "run_command",
        "search_files",
        "write_file",
    ];
    assert_eq!(named(false), expected);
    let expected = [
        "note",
        "progress",
        "memory_search",
        "memory_store",
        "share",
        "create_task",
        "handoff",
        "ask_person",
        "give_up",
    ];
    assert_eq!(named(true), expected);
    let shown = app.run(["tools", "show", "create_task"]).expect_code(0).stdout;
    assert!(shown.contains("\n  \"required\": [\n    \"title\",\n"), "{shown}");
    assert!(app.run(["tools", "call", "note"]).expect_code(3).stderr.contains("[tool.in_run]"));
    assert!(app.run(["tools", "ls"]).expect_code(0).stdout.contains("run_command"));
    let shown = app.run(["tools", "show", "edit_file", "-o", "json"]).expect_code(0);
    assert_eq!(value(&shown)["effect"], "repeatable");
    assert!(app.run(["tools", "show", "nothing"]).expect_code(5).stderr.contains("[tool.unknown]"));

    let made = call(&app, "write_file", &json!({"path": "a/b.txt", "content": "hello\n"}), &[]).expect_code(0);
    assert_eq!(value(&made)["changed"], json!(["a/b.txt"]));
    assert_eq!(fs::read_to_string(app.path("w/a/b.txt")).unwrap(), "hello\n");
    let read = value(&call(&app, "read_file", &json!({"path": "a/b.txt"}), &[]).expect_code(0));
    assert_eq!((&read["text"], &read["untrusted"]), (&json!("hello\n"), &json!(true)));
    call(&app, "read_file", &json!({"path": "../secret.txt"}), &[]).expect_code(9);
    call(&app, "read_file", &json!({"path": 1}), &[]).expect_code(3);
    call(&app, "read_file", &json!({"path": "none"}), &[]).expect_code(1);
    call(&app, "git_status", &json!({}), &[]).expect_code(3);
    let away = app.run(["tools", "call", "read_file", "--workspace", "nowhere"]).expect_code(3);
    assert!(away.stderr.contains("[workspace.unusable]"), "{}", away.stderr);
    let fetch = value(
        &call(&app, "http_fetch", &json!({"url": "http://169.254.169.254/"}), &["--host", "docs.rs"]).expect_code(9),
    );
    assert_eq!(fetch["outcome"], "refused");
    let left = fs::read_dir(app.path("data")).unwrap().flatten().filter(|it| it.file_name() != "logs").count();
    assert_eq!(left, 0, "a call leaves nothing behind");
}

#[test]
fn only_commands_that_are_allowed_run_and_their_exit_code_is_told() {
    let app = desk();
    app.write("w/a.txt", "one\n");
    let allow = ["--allow", "cat a.txt"];
    let seen = value(&call(&app, "run_command", &json!({"program": "cat", "args": ["a.txt"]}), &allow).expect_code(0));
    assert_eq!(seen["text"], "one\n[exit code 0]");
    for arguments in [
        json!({"program": "cat", "args": ["b.txt"]}),
        json!({"program": "ls"}),
        json!({"program": "/bin/cat", "args": ["a.txt"]}),
    ] {
        call(&app, "run_command", &arguments, &allow).expect_code(9);
    }
    call(&app, "run_command", &json!({"program": "bash", "args": ["-c", "true"]}), &["--allow", "* **"]).expect_code(9);
    let failed = shell(&app, "echo to-err >&2; exit 7", &[]);
    assert_eq!((&failed["outcome"], &failed["text"]), (&json!("failed"), &json!("to-err\n[exit code 7]")));
    let made = shell(&app, "mkdir d && echo new > d/new.txt && rm a.txt", &[]);
    assert_eq!(made["changed"], json!(["a.txt", "d/new.txt"]));
    assert!(!app.path("w/a.txt").exists() && app.path("w/d/new.txt").exists());
}

#[test]
fn a_command_sees_no_key_and_no_file_beside_its_workspace() {
    let app = desk();
    let outside = app.path("secret.txt");
    std::os::unix::fs::symlink(&outside, app.path("w/link")).unwrap();
    let arguments = json!({"program": "bash", "args": ["-c", "env; cat /proc/*/environ | tr '\\0' '\\n'"]}).to_string();
    let args =
        ["tools", "call", "run_command", "--args", &arguments, "--workspace", "w", "-o", "json", "--allow", "bash **"];
    let mut command = app.command(args);
    command.env("OPENAI_API_KEY", "sk-do-not-tell").env("CREWLINE_DATABASE", "sqlite:do-not-tell.db");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let seen = finish(command.spawn().unwrap(), TestApp::LIMIT);
    let text = value(&seen)["text"].as_str().unwrap().to_owned();
    assert!(text.contains("PATH=") && text.contains("HOME="), "{text}");
    assert!(!text.contains("do-not-tell"), "{text}");

    let secret = outside.display();
    for line in [
        format!("cat {secret}"),
        "cat link".to_owned(),
        "cat ../../../../secret.txt".to_owned(),
        format!("ln {secret} hard && cat hard"),
        format!("cat /proc/self/root{secret}"),
        format!("mv {secret} here && cat here"),
        format!("cp {secret} copy"),
        "cat /etc/shadow".to_owned(),
        format!("echo owned > {secret}"),
        format!("touch {}", app.path("made-outside").display()),
        "echo owned > /tmp/../etc/crewline-was-here".to_owned(),
        "echo 1 > /proc/sys/kernel/panic".to_owned(),
        "unshare --user --map-root-user true".to_owned(),
        "mount -t tmpfs none /tmp".to_owned(),
    ] {
        let seen = shell(&app, &line, &[]);
        assert_eq!(seen["outcome"], "failed", "{line}: {seen}");
        assert!(!seen["text"].as_str().unwrap().contains("top-secret"), "{line}: {seen}");
    }
    assert_eq!(fs::read_to_string(&outside).unwrap(), "top-secret");
    assert!(!app.path("made-outside").exists() && !Path::new("/etc/crewline-was-here").exists());
}

#[test]
fn a_command_reaches_the_network_it_was_given() {
    let app = desk();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let ask = format!("echo hello > /dev/tcp/127.0.0.1/{port}");
    for network in ["none", "loopback"] {
        assert_eq!(shell(&app, &ask, &["--network", network])["outcome"], "failed", "{network}");
        assert!(listener.accept().is_err(), "{network}: nobody came");
    }
    assert_eq!(shell(&app, &ask, &["--network", "host"])["outcome"], "ok");
    let mut said = String::new();
    listener.set_nonblocking(false).unwrap();
    listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n", "the test can tell");
    // A server and its client, both of the command.
    let own = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!; \
               if (!fork) { my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $s->sockport) or die $!; \
               print $c \"over loopback\\n\"; exit } print $s->accept->getline";
    let arguments = json!({"program": "perl", "args": ["-e", own]});
    let seen = value(&call(&app, "run_command", &arguments, &["--allow", "perl **", "--network", "loopback"]));
    assert_eq!(seen["text"], "over loopback\n[exit code 0]");
    let none = value(&call(&app, "run_command", &arguments, &["--allow", "perl **"]));
    assert_eq!(none["outcome"], "failed");
    // A socket of a file may be the door to a service of this machine.
    let socket = app.path("w/door");
    let door = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    door.set_nonblocking(true).unwrap();
    let knock = format!("use IO::Socket::UNIX; IO::Socket::UNIX->new(Peer => '{}') or die $!", socket.display());
    let arguments = json!({"program": "perl", "args": ["-e", knock]});
    assert_eq!(value(&call(&app, "run_command", &arguments, &["--allow", "perl **"]))["outcome"], "failed");
    assert!(door.accept().is_err());
}

#[test]
fn a_command_is_stopped_at_its_limits_and_the_next_one_runs() {
    let app = desk();
    let next = |app: &TestApp| assert_eq!(shell(app, "echo fine", &[])["text"], "fine\n[exit code 0]");

    // It doubles ten times, then stays: bounded, should nothing else bound it.
    let word = mark("brood");
    let brood = "b() { if [ $1 -gt 0 ]; then b $(($1 - 1)) & b $(($1 - 1)) & fi; sleep 1000; }; b 10";
    let brood = shell(&app, &format!("{brood} # {word}"), &["--processes", "64"]);
    assert!(brood["text"].as_str().unwrap().ends_with("[stopped: it had too many processes]"), "{brood}");
    assert_eq!(living(&word), 0);
    next(&app);

    let flood = value(&call(&app, "run_command", &json!({"program": "yes"}), &["--allow", "yes"]).expect_code(1));
    let bytes = flood["bytes_out"].as_u64().unwrap();
    assert!((64 << 20..66 << 20).contains(&bytes), "{bytes}");
    let text = flood["text"].as_str().unwrap();
    assert!(text.len() < 16 << 10 && text.ends_with("[stopped: it printed more than 67108864 bytes]"), "{text}");
    next(&app);

    let word = mark("deaf");
    let deaf = format!("trap '' TERM INT HUP QUIT; echo deaf; while true; do sleep 1000; done # {word}");
    let deaf = shell(&app, &deaf, &["--time", "5"]);
    assert_eq!((&deaf["outcome"], &deaf["text"]), (&json!("timeout"), &json!("deaf\n[stopped after 5 seconds]")));
    assert_eq!(living(&word), 0);
    next(&app);

    let word = mark("orphan");
    let orphan = format!("setsid bash -c 'setsid sleep 1000 & disown; sleep 1000 # {word}' & disown; echo left");
    assert_eq!(shell(&app, &orphan, &[])["text"], "left\n[exit code 0]", "{orphan}");
    assert_eq!(living(&word), 0);

    let hungry = shell(&app, "x=$(head -c 900M /dev/zero | tr '\\0' x); echo ${#x}", &["--memory", "100"]);
    assert_eq!(hungry["outcome"], "failed", "{hungry}");
    let pack = "for i in 1 2 3 4 5 6 7 8; do perl -e '$x = q(x) x 30e6; sleep 1000' & done; wait";
    let pack = shell(&app, pack, &["--memory", "100"]);
    assert!(pack["text"].as_str().unwrap().ends_with("[stopped: it took too much memory]"), "{pack}");
    next(&app);
}

#[test]
fn a_command_ends_with_crewline_however_it_ends() {
    let app = desk();
    let word = mark("left");
    let line =
        format!("setsid bash -c 'while true; do sleep 1; done # {word}' & while true; do sleep 1; done # {word}");
    let arguments = json!({"program": "bash", "args": ["-c", line]}).to_string();
    let args = ["tools", "call", "run_command", "--args", &arguments, "--workspace", "w", "--allow", "bash **"];
    let mut child = app.spawn(args);
    // Crewline itself has the word in its arguments as well; the command makes it more.
    until("the command starts", || living(&word) > 2);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the command ends", || living(&word) == 0);
}

/// A toolbox whose commands run with less than the kernel offers.
pub(crate) async fn toolbox(
    app: &TestApp,
    confinement: impl Fn(Confinement) -> Confinement,
    unconfined: Unconfined,
) -> Toolbox {
    let root = app.path("w").canonicalize().unwrap();
    let outputs = OutputStore::new(&app.path("outputs"));
    let runner = Runner::find(Path::new(env!("CARGO_BIN_EXE_crewline"))).await;
    let found = runner.confinement();
    let policy = CommandPolicy {
        allow: vec![CommandRule::parse("bash **").unwrap(), CommandRule::parse("perl **").unwrap()],
        unconfined,
        limits: CommandLimits { time_max: Duration::from_mins(1), processes_max: 64, ..CommandLimits::default() },
        ..CommandPolicy::default()
    };
    let place =
        CommandPlace { tree: Tree::open(&root, TreeLimits::default()).unwrap(), root, scratch: app.path("scratch") };
    let mut toolbox = Toolbox::new(outputs.clone(), Limits::default()).unwrap();
    toolbox.add(RunCommand::new(place, Arc::new(policy), runner.with(confinement(found)), outputs)).unwrap();
    toolbox
}

pub(crate) fn in_executor<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn without_namespaces_nothing_gets_away_either() {
    let app = desk();
    in_executor(async {
        let less = |found| Confinement {
            namespaces: false,
            process_view: false,
            held_files: false,
            process_limit: false,
            loopback: false,
            ..found
        };
        let toolbox = toolbox(&app, less, Unconfined::Run).await;
        for (line, outcome) in [
            ("setsid bash -c 'setsid sleep 1000 & sleep 1000 # WORD' & disown; echo left", Outcome::Ok),
            ("for i in $(seq 100); do sleep 1000 & done; wait # WORD", Outcome::Failed),
            ("cat ../secret.txt", Outcome::Failed),
            ("echo hello > /dev/tcp/127.0.0.1/9", Outcome::Failed),
            ("echo fine", Outcome::Ok),
        ] {
            let word = mark("plain");
            let arguments = json!({"program": "bash", "args": ["-c", line.replace("WORD", &word)]});
            let seen = toolbox
                .call(ToolCall { key: "k", name: "run_command", arguments: &arguments, approval: Approval::Missing })
                .await;
            assert_eq!(seen.outcome, outcome, "{line}: {}", seen.text);
            assert_eq!(living(&word), 0, "{line}");
        }
    });
}

#[test]
fn where_nothing_confines_the_policy_decides() {
    let app = desk();
    in_executor(async {
        let arguments = json!({"program": "bash", "args": ["-c", "echo ran; cat ../secret.txt"]});
        for (unconfined, approval, outcome) in [
            (Unconfined::Refuse, Approval::Given, Outcome::Refused),
            (Unconfined::Ask, Approval::Missing, Outcome::Refused),
            (Unconfined::Ask, Approval::Given, Outcome::Ok),
            (Unconfined::Run, Approval::Missing, Outcome::Ok),
        ] {
            let toolbox = toolbox(&app, |_| Confinement::default(), unconfined).await;
            let seen = toolbox.call(ToolCall { key: "k", name: "run_command", arguments: &arguments, approval }).await;
            assert_eq!(seen.outcome, outcome, "{unconfined:?}: {}", seen.text);
            assert_eq!(
                seen.text.contains("top-secret"),
                outcome == Outcome::Ok,
                "confinement is what holds it elsewhere"
            );
        }
    });
}

#[test]
fn doctor_tells_of_confinement() {
    let app = app();
    let checks = app.run(["doctor", "-o", "json"]);
    let checks: Vec<Value> = serde_json::from_str(&checks.stdout).unwrap();
    let found = checks.iter().find(|it| it["name"] == "confinement").unwrap();
    assert!(found["detail"].as_str().unwrap().contains("seccomp"), "{found}");
}
