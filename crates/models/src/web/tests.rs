//! Against a server on this machine, with a rule of addresses that lets its own address through and no other.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use crewline_types::{HostBytes, Traffic};

use super::*;

/// The one address that counts as public here. The rest of loopback stays what it is.
fn public_or_test(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::LOCALHOST) || is_public(ip)
}

/// Answers each request with what `answer` says for its path, and counts.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (port, seen) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = Vec::new();
            let mut block = [0; 4096];
            while !request.windows(4).any(|it| it == b"\r\n\r\n") {
                match stream.read(&mut block) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => request.extend_from_slice(&block[..length]),
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
            // A client that has read enough closes first.
            let _ = stream.write_all(answer(&path).as_bytes());
        }
    });
    (port, seen)
}

fn page(kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn moved(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn web() -> Web {
    Web::with(WebLimits { time_max: Duration::from_secs(20), bytes_max: 1000 }, public_or_test).unwrap()
}

#[tokio::test]
async fn a_page_of_an_allowed_host_is_read_within_its_limits() {
    let (port, _) = serve(|path| match path {
        "/page" => page("Text/HTML; charset=utf-8", "<p>hello"),
        "/long" => page("text/plain", &"x".repeat(5000)),
        "/image" => page("image/png", "x"),
        "/gone" => "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nContent-Type: text/plain\r\n\r\ngone".to_owned(),
        _ => moved("/page#part"),
    });
    let all = |_: &str, _: u16| HostRule::Named;
    let at = |path: &str| format!("http://127.0.0.1:{port}{path}");
    let tally = Tally::default();
    let found = web().tallied(tally.clone()).get(&at("/start"), &all).await.unwrap();
    let passed = HostBytes { sent: "/start/page".len() as u64, received: "<p>hello".len() as u64 };
    assert_eq!(tally.take(), Traffic::from_iter([("127.0.0.1".into(), passed)]));
    let expected =
        Page { url: at("/page"), status: 200, kind: "text/html".into(), body: b"<p>hello".to_vec(), is_cut: false };
    assert_eq!(found, expected);
    let long = web().get(&at("/long"), &all).await.unwrap();
    assert_eq!((long.body.len(), long.is_cut), (1000, true));
    assert_eq!(web().get(&at("/image"), &all).await, Err(WebError::Kind { kind: "image/png".into() }));
    assert_eq!(web().get(&at("/gone"), &all).await.unwrap().status, 404);
}

#[tokio::test]
async fn every_redirect_is_judged_again() {
    for (target, refusal) in [
        ("http://169.254.169.254/latest/meta-data", "private"),
        ("http://[::ffff:a9fe:a9fe]/", "private"),
        ("http://2852039166/", "private"),
        ("http://127.0.0.2:1/", "private"),
        ("http://other.example/", "host"),
        ("ftp://127.0.0.1/", "address"),
        ("http://user:secret@127.0.0.1/", "address"),
        ("/again", "redirects"),
    ] {
        let (port, seen) = serve(move |_| moved(target));
        let only_own = move |host: &str, asked: u16| match host {
            "127.0.0.1" if asked == port => HostRule::Named,
            _ => HostRule::Unknown,
        };
        let found = web().get(&format!("http://127.0.0.1:{port}/"), &only_own).await.unwrap_err();
        let kind = match found {
            WebError::Private { .. } => "private",
            WebError::Host { .. } => "host",
            WebError::Address { .. } => "address",
            WebError::Redirects => "redirects",
            other => panic!("{target}: {other}"),
        };
        assert_eq!(kind, refusal, "{target}");
        assert!(seen.load(Ordering::SeqCst) >= 1);
    }
}

#[tokio::test]
async fn no_spelling_of_a_private_address_is_asked() {
    let web = Web::new(Mode::Online, WebLimits::default()).unwrap();
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "127。0。0。1",
        "①②⑦.⓪.⓪.①",
        "%31%32%37.0.0.1",
        "10.0.0.1",
        "167772161",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "100.100.100.200",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "crewline.localhost",
        "127.0.0.1.",
    ] {
        let found = web.get(&format!("http://{host}:9/"), &|_, _| HostRule::Named).await.unwrap_err();
        assert!(matches!(found, WebError::Private { .. } | WebError::Address { .. }), "{host}: {found:?}");
    }
    for url in
        ["file:///etc/passwd", "gopher://x/", "data:text/plain,x", "javascript:1", "http://", "//x", "x", "unix:/run/x"]
    {
        assert!(web.get(url, &|_, _| HostRule::Named).await.unwrap_err().is_refusal(), "{url}");
    }
    assert_eq!(Web::new(Mode::Offline, WebLimits::default()).unwrap_err(), WebError::Offline);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_left() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let web = Web::with(WebLimits { time_max: Duration::from_millis(50), bytes_max: 10 }, public_or_test).unwrap();
    let found = web.get(&format!("http://127.0.0.1:{port}/"), &|_, _| HostRule::Named).await;
    assert_eq!(found, Err(WebError::Timeout { limit: Duration::from_millis(50) }));
}
