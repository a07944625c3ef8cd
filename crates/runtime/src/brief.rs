//! What attempts are told of their run and of their task.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::Arc,
};

use crewline_engine::route::Mode;
use crewline_store::{Change, Fence, ProjectMax};
use crewline_types::{
    AttemptId, CallId, Criterion, MicroUsd, ModelAlias, ProjectScope, Role, RunId, Task, TaskId, TaskKind, Timestamp,
};

use crate::{
    journal::{self, Refusal},
    purse::Purse,
    rooms::Room,
    settings::Approve,
    summary_call::SummaryCalls,
};

/// What all attempts of a run share.
#[derive(Debug)]
pub struct RunBrief {
    /// The run.
    pub run: RunId,
    /// Who answers for its attempts, and so what every write is fenced by.
    pub post: Post,
    /// The goal.
    pub goal: Arc<str>,
    /// The project's memory.
    pub scope: ProjectScope,
    /// Which hosts may be asked.
    pub mode: Mode,
    /// The only model that is asked for a task, by the task's key.
    pub models: BTreeMap<String, ModelAlias>,
    /// What a person wants to be asked about.
    pub approve: Approve,
    /// The folder that its specialists work in, when it has one.
    pub workspace: Option<Arc<Path>>,
    /// The keys of its tasks, as a worker needs them; its manager has the tasks themselves.
    pub keys: HashMap<TaskId, Arc<str>>,
    /// The money of the run and its tasks.
    pub purse: Purse,
    /// What all calls of the run may cost, where other machines spend it, too: the database counts.
    pub cost_max: Option<MicroUsd>,
    /// What all runs of the project may cost together; the database counts.
    pub project_max: Option<MicroUsd>,
    /// What one task may cost.
    pub task_max: Option<MicroUsd>,
    /// Its calls for summaries.
    pub summaries: SummaryCalls,
}

/// Where attempts of a run are made.
#[derive(Debug, Clone)]
pub enum Post {
    /// In the process of the run's manager.
    Manager {
        /// The manager's lease epoch.
        epoch: u64,
    },
    /// In a worker's, which has claimed them.
    Worker {
        /// The worker.
        node: Arc<str>,
    },
}

impl RunBrief {
    /// The run, when its manager is in this process and asked for the attempt.
    pub fn managed(&self) -> Option<RunId> {
        match self.post {
            Post::Manager { .. } => Some(self.run),
            Post::Worker { .. } => None,
        }
    }

    /// What follows once `change` is recorded: nothing is held any more for the calls that it ends, or whose answer it keeps, or
    /// whose attempt it ends.
    pub fn settling(self: &Arc<Self>, change: &Change) -> impl FnOnce() + Send + use<> {
        let ended = change.calls_ended.iter().map(|it| (it.id, it.cost));
        let answered = change.calls_answered.iter().map(|it| (it.id, it.cost));
        let (run, calls) = (Arc::clone(self), ended.chain(answered).collect::<Vec<_>>());
        let attempts: Vec<AttemptId> = change.attempts_ended.iter().map(|it| it.id).collect();
        move || {
            if !calls.is_empty() || !attempts.is_empty() {
                run.purse.recorded(&calls, &attempts);
            }
        }
    }

    /// The beginning of a call was refused. Where that is not certain its money stays held, as it may be found open.
    pub fn not_begun(&self, call: CallId, refusal: &Refusal) {
        match refusal {
            Refusal::Stale | Refusal::OverBudget { .. } | Refusal::Failed { .. } => {
                self.purse.refund(call);
            }
            Refusal::Unknown => {}
        }
    }

    /// Records `change`, waits for the commit, and settles its calls.
    pub fn record(
        self: &Arc<Self>,
        journal: &Room<journal::Message>,
        change: Change,
    ) -> impl Future<Output = Result<(), Refusal>> + Send + use<> {
        let then = self.settling(&change);
        journal::record_and(journal, change, then)
    }

    /// An empty change of `attempt`, fenced.
    pub fn change(&self, attempt: AttemptId, at: Timestamp) -> Change {
        let project = |max| ProjectMax { project: self.scope.project().into(), max };
        let project_max = self.project_max.map(project);
        let fence = match &self.post {
            Post::Manager { epoch } => Fence::from(*epoch),
            Post::Worker { node } => Fence::Claim { attempt, node: Arc::clone(node) },
        };
        Change { cost_max: self.cost_max, project_max, ..Change::new(self.run, fence, at) }
    }
}

/// What an attempt needs to know of its task.
#[derive(Debug, Clone)]
pub struct TaskBrief {
    /// The task.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// A line.
    pub title: Arc<str>,
    /// What is to be done.
    pub description: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// The criteria of success.
    pub success_criteria: Vec<Criterion>,
}

impl TaskBrief {
    /// What an attempt needs to know of `task`.
    pub fn of(task: &Task) -> Self {
        Self {
            id: task.id,
            key: Arc::clone(&task.key),
            title: Arc::clone(&task.title),
            description: Arc::clone(&task.description),
            role: task.role.clone(),
            kind: task.kind,
            success_criteria: task.success_criteria.clone(),
        }
    }
}
