//! How a call gets its turn at a model: a place among the calls under way, then its share of the minute.
//!
//! **Invariant:** a model never has more calls under way, requests a minute or tokens a minute than its `limits`.
//! **Invariant:** turns come in the order of asking; nobody waits longer than [`QUEUE_LIMIT`], and never more than [`QUEUE_MAX`] do.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crewline_types::{ModelAlias, Usage};
use tokio::{
    sync::{Mutex as Turns, Semaphore, SemaphorePermit},
    time::{Instant, sleep, timeout},
};

use crate::{
    Error, Phase,
    rate::{RateLimits, Rates, Taken},
};

/// How long a call may wait for its turn.
pub const QUEUE_LIMIT: Duration = Duration::from_hours(1);
/// Calls that may wait for their turn at one model.
pub const QUEUE_MAX: usize = 100_000;

/// The limits of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Calls under way at once.
    pub concurrency: Option<u32>,
    /// Within any minute.
    pub rates: RateLimits,
}

/// The way to one model.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    places: Option<Semaphore>,
    minute: Option<Minute>,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Minute {
    began: Instant,
    rates: Mutex<Rates>,
    /// Held by who waits for the minute, so that those behind can not overtake.
    turns: Turns<()>,
}

/// A turn; give it back by dropping it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _place: Option<SemaphorePermit<'a>>,
    minute: Option<(&'a Minute, Taken)>,
    /// How long it was waited for.
    pub(crate) waited: Duration,
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Self {
        let minute = Rates::new(limits.rates).map(|rates| Minute {
            began: Instant::now(),
            rates: Mutex::new(rates),
            turns: Turns::new(()),
        });
        let places = limits.concurrency.map(|it| Semaphore::new(it as usize));
        Self { limits, places, minute, waiting: AtomicUsize::new(0) }
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Waits for a turn of a call that may use so many tokens.
    pub(crate) async fn turn(&self, model: &ModelAlias, tokens: u64) -> Result<Turn<'_>, Error> {
        if self.places.is_none() && self.minute.is_none() {
            return Ok(Turn { _place: None, minute: None, waited: Duration::ZERO });
        }
        let waiting = Waiting::begin(&self.waiting);
        if waiting.others >= QUEUE_MAX {
            let message = format!("{} calls wait for their turn already (`models.{model}.limits`)", waiting.others);
            return Err(Error::RateLimited { model: model.clone(), retry_after: None, message });
        }
        let began = Instant::now();
        match timeout(QUEUE_LIMIT, self.wait(tokens)).await {
            Ok((place, minute)) => Ok(Turn { _place: place, minute, waited: began.elapsed() }),
            Err(_) => Err(Error::Timeout { model: model.clone(), phase: Phase::Queue, limit: QUEUE_LIMIT }),
        }
    }

    async fn wait(&self, tokens: u64) -> (Option<SemaphorePermit<'_>>, Option<(&Minute, Taken)>) {
        let place = match &self.places {
            // The semaphore is never closed.
            Some(places) => places.acquire().await.ok(),
            None => None,
        };
        // The place first: a share that was taken long before its call would be counted in the wrong minute.
        let minute = match &self.minute {
            Some(minute) => Some((minute, minute.take(tokens).await)),
            None => None,
        };
        (place, minute)
    }
}

impl Minute {
    async fn take(&self, tokens: u64) -> Taken {
        let _turn = self.turns.lock().await;
        loop {
            let taken = self.with(|rates| rates.take(self.began.elapsed(), tokens));
            match taken {
                Ok(taken) => return taken,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    fn with<R>(&self, work: impl FnOnce(&mut Rates) -> R) -> R {
        work(&mut self.rates.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Turn<'_> {
    /// What the call used; without it all that it might have used counts.
    pub(crate) fn used(&self, usage: &Usage) {
        if let Some((minute, taken)) = self.minute {
            minute.with(|rates| rates.used(taken, usage.input_tokens.saturating_add(usage.output_tokens)));
        }
    }
}

/// Counts who waits, as long as it lives.
struct Waiting<'a> {
    all: &'a AtomicUsize,
    others: usize,
}

impl<'a> Waiting<'a> {
    fn begin(all: &'a AtomicUsize) -> Self {
        Self { all, others: all.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use futures::future::join_all;

    use super::*;

    fn gate(concurrency: Option<u32>, requests: u32, tokens: u32) -> Gate {
        let rates = RateLimits { requests: NonZeroU32::new(requests), tokens: NonZeroU32::new(tokens) };
        Gate::new(Limits { concurrency, rates })
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_within_the_minute() {
        let gate = gate(None, 3, 0);
        let model = ModelAlias::from("m");
        let began = Instant::now();
        let turns = (0..9).map(|_| async {
            let turn = gate.turn(&model, 1).await.unwrap();
            (turn.waited, began.elapsed().as_secs())
        });
        let at: Vec<u64> = join_all(turns).await.into_iter().map(|(_, at)| at).collect();
        assert_eq!(at, [0, 0, 0, 61, 61, 61, 122, 122, 122]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_call_does_not_overtake_a_large_one() {
        let gate = gate(None, 0, 100);
        let model = ModelAlias::from("m");
        let first = gate.turn(&model, 60).await.unwrap();
        let began = Instant::now();
        let large = async { (gate.turn(&model, 80).await.unwrap(), began.elapsed().as_secs()).1 };
        let small = async { (gate.turn(&model, 10).await.unwrap(), began.elapsed().as_secs()).1 };
        let (large, small) = tokio::join!(large, small);
        assert_eq!((large, small), (61, 61));
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_there_for_others() {
        let gate = gate(Some(4), 0, 100);
        let model = ModelAlias::from("m");
        let turn = gate.turn(&model, 90).await.unwrap();
        turn.used(&Usage { input_tokens: 5, output_tokens: 5, ..Usage::default() });
        assert_eq!(gate.turn(&model, 90).await.unwrap().waited, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let gate = gate(Some(1), 0, 0);
        let model = ModelAlias::from("m");
        let _held = gate.turn(&model, 1).await.unwrap();
        let late = gate.turn(&model, 1).await.unwrap_err();
        assert!(matches!(late, Error::Timeout { phase: Phase::Queue, .. }), "{late}");
        gate.waiting.store(QUEUE_MAX, Ordering::Relaxed);
        assert!(matches!(gate.turn(&model, 1).await.unwrap_err(), Error::RateLimited { .. }));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), QUEUE_MAX, "who is refused waits no longer");
    }
}
