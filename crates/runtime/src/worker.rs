//! Worker: claims attempts that managers on other machines offer, has them made here, and records their reports.
//!
//! **Invariant:** `claims.len() <= slots`.
//! **Invariant:** what is written for a claim is fenced by it; a claim that is lost is aborted and writes nothing.
//! **Invariant:** by its own clock a worker stops its attempts before their leases could end, whatever the database says.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crewline_engine::{
    context::{Item, Tier},
    replay::index_hash,
};
use crewline_models::Models;
use crewline_store::{Change, Offer, RunRow, WorkRow};
use crewline_types::{AttemptId, MicroUsd, ProjectScope, RunId, Task, TaskId, TaskStatus, Text, TextHash};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio::time::Instant;

use crate::{
    Error,
    actor::{Outcome, WorkGuard, pipe_to_self, remind, tell},
    assignment::{Assignment, Obligation, Post, Report, ReportTo, RunBrief, TaskBrief, Work},
    attempt::Deps,
    chapters,
    journal::{self, Ack, Refusal},
    metrics,
    offer::{self, Told},
    purse::Purse,
    replay::{self, Given},
    router,
    settings::Settings,
    sources,
};

/// Pause before a report is recorded again that the database did not take.
const AGAIN_PAUSE: Duration = Duration::from_millis(500);
/// Runs that are kept in mind.
const RUNS_MAX: usize = 1_024;

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
    Claimed(Instant, Outcome<Result<Vec<Claimed>, Error>>),
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

/// A claimed attempt with all it needs.
pub struct Claimed {
    offer: Offer,
    run: Arc<RunBrief>,
    task: TaskBrief,
    sources: Vec<Item>,
    input_hash: TextHash,
    models: Models,
}

struct Claim {
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
    claims: HashMap<AttemptId, Claim>,
    runs: HashMap<RunId, Arc<RunBrief>>,
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
        let work = async move { claim(&args, &runs, free).await };
        let to_message = move |outcome| Message::Claimed(sent, outcome);
        self.claiming = Some(pipe_to_self(myself, self.args.deps.limits.commit, work, to_message));
    }

    fn on_claimed(&mut self, myself: &ActorRef<Message>, sent: Instant, outcome: Outcome<Result<Vec<Claimed>, Error>>) {
        self.claiming = None;
        let mut is_idle = true;
        match outcome {
            Outcome::Done(Ok(claimed)) => {
                is_idle = claimed.is_empty();
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
            self.runs.clear();
        }
        self.runs.insert(offer.run, Arc::clone(&run));
        let task = Arc::new(task);
        self.claims.insert(offer.id, Claim { run: Arc::clone(&run), task: Arc::clone(&task), report: None });
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
        let Some(change) = self.claims.get(&attempt).and_then(|claim| claim.report.clone()) else { return };
        let to = myself.clone();
        let ack = Ack::new(move |result| tell(&to, Message::Recorded(attempt, result)));
        self.args.deps.rooms.journal.tell(journal::Message::Record(Box::new(change), ack));
    }

    fn on_recorded(&mut self, myself: &ActorRef<Message>, attempt: AttemptId, result: &Result<(), Refusal>) {
        match result {
            Ok(()) => {}
            // Recorded by an earlier try whose answer was lost, or no longer ours to report.
            Err(Refusal::Stale | Refusal::OverBudget | Refusal::OverProject) => {
                tracing::info!(task_id = %attempt.task, attempt = attempt.number, "the claim is no longer ours");
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

/// Claims up to `max` attempts and reads what they need. What can not be begun is given back: nobody would renew it, and
/// its lease would end as if it had been lost.
async fn claim(args: &Args, runs: &HashMap<RunId, Arc<RunBrief>>, max: usize) -> Result<Vec<Claimed>, Error> {
    let store = &args.deps.store;
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    let offers = store.claim_offers(&args.node, args.roles.as_deref(), max, args.deps.limits.lease).await?;
    if offers.is_empty() {
        return Ok(Vec::new());
    }
    let mut left: HashSet<AttemptId> = offers.iter().map(|offer| offer.id).collect();
    let claimed = read(args, runs, offers).await;
    for one in claimed.iter().flatten() {
        left.remove(&one.offer.id);
    }
    if !left.is_empty() {
        let left: Vec<AttemptId> = left.into_iter().collect();
        if let Err(error) = store.put_back_claims(&args.node, &left).await {
            tracing::warn!(error.code = error.code(), %error, "claims are given back by the end of their leases");
        }
    }
    claimed
}

/// What is known of the run of an offer, and its INDEX.md with its name.
async fn read_run(
    args: &Args,
    run: RunId,
    known: Option<&Arc<RunBrief>>,
) -> Result<(Arc<RunBrief>, Option<(TextHash, Text)>), Error> {
    let store = &args.deps.store;
    let row = store.run(run).await?.ok_or_else(|| Error::NotFound { what: "run", id: run.to_string() })?;
    let brief = brief_of(args, &row, known).await?;
    let Some(hash) = row.index else { return Ok((brief, None)) };
    let index = store.texts(&[hash]).await?.remove(&hash).map(|body| {
        let name = index_hash(&chapters::without(&body), |id| brief.keys.get(&id).map(|key| &**key));
        (name, Text { hash, body })
    });
    Ok((brief, index))
}

/// Reads what claimed attempts need; those of a run that can not be read are left out.
async fn read(
    args: &Args,
    runs: &HashMap<RunId, Arc<RunBrief>>,
    mut offers: Vec<Offer>,
) -> Result<Vec<Claimed>, Error> {
    let store = &args.deps.store;
    let mut briefs = HashMap::new();
    let mut indexes = HashMap::new();
    // Read each time: settings and INDEX.md change while the run goes on.
    for run in offers.iter().map(|offer| offer.run).collect::<HashSet<RunId>>() {
        match read_run(args, run, runs.get(&run)).await {
            Ok((brief, index)) => {
                briefs.insert(run, brief);
                indexes.extend(index.map(|index| (run, index)));
            }
            Err(error) if error.is_retryable() => return Err(error),
            Err(error) => {
                tracing::error!(run_id = %run, error.code = error.code(), %error, "the run is left to other workers");
            }
        }
    }
    offers.retain(|offer| briefs.contains_key(&offer.run));
    let models = args.deps.models.pinned();
    let registry = models.registry();
    let ids: Vec<TaskId> = offers.iter().map(|offer| offer.id.task).collect();
    let mut tasks = HashMap::new();
    let mut told = HashMap::new();
    let mut rows: HashMap<TaskId, WorkRow> =
        store.work(&ids).await?.into_iter().map(|row| (row.task.id, row)).collect();
    for offer in &offers {
        let Some(row) = rows.remove(&offer.id.task) else { continue };
        // A manager of an older version leaves it to us to follow the links.
        told.insert(offer.id, Told::read(&offer.told).unwrap_or_else(|_| Told::of_links(&row)));
        tasks.extend(row.linked.into_iter().map(|(_, task)| (task.id, task)));
        tasks.insert(row.task.id, row.task);
    }
    let named = || told.values().flat_map(|it| it.requires.iter().chain(&it.refers));
    // What follows from the tree is in no link of the task.
    let more: HashSet<TaskId> = named().filter(|id| !tasks.contains_key(*id)).copied().collect();
    if !more.is_empty() {
        let more: Vec<TaskId> = more.into_iter().collect();
        tasks.extend(store.work(&more).await?.into_iter().map(|row| (row.task.id, row.task)));
    }
    let done = |id: &TaskId| tasks.get(id).filter(|task| task.status == TaskStatus::Completed);
    let hashes: HashSet<TextHash> = named().filter_map(|id| done(id)?.result).collect();
    let hashes: Vec<TextHash> = hashes.into_iter().collect();
    let texts = if hashes.is_empty() { HashMap::new() } else { store.texts(&hashes).await? };
    let claimed = offers.into_iter().filter_map(|offer| {
        let row = tasks.get(&offer.id.task)?;
        let told = told.remove(&offer.id)?;
        let run = Arc::clone(briefs.get(&offer.run)?);
        let index = indexes.get(&offer.run);
        let index_item = index.map(|(_, text)| sources::index_of(text, |id| told.done.contains(&id)));
        let mut sources: Vec<Item> = index_item.into_iter().collect();
        for (tier, made) in [(Tier::Requires, &told.requires), (Tier::Refers, &told.refers)] {
            sources.extend(made.iter().filter_map(|id| output_item(tier, done(id)?, &texts)));
        }
        sources.extend(told.around);
        let results = |made: &[TaskId]| {
            let name = |id: &TaskId| {
                let made = done(id)?;
                let hash = made.result?;
                let text = texts.get(&hash).map(|body| &**body);
                let key = |id| run.keys.get(&id).map(|key| &**key);
                Some((&*made.key, replay::result_hash(made.kind, hash, text, key)))
            };
            made.iter().filter_map(name).collect()
        };
        let task = TaskBrief::of(row);
        run.purse.begin(task.id, row.cost);
        let given = Given {
            goal: &run.goal,
            index: index.map(|(name, _)| *name),
            above: told.above,
            requires: results(&told.requires),
            refers: results(&told.refers),
        };
        let input_hash = replay::input_hash(&registry, &task, given);
        Some(Claimed { offer, run, task, sources, input_hash, models: models.clone() })
    });
    Ok(claimed.collect())
}

fn output_item(tier: Tier, task: &Task, texts: &HashMap<TextHash, Arc<str>>) -> Option<Item> {
    let hash = task.result?;
    let text = Text { hash, body: Arc::clone(texts.get(&hash)?) };
    Some(sources::output(tier, format!("task:{}", task.id).into(), Arc::clone(&task.title), text))
}

async fn brief_of(args: &Args, row: &RunRow, known: Option<&Arc<RunBrief>>) -> Result<Arc<RunBrief>, Error> {
    let settings = Settings::of(row)?;
    let cost_max = settings.limits.cost_max;
    let project_max = settings.limits.project_cost_max;
    let task_max = settings.limits.task_cost_max;
    if let Some(known) = known
        && known.models == settings.models
        && known.approve == settings.approve
        && known.mode == settings.mode()
        && known.project_max == project_max
        && known.task_max == task_max
        && matches!(&known.post, Post::Worker { cost_max: known, .. } if *known == cost_max)
    {
        return Ok(Arc::clone(known));
    }
    if row.registry != args.deps.registry().hash() {
        tracing::warn!(run_id = %row.id, "the run began with another registry than this worker's");
    }
    Ok(Arc::new(RunBrief {
        run: row.id,
        post: Post::Worker { node: Arc::clone(&args.node), cost_max },
        goal: Arc::clone(&row.goal),
        scope: ProjectScope::of(&row.project),
        mode: settings.mode(),
        approve: settings.approve,
        workspace: settings.workspace.as_deref().map(Into::into),
        models: settings.models,
        keys: args.deps.store.keys(row.id).await?,
        // The database counts what all machines spend; this one has no limit of its own.
        purse: Purse::new(None, MicroUsd::ZERO, task_max),
        project_max,
        task_max,
    }))
}
