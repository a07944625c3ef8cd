//! The run as its manager knows it: its tasks, what they need, what they made.
//!
//! **Invariant:** the state only follows what is recorded, or what is on its way to the journal in the same order.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crewline_engine::{
    context,
    route::outage::Lot,
    schedule::{self, Action, Dag, Node, Retry, Stage},
};
use crewline_models::Policies;
use crewline_store::{AttemptEnd, Change, NewOffer, Transition};
use crewline_types::{
    AttemptId, ErrorKind, MemoryId, MemoryRecord, MemoryType, MicroUsd, ModelAlias, Priority, ProjectScope, Role,
    RunStatus, Task, TaskId, TaskStatus, Text, TextHash, Timestamp, event::ErrorNote,
};

use crate::{
    assignment::Failure,
    attempt::end_calls,
    brief::{Post, RunBrief, TaskBrief},
    config::{Dispatch, Limits},
    health::Health,
    load::Loaded,
    offer,
    progress::Spent,
    purse::Purse,
    replay::Reusable,
    summariser,
    summary_call::SummaryCalls,
};

use super::{composite, park::ROOT};

/// Times an attempt of a task may be lost (panic, killed specialist) before that counts as its failure.
pub(super) const LOSSES_MAX: u32 = 5;
/// Pause after a lost attempt, times the number of losses.
pub(super) const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// A task of the plan.
pub(super) struct Entry {
    pub(super) brief: Arc<TaskBrief>,
    pub(super) needs: Vec<u32>,
    pub(super) refers: Vec<u32>,
    pub(super) dependents: Vec<u32>,
    /// The task above it, when that is not the root.
    pub(super) parent: Option<u32>,
    /// The tasks below it in the tree, when its work is theirs.
    pub(super) below: Vec<u32>,
    pub(super) status: TaskStatus,
    pub(super) losses: u32,
    /// Times it waited for its models.
    pub(super) parks: u32,
    pub(super) spent: Spent,
    pub(super) result: Option<Text>,
    pub(super) started_at: Option<Timestamp>,
    /// `task:<id>`, as contexts name it.
    pub(super) source: Arc<str>,
    pub(super) priority: Priority,
    /// Its place in the plan.
    pub(super) position: u32,
    /// The task that asked for it.
    pub(super) created_by: Option<TaskId>,
    /// Not to begin before.
    pub(super) planned_for: Option<Timestamp>,
    /// To be done by then; none any more once it was told that it has passed.
    pub(super) deadline: Option<Timestamp>,
    pub(super) duration: Option<Duration>,
    /// What its result leaves in memory, until that is committed.
    pub(super) memories: Vec<MemoryRecord>,
}

/// Why a run stops before its plan is done.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) status: RunStatus,
    pub(super) error: Option<ErrorNote>,
}

/// A run that is loaded.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Running {
    pub(super) brief: Arc<RunBrief>,
    pub(super) epoch: u64,
    pub(super) settings: crate::settings::Settings,
    pub(super) root: Entry,
    pub(super) root_attempt: u32,
    pub(super) tasks: Vec<Entry>,
    pub(super) by_id: HashMap<TaskId, u32>,
    pub(super) dag: Option<Dag>,
    pub(super) index: Option<Text>,
    /// The same whatever ids its tasks have.
    pub(super) index_name: Option<TextHash>,
    /// The plan waits for a person.
    pub(super) is_plan_held: bool,
    /// Nothing is left but tasks that wait for people.
    pub(super) is_waiting: bool,
    /// How many questions were decided, if the run ends because it waits for people: it ends only while that holds.
    pub(super) decided: Option<u64>,
    /// Results of the run that this one replays, by key.
    pub(super) reusable: HashMap<Arc<str>, Reusable>,
    pub(super) stop: Option<Stop>,
    pub(super) first_failure: Option<ErrorNote>,
    pub(super) has_answer: bool,
    /// The models that answered a call of the run.
    pub(super) answered: HashSet<ModelAlias>,
    /// Tasks whose whole chain is down.
    pub(super) lot: Lot,
    pub(super) steps: u32,
    pub(super) unpriced: u64,
    pub(super) started_at: Timestamp,
    /// The last look at what is planned for a time.
    pub(super) looked_at: Option<Timestamp>,
    pub(super) is_ending: bool,
    /// Another process shall manage the run.
    pub(super) is_handing_over: bool,
    pub(super) pending_actions: VecDeque<Action>,
    /// Attempts of each task when it was loaded.
    pub(super) attempts: Vec<u32>,
    pub(super) policies: Policies,
    /// Offers that were decided on and are not yet on their way to the journal.
    pub(super) offers: Vec<NewOffer>,
    /// Attempts that workers had when the run was loaded.
    pub(super) adopted: HashSet<AttemptId>,
    /// Attempts of workers whose report was handled.
    pub(super) handled: HashSet<AttemptId>,
}

/// What follows a planning attempt that made nothing.
pub(super) enum AfterPlanning {
    Again(Duration),
    Parked,
    Stop(Stop),
    Distrust,
}

impl Running {
    pub(super) fn new(loaded: &Loaded, policies: Policies, dispatch: Dispatch, now: Timestamp) -> Self {
        let row = &loaded.row;
        let limits = &loaded.settings.limits;
        let purse = Purse::new(limits.cost_max, loaded.spent, limits.task_cost_max);
        for task in loaded.tasks.iter().chain([&loaded.root]).filter(|it| it.cost > MicroUsd::ZERO) {
            purse.begin(task.id, task.cost);
        }
        let brief = RunBrief {
            run: row.id,
            post: Post::Manager { epoch: loaded.epoch },
            goal: Arc::clone(&row.goal),
            scope: ProjectScope::of(&row.project),
            mode: loaded.settings.mode(),
            models: loaded.settings.models.clone(),
            approve: loaded.settings.approve,
            workspace: loaded.settings.workspace.as_deref().map(Into::into),
            keys: HashMap::new(),
            purse,
            cost_max: limits.cost_max.filter(|_| dispatch == Dispatch::Queue),
            project_max: limits.project_cost_max,
            task_max: limits.task_cost_max,
            summaries: SummaryCalls::default(),
        };
        let mut run = Self {
            brief: Arc::new(brief),
            epoch: loaded.epoch,
            settings: loaded.settings.clone(),
            root: Entry::of(&loaded.root),
            root_attempt: loaded.root.attempts,
            tasks: Vec::new(),
            by_id: HashMap::new(),
            dag: None,
            index: None,
            index_name: None,
            is_plan_held: false,
            is_waiting: false,
            decided: None,
            reusable: loaded.reusable.clone(),
            stop: None,
            first_failure: None,
            has_answer: loaded.has_answer,
            answered: loaded.answered.clone(),
            lot: Lot::default(),
            steps: loaded.steps,
            unpriced: loaded.unpriced,
            started_at: now,
            looked_at: None,
            is_ending: false,
            is_handing_over: false,
            pending_actions: VecDeque::new(),
            attempts: Vec::new(),
            policies,
            offers: Vec::new(),
            adopted: HashSet::new(),
            handled: HashSet::new(),
        };
        run.adopt(&loaded.tasks, &loaded.links, loaded.results.clone());
        run.set_times(&loaded.details);
        run.set_index(loaded.index.clone());
        run
    }

    /// Takes over the tasks of a plan.
    pub(super) fn adopt(
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
        for (entry, task) in self.tasks.iter_mut().zip(tasks) {
            entry.parent = task.parent.and_then(|parent| self.by_id.get(&parent).copied());
        }
        composite::add_needs(tasks, &mut self.tasks);
        for entry in &mut self.tasks {
            entry.result = results.remove(&entry.brief.id);
            if entry.status == TaskStatus::InProgress {
                entry.status = TaskStatus::Pending;
            }
        }
        self.attempts = tasks.iter().map(|task| task.attempts).collect();
    }

    /// Closes what a crash left open: attempts that run nowhere and calls whose answer is lost.
    pub(super) fn recover(&mut self, loaded: &Loaded, at: Timestamp) -> Option<Change> {
        let mut change = self.change(at);
        for lost in &loaded.lost {
            let id = lost.id;
            let (spent, ended) = offer::progress_of_lost(true, &lost.calls).close();
            end_calls(&mut change, id, &lost.role, ended);
            change.attempts_ended.push(AttemptEnd {
                id,
                ok: false,
                model: String::new(),
                usage: spent.usage,
                cost: spent.cost,
                error: Some(Failure::Lost.note()),
            });
            change.transitions.push(Transition {
                attempts_from: id.number,
                attempts_to: id.number,
                usage: spent.usage,
                cost: spent.cost,
                ..Transition::new(id.task, TaskStatus::InProgress, TaskStatus::Pending)
            });
            let entry = match self.by_id.get(&id.task) {
                Some(node) => &mut self.tasks[*node as usize],
                None => &mut self.root,
            };
            entry.spent.usage += spent.usage;
            entry.spent.cost += spent.cost;
            entry.status = TaskStatus::Pending;
            self.brief.purse.begin(id.task, entry.spent.cost);
        }
        if !loaded.summaries.is_empty() {
            let (spent, ended) = offer::progress_of_lost(true, &loaded.summaries).close();
            let id = AttemptId { task: loaded.root.id, number: loaded.root.attempts };
            end_calls(&mut change, id, &summariser::ROLE.into(), ended);
            change.transitions.push(summariser::charge(id.task, id.number, &spent));
            self.root.spent += spent;
        }
        (!change.transitions.is_empty()).then_some(change)
    }

    /// How urgent each task is, by what it needs and what needs it.
    pub(super) fn urgencies(&self) -> Result<Vec<u64>, schedule::Cycle> {
        let jobs = self.tasks.iter().map(|it| schedule::Job {
            needs: it.needs.clone(),
            priority: it.priority,
            duration: it.duration.map(|it| it.as_secs_f64()),
        });
        Ok(schedule::Graph::new(jobs.collect())?.urgencies(self.settings.strategy))
    }

    pub(super) fn build_dag(&mut self) -> Result<(), schedule::Cycle> {
        let urgencies = self.urgencies()?;
        let nodes = self
            .tasks
            .iter()
            .zip(&self.attempts)
            .zip(urgencies)
            .map(|((entry, attempts), urgency)| Node {
                urgency,
                priority: entry.priority,
                needs: entry.needs.clone(),
                stage: match entry.status {
                    TaskStatus::Pending | TaskStatus::InProgress => Stage::Waiting,
                    TaskStatus::AwaitingApproval => Stage::Parked,
                    // Who required a task that a person cancelled is recorded as blocked; nothing else waits for it.
                    TaskStatus::Completed | TaskStatus::Cancelled => Stage::Done,
                    TaskStatus::Failed => Stage::Failed,
                    TaskStatus::Blocked => Stage::Blocked,
                },
                attempts: *attempts,
            })
            .collect();
        let limits = schedule::Limits {
            parallel_max: self.settings.concurrency.get(),
            attempts_max: self.policies.attempts_max,
            retry_delay_base: self.policies.retry.delay,
            retry_delay_max: self.policies.retry.delay_max,
        };
        self.dag = Some(Dag::new(nodes, limits)?);
        self.root.status = TaskStatus::InProgress;
        Ok(())
    }

    /// Whether a report of an attempt that was taken over is still to be read.
    pub(super) fn awaits_reports(&self) -> bool {
        !self.adopted.is_subset(&self.handled)
    }

    pub(super) fn change(&self, at: Timestamp) -> Change {
        Change::new(self.brief.run, self.epoch, at)
    }

    /// The change that records what became of `attempt`; with it goes its offer, if it was one.
    pub(super) fn change_of(&self, attempt: AttemptId, at: Timestamp) -> Change {
        let mut change = self.change(at);
        if self.handled.contains(&attempt) {
            change.offers_settled.push(attempt);
        }
        change
    }

    /// What is worth remembering of a result: a summary, and a hand-off for every other role that needs it (G4, R4).
    pub(super) fn memories(&self, node: u32, text: &Text, limits: Limits, at: Timestamp) -> Vec<MemoryRecord> {
        let entry = &self.tasks[node as usize];
        let brief = &entry.brief;
        let summary = context::summarise(&text.body, limits.summary_tokens);
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
            marks: crewline_types::MemoryMarks::default(),
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
            let (from, to) = (brief.role.as_str(), role.as_str());
            let text = context::handoff(from, to, &brief.title, &text.body, limits.handoff_tokens);
            records.push(record(MemoryType::HandoffSummary, text, vec![source]));
        }
        records
    }

    /// Why the run failed. A provider's failure counts as the run's only when no model ever answered.
    pub(super) fn failure(&self) -> Option<ErrorNote> {
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

    pub(super) fn after_planning_failed(
        &mut self,
        failure: &Failure,
        attempt: u32,
        health: &Health,
        now: Timestamp,
    ) -> AfterPlanning {
        let failed = |note: ErrorNote| {
            let message = format!("planning failed: {}", note.message).into();
            AfterPlanning::Stop(Stop { status: RunStatus::Failed, error: Some(ErrorNote { message, ..note }) })
        };
        if let Some(stop) = &self.stop {
            return AfterPlanning::Stop(stop.clone());
        }
        let may_retry = match failure {
            Failure::Down(outage) => match self.park(ROOT, outage, health, now) {
                Ok(()) => {
                    self.root.parks += 1;
                    return AfterPlanning::Parked;
                }
                Err(retry) => retry == Retry::May,
            },
            Failure::Models { may_retry, .. } => *may_retry,
            Failure::Busy | Failure::TimedOut => true,
            Failure::Lost
            | Failure::Stale
            | Failure::Awaiting { .. }
            | Failure::HandedOver { .. }
            | Failure::OverBudget { .. }
            | Failure::Store { .. } => false,
        };
        self.lot.forget(ROOT);
        match failure {
            // Planning has no tools and asks nobody.
            Failure::Stale => AfterPlanning::Distrust,
            Failure::OverBudget { cap, message } => AfterPlanning::Stop(limit_reached(cap.limit(), message.clone())),
            Failure::Lost if self.root.losses < LOSSES_MAX => {
                self.root.losses += 1;
                AfterPlanning::Again(LOSS_PAUSE * self.root.losses)
            }
            Failure::Down(_) | Failure::Models { .. } | Failure::Busy | Failure::TimedOut
                if may_retry
                    && attempt.saturating_sub(self.root.losses + self.root.parks) < self.policies.attempts_max =>
            {
                AfterPlanning::Again(self.policies.retry.delay)
            }
            Failure::Down(_)
            | Failure::Models { .. }
            | Failure::Busy
            | Failure::TimedOut
            | Failure::Lost
            | Failure::Awaiting { .. }
            | Failure::HandedOver { .. }
            | Failure::Store { .. } => failed(failure.note()),
        }
    }
}

impl Entry {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            brief: Arc::new(TaskBrief::of(task)),
            source: format!("task:{}", task.id).into(),
            priority: task.priority,
            position: task.position,
            created_by: task.created_by,
            planned_for: None,
            deadline: None,
            duration: task.duration,
            needs: Vec::new(),
            refers: Vec::new(),
            dependents: Vec::new(),
            parent: None,
            below: Vec::new(),
            status: task.status,
            losses: 0,
            parks: 0,
            spent: Spent { usage: task.usage, cost: task.cost, unpriced: 0 },
            result: None,
            started_at: task.started_at,
            memories: Vec::new(),
        }
    }
}

pub(super) fn limit_reached(limit: &str, message: String) -> Stop {
    let note = ErrorNote { code: format!("budget.{limit}").into(), kind: ErrorKind::Limit, message: message.into() };
    Stop { status: RunStatus::LimitReached, error: Some(note) }
}

pub(super) fn steps_reached(steps: u32) -> Stop {
    limit_reached("max_steps", format!("{steps} attempts were started, and that is the limit"))
}
