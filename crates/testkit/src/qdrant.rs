//! A Qdrant server on the loopback that can be ill: as much of its gRPC as Crewline uses, searched exactly.
//!
//! It speaks gRPC over h2 by hand: a path, one message of five bytes of head and a body, and a status in the trailers
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).
//!
//! **Invariant:** what it holds outlives an illness; only [`QdrantServer::lose_collection`] loses anything.

mod answer;
mod collection;
mod matching;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use self::{answer::Status, collection::Collection};

/// What is wrong with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Illness {
    /// Nothing.
    #[default]
    None,
    /// Every connection breaks at once.
    Down,
    /// Requests are taken and never answered.
    Slow,
    /// Every request fails inside the server.
    Failing,
    /// Every key is refused.
    Locked,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct QdrantServer {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    collections: Mutex<HashMap<String, Collection>>,
    illness: watch::Sender<Illness>,
    requests: AtomicU64,
}

impl Shared {
    fn collections(&self) -> MutexGuard<'_, HashMap<String, Collection>> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QdrantServer {
    /// Listens on a free port of the loopback.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            collections: Mutex::default(),
            illness: watch::Sender::default(),
            requests: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { addr, shared, _tasks: tasks })
    }

    /// Its gRPC address.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Makes it ill, or well again.
    pub fn set(&self, illness: Illness) {
        self.shared.illness.send_replace(illness);
    }

    /// Drops every collection with all points.
    pub fn lose_collection(&self) {
        self.shared.collections().clear();
    }

    /// Makes a collection of dense vectors only.
    pub fn make_collection(&self, name: &str, dimensions: u64) {
        self.shared.collections().insert(name.to_owned(), Collection::of_size(dimensions));
    }

    /// The ids of all points, sorted; each once, as the server holds it.
    pub fn points(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.shared.collections().values().flat_map(Collection::ids).collect();
        ids.sort();
        ids
    }

    /// Points that can be found by words.
    pub fn worded(&self) -> usize {
        self.shared.collections().values().map(Collection::worded).sum()
    }

    /// The payload fields that have an index, sorted.
    pub fn indexed(&self) -> Vec<String> {
        let mut names: Vec<String> = self.shared.collections().values().flat_map(Collection::indexed).collect();
        names.sort();
        names
    }

    /// Requests that were taken so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        if *shared.illness.borrow() != Illness::Down {
            connections.spawn(serve(socket, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let mut illness = shared.illness.subscribe();
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            // Dropping the connection breaks it.
            _ = illness.wait_for(|illness| *illness == Illness::Down) => return,
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => drop(requests.spawn(handle(request, respond, Arc::clone(&shared)))),
                Some(Err(_)) | None => return,
            },
        }
    }
}

async fn handle(request: Request<h2::RecvStream>, respond: SendResponse<Bytes>, shared: Arc<Shared>) {
    let path = request.uri().path().to_owned();
    let Some(message) = read(request.into_body()).await else { return };
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let illness = *shared.illness.borrow();
    let answer = match illness {
        Illness::None => answer::answer(&path, &message, &mut shared.collections()),
        Illness::Failing => Err(Status { code: 13, message: "the server is broken".to_owned() }),
        Illness::Locked => Err(Status { code: 16, message: "the key is wrong".to_owned() }),
        Illness::Down => return,
        Illness::Slow => {
            // Kept open until somebody is well again; the client gives up before.
            let mut changes = shared.illness.subscribe();
            let _ = changes.wait_for(|illness| *illness != Illness::Slow).await;
            return;
        }
    };
    // Whoever asked may be gone.
    let _ = write(respond, answer);
}

/// The one message of a request, without its head.
async fn read(mut body: h2::RecvStream) -> Option<Bytes> {
    let mut all = BytesMut::new();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        body.flow_control().release_capacity(part.len()).ok()?;
        all.extend_from_slice(&part);
    }
    (all.len() >= 5).then(|| all.split_off(5).freeze())
}

fn write(mut respond: SendResponse<Bytes>, answer: Result<Vec<u8>, Status>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut stream = respond.send_response(response, false)?;
    let mut trailers = HeaderMap::new();
    match answer {
        Ok(message) => {
            let mut framed = BytesMut::with_capacity(message.len() + 5);
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
            framed.put_slice(&message);
            stream.send_data(framed.freeze(), false)?;
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
        }
        Err(Status { code, message }) => {
            trailers.insert("grpc-status", HeaderValue::from(code));
            if let Ok(message) = HeaderValue::from_str(&message) {
                trailers.insert("grpc-message", message);
            }
        }
    }
    stream.send_trailers(trailers)
}
