//! Worker: claims attempts that managers on other machines offer, has them made here, and records their reports.
//!
//! **Invariant:** `claims.len() <= slots`.
//! **Invariant:** what is written for a claim is fenced by it; a claim that is lost is aborted and writes nothing.
//! **Invariant:** by its own clock a worker stops its attempts before their leases could end, whatever the database says.

mod claim;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crewline_store::Change;
use crewline_types::{AttemptId, ErrorKind, RunId};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::Instant;

pub use self::claim::Claim;
use self::claim::Claimed;
use crate::{
    Error,
    actor::{Outcome, WorkGuard, pipe_to_self, remind, tell},
    assignment::{Assignment, Obligation, Report, ReportTo, Work},
    attempt::Deps,
    brief::{RunBrief, TaskBrief},
    journal::{self, Ack, Refusal},
    metrics, offer, router,
};

/// Pause before a report is recorded again that the database did not take.
const AGAIN_PAUSE: Duration = Duration::from_millis(500);
/// Runs that are kept in mind, besides those that are worked on: each holds the keys of all its tasks.
const RUNS_MAX: usize = 64;
/// Runs that can not be read of which nothing is claimed for a while.
const UNREADABLE_MAX: usize = 64;
/// That while, in polls.
const UNREADABLE_POLLS: u32 = 60;

/// The worker actor; all data is in [`State`].
#[derive(Debug)]
pub struct Worker;

/// What you can tell a worker.
pub enum Message {
    /// There may be something to claim.
    Look,
    /// Claims may have been withdrawn.
    Check,
    /// An attempt ended.
    Reported(Box<Report>),
    /// Claims nothing more and answers when nothing runs any more.
    Drain(RpcReplyPort<()>),
    /// Answers how many attempts run.
    Busy(RpcReplyPort<usize>),
    /// Internal: attempts were claimed and their tasks read.
    Claimed(Instant, Outcome<Result<Claim, Error>>),
    /// Internal: what was claimed and not begun is given back.
    Released,
    /// Internal: a report is recorded, or not.
    Recorded(AttemptId, Result<(), Refusal>),
    /// Internal: record a report again.
    Again(AttemptId),
    /// Internal: leases have to be renewed.
    Renew,
    /// Internal: leases are renewed, or not.
    Renewed(Renewal, Outcome<Result<Vec<AttemptId>, crewline_store::Error>>),
    /// Internal: leases could end before the next renewal.
    Expire,
}

/// What a worker is started with.
#[derive(Clone)]
pub struct Args {
    /// What attempts work with.
    pub deps: Arc<Deps>,
    /// This process, in leases.
    pub node: Arc<str>,
    /// The roles it works for; `None` for every role.
    pub roles: Option<Arc<[crewline_types::Role]>>,
    /// Attempts at once.
    pub slots: NonZeroUsize,
    /// Instances so far; a restarted worker claims under another name.
    pub instances: Arc<AtomicU32>,
}

struct Held {
    run: Arc<RunBrief>,
    task: Arc<TaskBrief>,
    /// What is to be recorded, once the attempt has ended.
    report: Option<Change>,
}

/// What a renewal was sent with: a claim that was made meanwhile may not be in its answer.
#[derive(Debug)]
pub struct Renewal {
    sent: Instant,
    claims: HashSet<AttemptId>,
}

/// The claims, and the work that goes on for them.
pub struct State {
    args: Args,
    claims: HashMap<AttemptId, Held>,
    runs: HashMap<RunId, Arc<RunBrief>>,
    /// Runs that could not be read, the last one last: their offers would take the places of others again and again.
    unreadable: VecDeque<(RunId, Instant)>,
    /// Claims attempts now.
    claiming: Option<WorkGuard>,
    must_look_again: bool,
    renewing: Option<WorkGuard>,
    must_check_again: bool,
    /// Reminders: the next look, the next renewal, the end of the leases.
    next_look: Option<WorkGuard>,
    next_renewal: Option<WorkGuard>,
    expiry: Option<(Instant, WorkGuard)>,
    pauses: HashMap<AttemptId, WorkGuard>,
    is_draining: bool,
    drained: Option<RpcReplyPort<()>>,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("worker::Message")
    }
}

impl Actor for Worker {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, mut args: Args) -> Result<State, ActorProcessingErr> {
        // What an earlier instance had claimed is not ours: nobody here waits for it, and its lease ends by itself.
        let instance = args.instances.fetch_add(1, Ordering::Relaxed);
        args.node = format!("{}/{instance}", args.node).into();
        let mut state = State {
            args,
            claims: HashMap::new(),
            runs: HashMap::new(),
            unreadable: VecDeque::new(),
            claiming: None,
            must_look_again: false,
            renewing: None,
            must_check_again: false,
            next_look: None,
            next_renewal: None,
            expiry: None,
            pauses: HashMap::new(),
            is_draining: false,
            drained: None,
        };
        state.on_look(&myself);
        state.renew_later(&myself);
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Look => state.on_look(&myself),
            Message::Reported(report) => state.on_reported(&myself, *report),
            Message::Drain(reply) => state.on_drain(&myself, reply),
            Message::Busy(reply) => {
                reply.send(state.claims.len()).ok();
            }
            Message::Claimed(sent, outcome) => state.on_claimed(&myself, sent, outcome),
            Message::Released => state.on_released(&myself),
            Message::Recorded(attempt, result) => state.on_recorded(&myself, attempt, &result),
            Message::Again(attempt) => state.record(&myself, attempt),
            Message::Check | Message::Renew => state.on_renew(&myself),
            Message::Renewed(renewal, outcome) => state.on_renewed(&myself, &renewal, outcome),
            Message::Expire => state.on_expire(),
        }
        Ok(())
    }
}

impl State {
    fn on_look(&mut self, myself: &ActorRef<Message>) {
        if self.is_draining {
            return;
        }
        if self.claiming.is_some() {
            self.must_look_again = true;
            return;
        }
        let free = self.args.slots.get().saturating_sub(self.claims.len());
        if free == 0 {
            // The next report looks again.
            return;
        }
        let (args, runs, sent) = (self.args.clone(), self.runs.clone(), Instant::now());
        let pause = UNREADABLE_POLLS * self.args.deps.limits.poll;
        self.unreadable.retain(|(_, since)| since.elapsed() < pause);
        let not_of: Vec<RunId> = self.unreadable.iter().map(|(run, _)| *run).collect();
        let work = async move { claim::claim(&args, &runs, &not_of, free).await };
        let to_message = move |outcome| Message::Claimed(sent, outcome);
        self.claiming = Some(pipe_to_self(myself, self.args.deps.limits.commit, work, to_message));
    }

    fn on_claimed(&mut self, myself: &ActorRef<Message>, sent: Instant, outcome: Outcome<Result<Claim, Error>>) {
        self.claiming = None;
        let mut is_idle = true;
        match outcome {
            Outcome::Done(Ok(Claim { claimed, unreadable })) => {
                is_idle = claimed.is_empty() && unreadable.is_empty();
                self.unreadable.extend(unreadable.into_iter().map(|run| (run, Instant::now())));
                self.unreadable.drain(..self.unreadable.len().saturating_sub(UNREADABLE_MAX));
                if self.is_draining {
                    self.release(myself, claimed.iter().map(|it| it.offer.id).collect());
                    return;
                }
                for one in claimed {
                    self.begin(myself, one);
                }
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "no attempts could be claimed, trying again");
            }
            // What was claimed and not begun is reaped when its lease ends.
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("attempts were not claimed in time, trying again");
            }
        }
        self.end_if_drained(myself);
        metrics::worker_busy(self.claims.len());
        if self.expiry.is_none() && !self.claims.is_empty() {
            self.expire_later(myself, sent);
        }
        if std::mem::take(&mut self.must_look_again) || !is_idle {
            self.on_look(myself);
        }
        if self.claiming.is_none() {
            self.next_look = Some(remind(myself, self.args.deps.limits.poll, || Message::Look));
        }
    }

    /// Gives back what was claimed and not begun.
    fn release(&mut self, myself: &ActorRef<Message>, attempts: Vec<AttemptId>) {
        let (store, node) = (self.args.deps.store.clone(), Arc::clone(&self.args.node));
        let work = async move {
            if let Err(error) = store.release_claims(&node, &attempts).await {
                tracing::warn!(error.code = error.code(), %error, "claims are given back by the end of their leases");
            }
        };
        let limit = self.args.deps.limits.lease;
        self.claiming = Some(pipe_to_self(myself, limit, work, |_| Message::Released));
    }

    fn on_released(&mut self, myself: &ActorRef<Message>) {
        self.claiming = None;
        self.end_if_drained(myself);
        self.on_look(myself);
    }

    fn begin(&mut self, myself: &ActorRef<Message>, claimed: Claimed) {
        let Claimed { offer, run, task, sources, input_hash, models } = claimed;
        if self.runs.len() >= RUNS_MAX {
            self.runs.retain(|_, run| Arc::strong_count(run) > 1);
        }
        self.runs.insert(offer.run, Arc::clone(&run));
        let task = Arc::new(task);
        self.claims.insert(offer.id, Held { run: Arc::clone(&run), task: Arc::clone(&task), report: None });
        let assignment = Assignment {
            attempt: offer.id,
            run,
            task,
            sources,
            input_hash: Some(input_hash),
            work: Work::Text,
            models,
            rungs: Vec::new(),
            route: [].into(),
            obligation: Obligation::new(offer.id, ReportTo::Worker(myself.clone())),
        };
        self.args.deps.rooms.router.tell(router::Message::Assign(Box::new(assignment)));
    }

    fn on_reported(&mut self, myself: &ActorRef<Message>, report: Report) {
        let attempt = report.attempt;
        // A claim that was lost has been given up already.
        let Some(claim) = self.claims.get_mut(&attempt).filter(|claim| claim.report.is_none()) else { return };
        let mut change = claim.run.change(attempt, self.args.deps.clock.now());
        // What was spent is spent: only new calls are counted against the cap.
        change.cost_max = None;
        change.project_max = None;
        match offer::write_report(&mut change, &claim.task.role, report) {
            Ok(()) => {
                claim.report = Some(change);
                self.record(myself, attempt);
            }
            Err(error) => {
                tracing::error!(task_id = %attempt.task, attempt = attempt.number, %error, "a report can not be written");
                self.drop_claims(myself, &[attempt]);
            }
        }
    }

    fn record(&mut self, myself: &ActorRef<Message>, attempt: AttemptId) {
        self.pauses.remove(&attempt);
        let Some(claim) = self.claims.get(&attempt) else { return };
        let Some(change) = claim.report.clone() else { return };
        let (to, settle) = (myself.clone(), claim.run.settling(&change));
        let ack = Ack::new(move |result| {
            if result.is_ok() {
                settle();
            }
            tell(&to, Message::Recorded(attempt, result));
        });
        self.args.deps.rooms.journal.tell(journal::Message::Record(Box::new(change), ack));
    }

    fn on_recorded(&mut self, myself: &ActorRef<Message>, attempt: AttemptId, result: &Result<(), Refusal>) {
        match result {
            Ok(()) => {}
            // Recorded by an earlier try whose answer was lost, or no longer ours to report.
            Err(Refusal::Stale | Refusal::OverBudget { .. }) => {
                tracing::info!(task_id = %attempt.task, attempt = attempt.number, "the claim is no longer ours");
            }
            // It never will be recorded. As soon as the leases are renewed it is given back as lost, as any that nobody works on.
            Err(Refusal::Failed { code, kind: ErrorKind::Internal | ErrorKind::Invalid, message }) => {
                let error = &**message;
                tracing::error!(task_id = %attempt.task, attempt = attempt.number, error.code = code, error, "a report is refused");
            }
            Err(Refusal::Failed { .. } | Refusal::Unknown) => {
                if self.claims.contains_key(&attempt) {
                    let again = remind(myself, AGAIN_PAUSE, move || Message::Again(attempt));
                    self.pauses.insert(attempt, again);
                }
                return;
            }
        }
        self.drop_claims(myself, &[attempt]);
    }

    fn drop_claims(&mut self, myself: &ActorRef<Message>, attempts: &[AttemptId]) {
        for attempt in attempts {
            self.claims.remove(attempt);
            self.pauses.remove(attempt);
        }
        metrics::worker_busy(self.claims.len());
        if self.claims.is_empty() {
            self.expiry = None;
        }
        self.on_look(myself);
        self.end_if_drained(myself);
    }

    fn on_drain(&mut self, myself: &ActorRef<Message>, reply: RpcReplyPort<()>) {
        self.is_draining = true;
        for claim in self.claims.values() {
            claim.run.purse.close();
        }
        self.drained = Some(reply);
        self.end_if_drained(myself);
    }

    fn end_if_drained(&mut self, myself: &ActorRef<Message>) {
        if self.claims.is_empty()
            && self.claiming.is_none()
            && let Some(reply) = self.drained.take()
        {
            reply.send(()).ok();
            myself.stop(None);
        }
    }

    fn renew_later(&mut self, myself: &ActorRef<Message>) {
        self.next_renewal = Some(remind(myself, self.args.deps.limits.lease / 3, || Message::Renew));
    }

    fn on_renew(&mut self, myself: &ActorRef<Message>) {
        if self.claims.is_empty() {
            self.renew_later(myself);
            return;
        }
        if self.renewing.is_some() {
            self.must_check_again = true;
            return;
        }
        let lease = self.args.deps.limits.lease;
        let (store, node) = (self.args.deps.store.clone(), Arc::clone(&self.args.node));
        let renewal = Renewal { sent: Instant::now(), claims: self.claims.keys().copied().collect() };
        let work = async move { store.renew_claims(&node, lease).await };
        self.renewing = Some(pipe_to_self(myself, lease / 3, work, move |outcome| Message::Renewed(renewal, outcome)));
    }

    fn on_renewed(
        &mut self,
        myself: &ActorRef<Message>,
        renewal: &Renewal,
        outcome: Outcome<Result<Vec<AttemptId>, crewline_store::Error>>,
    ) {
        self.renewing = None;
        match outcome {
            Outcome::Done(Ok(held)) => {
                self.expire_later(myself, renewal.sent);
                let held: HashSet<AttemptId> = held.into_iter().collect();
                // A claim whose report is on its way is no longer held once that is recorded.
                let lost: Vec<AttemptId> = self
                    .claims
                    .iter()
                    .filter(|(id, claim)| claim.report.is_none() && renewal.claims.contains(id) && !held.contains(id))
                    .map(|(id, _)| *id)
                    .collect();
                // Claims whose answer was lost on its way to us; what is being claimed now is known in a moment.
                if self.claiming.is_none() {
                    let unknown: Vec<AttemptId> =
                        held.iter().filter(|id| !self.claims.contains_key(id)).copied().collect();
                    if !unknown.is_empty() {
                        self.release(myself, unknown);
                    }
                }
                self.give_up(&lost);
                if !lost.is_empty() {
                    self.drop_claims(myself, &lost);
                }
            }
            Outcome::Done(Err(error)) => {
                tracing::warn!(error.code = error.code(), %error, "leases could not be renewed, trying again");
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                tracing::warn!("leases were not renewed in time, trying again");
            }
        }
        if std::mem::take(&mut self.must_check_again) {
            self.on_renew(myself);
        } else {
            self.renew_later(myself);
        }
    }

    /// Leases begin after `sent`; a tenth of them is kept as the margin.
    fn expire_later(&mut self, myself: &ActorRef<Message>, sent: Instant) {
        let until = sent + self.args.deps.limits.lease * 9 / 10;
        let left = until.saturating_duration_since(Instant::now());
        self.expiry = Some((until, remind(myself, left, || Message::Expire)));
    }

    fn on_expire(&mut self) {
        // The control of `cargo xtask chaos`: it does not look at its clock.
        if cfg!(feature = "unfenced") {
            return;
        }
        // One that was on its way when the leases were renewed.
        if self.expiry.as_ref().is_none_or(|(until, _)| Instant::now() < *until) {
            return;
        }
        let running: Vec<AttemptId> =
            self.claims.iter().filter(|(_, claim)| claim.report.is_none()).map(|(id, _)| *id).collect();
        if !running.is_empty() {
            tracing::warn!(attempts = running.len(), "leases may have ended, attempts are aborted");
            // The claims stay until the database says that they are lost; their reports say `lost` meanwhile.
            self.give_up(&running);
        }
        self.expiry = None;
    }

    fn give_up(&self, attempts: &[AttemptId]) {
        if !attempts.is_empty() {
            self.args.deps.rooms.router.tell(router::Message::CancelAttempts(attempts.into()));
        }
    }
}
