//! Manager: one per run; performs what the engine's schedule decides and makes every change durable first.
//!
//! **Invariant:** a task's dependents start only after its result is committed.
//! **Invariant:** every write carries the run's lease epoch; a stale manager stops and is loaded anew.
//! **Invariant:** one report per attempt has an effect; late and repeated ones do nothing.

mod approve;
mod composite;
mod dispatch;
mod end;
mod further;
mod hand_over;
mod park;
mod queue;
mod reports;
mod reuse;
mod run;
mod times;
mod told;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::AtomicU64},
};

use crewline_engine::schedule::{self, Finish};
use crewline_store::Change;
use crewline_types::{
    ErrorKind, IdSource, RunId, RunStatus, TaskStatus, Timestamp,
    event::{ErrorNote, NewEvent},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind},
    assignment::Report,
    attempt::Deps,
    control::halt_of,
    handle::Place,
    hub::Hub,
    journal::{self, Ack, Refusal},
    load::{self, Loaded},
    lock::RunLock,
    memory, metrics,
    offer::Read,
    router, scribe,
    summariser::Root,
};

use self::run::{Running, Stop};

/// The manager actor; all data is in [`State`].
#[derive(Debug)]
pub struct Manager;

/// What you can tell a manager.
pub enum Message {
    /// An attempt ended.
    Reported(Box<Report>),
    /// Starts nothing more, lets what runs end, then ends the run as interrupted.
    Drain,
    /// Leaves the run to whoever manages it next; what runs in this process ends first.
    HandOver,
    /// Internal: nobody manages the run now.
    Released,
    /// Like [`Message::Drain`], but aborts what runs.
    Abort,
    /// Starts nothing more, lets what runs end, then ends the run for good.
    Cancel,
    /// Like [`Message::Cancel`], but aborts what runs.
    Kill,
    /// Workers may have reported.
    Look,
    /// Internal: reports of workers were read, or attempts withdrawn from them.
    Looked(Outcome<Result<Vec<Read>, crate::Error>>),
    /// Internal: attempts were withdrawn.
    Recalled(Outcome<Result<Vec<Read>, crate::Error>>),
    /// Internal: the run is loaded.
    Loaded(Outcome<Result<Box<Loaded>, crate::Error>>),
    /// Internal: a change is recorded, or not.
    Recorded(Recorded, Result<(), Refusal>),
    /// Internal: the pause before another attempt is over.
    RetryDue(u32),
    /// Internal: the pause after a lost attempt is over.
    LossDue(u32, u32),
    /// Internal: tasks wait for their models, and it is time to look at those.
    LookAtParked(u64),
    /// Internal: a task may be planned for now, or overdue.
    LookAtClock,
    /// Internal: the run's time is up.
    Deadline,
    /// What the run made is summed up for so much, or the wait for it is over.
    Closed,
    /// A person may have decided something.
    Decided,
    /// Internal: what people were asked is read.
    Approvals(approve::Looked),
    /// Internal: the lease has to be renewed.
    Renew,
    /// Internal: the lease is renewed, or not.
    Renewed(Outcome<Result<(), crewline_store::Error>>),
}

/// How a run is told to stop; what comes later outweighs what comes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Halt {
    /// Starts nothing more, lets what runs end; the run is interrupted.
    Drain,
    /// Aborts what runs; the run is interrupted.
    Abort,
    /// Starts nothing more, lets what runs end; the run is cancelled.
    Cancel,
    /// Aborts what runs; the run is cancelled.
    Kill,
}

/// Which change was recorded.
#[derive(Debug)]
pub enum Recorded {
    /// The plan.
    Plan,
    /// A task's result.
    Result(u32, u32),
    /// That a task goes on with another role.
    HandedOver(u32, u32),
    /// Anything that nothing waits for.
    Note,
    /// The end of the run.
    End(RunStatus),
}

/// What a manager is started with; kept for its restarts.
#[derive(Clone)]
pub struct Args {
    /// The run.
    pub run: RunId,
    /// What attempts work with.
    pub deps: Arc<Deps>,
    /// The database.
    pub store: crewline_store::Store,
    /// Tells watchers when the manager gives up.
    pub hub: Hub,
    /// This process, in leases.
    pub node: Arc<str>,
    /// Keeps others of this process, or of this machine, from the run.
    pub lock: Arc<RunLock>,
    /// Its place among the runs of this process; none for one that is only stopped.
    #[expect(dead_code, reason = "it is held for as long as the manager may be started again")]
    pub(crate) place: Option<Place>,
    /// Gives out task ids.
    pub ids: Arc<Mutex<IdSource>>,
    /// How the run is stopped as soon as it is loaded; for runs that are claimed to be stopped.
    pub halt: Option<Halt>,
    /// The epoch that the run was last taken under. If it is at rest under that or a later one, we or others stopped it, and it
    /// stays so; who takes it to cancel it takes it under any.
    pub had: Arc<AtomicU64>,
}

/// One run.
pub struct State {
    args: Args,
    run: Option<Running>,
    guards: Vec<WorkGuard>,
    pauses: HashMap<u32, WorkGuard>,
    /// The next look at the models that tasks wait for.
    parking: Option<WorkGuard>,
    /// The next time that a task is planned for, or is overdue.
    next_time: Option<WorkGuard>,
    /// Looks so far; only the last one's reminder counts.
    looks: u64,
    /// Reads the reports of workers.
    look: Option<WorkGuard>,
    must_look_again: bool,
    next_look: Option<WorkGuard>,
    /// Reads what people decided.
    deciding: Option<WorkGuard>,
    must_decide_again: bool,
    next_decision: Option<WorkGuard>,
    /// How the run was told to stop before it was loaded.
    early_halt: Option<Halt>,
    /// How the run ends once it is summed up, and the limit of the wait for that.
    closing: Option<(Finish, WorkGuard)>,
}

impl Actor for Manager {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        // An earlier instance may have left attempts behind; they must not spend beside ours.
        args.deps.rooms.router.tell(router::Message::CancelRun(args.run));
        let limit = args.deps.limits.commit;
        let work = load::load(args.clone());
        let guard = pipe_to_self(&myself, limit, work, Message::Loaded);
        let early_halt = args.halt;
        Ok(State {
            args,
            run: None,
            guards: vec![guard],
            pauses: HashMap::new(),
            parking: None,
            next_time: None,
            looks: 0,
            look: None,
            must_look_again: false,
            next_look: None,
            deciding: None,
            must_decide_again: false,
            next_decision: None,
            early_halt,
            closing: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Reported(report) => state.on_reported(&myself, *report)?,
            Message::Drain => state.on_halt(&myself, Halt::Drain),
            Message::HandOver => state.on_hand_over(&myself),
            Message::Released => myself.stop(None),
            Message::Abort => state.on_halt(&myself, Halt::Abort),
            Message::Cancel => state.on_halt(&myself, Halt::Cancel),
            Message::Kill => state.on_halt(&myself, Halt::Kill),
            Message::Look => state.on_look(&myself),
            Message::Looked(outcome) => state.on_looked(&myself, outcome)?,
            Message::Recalled(outcome) => state.on_recalled(&myself, outcome)?,
            Message::Loaded(outcome) => state.on_loaded(&myself, outcome)?,
            Message::Recorded(what, result) => state.on_recorded(&myself, &what, result)?,
            Message::RetryDue(node) => state.on_retry_due(&myself, node),
            Message::LossDue(node, attempt) => state.on_loss_due(&myself, node, attempt),
            // One that was on its way when the next took its place comes, too.
            Message::LookAtParked(turn) if turn == state.looks => state.look_at_parked(&myself),
            Message::LookAtParked(_) => {}
            Message::LookAtClock => state.look_at_clock(&myself),
            Message::Deadline => state.on_deadline(&myself),
            Message::Closed => state.on_closed(&myself),
            Message::Decided => state.on_decided(&myself),
            Message::Approvals(looked) => state.on_approvals(&myself, looked),
            Message::Renew => state.on_renew(&myself),
            Message::Renewed(outcome) => on_renewed(outcome)?,
        }
        Ok(())
    }
}

/// The manager's own view of the run is no longer to be trusted; the supervisor loads it anew.
#[derive(Debug, thiserror::Error)]
#[error("manager must be loaded anew: {0}")]
struct Distrust(String);

impl State {
    fn on_loaded(
        &mut self,
        myself: &ActorRef<Message>,
        outcome: Outcome<Result<Box<Loaded>, crate::Error>>,
    ) -> Result<(), ActorProcessingErr> {
        let loaded = match outcome {
            Outcome::Done(Ok(loaded)) => *loaded,
            // It ended, by us or by others, and its watchers read how in the database.
            Outcome::Done(Err(crate::Error::Store(
                error @ (crewline_store::Error::Stale { .. } | crewline_store::Error::Finished { .. }),
            ))) => {
                tracing::info!(run_id = %self.args.run, %error, "the run is left as it is");
                self.args.hub.hint(self.args.run);
                myself.stop(None);
                return Ok(());
            }
            Outcome::Done(Err(error)) => {
                self.give_up(
                    myself,
                    &ErrorNote { code: error.code().into(), kind: error.kind(), message: error.to_string().into() },
                );
                return Ok(());
            }
            Outcome::Crashed | Outcome::TimedOut | Outcome::Cancelled => {
                return Err(Distrust("the run could not be loaded in time".into()).into());
            }
        };
        let now = self.args.deps.clock.now();
        let mut running =
            Running::new(&loaded, self.args.deps.registry().policies().clone(), self.args.deps.dispatch, now);
        if let Some(change) = running.recover(&loaded, now) {
            self.record(myself, change, Recorded::Note);
        }
        if let Some(time_max) = running.settings.limits.time_max {
            self.guards.push(remind(myself, time_max, || Message::Deadline));
        }
        self.guards.push(remind(myself, self.args.deps.limits.lease / 3, || Message::Renew));
        let has_plan = !running.tasks.is_empty();
        if has_plan && let Err(cycle) = running.build_dag() {
            let message = format!("the recorded plan has a cycle: {cycle}");
            let note = ErrorNote { code: "plan.cycle".into(), kind: ErrorKind::Invalid, message: message.into() };
            running.stop = Some(Stop { status: RunStatus::Failed, error: Some(note) });
        }
        let has_all = has_plan && running.settings.stop_after_plan;
        if has_all {
            running.stop.get_or_insert(Stop { status: RunStatus::Interrupted, error: None });
        }
        let kept_back = if running.stop.is_none() { running.keep_back(now) } else { Vec::new() };
        self.run = Some(running);
        // Nobody may have told the manager before; and nothing begins before this one has heard it.
        self.early_halt = self.early_halt.max(loaded.row.wish.map(halt_of));
        if has_plan {
            self.open();
            self.tell(myself, kept_back, now);
            self.adopt_offers(myself, &loaded);
            self.look_at_clock(myself);
        }
        self.halt_early(myself);
        if has_all {
            self.apply(myself, schedule::Event::Drain);
        }
        if has_plan {
            self.begin(myself);
        } else {
            self.plan(myself);
        }
        Ok(())
    }

    fn on_recorded(
        &mut self,
        myself: &ActorRef<Message>,
        what: &Recorded,
        result: Result<(), Refusal>,
    ) -> Result<(), ActorProcessingErr> {
        match result {
            Ok(()) => {}
            Err(refusal @ (Refusal::Stale | Refusal::Unknown | Refusal::OverBudget { .. })) => {
                return Err(Distrust(refusal.to_string()).into());
            }
            Err(Refusal::Failed { code, kind, message }) => {
                self.give_up(myself, &ErrorNote { code: code.into(), kind, message: message.into() });
                return Ok(());
            }
        }
        match what {
            Recorded::Plan => self.on_plan_recorded(myself),
            Recorded::HandedOver(node, attempt) => {
                self.remember(*node);
                self.apply(myself, schedule::Event::AttemptLost { node: *node, attempt: *attempt });
            }
            Recorded::Result(node, attempt) => {
                if let Some(run) = &mut self.run {
                    run.tasks[*node as usize].status = TaskStatus::Completed;
                }
                self.remember(*node);
                self.apply(myself, schedule::Event::Succeeded { node: *node, attempt: *attempt });
            }
            Recorded::Note => {}
            Recorded::End(status) => {
                metrics::run_ended(*status);
                myself.stop(None);
            }
        }
        Ok(())
    }

    /// Tells memory what a task left there.
    fn remember(&mut self, node: u32) {
        let Some(run) = &mut self.run else { return };
        let records = std::mem::take(&mut run.tasks[node as usize].memories);
        let scope = run.brief.scope.clone();
        self.args.deps.rooms.memory.tell(memory::Message::Remember(scope, records));
    }

    /// Tells the scribe of the run.
    fn open(&self) {
        let Some(run) = &self.run else { return };
        let root = Root { task: run.root.brief.id, attempts: run.root_attempt };
        self.args.deps.rooms.scribe.tell(scribe::Message::Opened(Arc::clone(&run.brief), root));
    }

    fn on_plan_recorded(&mut self, myself: &ActorRef<Message>) {
        self.open();
        let Some(run) = &mut self.run else { return };
        if let Err(cycle) = run.build_dag() {
            // A repaired plan is acyclic by construction; this is a defect, and the run says so.
            let message = format!("the plan has a cycle: {cycle}");
            let note = ErrorNote { code: "plan.cycle".into(), kind: ErrorKind::Internal, message: message.into() };
            run.stop = Some(Stop { status: RunStatus::Failed, error: Some(note) });
            self.end(myself, Finish::Drained);
            return;
        }
        if run.settings.stop_after_plan {
            run.stop.get_or_insert(Stop { status: RunStatus::Interrupted, error: None });
        }
        if run.stop.is_some() || run.is_handing_over {
            self.apply(myself, schedule::Event::Drain);
        }
        self.begin(myself);
    }

    fn on_decided(&mut self, myself: &ActorRef<Message>) {
        // The end of a run that waits for people is refused when they decided meanwhile: it is loaded anew, and goes on.
        if self.run.as_ref().is_some_and(|run| !run.is_ending) {
            self.look_at_approvals(myself);
        }
    }

    fn on_retry_due(&mut self, myself: &ActorRef<Message>, node: u32) {
        self.pauses.remove(&node);
        if node == u32::MAX {
            self.plan(myself);
        } else {
            self.apply(myself, schedule::Event::RetryDue { node });
        }
    }

    fn on_loss_due(&mut self, myself: &ActorRef<Message>, node: u32, attempt: u32) {
        self.pauses.remove(&node);
        self.apply(myself, schedule::Event::AttemptLost { node, attempt });
    }

    fn on_renew(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &self.run else { return };
        let (store, id, epoch, lease) =
            (self.args.store.clone(), run.brief.run, run.epoch, self.args.deps.limits.lease);
        let work = async move { store.renew_run(id, epoch, lease).await };
        self.guards.retain(|guard| !guard.is_finished());
        self.guards.push(pipe_to_self(myself, lease / 3, work, Message::Renewed));
        self.guards.push(remind(myself, lease / 3, || Message::Renew));
    }

    /// Records events that change nothing.
    fn tell(&self, myself: &ActorRef<Message>, events: Vec<NewEvent>, at: Timestamp) {
        let Some(run) = self.run.as_ref().filter(|_| !events.is_empty()) else { return };
        let mut change = run.change(at);
        change.events = events;
        self.record(myself, change, Recorded::Note);
    }

    fn record(&self, myself: &ActorRef<Message>, change: Change, what: Recorded) {
        let to = myself.clone();
        let settle = self.run.as_ref().map(|run| run.brief.settling(&change));
        let ack = Ack::new(move |result| {
            // Before we hear of it: what starts then may need the money.
            if let (Ok(()), Some(settle)) = (&result, settle) {
                settle();
            }
            crate::actor::tell(&to, Message::Recorded(what, result));
        });
        self.args.deps.rooms.journal.tell(journal::Message::Record(Box::new(change), ack));
    }
}

/// A lost lease means that somebody else may have claimed the run.
fn on_renewed(outcome: Outcome<Result<(), crewline_store::Error>>) -> Result<(), ActorProcessingErr> {
    match outcome {
        Outcome::Done(Ok(())) | Outcome::Cancelled => Ok(()),
        Outcome::Done(Err(error)) if error.kind() == ErrorKind::Conflict => {
            Err(Distrust(format!("lease lost: {error}")).into())
        }
        // The next renewal may work; until then the epoch still fences every write.
        Outcome::Done(Err(error)) => {
            tracing::warn!(error.code = error.code(), %error, "lease could not be renewed");
            Ok(())
        }
        Outcome::Crashed | Outcome::TimedOut => {
            tracing::warn!("lease was not renewed in time");
            Ok(())
        }
    }
}
