//! The listener and its connections: how many there are, how long a client is waited for, and how they end.
//!
//! **Invariant:** there are no more connections than places. A client that comes when all are taken gets the place of the one
//! that has been waited for longest; it waits in the backlog only while the server owes all of them an answer.
//! **Invariant:** a client is waited for so long at most: for a head, for a body, and until it takes what is sent.
//! **Invariant:** event streams never take all places, and every other request has a limit on time.

mod places;
mod wire;

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError, Router,
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse as _, Response},
};
use hyper::{
    Request,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    places::{Arrival, GaveWay, Guest, Place, Places},
    wire::Wire,
};
use crate::{
    Limits, Problem,
    metrics::{self, Cut},
};

/// Bytes of a request's head at most, and of what is read or written ahead of a connection.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long accepting rests after the system refused it.
const REST: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves, then waits so long as the limits say for open connections.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
    let server = Arc::new(Server {
        router: router.with_state(()),
        places: Places::new(limits.connections_max),
        streams: Arc::new(Semaphore::new(limits.streams_max.min(Semaphore::MAX_PERMITS))),
        limits,
    });
    let mut connections = JoinSet::new();
    let (stop, stopping) = watch::channel(());
    tokio::select! {
        never = accept(&listener, &server, &mut connections, &stopping) => match never {},
        () = shutdown => {}
    }
    drop((listener, stop));
    let ended = async { while connections.join_next().await.is_some() {} };
    // What is left then is cut when the set is dropped.
    let _ = timeout(limits.drain_time_max, ended).await;
}

/// What connections share.
struct Server {
    router: Router,
    places: Arc<Places>,
    streams: Arc<Semaphore>,
    limits: Limits,
}

/// Gives each client a place, one after the other.
async fn accept(
    listener: &TcpListener,
    server: &Arc<Server>,
    connections: &mut JoinSet<()>,
    stopping: &watch::Receiver<()>,
) -> Infallible {
    let mut is_refused = false;
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                if !is_refused {
                    tracing::warn!(%error, "no connection can be accepted");
                }
                is_refused = true;
                // That is what it is refused for, mostly: a descriptor that is missing.
                server.places.cut_one();
                sleep(REST).await;
                continue;
            }
        };
        is_refused = false;
        let guest = server.places.take().await;
        connections.spawn(converse(Arc::clone(server), stream, guest, stopping.clone()));
    }
}

/// Whether a connection was lost before it was accepted, which says nothing of the next one.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers request after request until the client goes, is late, has to give way, or the server stops.
async fn converse(server: Arc<Server>, stream: TcpStream, guest: Guest, mut stopping: watch::Receiver<()>) {
    let limits = server.limits;
    let place = guest.place();
    let wire = Wire::new(stream, Arc::clone(place), limits.stall_time_max);
    let service = service_fn(|request| answer(&server, place, request));
    let mut http = http1::Builder::new();
    // hyper's own limit would also count the time in which a client takes the rest of an answer.
    http.header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(wire), service));
    let mut overdue = pin!(place.overdue(limits.head_time_max));
    let mut is_stopping = false;
    loop {
        tokio::select! {
            // A request that is there is not late.
            biased;
            // What went wrong is the client's doing, and nobody is there to be told.
            _ = connection.as_mut() => return,
            () = place.cut() => return metrics::cut(Cut::Room),
            () = &mut overdue => {
                if place.is_owed_more() {
                    metrics::cut(Cut::Head);
                }
                return;
            }
            _ = stopping.changed(), if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Answers one request in time.
async fn answer(
    server: &Server,
    place: &Arc<Place>,
    request: Request<Incoming>,
) -> Result<hyper::Response<Outbound>, GaveWay> {
    let arrival = place.begin();
    if request.body().is_end_stream() {
        arrival.end()?;
    }
    let request = request.map(|body| Body::new(Inbound { body, arrival: Arc::clone(&arrival) }));
    let mut routed = pin!(TowerToHyperService::new(server.router.clone()).call(request));
    let response = match timeout(server.limits.answer_time_max, &mut routed).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) if arrival.is_whole() => Problem::timeout().into_response(),
        Err(_) => {
            metrics::cut(Cut::Body);
            Problem::slow_body().into_response()
        }
    };
    let (response, stream) = if is_stream(&response) { server.stream(response) } else { (response, None) };
    Ok(response.map(|body| Outbound { body, place: Arc::clone(place), _stream: stream }))
}

impl Server {
    /// Lets a stream begin when there are not too many.
    fn stream(&self, response: Response) -> (Response, Option<OwnedSemaphorePermit>) {
        match Arc::clone(&self.streams).try_acquire_owned() {
            Ok(permit) => (response, Some(permit)),
            Err(_) => (Problem::many_streams().into_response(), None),
        }
    }
}

fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The body of a request, which tells when it is whole.
struct Inbound {
    body: Incoming,
    arrival: Arc<Arrival>,
}

impl HttpBody for Inbound {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(frame) => Some(frame.map_err(BoxError::from)),
            None => self.arrival.end().err().map(|gave_way| Err(gave_way.into())),
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        // Whoever gave way is told by the connection.
        let _ = self.arrival.end();
    }
}

/// The body of an answer, which tells when it is given.
struct Outbound {
    body: Body,
    place: Arc<Place>,
    _stream: Option<OwnedSemaphorePermit>,
}

impl HttpBody for Outbound {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outbound {
    fn drop(&mut self) {
        self.place.answered();
    }
}

#[cfg(test)]
mod tests;
