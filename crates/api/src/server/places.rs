//! The places of a server: who has one, who is waited for, and who gives way.
//!
//! **Invariant:** there are never more connections than places, but for the one that waits for the next.
//! **Invariant:** only a connection that is waited for gives way, so no request is given up once the whole of it is there.

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::metrics;

/// The order in which connections began to be waited for.
type Turn = u64;

/// All places of a server.
pub(super) struct Places {
    free: Arc<Semaphore>,
    waited_for: Mutex<WaitedFor>,
    /// One more connection is waited for.
    more: Notify,
}

#[derive(Default)]
struct WaitedFor {
    next: Turn,
    by_turn: BTreeMap<Turn, Arc<Place>>,
}

impl Places {
    pub(super) fn new(places: NonZeroUsize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(places.get().min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { free, waited_for: Mutex::default(), more: Notify::new() })
    }

    /// Takes a place. When there is none, the connection that has been waited for longest gives way; when the server owes all of
    /// them an answer, the first that ends does.
    pub(super) async fn take(self: &Arc<Self>) -> Guest {
        let mut free = pin!(Arc::clone(&self.free).acquire_owned());
        let mut gives_way = self.free.available_permits() > 0;
        loop {
            let more = self.more.notified();
            gives_way = gives_way || self.cut_one();
            tokio::select! {
                permit = &mut free => match permit {
                    Ok(permit) => return Guest::new(self, permit),
                    // Nobody closes it.
                    Err(_) => std::future::pending().await,
                },
                () = more, if !gives_way => {}
            }
        }
    }

    /// Closes the connection that has been waited for longest; says whether there was one.
    pub(super) fn cut_one(&self) -> bool {
        let Some((_, place)) = self.lock().by_turn.pop_first() else { return false };
        place.cut.notify_one();
        true
    }

    fn wait_for(&self, place: &Arc<Place>) -> Turn {
        let mut waited_for = self.lock();
        let turn = waited_for.next;
        waited_for.next += 1;
        waited_for.by_turn.insert(turn, Arc::clone(place));
        drop(waited_for);
        self.more.notify_one();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, WaitedFor> {
        self.waited_for.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
pub(super) struct Place {
    places: Arc<Places>,
    cut: Notify,
    waits: Mutex<Waits>,
    /// Something came, and nothing was answered yet.
    is_owed_more: AtomicBool,
}

/// What a connection waits for.
struct Waits {
    turn: Turn,
    /// Since when it waits for a head; `None` while there is a request.
    head_since: Option<Instant>,
}

impl Place {
    /// Resolves when the place is to be given up.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }

    /// Resolves when the client has taken so long for a head.
    pub(super) async fn overdue(&self, limit: Duration) {
        loop {
            let until = self.waits().head_since.unwrap_or_else(Instant::now) + limit;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Whether the client began a request, or never sent any.
    pub(super) fn is_owed_more(&self) -> bool {
        self.is_owed_more.load(Ordering::Relaxed)
    }

    /// The client sent something.
    pub(super) fn sent(&self) {
        self.is_owed_more.store(true, Ordering::Relaxed);
    }

    /// The client took something: whoever takes an answer is not late with the next request.
    pub(super) fn took(&self) {
        if let Some(since) = &mut self.waits().head_since {
            *since = Instant::now();
        }
    }

    /// The head of a request is there.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<Arrival> {
        let mut waits = self.waits();
        waits.head_since = None;
        Arc::new(Arrival { place: Arc::clone(self), turn: waits.turn, is_whole: AtomicBool::new(false) })
    }

    /// The answer is given: the client is waited for again.
    pub(super) fn answered(self: &Arc<Self>) {
        self.is_owed_more.store(false, Ordering::Relaxed);
        self.leave();
        let turn = self.places.wait_for(self);
        *self.waits() = Waits { turn, head_since: Some(Instant::now()) };
    }

    /// Is no longer waited for.
    fn leave(&self) {
        let turn = self.waits().turn;
        self.places.lock().by_turn.remove(&turn);
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way in.
pub(super) struct Arrival {
    place: Arc<Place>,
    turn: Turn,
    is_whole: AtomicBool,
}

/// The place was given away before the whole request was there.
#[derive(Debug, thiserror::Error)]
#[error("the connection gave way to another one")]
pub(super) struct GaveWay;

impl Arrival {
    /// Whether all of the request is there.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    /// All of it is there, or nobody wants more: from now on the server owes an answer, unless the place was given away.
    pub(super) fn end(&self) -> Result<(), GaveWay> {
        if self.is_whole.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let was_waited_for = self.place.places.lock().by_turn.remove(&self.turn).is_some();
        if was_waited_for { Ok(()) } else { Err(GaveWay) }
    }
}

/// Who has a place, until dropped.
pub(super) struct Guest {
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

impl Guest {
    fn new(places: &Arc<Places>, permit: OwnedSemaphorePermit) -> Self {
        let waits = Waits { turn: Turn::MAX, head_since: Some(Instant::now()) };
        let place = Arc::new(Place {
            places: Arc::clone(places),
            cut: Notify::new(),
            waits: Mutex::new(waits),
            is_owed_more: AtomicBool::new(true),
        });
        let turn = places.wait_for(&place);
        place.waits().turn = turn;
        metrics::connected();
        Self { place, _permit: permit }
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.place.leave();
        metrics::disconnected();
    }
}
