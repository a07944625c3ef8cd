//! What a call holds of an answer, measured as the growth of the process while many calls meet a server that floods them.
//! A program of its own, so that nothing else is in the figure.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![cfg(target_os = "linux")]

use std::{fs, sync::Arc};

use crewline_models::{ChatMessage, ChatRequest, Models, Options, Registry, Speaker};
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_head},
    wire::{WIRES, Wire},
};
use futures::future::join_all;

/// Calls at once.
const CALLS: usize = 16;
/// Bytes a call may hold.
const CALL_MAX: usize = 8_000_000;

/// Bytes of a figure in `/proc/self/status`.
fn figure(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

fn block(bytes: &str, times: u64) -> Step {
    match chunk(bytes) {
        Step::Send(bytes) => Step::Repeat(bytes, times),
        step => panic!("{step:?}"),
    }
}

async fn peak(wire: &dyn Wire, stream: bool, steps: Vec<Step>) -> usize {
    let server = FaultServer::start(move |_| steps.clone()).await;
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {}, base_url: \"http://127.0.0.1:{}{}\", stream: {stream}}}\nmodels:\n  \
         m: {{provider: p, model: m, context_window: 10000000, output_tokens_max: 1000000}}\n\
         roles:\n  default: {{chain: [m]}}\n",
        wire.registry_type(),
        server.port,
        wire.base_path(),
    );
    let registry = Arc::new(Registry::parse(&text, "test", &|_| None).unwrap());
    let models = Models::new(registry, Options::default()).unwrap();
    let request = ChatRequest {
        messages: vec![ChatMessage::new(Speaker::User, "Hello?")],
        output_tokens_max: 1_000_000,
        schema: None,
        temperature: None,
        tools: None,
    };
    // Forgets the peak so far: proc(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = figure("VmRSS");
    let alias = "m".into();
    let ended = join_all((0..CALLS).map(|_| models.chat(&alias, &request))).await;
    for result in ended {
        assert_eq!(result.unwrap_err().code(), "model.too_large");
    }
    figure("VmHWM").saturating_sub(before) / CALLS
}

#[tokio::test]
async fn a_flood_is_not_held() {
    for wire in WIRES {
        let head = || chunked_head(wire.stream_type());
        let line = "x".repeat(64 << 10);
        let (start, piece) = (wire.start() + &wire.piece("begun"), wire.piece(&"y\\n".repeat(8 << 10)));
        let floods = [
            ("a line", true, vec![head(), chunk(&wire.piece("begun")[..8]), block(&line, 1 << 14)]),
            ("pieces", true, vec![head(), chunk(&start), block(&piece, 1 << 14)]),
            (
                "small pieces",
                true,
                vec![head(), chunk(&start), block(&wire.piece(&"yes ".repeat(128)).repeat(100), 1 << 14)],
            ),
            ("a body", false, vec![chunked_head("application/json"), chunk("{\"a\":\""), block(&line, 1 << 14)]),
        ];
        for (name, stream, steps) in floods {
            let each = peak(wire, stream, steps).await;
            println!("{}, {name}: {each} bytes a call", wire.registry_type());
            assert!(each <= CALL_MAX, "{}, {name}: {each} bytes a call", wire.registry_type());
        }
    }
}
