//! Just enough of an HTTP client for a server on this machine: one request, one answer, the connection is closed.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::IntoRawFd as _,
    time::Duration,
};

use tokio::net::TcpSocket;

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to be reached.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Gets a page; the answer is its status and body.
pub fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let answer = ask(port, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))?;
    Ok((answer.status, answer.body))
}

/// Posts a JSON body; the answer is a status and a body.
pub fn post(port: u16, path: &str, json: &str) -> io::Result<(u16, String)> {
    let answer = post_with(port, path, &[], json)?;
    Ok((answer.status, answer.body))
}

/// Posts a JSON body with more headers.
pub fn post_with(port: u16, path: &str, headers: &[(&str, &str)], json: &str) -> io::Result<Answer> {
    let length = json.len();
    let more: Vec<String> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let more = more.concat();
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{more}");
    ask(port, &format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"))
}

fn ask(port: u16, request: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer has no status"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// A port that nobody listens on, and that the system gives to nobody else as long as this process lives. Whoever is told its
/// number may listen on it.
pub fn free_port() -> io::Result<u16> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let port = socket.local_addr()?.port();
    // Bound for good: closed, the number would be free for anybody.
    let _ = socket.into_raw_fd();
    Ok(port)
}
