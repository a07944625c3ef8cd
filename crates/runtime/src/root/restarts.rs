//! How often each child failed, and what becomes of a run whose manager fails again and again.
//!
//! **Invariant:** what one run does to its manager ends that run at most, never the process.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crewline_store::{Change, Committed, RunEnd};
use crewline_types::{
    ErrorKind, EventBody, RunId, RunStatus,
    event::{ErrorNote, NewEvent},
};
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::Instant;

use crate::{
    Error, Limits,
    actor::{Outcome, pipe_to_self, remind},
    load, manager, metrics, report, router, scribe,
};

use super::{Child, Message, State};

/// The first pause before a restart; it doubles with each further one in the window.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause before a restart.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// When each child failed within the window.
#[derive(Debug, Default)]
pub(super) struct Restarts(HashMap<Child, VecDeque<Instant>>);

impl Restarts {
    /// Counts a failure; answers the pause before the child is started again, or `None` when that has not helped.
    fn count(&mut self, child: Child, now: Instant, limits: &Limits) -> Option<Duration> {
        let failures = self.0.entry(child).or_default();
        while failures.front().is_some_and(|at| now.duration_since(*at) > limits.restart_window) {
            failures.pop_front();
        }
        failures.push_back(now);
        if failures.len() > limits.restarts_max {
            return None;
        }
        let doublings = u32::try_from(failures.len()).unwrap_or(u32::MAX).min(16) - 1;
        Some(PAUSE_MIN.saturating_mul(1 << doublings).min(PAUSE_MAX))
    }

    pub(super) fn forget(&mut self, child: Child) {
        self.0.remove(&child);
    }
}

impl State {
    /// Starts a child again, or gives up what depends on it: a manager's run, or everything.
    pub(super) fn on_failed(
        &mut self,
        myself: &ActorRef<Message>,
        child: Child,
        reason: &str,
    ) -> Result<(), ActorProcessingErr> {
        if let Some(pause) = self.restarts.count(child, Instant::now(), &self.args.deps.limits) {
            tracing::warn!(actor = child.name(), reason, "actor is started again");
            metrics::restart(child.name());
            self.pauses.insert(child, remind(myself, pause, move || Message::Restart(child)));
            return Ok(());
        }
        tracing::error!(actor = child.name(), reason, "actor fails again and again");
        let message = format!("the {} failed again and again: {reason}", child.name());
        let note =
            ErrorNote { code: "runtime.restarts".into(), kind: ErrorKind::Internal, message: message.as_str().into() };
        match child {
            Child::Manager(run) => {
                self.give_up(myself, run, note);
                Ok(())
            }
            // The crew does without.
            Child::Shadow => Ok(()),
            Child::Journal | Child::Memory | Child::Scribe | Child::Router | Child::Worker | Child::Warden => {
                for run in self.managers.keys() {
                    self.args.journal.hub.give_up(*run, note.clone());
                }
                Err(message.into())
            }
        }
    }

    /// Ends a run as interrupted, with the reason. It counts as active, and stays locked, until that is recorded.
    fn give_up(&mut self, myself: &ActorRef<Message>, run: RunId, note: ErrorNote) {
        self.restarts.forget(Child::Manager(run));
        let Some((args, current)) = self.managers.get_mut(&run) else { return };
        *current = None;
        self.args.deps.rooms.router.tell(router::Message::CancelRun(run));
        self.args.deps.rooms.scribe.tell(scribe::Message::Left(run));
        let work = interrupt(args.clone(), note.clone());
        let limit = self.args.deps.limits.commit;
        let ended = move |outcome| Message::GivenUp(run, note, outcome);
        self.pauses.insert(Child::Manager(run), pipe_to_self(myself, limit, work, ended));
    }

    pub(super) fn on_given_up(&mut self, run: RunId, note: ErrorNote, outcome: Outcome<Result<(), Error>>) {
        self.pauses.remove(&Child::Manager(run));
        // Somebody may have asked for the run again in between.
        if self.managers.get(&run).is_some_and(|(_, manager)| manager.is_none()) {
            self.managers.remove(&run);
            metrics::runs_active(self.managers.len());
        }
        match outcome {
            Outcome::Done(Ok(())) => return,
            Outcome::Done(Err(error)) => {
                tracing::error!(run_id = %run, error.code = error.code(), %error, "the end of the run is not recorded");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::error!(run_id = %run, "the end of the run is not recorded");
            }
        }
        self.args.journal.hub.give_up(run, note);
    }
}

/// Takes the run from its last manager and records that it is interrupted. What was under way is closed when somebody
/// resumes it.
async fn interrupt(args: manager::Args, note: ErrorNote) -> Result<(), Error> {
    let (store, run) = (&args.store, args.run);
    let epoch = load::claim(&args).await?;
    let report = report::report(store, run).await?;
    let (status, at) = (RunStatus::Interrupted, args.deps.clock.now());
    let mut change = Change::new(run, epoch, at);
    // A note is plain text and always serialises.
    let error = serde_json::to_string(&note).ok();
    change.run_status = Some(RunEnd { status, finished_at: at, error });
    change.events.push(NewEvent::of_run(
        at,
        EventBody::RunFinished {
            status,
            tasks: report.counts,
            cost_usd: report.cost_usd,
            unpriced_calls: report.unpriced_calls,
            usage: report.usage,
            elapsed_ms: report.elapsed_ms,
            error: Some(note),
        },
    ));
    match store.commit(&[change]).await?.pop() {
        Some(Committed::Done { events }) => {
            metrics::run_ended(status);
            args.hub.publish(events);
            Ok(())
        }
        Some(Committed::Stale | Committed::OverBudget { .. }) | None => {
            Err(Error::Held { run, owner: "another process that was faster".into() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_for_each_child() {
        let limits = Limits { restarts_max: 2, ..Limits::default() };
        let (now, mut restarts) = (Instant::now(), Restarts::default());
        let (one, other) = (Child::Manager("aaaaaaaa".parse().unwrap()), Child::Manager("bbbbbbbb".parse().unwrap()));
        assert_eq!(restarts.count(one, now, &limits), Some(PAUSE_MIN));
        assert_eq!(restarts.count(one, now, &limits), Some(PAUSE_MIN * 2));
        assert_eq!(restarts.count(other, now, &limits), Some(PAUSE_MIN));
        assert_eq!(restarts.count(Child::Memory, now, &limits), Some(PAUSE_MIN));
        assert_eq!(restarts.count(one, now, &limits), None);
        let later = now + limits.restart_window + Duration::from_secs(1);
        assert_eq!(restarts.count(one, later, &limits), Some(PAUSE_MIN), "what is long ago does not count");
    }
}
