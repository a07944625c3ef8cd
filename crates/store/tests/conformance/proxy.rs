//! A way to the server that can be cut at the worst moment.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
};

/// What happens to the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It does not reach the server.
    Before,
    /// The server gets it, and nobody waits for the answer.
    During,
    /// The server has answered, and the answer is lost.
    After,
}

/// What the way is like at the moment.
#[derive(Debug, Default)]
struct Way {
    cut: Option<Cut>,
    is_closed: bool,
    cuts: usize,
    /// When somebody was not let through.
    refused: Vec<Instant>,
}

/// The way.
#[derive(Clone)]
pub(crate) struct Proxy {
    way: Arc<Mutex<Way>>,
    /// The URL through it.
    pub(crate) url: String,
}

impl Proxy {
    /// A way to the server of `url`.
    pub(crate) async fn to(url: &str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.rsplit_once('@').unwrap();
        let (server, path) = rest.split_once('/').unwrap();
        let server = if server.contains(':') { server.to_owned() } else { format!("{server}:5432") };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // What is encrypted can not be looked into.
        let mark = if path.contains('?') { '&' } else { '?' };
        let url = format!("{scheme}://{user}@{}/{path}{mark}sslmode=disable", listener.local_addr().unwrap());
        let way = Arc::<Mutex<Way>>::default();
        let proxy = Self { way: Arc::clone(&way), url };
        drop(spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let is_closed = {
                    let mut way = way.lock().unwrap();
                    if way.is_closed {
                        way.refused.push(Instant::now());
                    }
                    way.is_closed
                };
                if !is_closed {
                    drop(spawn(carry(client, server.clone(), Arc::clone(&way))));
                }
            }
        }));
        proxy
    }

    /// Cuts the way at the next COMMIT.
    pub(crate) fn cut(&self, cut: Cut) {
        self.way.lock().unwrap().cut = Some(cut);
    }

    /// How many times it was cut.
    pub(crate) fn cuts(&self) -> usize {
        self.way.lock().unwrap().cuts
    }

    /// When those came that were not let through.
    pub(crate) fn refused(&self) -> Vec<Instant> {
        self.way.lock().unwrap().refused.clone()
    }

    /// Lets nobody through any more, or again.
    pub(crate) fn close(&self, is_closed: bool) {
        self.way.lock().unwrap().is_closed = is_closed;
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends with its test's runtime")]
pub(crate) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}

/// Carries bytes both ways until one side ends or the way is cut.
async fn carry(client: TcpStream, server: String, way: Arc<Mutex<Way>>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = from_client.read(&mut asked) => {
                let Ok(count @ 1..) = read else { return };
                let cut = {
                    let mut way = way.lock().unwrap();
                    if way.is_closed {
                        return;
                    }
                    let is_commit = asked[..count].windows(6).any(|it| it == b"COMMIT");
                    let cut = if is_commit { way.cut.take() } else { None };
                    way.cuts += usize::from(cut.is_some());
                    cut
                };
                if cut == Some(Cut::Before) || send(&mut to_server, &asked[..count]).await.is_none() {
                    return;
                }
                if cut == Some(Cut::After) {
                    assert!(from_server.read(&mut answered).await.unwrap() > 0, "the server has answered");
                }
                if cut.is_some() {
                    return;
                }
            }
            read = from_server.read(&mut answered) => {
                let Ok(count @ 1..) = read else { return };
                if send(&mut to_client, &answered[..count]).await.is_none() {
                    return;
                }
            }
        }
    }
}

async fn send(to: &mut OwnedWriteHalf, bytes: &[u8]) -> Option<()> {
    to.write_all(bytes).await.ok()
}
