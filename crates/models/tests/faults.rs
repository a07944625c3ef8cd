//! Servers that misbehave, over raw TCP, in every wire format: each fault is a typed error within the call's limit and a second,
//! holds no more than 8 MB, and never passes a part of an answer for the whole.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_models::{ChatMessage, ChatReply, ChatRequest, Error, Models, Options, Registry, Speaker};
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_end, chunked_head, response},
    wire::{WIRES, Wire, Wired},
};
use futures::future::join_all;

/// The limit on a whole call that must run into it; the others are shorter.
const TOTAL: Duration = Duration::from_millis(1_200);
/// That of a call that must end otherwise, however slow the machine is.
const PATIENT: Duration = Duration::from_mins(2);
const TIMEOUT: &[&str] = &["model.timeout"];

fn models(wire: &dyn Wire, port: u16, fault: &Fault) -> Models {
    let Fault { stream, .. } = fault;
    let total = if fault.codes == TIMEOUT { TOTAL } else { PATIENT };
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {}, base_url: \"http://127.0.0.1:{port}{}\", stream: {stream}}}\nmodels:\n  \
         m: {{provider: p, model: m, context_window: 100000, output_tokens_max: 32000, \
         timeouts: {{connect: 1m, first_token: {}ms, idle: {}ms, total: {}ms}}}}\nroles:\n  default: {{chain: [m]}}\n",
        wire.registry_type(),
        wire.base_path(),
        (total / 2).as_millis(),
        (total / 3).as_millis(),
        total.as_millis(),
    );
    Models::new(Arc::new(Registry::parse(&text, "test", &|_| None).unwrap()), Options::default()).unwrap()
}

fn request() -> ChatRequest {
    ChatRequest {
        messages: vec![ChatMessage::new(Speaker::User, "Hello?")],
        output_tokens_max: 32_000,
        schema: None,
        temperature: None,
        tools: None,
    }
}

/// What a server does, whether a stream is asked for, and the codes that say so.
struct Fault {
    name: &'static str,
    stream: bool,
    steps: Vec<Step>,
    codes: &'static [&'static str],
}

fn fault(name: &'static str, stream: bool, steps: Vec<Step>, codes: &'static [&'static str]) -> Fault {
    Fault { name, stream, steps, codes }
}

fn faults(wire: &dyn Wire) -> Vec<Fault> {
    const BROKEN: &[&str] = &["model.interrupted"];
    const NO_REPLY: &[&str] = &["model.bad_reply"];
    const TOO_LARGE: &[&str] = &["model.too_large"];
    let head = || chunked_head(wire.stream_type());
    let answer = Wired { text: "half and half", usage: Some([5, 5, 0, 0]), ..Wired::default() };
    let (begin, whole) = (wire.start() + &wire.piece("half "), wire.whole(&answer));
    let halved = &begin[..begin.len() - 9];
    let promise = |body: &str| {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Step::Send((head + &body[..body.len() / 2]).into_bytes())
    };
    let block = vec![b'x'; 64 << 10];
    let every = Duration::from_millis(20);
    let mut not_utf8 = wire.piece("@@").into_bytes();
    let at = not_utf8.iter().position(|it| *it == b'@').unwrap();
    not_utf8[at] = 0xff;
    let drip = Step::Drip(chunk_bytes(": still here\n"), Duration::from_millis(5), 1_000_000);
    let blank = Step::Drip(chunk_bytes("\n"), Duration::from_millis(5), 1_000_000);
    vec![
        fault("no head at all", false, vec![Step::Hang], TIMEOUT),
        fault("no head at all, streamed", true, vec![Step::Hang], TIMEOUT),
        fault("closed before the head", false, vec![Step::Close], BROKEN),
        fault("closed before the head, streamed", true, vec![Step::Close], BROKEN),
        fault("reset before the head", true, vec![Step::Reset], BROKEN),
        fault(
            "a slow head",
            true,
            vec![Step::Drip(b"HTTP/1.1 200 OK\r\nx-header: a value that takes its time\r\n\r\n".to_vec(), every, 9)],
            TIMEOUT,
        ),
        fault(
            "headers without end",
            false,
            vec![
                Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()),
                Step::Repeat(b"x-more: and more\r\n".repeat(1_000), 1 << 20),
            ],
            BROKEN,
        ),
        fault(
            "one header without end",
            true,
            vec![Step::Send(b"HTTP/1.1 200 OK\r\nx: ".to_vec()), Step::Repeat(block.clone(), 1 << 14)],
            BROKEN,
        ),
        fault("no HTTP", false, vec![Step::Send(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()), Step::Hang], BROKEN),
        fault(
            "a redirect",
            false,
            vec![response("307 Temporary Redirect", "text/plain", "location: http://127.0.0.1:9/v1\r\n", "")],
            &["model.upstream"],
        ),
        fault("half a body, then silence", false, vec![promise(&whole), Step::Hang], TIMEOUT),
        fault("half a body, then closed", false, vec![promise(&whole), Step::Close], BROKEN),
        fault("half a body, then a reset", false, vec![promise(&whole), Step::Reset], BROKEN),
        fault(
            "half a body that claims to be whole",
            false,
            vec![response("200 OK", "application/json", "", &whole[..whole.len() / 2])],
            NO_REPLY,
        ),
        fault("a body that drips", false, vec![head(), Step::Drip(chunk_bytes(" "), every, 1_000_000)], TIMEOUT),
        fault("a stall after some bytes", true, vec![head(), chunk(halved), Step::Hang], TIMEOUT),
        fault("a stall after a piece", true, vec![head(), chunk(&begin), Step::Hang], TIMEOUT),
        fault("a stream that drips what is no token", true, vec![head(), chunk(&begin), blank], TIMEOUT),
        fault("a reset inside an event", true, vec![head(), chunk(halved), Step::Reset], BROKEN),
        fault("closed inside an event", true, vec![head(), chunk(halved), Step::Close], BROKEN),
        fault("an end inside an event", true, vec![head(), chunk(halved), chunked_end()], NO_REPLY),
        fault("an end after a piece", true, vec![head(), chunk(&begin), chunked_end()], BROKEN),
        fault("an end without anything", true, vec![head(), chunked_end()], NO_REPLY),
        fault("a reset after a piece", true, vec![head(), chunk(&begin), Step::Reset], BROKEN),
        fault(
            "an error inside the stream",
            true,
            vec![head(), chunk(&begin), chunk(wire.error_event("out of memory")), Step::Hang],
            &["model.upstream"],
        ),
        fault("bytes that are no text", true, vec![head(), chunk(&begin), chunk(not_utf8), Step::Hang], NO_REPLY),
        fault(
            "an event that is no JSON",
            true,
            vec![head(), chunk(&begin), chunk(if wire.start().is_empty() { "{oops}\n" } else { "data: {oops}\n\n" })],
            NO_REPLY,
        ),
        fault(
            "a line of a gigabyte",
            true,
            vec![head(), chunk(&begin[..8]), Step::Repeat(chunk_bytes(&"x".repeat(64 << 10)), 1 << 14)],
            TOO_LARGE,
        ),
        fault(
            "a body of a gigabyte",
            false,
            vec![
                chunked_head("application/json"),
                chunk(&whole[..whole.len() / 2]),
                Step::Repeat(chunk_bytes(&"x".repeat(64 << 10)), 1 << 14),
            ],
            TOO_LARGE,
        ),
        fault(
            "a body that promises a terabyte",
            false,
            vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n{".to_vec()), Step::Hang],
            TOO_LARGE,
        ),
        fault(
            "a body of blanks",
            false,
            vec![chunked_head("application/json"), Step::Repeat(chunk_bytes(&" ".repeat(64 << 10)), 1 << 14)],
            TOO_LARGE,
        ),
        fault(
            "an answer without end",
            true,
            vec![head(), chunk(&begin), Step::Repeat(chunk_bytes(&wire.piece(&"y".repeat(32 << 10))), 1 << 14)],
            TOO_LARGE,
        ),
        fault(
            "an error of a gigabyte",
            false,
            vec![
                Step::Send(b"HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
                Step::Repeat(chunk_bytes(&"x".repeat(64 << 10)), 1 << 14),
            ],
            &["model.upstream"],
        ),
        fault("a page", false, vec![response("200 OK", "text/html", "", "<html><h1>Welcome</h1>")], NO_REPLY),
        fault("a page, streamed", true, vec![response("200 OK", "text/html", "", "<html><h1>Welcome</h1>")], NO_REPLY),
        fault(
            "usage that can not be",
            false,
            vec![response("200 OK", "application/json", "", {
                let answer = Wired { text: "fine", usage: Some([777_777, 5, 0, 0]), ..Wired::default() };
                wire.whole(&answer).replace("777777", &u64::MAX.to_string())
            })],
            NO_REPLY,
        ),
        if wire.start().is_empty() {
            fault("a drip", true, vec![head(), chunk(&begin), Step::Drip(chunk_bytes(" "), every, 1_000_000)], TIMEOUT)
        } else {
            fault("a drip of comments", true, vec![head(), chunk(&begin), drip], TIMEOUT)
        },
    ]
}

/// One chunk on the wire, as bytes.
fn chunk_bytes(bytes: &str) -> Vec<u8> {
    match chunk(bytes) {
        Step::Send(bytes) => bytes,
        step => panic!("{step:?}"),
    }
}

async fn ask(wire: &dyn Wire, fault: &Fault) -> (Result<ChatReply, Error>, Duration) {
    let steps = fault.steps.clone();
    let server = FaultServer::start(move |_| steps.clone()).await;
    let models = models(wire, server.port, fault);
    let started = Instant::now();
    // How late this machine is at the moment: a timer that begins with the call.
    let (ended, late) = tokio::join!(
        async {
            let result = models.chat(&"m".into(), &request()).await;
            (result, started.elapsed())
        },
        async {
            tokio::time::sleep(TOTAL).await;
            started.elapsed().saturating_sub(TOTAL)
        }
    );
    let (result, elapsed) = ended;
    (result, elapsed.saturating_sub(late))
}

#[tokio::test]
async fn every_fault_is_a_typed_error_in_time() {
    for wire in WIRES {
        let faults = faults(wire);
        let mut ended = Vec::new();
        // A few at once: the floods must not starve the others of this thread.
        for some in faults.chunks(8) {
            ended.extend(join_all(some.iter().map(|fault| ask(wire, fault))).await);
        }
        for (fault, (result, elapsed)) in faults.iter().zip(ended) {
            let place = format!("{}: {}", wire.registry_type(), fault.name);
            let error = result.expect_err(&place);
            assert!(fault.codes.contains(&error.code()), "{place}: {} {error}", error.code());
            let total = if fault.codes == TIMEOUT { TOTAL } else { PATIENT };
            assert!(elapsed < total + Duration::from_secs(1), "{place}: {elapsed:?}");
            assert!(error.to_string().len() < 600, "{place}: {error}");
        }
    }
}

/// What splits characters and lines is no fault.
#[tokio::test]
async fn bytes_one_by_one_are_an_answer() {
    for wire in WIRES {
        let answer = Wired { text: "Grüße 日本", usage: Some([5, 5, 0, 0]), ..Wired::default() };
        let mut steps = vec![chunked_head(wire.stream_type())];
        steps.extend(wire.stream(&["Grüße ", "日本"], &answer).as_bytes().iter().map(|it| chunk([*it])));
        steps.push(chunked_end());
        let (result, _) = ask(wire, &fault("split", true, steps, &[])).await;
        assert_eq!(result.unwrap().text, "Grüße 日本");
    }
}

#[path = "../../../fuzz/check.rs"]
mod check;

/// What the fuzz target runs, on the streams that it starts from: so it stays code that compiles.
#[test]
fn the_corpus_of_the_fuzz_target_passes() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/sse");
    let mut streams = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let stream = std::fs::read(entry.unwrap().path()).unwrap();
        // Cut in every way that the first byte can say.
        for size in 1..=u8::MAX {
            check::check(&[&[size], &*stream].concat());
        }
        streams += 1;
    }
    assert!(streams >= 6, "{streams} streams");
}
