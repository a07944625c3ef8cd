//! A raw TCP server that does to its clients whatever a test writes down, byte by byte: the faults no well-behaved server has.
//!
//! **Invariant:** it waits for what it can see (a request, a close), never for time to pass, unless a step says so.
//! **Invariant:** it holds no more of an endless answer than one block.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests, which end here")]

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
#[derive(Debug, Clone)]
pub enum Step {
    /// Sends bytes, at once.
    Send(Vec<u8>),
    /// Sends a block again and again, so often or until the client goes away.
    Repeat(Vec<u8>, u64),
    /// Sends a block byte by byte, with a pause before each, so often or until the client goes away.
    Drip(Vec<u8>, Duration, u64),
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
pub struct Received {
    /// `POST /v1/chat/completions HTTP/1.1` and the headers.
    pub head: String,
    /// The body; null when there is none.
    pub body: serde_json::Value,
    /// Which connection it came on, from 0.
    pub connection: usize,
}

impl Received {
    /// Method and path, as `POST /v1/chat/completions`.
    pub fn line(&self) -> &str {
        self.head.split(" HTTP/").next().unwrap_or_default()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|it| it.split_once(": "));
        fields.filter(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1).next()
    }
}

#[derive(Debug, Default)]
struct Seen {
    received: Mutex<Vec<Received>>,
    closed: Mutex<usize>,
    news: Notify,
}

/// A running server on the runtime of its test; dropping it ends it.
#[derive(Debug)]
pub struct FaultServer {
    /// Its port on 127.0.0.1.
    pub port: u16,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

impl FaultServer {
    /// Starts one; `script` says what to do after the n-th request, from 0.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn start(script: impl Fn(usize) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::answering(move |number, _| script(number)).await
    }

    /// The same, with a script that looks at the request.
    ///
    /// # Panics
    /// When no port can be opened.
    pub async fn answering(script: impl Fn(usize, &Received) -> Vec<Step> + Send + Sync + 'static) -> Self {
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
    ///
    /// # Panics
    /// When a task of the server has panicked.
    pub fn received(&self) -> Vec<Received> {
        self.seen.received.lock().unwrap().clone()
    }

    /// Waits until so many requests came.
    pub async fn wait_for_requests(&self, count: usize) {
        self.wait(|seen| seen.received.lock().unwrap().len() >= count).await;
    }

    /// Waits until a client has closed a connection in a [`Step::Hang`].
    pub async fn wait_for_close(&self) {
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

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    seen: Arc<Seen>,
    script: Arc<impl Fn(usize, &Received) -> Vec<Step>>,
) {
    let _ = stream.set_nodelay(true);
    while let Some((head, body)) = read_request(&mut stream).await {
        let asked = Received { head, body, connection };
        let number = {
            let mut received = seen.received.lock().unwrap();
            received.push(asked.clone());
            received.len() - 1
        };
        seen.news.notify_waiters();
        for step in script(number, &asked) {
            if perform(&mut stream, step, &seen).await.is_none() {
                return;
            }
        }
    }
}

/// Does one step; `None` when the connection is done with.
async fn perform(stream: &mut TcpStream, step: Step, seen: &Seen) -> Option<()> {
    match step {
        Step::Send(bytes) => stream.write_all(&bytes).await.ok()?,
        Step::Repeat(block, times) => {
            for _ in 0..times {
                stream.write_all(&block).await.ok()?;
            }
        }
        Step::Drip(block, every, times) => {
            for _ in 0..times {
                for byte in &block {
                    tokio::time::sleep(every).await;
                    stream.write_all(&[*byte]).await.ok()?;
                }
            }
        }
        Step::Pause(time) => tokio::time::sleep(time).await,
        Step::Hang => {
            let mut byte = [0; 1];
            while matches!(stream.read(&mut byte).await, Ok(1..)) {}
            *seen.closed.lock().unwrap() += 1;
            seen.news.notify_waiters();
            return None;
        }
        Step::Close => return None,
        Step::Reset => {
            stream.set_zero_linger().unwrap();
            return None;
        }
    }
    Some(())
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
pub fn response(status: &str, content_type: &str, headers: &str, body: impl AsRef<[u8]>) -> Step {
    let body = body.as_ref();
    let mut bytes =
        format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{headers}\r\n", body.len())
            .into_bytes();
    bytes.extend_from_slice(body);
    Step::Send(bytes)
}

/// The head of an answer that comes in chunks.
pub fn chunked_head(content_type: &str) -> Step {
    Step::Send(
        format!("HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes(),
    )
}

/// One chunk.
pub fn chunk(bytes: impl AsRef<[u8]>) -> Step {
    let bytes = bytes.as_ref();
    let mut all = format!("{:x}\r\n", bytes.len()).into_bytes();
    all.extend_from_slice(bytes);
    all.extend_from_slice(b"\r\n");
    Step::Send(all)
}

/// The end of an answer in chunks.
pub fn chunked_end() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}
