//! Real sockets, and limits that are data: what should end does so at once, and what should not has an hour.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::routing::{get, post};
use futures::stream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Notify, mpsc, oneshot},
};

use super::*;

/// No test comes near it.
const LONG: Duration = Duration::from_hours(1);
/// What is soon over.
const SHORT: Duration = Duration::from_millis(250);
/// How long a server may take that does not do what it should.
const LIMIT: Duration = Duration::from_secs(20);

const GET: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const HALF: &str = "GET / HTTP/1.1\r\nhost: loc";

fn limits(connections: usize) -> Limits {
    Limits {
        connections_max: NonZeroUsize::new(connections).unwrap(),
        streams_max: connections,
        head_time_max: LONG,
        answer_time_max: LONG,
        stall_time_max: LONG,
        drain_time_max: LONG,
    }
}

/// Serves `router` while `client` asks; what the client is given stops the server.
async fn served<T>(
    limits: Limits,
    router: Router,
    client: impl AsyncFnOnce(SocketAddr, oneshot::Sender<()>) -> T,
) -> T {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let server = serve(listener, router, limits, async {
        stopped.await.ok();
    });
    let client = async { timeout(LIMIT, client(addr, stop)).await.expect("the server does not do what it should") };
    tokio::join!(server, client).1
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello").post(async |body: String| body))
}

/// An answer that waits.
struct Slow {
    /// Lets it go.
    gate: Arc<Notify>,
    /// It is owed from here on.
    begun: Arc<Notify>,
    router: Router,
}

fn slow() -> Slow {
    let (gate, begun) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (opened, begins) = (Arc::clone(&gate), Arc::clone(&begun));
    let slow = async move || {
        begins.notify_one();
        opened.notified().await;
        "slow"
    };
    Slow { gate, begun, router: hello().route("/slow", get(slow)) }
}

async fn connect(addr: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // Who is cut off with something unread is told so by an error.
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8(bytes).unwrap()
}

/// Reads on until this has come.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "{text}");
        text.push(byte[0].into());
    }
    text
}

async fn ask(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    rest(&mut connect(addr, &request).await).await
}

#[tokio::test]
async fn who_is_waited_for_longest_gives_way() {
    served(limits(4), hello(), async |addr, _stop| {
        let mut halves = Vec::new();
        for _ in 0..10 {
            halves.push(connect(addr, HALF).await);
        }
        assert!(ask(addr, "/").await.ends_with("hello"));
        for half in &mut halves[..7] {
            assert_eq!(rest(half).await, "");
        }
        for half in &mut halves[7..] {
            half.write_all(b"alhost\r\n\r\n").await.unwrap();
            assert!(read_until(half, "hello").await.starts_with("HTTP/1.1 200"));
        }
    })
    .await;
}

#[tokio::test]
async fn who_is_owed_an_answer_keeps_the_place() {
    let Slow { gate, begun, router } = slow();
    served(limits(1), router, async |addr, _stop| {
        let second = async {
            begun.notified().await;
            let mut second = connect(addr, GET).await;
            // The server is given every turn to make a mistake.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            gate.notify_one();
            read_until(&mut second, "hello").await
        };
        let (first, second) = tokio::join!(ask(addr, "/slow"), second);
        assert!(first.ends_with("slow"), "{first}");
        assert!(second.ends_with("hello"), "{second}");
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_not_whole_gives_way_and_does_nothing() {
    let made = Arc::new(AtomicUsize::new(0));
    let makes = Arc::clone(&made);
    let make = async move |body: String| {
        makes.fetch_add(1, Ordering::Relaxed);
        body
    };
    served(limits(1), hello().route("/make", post(make)), async |addr, _stop| {
        let head = "POST /make HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n";
        let mut half = connect(addr, &format!("{head}ha")).await;
        assert!(ask(addr, "/").await.ends_with("hello"));
        assert_eq!(rest(&mut half).await, "");
        assert_eq!(made.load(Ordering::Relaxed), 0);
        let mut whole = connect(addr, &format!("{head}made")).await;
        assert!(read_until(&mut whole, "made").await.starts_with("HTTP/1.1 200"));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    })
    .await;
}

#[tokio::test]
async fn a_client_is_not_waited_for_for_ever() {
    let limits = Limits { head_time_max: SHORT, ..limits(4) };
    served(limits, hello(), async |addr, _stop| {
        for text in ["", HALF] {
            assert_eq!(rest(&mut connect(addr, text).await).await, "", "{text}");
        }
        let mut idle = connect(addr, GET).await;
        let answer = rest(&mut idle).await;
        assert!(answer.ends_with("hello") && !answer.contains("connection: close"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_head_has_a_limit() {
    served(limits(4), hello(), async |addr, _stop| {
        let begun = "GET / HTTP/1.1\r\nhost: localhost\r\nx: ";
        let head = format!("{begun}{}", "y".repeat(HEAD_BYTES_MAX - begun.len()));
        let answer = rest(&mut connect(addr, &head).await).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn requests_of_a_connection_are_answered_one_after_the_other() {
    served(limits(1), hello(), async |addr, _stop| {
        let post =
            |body: &str| format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let together = [&post("one"), GET, &post("two"), &post(""), GET].concat();
        let mut stream = connect(addr, &together).await;
        for end in ["one", "hello", "two", "content-length: 0\r\n", "hello"] {
            read_until(&mut stream, end).await;
        }
        stream.write_all(post("three").as_bytes()).await.unwrap();
        read_until(&mut stream, "three").await;
    })
    .await;
}

#[tokio::test]
async fn a_slow_body_and_a_slow_answer_have_a_limit() {
    let limits = Limits { answer_time_max: SHORT, ..limits(4) };
    let router = hello().route("/never", get(std::future::pending::<()>));
    served(limits, router, async |addr, _stop| {
        let slow = "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nha";
        let answer = rest(&mut connect(addr, slow).await).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("connection: close") && answer.contains("api.slow_body"), "{answer}");
        let answer = ask(addr, "/never").await;
        assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("api.timeout"), "{answer}");
    })
    .await;
}

/// Streams what is sent to it.
fn streaming() -> (mpsc::UnboundedSender<&'static str>, Router) {
    let (sender, receiver) = mpsc::unbounded_channel::<&'static str>();
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let stream = async move || {
        let events = stream::unfold(receiver, async |receiver| {
            let event = receiver.lock().await.recv().await?;
            Some((Ok::<_, Infallible>(event), receiver))
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events))
    };
    (sender, hello().route("/stream", get(stream)).route("/never", get(std::future::pending::<()>)))
}

#[tokio::test]
async fn a_stream_outlives_the_limits_of_a_request() {
    let limits = Limits { head_time_max: SHORT, answer_time_max: SHORT, stall_time_max: SHORT, ..limits(4) };
    let (events, router) = streaming();
    served(limits, router, async |addr, _stop| {
        let mut stream = connect(addr, "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        events.send("first").unwrap();
        read_until(&mut stream, "first\r\n").await;
        // What begins only now meets every limit before the next event comes.
        assert_eq!(rest(&mut connect(addr, "").await).await, "");
        assert!(ask(addr, "/never").await.starts_with("HTTP/1.1 504"));
        events.send("second").unwrap();
        read_until(&mut stream, "second\r\n").await;
    })
    .await;
}

#[tokio::test]
async fn streams_leave_places_for_others() {
    let limits = Limits { streams_max: 1, ..limits(2) };
    let (events, router) = streaming();
    served(limits, router, async |addr, _stop| {
        let mut stream = connect(addr, "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        events.send("first").unwrap();
        read_until(&mut stream, "first\r\n").await;
        let refused = ask(addr, "/stream").await;
        assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
        assert!(refused.contains("api.many_streams"), "{refused}");
        assert!(ask(addr, "/").await.ends_with("hello"));
        drop(events);
        read_until(&mut stream, "0\r\n\r\n").await;
        assert!(ask(addr, "/stream").await.starts_with("HTTP/1.1 200"));
    })
    .await;
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_cut() {
    let limits = Limits { stall_time_max: SHORT, ..limits(4) };
    let (dropped, is_dropped) = oneshot::channel::<()>();
    let dropped = Arc::new(std::sync::Mutex::new(Some(dropped)));
    let flood = async move || {
        let alive = dropped.lock().unwrap().take();
        Body::from_stream(stream::repeat_with(move || {
            let _ = &alive;
            Ok::<_, Infallible>("word ".repeat(1_000))
        }))
    };
    served(limits, Router::new().route("/", get(flood)), async |addr, _stop| {
        let deaf = connect(addr, GET).await;
        is_dropped.await.unwrap_err();
        drop(deaf);
    })
    .await;
}

#[tokio::test]
async fn stopping_waits_for_answers_and_not_for_who_is_idle() {
    let Slow { gate, begun, router } = slow();
    served(limits(4), router, async |addr, stop| {
        let mut idle = connect(addr, GET).await;
        read_until(&mut idle, "hello").await;
        let mut slow = connect(addr, "GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        begun.notified().await;
        stop.send(()).unwrap();
        assert_eq!(rest(&mut idle).await, "");
        assert!(TcpStream::connect(addr).await.is_err());
        gate.notify_one();
        assert!(rest(&mut slow).await.ends_with("slow"));
    })
    .await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let limits = Limits { drain_time_max: SHORT, ..limits(4) };
    let (events, router) = streaming();
    let mut stream = served(limits, router, async |addr, stop| {
        let mut stream = connect(addr, "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        events.send("first").unwrap();
        read_until(&mut stream, "first\r\n").await;
        stop.send(()).unwrap();
        stream
    })
    .await;
    assert_eq!(timeout(LIMIT, rest(&mut stream)).await.unwrap(), "");
    drop(events);
}

#[tokio::test(start_paused = true)]
async fn who_takes_an_answer_slowly_is_not_late_with_the_next_request() {
    let guest = Places::new(NonZeroUsize::MIN).take().await;
    let place = guest.place();
    let begun = tokio::time::Instant::now();
    let limit = Duration::from_secs(30);
    let takes = async {
        for _ in 0..10 {
            sleep(Duration::from_secs(20)).await;
            place.took();
        }
    };
    tokio::join!(place.overdue(limit), takes);
    assert_eq!(begun.elapsed(), Duration::from_secs(230));
}
