//! Requests and tokens per minute: a window that slides over the last minute.
//!
//! **Invariant:** pure: the time is passed in.
//! **Invariant:** within any 60 seconds no more than the limit is taken, as long as calls use no more than was taken for them.
//! **Invariant:** whoever waits as long as is told and is the first to ask then gets what it asked for.

use std::{collections::VecDeque, num::NonZeroU32, time::Duration};

/// Seconds that count: any 60 seconds touch at most one more than 60 whole ones.
const SECONDS: u64 = 61;

/// What was taken within the last minute, by the second.
#[derive(Debug)]
struct Window {
    limit: u64,
    taken: VecDeque<(u64, u64)>,
    total: u64,
}

impl Window {
    fn new(limit: NonZeroU32) -> Self {
        Self { limit: u64::from(limit.get()), taken: VecDeque::new(), total: 0 }
    }

    /// How long to wait until `amount` fits; `None` when it fits now. More than the limit never fits, so it counts as the limit.
    fn wait(&mut self, now: Duration, amount: u64) -> Option<Duration> {
        while let Some((second, amount)) = self.taken.front().copied()
            && second + SECONDS <= now.as_secs()
        {
            self.total -= amount;
            self.taken.pop_front();
        }
        let mut missing = (self.total + amount.min(self.limit)).checked_sub(self.limit).filter(|it| *it > 0)?;
        for (second, amount) in &self.taken {
            if *amount >= missing {
                return Some(Duration::from_secs(second + SECONDS).saturating_sub(now));
            }
            missing -= amount;
        }
        None
    }

    fn take(&mut self, second: u64, amount: u64) {
        let amount = amount.min(self.limit);
        self.total += amount;
        match self.taken.back_mut() {
            Some((last, taken)) if *last == second => *taken += amount,
            Some(_) | None => self.taken.push_back((second, amount)),
        }
    }

    /// Puts right what a call used that had taken `before`.
    fn correct(&mut self, second: u64, before: u64, used: u64) {
        let before = before.min(self.limit);
        if let Some((_, taken)) = self.taken.iter_mut().find(|(at, _)| *at == second) {
            self.total = (self.total - before).saturating_add(used);
            *taken = (*taken - before).saturating_add(used);
        }
    }
}

/// What a model may be asked for in a minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Calls.
    pub requests: Option<NonZeroU32>,
    /// Tokens of prompt and answer together.
    pub tokens: Option<NonZeroU32>,
}

/// What was asked of a model within the last minute.
#[derive(Debug)]
pub(crate) struct Rates {
    requests: Option<Window>,
    tokens: Option<Window>,
}

/// What a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    second: u64,
    tokens: u64,
}

impl Rates {
    /// `None` when there is no limit.
    pub(crate) fn new(limits: RateLimits) -> Option<Self> {
        let RateLimits { requests, tokens } = limits;
        (requests.is_some() || tokens.is_some())
            .then(|| Self { requests: requests.map(Window::new), tokens: tokens.map(Window::new) })
    }

    /// Takes a call of so many tokens at `now`, or says how long to wait. `now` never goes back.
    pub(crate) fn take(&mut self, now: Duration, tokens: u64) -> Result<Taken, Duration> {
        let waits = [
            self.requests.as_mut().and_then(|it| it.wait(now, 1)),
            self.tokens.as_mut().and_then(|it| it.wait(now, tokens)),
        ];
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(wait);
        }
        let second = now.as_secs();
        if let Some(requests) = &mut self.requests {
            requests.take(second, 1);
        }
        if let Some(window) = &mut self.tokens {
            window.take(second, tokens);
        }
        Ok(Taken { second, tokens })
    }

    /// A call ended and used so many tokens.
    pub(crate) fn used(&mut self, taken: Taken, tokens: u64) {
        if let Some(window) = &mut self.tokens {
            window.correct(taken.second, taken.tokens, tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(requests: u32, tokens: u32) -> Rates {
        Rates::new(RateLimits { requests: NonZeroU32::new(requests), tokens: NonZeroU32::new(tokens) }).unwrap()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_minute_has_so_many_requests() {
        let mut rates = rates(2, 0);
        assert!(rates.take(Duration::ZERO, 9).is_ok());
        assert!(rates.take(30 * SECOND, 9).is_ok());
        assert_eq!(rates.take(31 * SECOND, 9), Err(30 * SECOND));
        assert!(rates.take(61 * SECOND, 9).is_ok());
        assert_eq!(rates.take(61 * SECOND, 9), Err(30 * SECOND));
        assert!(Rates::new(RateLimits::default()).is_none());
    }

    #[test]
    fn tokens_that_were_not_used_are_given_back() {
        let mut rates = rates(0, 100);
        let taken = rates.take(Duration::ZERO, 80).unwrap();
        assert_eq!(rates.take(SECOND, 30), Err(60 * SECOND));
        rates.used(taken, 10);
        assert!(rates.take(SECOND, 90).is_ok());
        assert_eq!(rates.take(SECOND, 1), Err(60 * SECOND));
        let mut rates = self::rates(0, 100);
        assert!(rates.take(Duration::ZERO, 5_000).is_ok(), "a call above the limit passes alone");
        assert_eq!(rates.take(SECOND, 1), Err(60 * SECOND));
    }

    #[test]
    fn more_than_was_taken_is_counted() {
        let mut rates = rates(0, 100);
        let taken = rates.take(Duration::ZERO, 10).unwrap();
        rates.used(taken, 95);
        assert_eq!(rates.take(SECOND, 10), Err(60 * SECOND));
        // The minute of that call is over: nothing is left to correct.
        assert!(rates.take(70 * SECOND, 100).is_ok());
        rates.used(taken, 1);
        assert_eq!(rates.take(70 * SECOND, 1), Err(61 * SECOND));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// Calls at random moments, some of which wait: no minute has more than the limits, and no wait is in vain.
        #[test]
        fn no_minute_has_more_than_the_limits(
            requests in 1..20_u32,
            tokens in 1..2_000_u32,
            calls in prop::collection::vec((0..9_000_u64, 0..900_u64, 0..=100_u64), 1..120),
        ) {
            let mut rates = rates(requests, tokens);
            let mut now = Duration::ZERO;
            let mut granted: Vec<(Duration, u64)> = Vec::new();
            for (pause, wanted, share) in calls {
                now += Duration::from_millis(pause);
                let taken = match rates.take(now, wanted) {
                    Ok(taken) => taken,
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO && wait <= Duration::from_secs(SECONDS));
                        now += wait;
                        let taken = rates.take(now, wanted);
                        prop_assert!(taken.is_ok(), "a wait in vain");
                        taken.unwrap()
                    }
                };
                let used = wanted.min(tokens.into()) * share / 100;
                rates.used(taken, used);
                granted.push((now, used));
                let minute = granted.iter().filter(|(at, _)| now < *at + 60 * SECOND);
                let (count, sum) = minute.fold((0, 0), |(count, sum), (_, used)| (count + 1, sum + used));
                prop_assert!(count <= requests && sum <= u64::from(tokens));
            }
        }
    }
}
