//! Just enough HTTP/1.1 for a model server: one request at a time from a connection that stays open.
//!
//! **Invariant:** a body is read to its announced end before it is answered; pipelined requests wait in the buffer.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The longest head and the longest body that are accepted.
const HEAD_MAX: usize = 64 * 1024;
const BODY_MAX: usize = 64 * 1024 * 1024;

/// One request as it came.
pub(crate) struct Request {
    pub is_post: bool,
    pub path: String,
    pub authorization: Option<String>,
    pub body: Bytes,
    pub closes: bool,
}

/// A connection and what was read ahead of it.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // An answer is one write; waiting for more would add 40 ms.
        let _ = stream.set_nodelay(true);
        Self { stream, buffer: BytesMut::with_capacity(16 * 1024) }
    }

    /// The next request; `None` when the client went away or does not speak HTTP.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let mut seen = 0;
        let head_len = loop {
            // The end of the head may lie across two reads.
            let from = usize::saturating_sub(seen, 3);
            if let Some(at) = self.buffer[from..].windows(4).position(|window| window == b"\r\n\r\n") {
                break from + at;
            }
            seen = self.buffer.len();
            if seen > HEAD_MAX {
                return None;
            }
            self.read().await?;
        };
        let head = str::from_utf8(&self.buffer[..head_len]).ok()?;
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, path) = (first.next()?, first.next()?);
        let (is_post, path) = (method == "POST", path.to_owned());
        let (mut length, mut authorization, mut closes, mut continues) = (0_usize, None, false, false);
        for line in lines {
            let (name, value) = line.split_once(':')?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().ok()?;
            } else if name.eq_ignore_ascii_case("authorization") {
                authorization = Some(value.to_owned());
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("expect") {
                continues = true;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return None; // Our clients know their bodies' length.
            }
        }
        if length > BODY_MAX {
            return None;
        }
        self.buffer.advance(head_len + 4);
        if continues && self.buffer.is_empty() {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        self.buffer.reserve(length.saturating_sub(self.buffer.len()));
        while self.buffer.len() < length {
            self.read().await?;
        }
        Some(Request { is_post, path, authorization, body: self.buffer.split_to(length).freeze(), closes })
    }

    /// Comes back when the client has gone away.
    pub(crate) async fn gone(&mut self) {
        while self.read().await.is_some() {}
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    async fn read(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

/// A whole reply.
pub(crate) fn reply(status: u16, content_type: &str, extra: &str, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        408 => "Request Timeout",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Scripted",
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n{extra}\r\n{body}"
    )
}

/// The head of a reply in chunks.
pub(crate) const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// One event of a stream, as a chunk.
pub(crate) fn event(data: &str) -> String {
    let length = data.len() + "data: \n\n".len();
    format!("{length:x}\r\ndata: {data}\n\n\r\n")
}

/// The end of a reply in chunks.
pub(crate) const STREAM_END: &str = "0\r\n\r\n";
