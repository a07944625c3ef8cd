//! Attempts that workers make: offered as rows, and their reports read from there.
//!
//! **Invariant:** an offer leaves the database in the transaction that records what became of it.
//! **Invariant:** a report is handled once, however often it is read before its offer is gone.

use crewline_engine::schedule::{self, Begun, Stage};
use crewline_store::{OpenOffer, Withdraw};
use crewline_types::TaskStatus;
use ractor::{ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, pipe_to_self, remind},
    config::Dispatch,
    load::Loaded,
    offer::{self, Read},
    router, scribe,
};

use super::{Distrust, Message, Recorded, State};

impl State {
    pub(super) fn is_queued(&self) -> bool {
        self.args.deps.dispatch == Dispatch::Queue
    }

    /// Records the offers that were decided on.
    pub(super) fn flush_offers(&mut self, myself: &ActorRef<Message>) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        if run.offers.is_empty() {
            return;
        }
        let mut change = run.change(at);
        change.offers = std::mem::take(&mut run.offers);
        self.record(myself, change, Recorded::Note);
        self.watch_offers(myself);
    }

    /// Takes over what was offered before this manager came; what does not fit what is recorded goes.
    pub(super) fn adopt_offers(&mut self, myself: &ActorRef<Message>, loaded: &Loaded) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        let mut change = run.change(at);
        for OpenOffer { id, .. } in &loaded.offers {
            let node = run.by_id.get(&id.task).copied();
            let is_adopted = node.zip(run.dag.as_mut()).is_some_and(|(node, dag)| {
                let is_begun = loaded.tasks[node as usize].status == TaskStatus::InProgress;
                dag.adopt(node, id.number, if is_begun { Begun::Recorded } else { Begun::Not })
            });
            match node {
                Some(node) if is_adopted => {
                    run.adopted.insert(*id);
                    let entry = &mut run.tasks[node as usize];
                    entry.status = TaskStatus::InProgress;
                    entry.started_at.get_or_insert(at);
                }
                Some(_) | None => change.offers_settled.push(*id),
            }
        }
        if !change.offers_settled.is_empty() {
            self.record(myself, change, Recorded::Note);
        }
        if !loaded.offers.is_empty() {
            self.on_look(myself);
        }
    }

    /// Looks for reports now and then while attempts are out; a hint makes it sooner.
    fn watch_offers(&mut self, myself: &ActorRef<Message>) {
        let is_queued = self.is_queued();
        let is_out = self.run.as_ref().is_some_and(|run| {
            if is_queued { run.dag.as_ref().is_some_and(|dag| dag.running() > 0) } else { run.awaits_reports() }
        });
        if !is_out {
            self.next_look = None;
        } else if self.next_look.as_ref().is_none_or(crate::actor::WorkGuard::is_finished) {
            self.next_look = Some(remind(myself, self.args.deps.limits.poll, || Message::Look));
        }
    }

    pub(super) fn on_look(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = self.run.as_ref().filter(|run| self.is_queued() || run.awaits_reports()) else { return };
        if self.look.as_ref().is_some_and(|look| !look.is_finished()) {
            self.must_look_again = true;
            return;
        }
        let (store, id) = (self.args.store.clone(), run.brief.run);
        let work = async move { offer::read_reports(&store, id).await };
        self.look = Some(pipe_to_self(myself, self.args.deps.limits.commit, work, Message::Looked));
    }

    pub(super) fn on_looked(
        &mut self,
        myself: &ActorRef<Message>,
        outcome: Outcome<Result<Vec<Read>, crate::Error>>,
    ) -> Result<(), ActorProcessingErr> {
        self.look = None;
        match outcome {
            Outcome::Done(Ok(reports)) => {
                for read in reports {
                    self.on_read(myself, read)?;
                }
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "reports could not be read, trying again");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("reports were not read in time, trying again");
            }
        }
        if std::mem::take(&mut self.must_look_again) {
            self.on_look(myself);
        }
        self.watch_offers(myself);
        Ok(())
    }

    fn on_read(&mut self, myself: &ActorRef<Message>, read: Read) -> Result<(), ActorProcessingErr> {
        let Read { report, has_answer } = read;
        let attempt = report.attempt;
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return Ok(()) };
        if !run.handled.insert(attempt) {
            return Ok(());
        }
        run.has_answer |= has_answer;
        let is_current = run.by_id.get(&attempt.task).is_some_and(|node| {
            run.dag
                .as_ref()
                .is_some_and(|dag| dag.stage(*node) == Stage::Running && dag.attempt(*node) == attempt.number)
        });
        if !is_current {
            let mut change = run.change(at);
            change.offers_settled.push(attempt);
            self.record(myself, change, Recorded::Note);
            return Ok(());
        }
        self.on_reported(myself, report)
    }

    /// Ends what this process does for the run and leaves the rest to the next manager.
    pub(super) fn on_hand_over(&mut self, myself: &ActorRef<Message>) {
        let is_queued = self.is_queued();
        let Some(run) = &mut self.run else {
            myself.stop(None);
            return;
        };
        if run.is_ending {
            return;
        }
        run.is_handing_over = true;
        run.brief.purse.close();
        if is_queued && run.dag.is_some() {
            // Workers go on, and report to the next one.
            self.release(myself);
        } else if self.pauses.remove(&u32::MAX).is_some() | self.unpark_planning() {
            self.release(myself);
        } else {
            self.apply(myself, schedule::Event::Drain);
        }
    }

    /// Gives the run's lease back and stops.
    pub(super) fn release(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        run.is_ending = true;
        self.args.deps.rooms.scribe.tell(scribe::Message::Left(run.brief.run));
        let (store, id, epoch) = (self.args.store.clone(), run.brief.run, run.epoch);
        let work = async move {
            if let Err(error) = store.release_run(id, epoch).await {
                tracing::warn!(run_id = %id, error.code = error.code(), "the run is free when its lease ends");
            }
        };
        let limit = self.args.deps.limits.commit;
        self.guards.push(pipe_to_self(myself, limit, work, |_| Message::Released));
    }

    /// Stops what runs: here, and at workers.
    pub(super) fn recall_attempts(&mut self, myself: &ActorRef<Message>, which: Withdraw) {
        let Some(run) = &self.run else { return };
        if which == Withdraw::Unreported {
            self.args.deps.rooms.router.tell(router::Message::CancelRun(run.brief.run));
        }
        if !self.is_queued() {
            return;
        }
        let (store, id, epoch) = (self.args.store.clone(), run.brief.run, run.epoch);
        let poll = self.args.deps.limits.poll;
        let work = async move {
            let withdrawn = store.withdraw_offers(id, epoch, which).await?;
            loop {
                match offer::read_lost(&store, &withdrawn).await {
                    // Nobody else knows any more which they were.
                    Err(error) if error.is_retryable() => {
                        tracing::warn!(error.code = error.code(), %error, "what was withdrawn could not be read, trying again");
                        tokio::time::sleep(poll).await;
                    }
                    read => return read,
                }
            }
        };
        self.guards.retain(|guard| !guard.is_finished());
        self.guards.push(pipe_to_self(myself, self.args.deps.limits.commit, work, Message::Recalled));
    }

    /// Attempts were withdrawn, or that is not known: then the run is loaded anew, which finds them.
    pub(super) fn on_recalled(
        &mut self,
        myself: &ActorRef<Message>,
        outcome: Outcome<Result<Vec<Read>, crate::Error>>,
    ) -> Result<(), ActorProcessingErr> {
        match outcome {
            Outcome::Done(Ok(reports)) => {
                for read in reports {
                    self.on_read(myself, read)?;
                }
                self.watch_offers(myself);
                Ok(())
            }
            Outcome::Cancelled => Ok(()),
            Outcome::Done(Err(error)) => Err(Distrust(format!("what was withdrawn is not known: {error}")).into()),
            Outcome::Crashed | Outcome::TimedOut => Err(Distrust("what was withdrawn is not known".into()).into()),
        }
    }
}
