//! A circuit breaker: a model that fails again and again is left alone for a while, then asked once.
//!
//! Closed, it lets every call pass and counts failures in a row. Open, it lets none pass until a pause is over. Then it is half
//! open: one call passes as a probe, and its end decides. Each failed probe doubles the pause.
//!
//! **Invariant:** while it is half open, at most one probe is under way; a probe whose end is never told counts as lost after
//! [`Rules::probe_max`].
//! **Invariant:** a success closes it.

use std::time::Duration;

use crewline_types::Timestamp;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row that open it.
    pub failures_max: u32,
    /// Failures further apart than this are not in a row.
    pub window: Duration,
    /// The first pause.
    pub pause: Duration,
    /// The longest pause, whatever the provider asks for.
    pub pause_max: Duration,
    /// How long the end of a probe is waited for before another one passes.
    pub probe_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            failures_max: 5,
            window: Duration::from_mins(1),
            pause: Duration::from_secs(10),
            pause_max: Duration::from_mins(2),
            probe_max: Duration::from_secs(30),
        }
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It may.
    Yes,
    /// It may, and its end decides for all others: tell it.
    Probe,
    /// Not before this moment.
    Not {
        /// When to ask again.
        until: Timestamp,
    },
}

/// Where a breaker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32, last: Timestamp },
    Open { until: Timestamp, pause: Duration },
    HalfOpen { probe_until: Timestamp, pause: Duration },
}

/// The breaker of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    rules: Rules,
    state: State,
}

impl Breaker {
    /// A closed one.
    pub fn new(rules: Rules) -> Self {
        Self { rules, state: State::Closed { failures: 0, last: Timestamp::default() } }
    }

    /// What [`Self::admit`] would say at `now`; nothing changes.
    pub fn look(&self, now: Timestamp) -> Pass {
        match self.state {
            State::Closed { .. } => Pass::Yes,
            State::Open { until, .. } | State::HalfOpen { probe_until: until, .. } if now < until => {
                Pass::Not { until }
            }
            State::Open { .. } | State::HalfOpen { .. } => Pass::Probe,
        }
    }

    /// Asks to make a call at `now`; whoever gets [`Pass::Probe`] makes it and tells its end.
    pub fn admit(&mut self, now: Timestamp) -> Pass {
        let pass = self.look(now);
        if pass == Pass::Probe
            && let State::Open { pause, .. } | State::HalfOpen { pause, .. } = self.state
        {
            self.state = State::HalfOpen { probe_until: now.after(self.rules.probe_max), pause };
        }
        pass
    }

    /// A call was answered; whether that is news.
    pub fn succeeded(&mut self) -> bool {
        let was_closed = matches!(self.state, State::Closed { .. });
        self.state = State::Closed { failures: 0, last: Timestamp::default() };
        !was_closed
    }

    /// The model does not serve anybody, as its provider said or its whole chain shows: it is open until the pause is over, at
    /// the latest `until`. A longer pause stays.
    pub fn trip(&mut self, now: Timestamp, until: Option<Timestamp>) {
        let until = until.unwrap_or_else(|| now.after(self.rules.pause)).min(now.after(self.rules.pause_max));
        let pause = match self.state {
            State::Open { until: known, .. } if known >= until => return,
            // Its probe decides.
            State::HalfOpen { .. } => return,
            State::Open { pause, .. } => pause,
            State::Closed { .. } => self.rules.pause,
        };
        self.state = State::Open { until, pause };
    }

    /// A call failed at `now`; the provider may have said when to come back.
    pub fn failed(&mut self, now: Timestamp, retry_after: Option<Duration>) {
        let asked = retry_after.map(|it| it.min(self.rules.pause_max));
        let open = |pause: Duration| State::Open { until: now.after(asked.unwrap_or(pause)), pause };
        self.state = match self.state {
            State::Closed { failures, last } => {
                let failures = if now.since(last) > self.rules.window { 1 } else { failures.saturating_add(1) };
                if asked.is_some() || failures >= self.rules.failures_max {
                    open(self.rules.pause)
                } else {
                    State::Closed { failures, last: now }
                }
            }
            State::HalfOpen { pause, .. } => open(pause.saturating_mul(2).min(self.rules.pause_max)),
            // A call that was under way when it opened; only a longer pause is news.
            State::Open { until, pause } => {
                State::Open { until: asked.map_or(until, |it| until.max(now.after(it))), pause }
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::simulation::Rng;

    const SECOND: i64 = 1_000_000;

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(Rules::default());
        (0..5).for_each(|it| breaker.failed(Timestamp(it), None));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_passes() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(Timestamp(5)), Pass::Not { until: Timestamp(4 + 10 * SECOND) });
        let later = Timestamp(11 * SECOND);
        assert_eq!(breaker.look(later), Pass::Probe);
        assert_eq!(breaker.admit(later), Pass::Probe);
        assert!(matches!(breaker.admit(later), Pass::Not { .. }), "one probe at a time");
        breaker.failed(later, None);
        assert_eq!(breaker.admit(later), Pass::Not { until: Timestamp(31 * SECOND) }, "the pause doubles");
        assert_eq!(breaker.admit(Timestamp(31 * SECOND)), Pass::Probe);
        breaker.succeeded();
        assert_eq!(breaker.admit(Timestamp(31 * SECOND)), Pass::Yes);
    }

    #[test]
    fn old_failures_are_forgotten_and_a_success_starts_anew() {
        let mut breaker = Breaker::new(Rules::default());
        (0..40).for_each(|it| breaker.failed(Timestamp(it * 61 * SECOND), None));
        assert_eq!(breaker.look(Timestamp(40 * 61 * SECOND)), Pass::Yes);
        let mut breaker = Breaker::new(Rules::default());
        for it in 0..40 {
            breaker.failed(Timestamp(it), None);
            if it % 4 == 3 {
                breaker.succeeded();
            }
        }
        assert_eq!(breaker.look(Timestamp(40)), Pass::Yes);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept_and_capped() {
        let mut breaker = Breaker::new(Rules::default());
        breaker.failed(Timestamp(0), Some(Duration::from_secs(3)));
        assert_eq!(breaker.look(Timestamp(1)), Pass::Not { until: Timestamp(3 * SECOND) });
        breaker.failed(Timestamp(1), Some(Duration::from_hours(9)));
        assert_eq!(breaker.look(Timestamp(1)), Pass::Not { until: Timestamp(1 + 120 * SECOND) });
    }

    #[test]
    fn a_lost_probe_does_not_keep_it_half_open_for_ever() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(Timestamp(60 * SECOND)), Pass::Probe);
        assert!(matches!(breaker.admit(Timestamp(89 * SECOND)), Pass::Not { .. }));
        assert_eq!(breaker.admit(Timestamp(90 * SECOND)), Pass::Probe);
    }

    #[test]
    fn a_model_that_is_down_is_asked_seldom_by_however_many() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut breaker = Breaker::new(Rules::default());
            let (mut now, mut calls, mut probes) = (0_i64, 0, 0);
            // A thousand callers a second, for an hour.
            while now < 3_600 * SECOND {
                now += i64::try_from(rng.below(2_000)).unwrap() + 100_000 * i64::from(rng.below(5) == 0);
                match breaker.admit(Timestamp(now)) {
                    Pass::Not { until } => assert!(until > Timestamp(now), "seed {seed}"),
                    Pass::Yes | Pass::Probe if rng.below(50) == 0 => probes += 1,
                    Pass::Yes | Pass::Probe => {
                        calls += 1;
                        breaker.failed(Timestamp(now), None);
                    }
                }
            }
            assert!(calls + probes < 120, "seed {seed}: {calls} calls, {probes} lost");
        }
    }
}
