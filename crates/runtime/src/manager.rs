//! Manager: one per run; performs what the engine's schedule decides and makes every change durable first.
//!
//! **Invariant:** a task's dependents start only after its result is committed.
//! **Invariant:** every write carries the run's lease epoch; a stale manager stops and is loaded anew.
//! **Invariant:** one report per attempt has an effect; late and repeated ones do nothing.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use crewline_engine::{
    context::{self, Item, Tier},
    plan::{self, Rules},
    schedule::{self, Action, Dag, Finish, Node, Retry, Stage},
    wallet::Wallet,
};
use crewline_models::OutputSchema;
use crewline_store::{AttemptEnd, CallEnd, Change, NewAttempt, RunEnd, Transition};
use crewline_types::{
    AttemptId, ErrorKind, IdSource, MemoryId, MemoryRecord, MemoryType, MicroUsd, ModelAlias, Priority, ProjectScope,
    Role, RunId, RunStatus, Task, TaskCounts, TaskId, TaskKind, TaskStatus, Text, Timestamp, Usage,
    event::{CallOutcome, ErrorNote, EventBody, NewEvent},
};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use crate::{
    actor::{Outcome, WorkGuard, pipe_to_self, remind},
    assignment::{
        Assignment, EndedCall, Failure, Obligation, OpenCall, Output, Progress, Report, RunBrief, Spent, TaskBrief,
        Work,
    },
    attempt::{Deps, end_calls},
    hub::Hub,
    journal::{self, Ack, Refusal},
    load::{self, Loaded},
    lock::RunLock,
    memory, metrics,
    planning::{self, Author, Below},
    router,
};

/// Times an attempt of a task may be lost (panic, killed specialist) before that counts as its failure.
const LOSSES_MAX: u32 = 5;
/// Pause after a lost attempt, times the number of losses.
const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// The manager actor; all data is in [`State`].
#[derive(Debug)]
pub struct Manager;

/// What you can tell a manager.
#[derive(Debug)]
pub enum Message {
    /// An attempt ended.
    Reported(Box<Report>),
    /// Starts nothing more, lets what runs end, then ends the run as interrupted.
    Drain,
    /// Like [`Message::Drain`], but aborts what runs.
    Abort,
    /// Aborts what runs and ends the run for good.
    Cancel,
    /// Internal: the run is loaded.
    Loaded(Outcome<Result<Box<Loaded>, crate::Error>>),
    /// Internal: a change is recorded, or not.
    Recorded(Recorded, Result<(), Refusal>),
    /// Internal: the pause before another attempt is over.
    RetryDue(u32),
    /// Internal: the pause after a lost attempt is over.
    LossDue(u32, u32),
    /// Internal: the run's time is up.
    Deadline,
    /// Internal: the lease has to be renewed.
    Renew,
    /// Internal: the lease is renewed, or not.
    Renewed(Outcome<Result<(), crewline_store::Error>>),
}

/// Which change was recorded.
#[derive(Debug)]
pub enum Recorded {
    /// The plan.
    Plan,
    /// A task's result.
    Result(u32, u32),
    /// Anything that nothing waits for.
    Note,
    /// The end of the run.
    End,
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
    /// Holds the run on this machine.
    pub lock: Option<Arc<RunLock>>,
    /// Gives out task ids.
    pub ids: Arc<Mutex<IdSource>>,
}

/// A task of the plan.
struct Entry {
    brief: Arc<TaskBrief>,
    needs: Vec<u32>,
    refers: Vec<u32>,
    dependents: Vec<u32>,
    status: TaskStatus,
    losses: u32,
    spent: Spent,
    result: Option<Text>,
    started_at: Option<Timestamp>,
    /// `task:<id>`, as contexts name it.
    source: Arc<str>,
    priority: Priority,
    /// What its result leaves in memory, until that is committed.
    memories: Vec<MemoryRecord>,
}

/// Why a run stops before its plan is done.
#[derive(Debug, Clone)]
struct Stop {
    status: RunStatus,
    error: Option<ErrorNote>,
}

/// One run.
pub struct State {
    args: Args,
    run: Option<Running>,
    guards: Vec<WorkGuard>,
    pauses: HashMap<u32, WorkGuard>,
}

/// A run that is loaded.
struct Running {
    brief: Arc<RunBrief>,
    settings: crate::settings::Settings,
    root: Entry,
    root_attempt: u32,
    tasks: Vec<Entry>,
    by_id: HashMap<TaskId, u32>,
    dag: Option<Dag>,
    index: Option<Text>,
    stop: Option<Stop>,
    first_failure: Option<ErrorNote>,
    has_answer: bool,
    steps: u32,
    unpriced: u64,
    started_at: Timestamp,
    is_ending: bool,
    pending_actions: VecDeque<Action>,
    /// Attempts of each task when it was loaded.
    attempts: Vec<u32>,
    attempts_max: u32,
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
        Ok(State { args, run: None, guards: vec![guard], pauses: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Reported(report) => state.on_reported(&myself, *report)?,
            Message::Drain => state.on_drain(&myself),
            Message::Abort => state.on_abort(&myself, RunStatus::Interrupted),
            Message::Cancel => state.on_abort(&myself, RunStatus::Cancelled),
            Message::Loaded(outcome) => state.on_loaded(&myself, outcome)?,
            Message::Recorded(what, result) => state.on_recorded(&myself, &what, result)?,
            Message::RetryDue(node) => state.on_retry_due(&myself, node),
            Message::LossDue(node, attempt) => state.on_loss_due(&myself, node, attempt),
            Message::Deadline => state.on_deadline(&myself),
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
        let mut running = Running::new(&loaded, self.args.deps.registry.policies().attempts_max, now);
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
        self.run = Some(running);
        if has_plan {
            self.apply(myself, schedule::Event::Begin);
        } else {
            self.plan(myself);
        }
        Ok(())
    }

    /// Assigns the root task: planning.
    fn plan(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        if run.settings.limits.steps_max.is_some_and(|max| run.steps >= max) {
            run.stop.get_or_insert_with(|| steps_reached(run.steps));
        }
        if run.stop.is_some() {
            self.end(myself, Finish::Drained);
            return;
        }
        run.steps += 1;
        run.root_attempt += 1;
        let rules = planning_rules(&self.args.deps.registry);
        let schema = OutputSchema { name: "plan".into(), schema: plan::schema(&rules) };
        let attempt = AttemptId { task: run.root.brief.id, number: run.root_attempt };
        let assignment = Assignment {
            attempt,
            run: Arc::clone(&run.brief),
            task: Arc::clone(&run.root.brief),
            sources: Vec::new(),
            work: Work::Plan { rules: Arc::new(rules), schema: Arc::new(schema), is_strict: run.settings.strict_plan },
            rungs: Vec::new(),
            obligation: Obligation::new(attempt, myself.clone()),
        };
        self.args.deps.rooms.router.tell(router::Message::Assign(Box::new(assignment)));
    }

    fn on_reported(&mut self, myself: &ActorRef<Message>, report: Report) -> Result<(), ActorProcessingErr> {
        let Some(run) = &mut self.run else { return Ok(()) };
        run.has_answer |= report.progress.ended.iter().any(|it| it.end.outcome == CallOutcome::Ok);
        run.unpriced += report.progress.spent.unpriced;
        if report.attempt.task == run.root.brief.id {
            if report.attempt.number == run.root_attempt && run.dag.is_none() && !run.is_ending {
                return self.on_plan_reported(myself, report);
            }
            return Ok(());
        }
        let Some(&node) = run.by_id.get(&report.attempt.task) else { return Ok(()) };
        let is_current = run
            .dag
            .as_ref()
            .is_some_and(|dag| dag.stage(node) == Stage::Running && dag.attempt(node) == report.attempt.number);
        if !is_current {
            return Ok(());
        }
        let Report { attempt, progress, result } = report;
        match result {
            Ok(output) => self.complete(myself, node, attempt, progress, output),
            Err(failure) => return self.fail(myself, node, attempt, progress, &failure),
        }
        Ok(())
    }

    fn on_plan_reported(&mut self, myself: &ActorRef<Message>, report: Report) -> Result<(), ActorProcessingErr> {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return Ok(()) };
        let Report { attempt, progress, result } = report;
        let is_started = progress.is_started;
        let (spent, ended) = close_calls(progress);
        run.root.spent.usage += spent.usage;
        run.root.spent.cost += spent.cost;
        let role = run.root.brief.role.clone();
        let mut change = run.change(at);
        end_calls(&mut change, attempt, &role, ended);
        let mut end = AttemptEnd {
            id: attempt,
            ok: true,
            model: String::new(),
            usage: spent.usage,
            cost: spent.cost,
            error: None,
        };
        let failure = match result {
            Ok(Output { plan: Some(made), text, model }) => {
                let below = Below { run: run.brief.run, root: run.root.brief.id, goal: &run.brief.goal, at };
                let rows = {
                    let mut ids = self.args.ids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let tokens = self.args.deps.limits.index_tokens;
                    planning::rows(below, &made.plan, Author::Planner, &mut ids, tokens)
                };
                end.model = model.as_str().into();
                change.attempts_ended.push(end);
                change.transitions.push(Transition {
                    attempts_from: attempt.number,
                    attempts_to: attempt.number,
                    usage: spent.usage,
                    cost: spent.cost,
                    model: Some(model.as_str().into()),
                    ..Transition::new(attempt.task, TaskStatus::InProgress, TaskStatus::InProgress)
                });
                change.texts.extend([text, rows.index.clone()]);
                change.index = Some(rows.index.hash);
                run.adopt(&rows.tasks, &rows.links, HashMap::new());
                run.index = Some(rows.index);
                change
                    .events
                    .push(NewEvent::of_run(at, EventBody::PlanReady { tasks: rows.entries, repairs: made.repairs }));
                change.tasks = rows.tasks;
                change.links = rows.links;
                self.record(myself, change, Recorded::Plan);
                return Ok(());
            }
            Ok(Output { plan: None, .. }) => Failure::Lost,
            Err(failure) => failure,
        };
        let note = failure.note();
        end.ok = false;
        end.error = Some(note.clone());
        let from = if is_started { TaskStatus::InProgress } else { TaskStatus::Pending };
        if !is_started {
            change.attempts.push(NewAttempt { id: attempt, role, model: String::new() });
        }
        change.attempts_ended.push(end);
        let mut transition = Transition {
            attempts_from: if is_started { attempt.number } else { attempt.number - 1 },
            attempts_to: attempt.number,
            usage: spent.usage,
            cost: spent.cost,
            reason: Some(note.message.to_string()),
            ..Transition::new(attempt.task, from, TaskStatus::Pending)
        };
        let next = run.after_planning_failed(&failure, attempt.number, self.args.deps.registry.policies().attempts_max);
        match next {
            AfterPlanning::Again(pause) => {
                change.transitions.push(transition);
                self.record(myself, change, Recorded::Note);
                self.pauses.insert(u32::MAX, remind(myself, pause, || Message::RetryDue(u32::MAX)));
            }
            AfterPlanning::Stop(stop) => {
                if stop.status == RunStatus::Failed {
                    transition.to = TaskStatus::Failed;
                    run.root.status = TaskStatus::Failed;
                }
                change.transitions.push(transition);
                run.stop.get_or_insert(stop);
                self.record(myself, change, Recorded::Note);
                self.end(myself, Finish::Drained);
            }
            AfterPlanning::Distrust => return Err(Distrust(note.message.to_string()).into()),
        }
        Ok(())
    }

    /// Records a result; its dependents start when that is done.
    fn complete(
        &mut self,
        myself: &ActorRef<Message>,
        node: u32,
        attempt: AttemptId,
        progress: Progress,
        output: Output,
    ) {
        let at = self.args.deps.clock.now();
        let summary_tokens = self.args.deps.limits.summary_tokens;
        let Some(run) = &mut self.run else { return };
        let (spent, ended) = close_calls(progress);
        let mut change = run.change(at);
        let entry = &mut run.tasks[node as usize];
        entry.spent.usage += spent.usage;
        entry.spent.cost += spent.cost;
        let brief = Arc::clone(&entry.brief);
        let model: Arc<str> = output.model.as_str().into();
        end_calls(&mut change, attempt, &brief.role, ended);
        change.transitions.push(Transition {
            attempts_from: attempt.number,
            attempts_to: attempt.number,
            result: Some(output.text.hash),
            model: Some(model.to_string()),
            usage: spent.usage,
            cost: spent.cost,
            ..Transition::new(brief.id, TaskStatus::InProgress, TaskStatus::Completed)
        });
        change.attempts_ended.push(AttemptEnd {
            id: attempt,
            ok: true,
            model: model.to_string(),
            usage: spent.usage,
            cost: spent.cost,
            error: None,
        });
        let took = at.since(entry.started_at.unwrap_or(at));
        change.events.push(NewEvent::of_task(
            at,
            brief.id,
            Some(attempt.number),
            EventBody::TaskCompleted {
                key: Arc::clone(&brief.key),
                role: brief.role.clone(),
                model,
                usage: entry.spent.usage,
                cost_usd: entry.spent.cost,
                elapsed_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            },
        ));
        entry.result = Some(output.text.clone());
        metrics::task_ended(&brief.role, "completed", took);
        let memories = run.memories(node, &output.text, summary_tokens, at);
        run.tasks[node as usize].memories.clone_from(&memories);
        change.memories = memories;
        change.texts.push(output.text);
        self.record(myself, change, Recorded::Result(node, attempt.number));
    }

    fn fail(
        &mut self,
        myself: &ActorRef<Message>,
        node: u32,
        attempt: AttemptId,
        progress: Progress,
        failure: &Failure,
    ) -> Result<(), ActorProcessingErr> {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return Ok(()) };
        let note = failure.note();
        let mut is_lost = false;
        let event = match failure {
            Failure::Stale => return Err(Distrust(note.message.to_string()).into()),
            Failure::Store { .. } => {
                self.give_up(myself, &note);
                return Ok(());
            }
            Failure::OverBudget { message } => {
                run.stop.get_or_insert_with(|| limit_reached("max_cost", message.clone()));
                is_lost = true;
                schedule::Event::AttemptLost { node, attempt: attempt.number }
            }
            Failure::Lost if run.stop.is_some() || run.tasks[node as usize].losses < LOSSES_MAX => {
                run.tasks[node as usize].losses += 1;
                is_lost = true;
                schedule::Event::AttemptLost { node, attempt: attempt.number }
            }
            Failure::Models { may_retry: false, .. } | Failure::Lost => {
                schedule::Event::AttemptFailed { node, attempt: attempt.number, retry: Retry::Never }
            }
            Failure::Models { may_retry: true, .. } | Failure::Busy | Failure::TimedOut => {
                schedule::Event::AttemptFailed { node, attempt: attempt.number, retry: Retry::May }
            }
        };
        let is_started = progress.is_started;
        let (spent, ended) = close_calls(progress);
        let mut change = run.change(at);
        let entry = &mut run.tasks[node as usize];
        entry.spent.usage += spent.usage;
        entry.spent.cost += spent.cost;
        let brief = Arc::clone(&entry.brief);
        end_calls(&mut change, attempt, &brief.role, ended);
        if !is_started {
            change.attempts.push(NewAttempt { id: attempt, role: brief.role.clone(), model: String::new() });
        }
        change.attempts_ended.push(AttemptEnd {
            id: attempt,
            ok: false,
            model: String::new(),
            usage: spent.usage,
            cost: spent.cost,
            error: Some(note.clone()),
        });
        let mut transition = Transition {
            attempts_from: if is_started { attempt.number } else { attempt.number - 1 },
            attempts_to: attempt.number,
            usage: spent.usage,
            cost: spent.cost,
            reason: Some(note.message.to_string()),
            ..Transition::new(
                brief.id,
                if is_started { TaskStatus::InProgress } else { TaskStatus::Pending },
                TaskStatus::Pending,
            )
        };
        if is_lost && run.stop.is_none() {
            // Not at once: what lost this attempt may need a moment to come back.
            change.transitions.push(transition);
            entry.status = TaskStatus::Pending;
            let pause = LOSS_PAUSE * entry.losses;
            self.record(myself, change, Recorded::Note);
            let number = attempt.number;
            self.pauses.insert(node, remind(myself, pause, move || Message::LossDue(node, number)));
            return Ok(());
        }
        let is_final = {
            let Some(dag) = &mut run.dag else { return Ok(()) };
            if is_lost {
                dag.apply(schedule::Event::Drain);
            }
            let actions = dag.apply(event);
            let is_final = actions.iter().any(|it| matches!(it, Action::Fail { node: failed } if *failed == node));
            run.pending_actions.extend(actions);
            is_final
        };
        let entry = &mut run.tasks[node as usize];
        entry.status = if is_final { TaskStatus::Failed } else { TaskStatus::Pending };
        transition.to = entry.status;
        change.transitions.push(transition);
        if !is_lost {
            change.events.push(NewEvent::of_task(
                at,
                brief.id,
                Some(attempt.number),
                EventBody::TaskFailed {
                    key: Arc::clone(&brief.key),
                    role: brief.role.clone(),
                    error: note.clone(),
                    will_retry: !is_final,
                },
            ));
        }
        if is_final {
            metrics::task_ended(&brief.role, "failed", at.since(entry.started_at.unwrap_or(at)));
            run.first_failure.get_or_insert(ErrorNote {
                message: format!("task `{}` ({}) failed: {}", brief.key, brief.title, note.message).into(),
                ..note
            });
        }
        self.record(myself, change, Recorded::Note);
        self.perform(myself);
        Ok(())
    }

    /// Tells the schedule what happened and performs what it decides.
    fn apply(&mut self, myself: &ActorRef<Message>, event: schedule::Event) {
        let Some(run) = &mut self.run else { return };
        let Some(dag) = &mut run.dag else { return };
        let actions = dag.apply(event);
        run.pending_actions.extend(actions);
        self.perform(myself);
    }

    fn perform(&mut self, myself: &ActorRef<Message>) {
        while let Some(action) = self.run.as_mut().and_then(|run| run.pending_actions.pop_front()) {
            match action {
                Action::Dispatch { node, attempt } => self.dispatch(myself, node, attempt),
                Action::RetryAfter { node, delay } => {
                    self.pauses.insert(node, remind(myself, delay, move || Message::RetryDue(node)));
                }
                // The transition of the failed task itself is recorded with its attempt's end.
                Action::Fail { .. } => {}
                Action::Block { node, because } => self.block(myself, node, because),
                Action::Finish(finish) => self.end(myself, finish),
            }
        }
    }

    fn dispatch(&mut self, myself: &ActorRef<Message>, node: u32, attempt: u32) {
        let now = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        if run.settings.limits.steps_max.is_some_and(|max| run.steps >= max) {
            run.stop.get_or_insert_with(|| steps_reached(run.steps));
            if let Some(dag) = &mut run.dag {
                run.pending_actions.extend(dag.apply(schedule::Event::Drain));
                run.pending_actions.extend(dag.apply(schedule::Event::AttemptLost { node, attempt }));
            }
            return;
        }
        run.steps += 1;
        let entry = &mut run.tasks[node as usize];
        entry.status = TaskStatus::InProgress;
        entry.started_at.get_or_insert(now);
        let id = AttemptId { task: entry.brief.id, number: attempt };
        let assignment = Assignment {
            attempt: id,
            run: Arc::clone(&run.brief),
            task: Arc::clone(&run.tasks[node as usize].brief),
            sources: run.sources(node),
            work: Work::Text,
            rungs: Vec::new(),
            obligation: Obligation::new(id, myself.clone()),
        };
        self.args.deps.rooms.router.tell(router::Message::Assign(Box::new(assignment)));
    }

    fn block(&mut self, myself: &ActorRef<Message>, node: u32, because: u32) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        let cause = Arc::clone(&run.tasks[because as usize].brief);
        let reason = format!("it requires `{}` ({}), which failed", cause.key, cause.title);
        let attempts = run.dag.as_ref().map_or(0, |dag| dag.attempt(node));
        let mut change = run.change(at);
        let entry = &mut run.tasks[node as usize];
        entry.status = TaskStatus::Blocked;
        change.transitions.push(Transition {
            attempts_from: attempts,
            attempts_to: attempts,
            reason: Some(reason.clone()),
            ..Transition::new(entry.brief.id, TaskStatus::Pending, TaskStatus::Blocked)
        });
        change.events.push(NewEvent::of_task(
            at,
            entry.brief.id,
            None,
            EventBody::TaskBlocked { key: Arc::clone(&entry.brief.key), reason: reason.into() },
        ));
        self.record(myself, change, Recorded::Note);
    }

    /// Records the end of the run; the manager stops when that is done.
    fn end(&mut self, myself: &ActorRef<Message>, finish: Finish) {
        let at = self.args.deps.clock.now();
        let Some(run) = &mut self.run else { return };
        if run.is_ending {
            return;
        }
        run.is_ending = true;
        let stop = run.stop.take();
        let (status, error) = match (finish, stop) {
            (Finish::AllDone, _) => (RunStatus::Completed, None),
            (Finish::SomeFailed | Finish::Drained, Some(stop)) => (stop.status, stop.error),
            (Finish::SomeFailed, None) => (RunStatus::Failed, run.failure()),
            (Finish::Drained, None) => (RunStatus::Interrupted, None),
        };
        let mut change = run.change(at);
        let root_to = match status {
            RunStatus::Completed => Some(TaskStatus::Completed),
            RunStatus::Failed => Some(TaskStatus::Failed),
            RunStatus::Cancelled => Some(TaskStatus::Cancelled),
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => None,
        };
        if let Some(to) = root_to
            && run.root.status == TaskStatus::InProgress
        {
            let model = None;
            change.transitions.push(Transition {
                attempts_from: run.root_attempt,
                attempts_to: run.root_attempt,
                model,
                ..Transition::new(run.root.brief.id, TaskStatus::InProgress, to)
            });
        }
        if let (RunStatus::LimitReached, Some(note)) = (status, &error) {
            let limit = note.code.strip_prefix("budget.").unwrap_or(&note.code).into();
            change
                .events
                .push(NewEvent::of_run(at, EventBody::BudgetReached { limit, message: Arc::clone(&note.message) }));
        }
        let mut tasks = TaskCounts::default();
        let mut spent = Spent { unpriced: run.unpriced, ..run.root.spent };
        for entry in &run.tasks {
            tasks.add(entry.status);
            spent.usage += entry.spent.usage;
            spent.cost += entry.spent.cost;
        }
        let elapsed = at.since(run.started_at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunFinished {
                status,
                tasks,
                cost_usd: spent.cost,
                unpriced_calls: spent.unpriced,
                usage: spent.usage,
                elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
                error: error.clone(),
            },
        ));
        change.run_status = Some(RunEnd {
            status,
            finished_at: at,
            error: error.as_ref().and_then(|note| serde_json::to_string(note).ok()),
        });
        metrics::run_ended(status);
        self.record(myself, change, Recorded::End);
    }

    fn on_recorded(
        &mut self,
        myself: &ActorRef<Message>,
        what: &Recorded,
        result: Result<(), Refusal>,
    ) -> Result<(), ActorProcessingErr> {
        match result {
            Ok(()) => {}
            Err(refusal @ (Refusal::Stale | Refusal::Unknown)) => return Err(Distrust(refusal.to_string()).into()),
            Err(Refusal::Failed { code, message }) => {
                let kind = ErrorKind::Unavailable;
                self.give_up(myself, &ErrorNote { code: code.into(), kind, message: message.into() });
                return Ok(());
            }
        }
        match what {
            Recorded::Plan => self.on_plan_recorded(myself),
            Recorded::Result(node, attempt) => {
                if let Some(run) = &mut self.run {
                    let entry = &mut run.tasks[*node as usize];
                    entry.status = TaskStatus::Completed;
                    let records = std::mem::take(&mut entry.memories);
                    let scope = run.brief.scope.clone();
                    self.args.deps.rooms.memory.tell(memory::Message::Remember(scope, records));
                }
                self.apply(myself, schedule::Event::Succeeded { node: *node, attempt: *attempt });
            }
            Recorded::Note => {}
            Recorded::End => myself.stop(None),
        }
        Ok(())
    }

    fn on_plan_recorded(&mut self, myself: &ActorRef<Message>) {
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
        if run.stop.is_some() {
            self.apply(myself, schedule::Event::Drain);
        }
        self.apply(myself, schedule::Event::Begin);
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

    fn on_drain(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else {
            // Not loaded yet: nothing runs, and the run stays as it is for `resume`.
            myself.stop(None);
            return;
        };
        run.stop.get_or_insert(Stop { status: RunStatus::Interrupted, error: None });
        let is_planning_paused = self.pauses.remove(&u32::MAX).is_some();
        if is_planning_paused {
            self.end(myself, Finish::Drained);
        } else {
            self.apply(myself, schedule::Event::Drain);
        }
    }

    fn on_abort(&mut self, myself: &ActorRef<Message>, status: RunStatus) {
        if let Some(run) = &mut self.run {
            run.stop = Some(Stop { status, error: None });
            self.args.deps.rooms.router.tell(router::Message::CancelRun(run.brief.run));
        }
        // Attempts that wait for a retry are not running; their pauses end here.
        let lost: Vec<u32> = self.pauses.keys().copied().filter(|node| *node != u32::MAX).collect();
        self.on_drain(myself);
        for node in lost {
            if self.pauses.remove(&node).is_some()
                && let Some(attempt) = self.run.as_ref().and_then(|run| Some(run.dag.as_ref()?.attempt(node)))
            {
                self.apply(myself, schedule::Event::AttemptLost { node, attempt });
            }
        }
    }

    fn on_deadline(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &mut self.run else { return };
        let time_max = run.settings.limits.time_max.unwrap_or_default();
        let stop = limit_reached("max_time", format!("the run took longer than {time_max:?}"));
        run.stop.get_or_insert(stop);
        self.args.deps.rooms.router.tell(router::Message::CancelRun(run.brief.run));
        self.on_drain(myself);
    }

    fn on_renew(&mut self, myself: &ActorRef<Message>) {
        let Some(run) = &self.run else { return };
        let (store, id, epoch, lease) =
            (self.args.store.clone(), run.brief.run, run.brief.epoch, self.args.deps.limits.lease);
        let work = async move { store.renew_run(id, epoch, lease).await };
        self.guards.retain(|guard| !guard.is_finished());
        self.guards.push(pipe_to_self(myself, lease / 3, work, Message::Renewed));
        self.guards.push(remind(myself, lease / 3, || Message::Renew));
    }

    /// The database does not take our writes: nothing more can be promised, so nothing more is started.
    fn give_up(&mut self, myself: &ActorRef<Message>, note: &ErrorNote) {
        tracing::error!(run_id = %self.args.run, error.code = &*note.code, error = &*note.message, "run stops");
        self.args.deps.rooms.router.tell(router::Message::CancelRun(self.args.run));
        self.args.hub.give_up(self.args.run, note.clone());
        if let Some(run) = &mut self.run {
            run.is_ending = true;
        }
        myself.stop(None);
    }

    fn record(&self, myself: &ActorRef<Message>, change: Change, what: Recorded) {
        let to = myself.clone();
        let ack = Ack::new(move |result| crate::actor::tell(&to, Message::Recorded(what, result)));
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

/// What follows a planning attempt that made nothing.
enum AfterPlanning {
    Again(Duration),
    Stop(Stop),
    Distrust,
}

impl Running {
    fn new(loaded: &Loaded, attempts_max: u32, now: Timestamp) -> Self {
        let row = &loaded.row;
        let spent: MicroUsd = loaded.tasks.iter().map(|task| task.cost).sum();
        let wallet = Wallet::new(loaded.settings.limits.cost_max, spent + loaded.lost_cost());
        let brief = RunBrief {
            run: row.id,
            epoch: loaded.epoch,
            goal: Arc::clone(&row.goal),
            scope: ProjectScope::of(&row.project),
            mode: loaded.settings.mode(),
            wallet: Arc::new(Mutex::new(wallet)),
        };
        let mut run = Self {
            brief: Arc::new(brief),
            settings: loaded.settings.clone(),
            root: Entry::of(&loaded.root),
            root_attempt: loaded.root.attempts,
            tasks: Vec::new(),
            by_id: HashMap::new(),
            dag: None,
            index: loaded.index.clone(),
            stop: None,
            first_failure: None,
            has_answer: loaded.has_answer,
            steps: loaded.steps,
            unpriced: loaded.unpriced,
            started_at: now,
            is_ending: false,
            pending_actions: VecDeque::new(),
            attempts: Vec::new(),
            attempts_max,
        };
        run.adopt(&loaded.tasks, &loaded.links, loaded.results.clone());
        run
    }

    /// Takes over the tasks of a plan.
    fn adopt(
        &mut self,
        tasks: &[Task],
        links: &[(TaskId, TaskId, crewline_types::LinkKind)],
        mut results: HashMap<TaskId, Text>,
    ) {
        self.tasks = tasks.iter().map(Entry::of).collect();
        self.by_id = tasks.iter().zip(0..).map(|(task, node)| (task.id, node)).collect();
        for (from, to, kind) in links {
            let (Some(&from), Some(&to)) = (self.by_id.get(from), self.by_id.get(to)) else { continue };
            match kind {
                crewline_types::LinkKind::Requires => {
                    self.tasks[from as usize].needs.push(to);
                    self.tasks[to as usize].dependents.push(from);
                }
                crewline_types::LinkKind::Refers => self.tasks[from as usize].refers.push(to),
                crewline_types::LinkKind::Duplicates | crewline_types::LinkKind::RelatesTo => {}
            }
        }
        for entry in &mut self.tasks {
            entry.result = results.remove(&entry.brief.id);
            if entry.status == TaskStatus::InProgress {
                entry.status = TaskStatus::Pending;
            }
        }
        self.attempts = tasks.iter().map(|task| task.attempts).collect();
    }

    /// Closes what a crash left open: attempts that run nowhere and calls whose answer is lost.
    fn recover(&mut self, loaded: &Loaded, at: Timestamp) -> Option<Change> {
        let mut change = self.change(at);
        for task in std::iter::once(&loaded.root).chain(&loaded.tasks) {
            let is_planned_root = task.kind == TaskKind::Root && !loaded.tasks.is_empty();
            if task.status != TaskStatus::InProgress || is_planned_root {
                continue;
            }
            let id = AttemptId { task: task.id, number: task.attempts };
            let mut spent = Spent::default();
            let mut ended = Vec::new();
            for lost in loaded.open_calls.iter().filter(|it| it.id.attempt == id) {
                let note = ErrorNote {
                    code: "model.lost".into(),
                    kind: ErrorKind::Unavailable,
                    message: "the answer was lost when the process ended".into(),
                };
                let end = CallEnd {
                    id: lost.id,
                    outcome: CallOutcome::Lost,
                    usage: Usage { estimated: true, ..Usage::default() },
                    cost: lost.reserved,
                    elapsed: Duration::ZERO,
                    reply: None,
                    error: Some(note),
                };
                spent.add(&end);
                ended.push(EndedCall {
                    end,
                    model: ModelAlias::from(lost.model.as_str()),
                    provider: lost.provider.as_str().into(),
                });
            }
            end_calls(&mut change, id, &task.role, ended);
            change.attempts_ended.push(AttemptEnd {
                id,
                ok: false,
                model: String::new(),
                usage: spent.usage,
                cost: spent.cost,
                error: Some(Failure::Lost.note()),
            });
            change.transitions.push(Transition {
                attempts_from: task.attempts,
                attempts_to: task.attempts,
                usage: spent.usage,
                cost: spent.cost,
                ..Transition::new(task.id, TaskStatus::InProgress, TaskStatus::Pending)
            });
            self.unpriced += spent.unpriced;
            let entry = match self.by_id.get(&task.id) {
                Some(node) => &mut self.tasks[*node as usize],
                None => &mut self.root,
            };
            entry.spent.usage += spent.usage;
            entry.spent.cost += spent.cost;
            entry.status = TaskStatus::Pending;
        }
        (!change.transitions.is_empty()).then_some(change)
    }

    fn build_dag(&mut self) -> Result<(), schedule::Cycle> {
        let nodes = self
            .tasks
            .iter()
            .zip(&self.attempts)
            .map(|(entry, attempts)| Node {
                priority: entry.priority,
                needs: entry.needs.clone(),
                stage: match entry.status {
                    TaskStatus::Pending | TaskStatus::InProgress | TaskStatus::AwaitingApproval => Stage::Waiting,
                    TaskStatus::Completed => Stage::Done,
                    TaskStatus::Failed | TaskStatus::Cancelled => Stage::Failed,
                    TaskStatus::Blocked => Stage::Blocked,
                },
                attempts: *attempts,
            })
            .collect();
        let limits = schedule::Limits {
            parallel_max: self.settings.concurrency.get(),
            attempts_max: self.attempts_max,
            ..schedule::Limits::default()
        };
        self.dag = Some(Dag::new(nodes, limits)?);
        self.root.status = TaskStatus::InProgress;
        Ok(())
    }

    fn change(&self, at: Timestamp) -> Change {
        Change::new(self.brief.run, self.brief.epoch, at)
    }

    /// What the plan gives to a task's context.
    fn sources(&self, node: u32) -> Vec<Item> {
        let entry = &self.tasks[node as usize];
        let mut items = Vec::with_capacity(1 + entry.needs.len() + entry.refers.len());
        if let Some(index) = &self.index {
            items.push(Item {
                tier: Tier::Index,
                source: "index".into(),
                kind: "index".into(),
                title: "INDEX.md".into(),
                text: index.clone(),
                score: 1.0,
            });
        }
        for (tier, nodes) in [(Tier::Requires, &entry.needs), (Tier::Refers, &entry.refers)] {
            for node in nodes {
                let made = &self.tasks[*node as usize];
                if let Some(text) = &made.result {
                    items.push(Item {
                        tier,
                        source: Arc::clone(&made.source),
                        kind: "task_output".into(),
                        title: Arc::clone(&made.brief.title),
                        text: text.clone(),
                        score: 1.0,
                    });
                }
            }
        }
        items
    }

    /// What is worth remembering of a result: a summary, and a hand-off for every other role that needs it (G4, R4).
    fn memories(&self, node: u32, text: &Text, tokens_max: u32, at: Timestamp) -> Vec<MemoryRecord> {
        let entry = &self.tasks[node as usize];
        let brief = &entry.brief;
        let summary = context::summarise(&text.body, tokens_max);
        let project = self.brief.scope.project();
        let record = |kind: MemoryType, text: String, source_ids| MemoryRecord {
            id: MemoryId::of(project, Some(brief.id), kind.as_str(), &text),
            project: project.into(),
            run: Some(self.brief.run),
            task: Some(brief.id),
            kind,
            agent: brief.role.as_str().into(),
            created_at: at,
            text: text.into(),
            source_ids,
        };
        let task_summary = record(MemoryType::TaskSummary, format!("{}\n\n{summary}", brief.title), Vec::new());
        let source = task_summary.id;
        let mut records = vec![task_summary];
        let mut next: Vec<&Role> = entry
            .dependents
            .iter()
            .map(|it| &self.tasks[*it as usize].brief.role)
            .filter(|it| **it != brief.role)
            .collect();
        next.sort_unstable();
        next.dedup();
        for role in next {
            let text = format!("Hand-off from {} to {role}: {}\n\n{summary}", brief.role, brief.title);
            records.push(record(MemoryType::HandoffSummary, text, vec![source]));
        }
        records
    }

    /// Why the run failed. A provider's failure counts as the run's only when no model ever answered.
    fn failure(&self) -> Option<ErrorNote> {
        let mut note = self.first_failure.clone()?;
        if self.has_answer {
            match note.kind {
                ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Busy | ErrorKind::Auth => {
                    note.kind = ErrorKind::Conflict;
                }
                ErrorKind::Invalid
                | ErrorKind::NotFound
                | ErrorKind::Conflict
                | ErrorKind::Limit
                | ErrorKind::Internal => {}
            }
        }
        Some(note)
    }

    fn after_planning_failed(&mut self, failure: &Failure, attempt: u32, attempts_max: u32) -> AfterPlanning {
        let failed = |note: ErrorNote| {
            let message = format!("planning failed: {}", note.message).into();
            AfterPlanning::Stop(Stop { status: RunStatus::Failed, error: Some(ErrorNote { message, ..note }) })
        };
        if let Some(stop) = &self.stop {
            return AfterPlanning::Stop(stop.clone());
        }
        match failure {
            Failure::Stale => AfterPlanning::Distrust,
            Failure::OverBudget { message } => AfterPlanning::Stop(limit_reached("max_cost", message.clone())),
            Failure::Lost if self.root.losses < LOSSES_MAX => {
                self.root.losses += 1;
                AfterPlanning::Again(LOSS_PAUSE * self.root.losses)
            }
            Failure::Models { may_retry: true, .. } | Failure::Busy | Failure::TimedOut
                if attempt.saturating_sub(self.root.losses) < attempts_max =>
            {
                AfterPlanning::Again(Duration::from_secs(1))
            }
            Failure::Models { .. } | Failure::Busy | Failure::TimedOut | Failure::Lost | Failure::Store { .. } => {
                failed(failure.note())
            }
        }
    }
}

impl Entry {
    fn of(task: &Task) -> Self {
        Self {
            brief: Arc::new(TaskBrief {
                id: task.id,
                key: Arc::clone(&task.key),
                title: Arc::clone(&task.title),
                description: Arc::clone(&task.description),
                role: task.role.clone(),
                kind: task.kind,
                success_criteria: task.success_criteria.clone(),
            }),
            source: format!("task:{}", task.id).into(),
            priority: task.priority,
            needs: Vec::new(),
            refers: Vec::new(),
            dependents: Vec::new(),
            status: task.status,
            losses: 0,
            spent: Spent { usage: task.usage, cost: task.cost, unpriced: 0 },
            result: None,
            started_at: task.started_at,
            memories: Vec::new(),
        }
    }
}

/// What an attempt consumed, and its calls that are not recorded as ended; a call that is still open is lost.
fn close_calls(progress: Progress) -> (Spent, Vec<EndedCall>) {
    let Progress { open, mut ended, mut spent, .. } = progress;
    if let Some(OpenCall { id, model, provider, worst, input_tokens }) = open {
        let end = CallEnd {
            id,
            outcome: CallOutcome::Cancelled,
            usage: Usage { input_tokens, estimated: true, ..Usage::default() },
            // What the provider bills for an aborted call is unknown: the worst case is never too little.
            cost: worst,
            elapsed: Duration::ZERO,
            reply: None,
            error: None,
        };
        spent.add(&end);
        ended.push(EndedCall { end, model, provider });
    }
    (spent, ended)
}

fn limit_reached(limit: &str, message: String) -> Stop {
    let note = ErrorNote { code: format!("budget.{limit}").into(), kind: ErrorKind::Limit, message: message.into() };
    Stop { status: RunStatus::LimitReached, error: Some(note) }
}

fn steps_reached(steps: u32) -> Stop {
    limit_reached("max_steps", format!("{steps} attempts were started, and that is the limit"))
}

/// What a plan made by the planner may hold.
fn planning_rules(registry: &crewline_models::Registry) -> Rules {
    let roles: Vec<Role> = registry.roles().into_iter().filter(|role| *role != Role::manager()).collect();
    let general = Role::from("researcher");
    let default_role = if roles.contains(&general) { general } else { roles.first().cloned().unwrap_or(general) };
    Rules { roles, default_role, tasks_max: registry.policies().plan_tasks_max as usize, roles_open: false }
}
