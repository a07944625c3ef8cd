//! A server that does to its clients whatever a test writes down, byte by byte.
//!
//! **Invariant:** it waits for what it can see (a request, a close), never for time to pass.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

/// What the server does after a request.
#[derive(Clone)]
pub(crate) enum Step {
    /// Sends bytes, at once.
    Send(Vec<u8>),
    /// Lets what was sent travel on its own, so that it arrives as its own piece.
    Pause(Duration),
    /// Says nothing until the client goes away.
    Hang,
    /// Closes the connection.
    Close,
    /// Closes it with a reset.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// `POST /v1/chat/completions HTTP/1.1` and the headers.
    pub(crate) head: String,
    /// The body.
    pub(crate) body: serde_json::Value,
    /// From 0.
    pub(crate) connection: usize,
}

impl Received {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|it| it.split_once(": "))
            .find(|it| it.0.eq_ignore_ascii_case(name))
            .map(|it| it.1)
    }
}

#[derive(Default)]
struct Seen {
    received: Mutex<Vec<Received>>,
    closed: Mutex<usize>,
    news: Notify,
}

/// A running server; dropping it ends it.
pub(crate) struct Server {
    /// Its port on 127.0.0.1.
    pub(crate) port: u16,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts one; `script` says what to do after the n-th request, from 0.
    pub(crate) async fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let script = Arc::new(script);
        let mut tasks = JoinSet::new();
        let own = Arc::clone(&seen);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, number, Arc::clone(&own), Arc::clone(&script)));
                number += 1;
            }
        });
        Self { port, seen, _tasks: tasks }
    }

    /// What came so far.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.seen.received.lock().unwrap().clone()
    }

    /// Waits until so many requests came.
    pub(crate) async fn wait_for_requests(&self, count: usize) {
        self.wait(|seen| seen.received.lock().unwrap().len() >= count).await;
    }

    /// Waits until a client has closed a connection in a `Hang`.
    pub(crate) async fn wait_for_close(&self) {
        self.wait(|seen| *seen.closed.lock().unwrap() > 0).await;
    }

    async fn wait(&self, is_so: impl Fn(&Seen) -> bool) {
        let wait = async {
            loop {
                let news = self.seen.news.notified();
                if is_so(&self.seen) {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never came");
    }
}

async fn serve(mut stream: TcpStream, connection: usize, seen: Arc<Seen>, script: Arc<impl Fn(usize) -> Vec<Step>>) {
    let _ = stream.set_nodelay(true);
    while let Some((head, body)) = read_request(&mut stream).await {
        let number = {
            let mut received = seen.received.lock().unwrap();
            received.push(Received { head, body, connection });
            received.len() - 1
        };
        seen.news.notify_waiters();
        for step in script(number) {
            match step {
                Step::Send(bytes) => {
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Hang => {
                    let mut byte = [0; 1];
                    while matches!(stream.read(&mut byte).await, Ok(1..)) {}
                    *seen.closed.lock().unwrap() += 1;
                    seen.news.notify_waiters();
                    return;
                }
                Step::Close => return,
                Step::Reset => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, serde_json::Value)> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 16 << 10];
    loop {
        let length = stream.read(&mut piece).await.ok().filter(|it| *it > 0)?;
        bytes.extend_from_slice(&piece[..length]);
        let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let wanted = head
            .lines()
            .filter_map(|it| it.split_once(": "))
            .find(|it| it.0.eq_ignore_ascii_case("content-length"))
            .map_or(0, |it| it.1.parse().unwrap());
        while bytes.len() < end + 4 + wanted {
            let length = stream.read(&mut piece).await.ok().filter(|it| *it > 0)?;
            bytes.extend_from_slice(&piece[..length]);
        }
        return Some((head, serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default()));
    }
}

/// A whole answer.
pub(crate) fn response(status: &str, content_type: &str, headers: &str, body: impl AsRef<[u8]>) -> Step {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    Step::Send(bytes)
}

/// The head of an answer that comes in chunks.
pub(crate) fn chunked_head(content_type: &str) -> Step {
    Step::Send(
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes(),
    )
}

/// One chunk.
pub(crate) fn chunk(bytes: impl AsRef<[u8]>) -> Step {
    let bytes = bytes.as_ref();
    let mut all = format!("{:x}\r\n", bytes.len()).into_bytes();
    all.extend_from_slice(bytes);
    all.extend_from_slice(b"\r\n");
    Step::Send(all)
}

/// The end of an answer in chunks.
pub(crate) fn chunked_end() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}
