//! What a person is asked about a plan before it runs.
//!
//! **Invariant:** the question names the plan as it is recorded; when that is changed by hand, it is asked anew, and what waited
//! about the plan before goes.

use std::{collections::HashMap, fmt::Write as _};

use crewline_store::{ApprovalFilter, ApprovalRow, Change, NewApproval, Store};
use crewline_types::{
    ApprovalId, ApprovalKind, ApprovalState, Criterion, LinkKind, RunId, Task, TaskDetails, TaskId, TaskKind,
    TaskStatus, Text,
    event::{EventBody, NewEvent},
};

/// A plan as a person approves it.
pub struct PlanQuestion {
    text: Text,
    tasks: usize,
}

impl PlanQuestion {
    /// Of the tasks and links of a run, with what people said about them; the root task and tasks that were cancelled are not of
    /// its plan.
    pub fn of(tasks: &[Task], links: &[(TaskId, TaskId, LinkKind)], details: &HashMap<TaskId, TaskDetails>) -> Self {
        let is_planned = |task: &&Task| task.kind != TaskKind::Root && task.status != TaskStatus::Cancelled;
        let mut planned: Vec<&Task> = tasks.iter().filter(is_planned).collect();
        planned.sort_by_key(|task| task.position);
        let keys: HashMap<TaskId, &str> = planned.iter().map(|task| (task.id, &*task.key)).collect();
        let mut needs: HashMap<TaskId, Vec<&str>> = HashMap::new();
        for (from, to, kind) in links {
            if let (LinkKind::Requires, Some(key)) = (kind, keys.get(to)) {
                needs.entry(*from).or_default().push(key);
            }
        }
        let mut text = String::new();
        for task in &planned {
            // Writing into memory can not fail.
            let _ = writeln!(text, "{} ({}): {}", task.key, task.role, task.title);
            if let Some(needs) = needs.get_mut(&task.id) {
                needs.sort_unstable();
                let _ = writeln!(text, "  after {}", needs.join(", "));
            }
            if let Some(above) = task.parent.and_then(|parent| keys.get(&parent)) {
                let _ = writeln!(text, "  below {above}");
            }
            if !task.description.is_empty() {
                let _ = writeln!(text, "  {}", task.description);
            }
            for Criterion { criterion, check, .. } in &task.success_criteria {
                // Plain texts and numbers always serialise.
                let check = check.as_ref().map(|it| serde_json::to_string(it).unwrap_or_default());
                let check = check.map(|it| format!(" {it}")).unwrap_or_default();
                let _ = writeln!(text, "  done when: {criterion}{check}");
            }
            if let Some(TaskDetails { planned_for, deadline, .. }) = details.get(&task.id) {
                for (word, at) in [("not before", planned_for), ("not after", deadline)] {
                    if let Some(at) = at {
                        let _ = writeln!(text, "  {word} {at}");
                    }
                }
            }
        }
        Self { text: Text::from(text), tasks: planned.len() }
    }

    /// Of a run as it is recorded.
    pub async fn recorded(store: &Store, run: RunId) -> Result<Self, crewline_store::Error> {
        Ok(Self::of(&store.tasks(run).await?, &store.links(run).await?, &store.details(run).await?))
    }

    /// What was asked about exactly this plan.
    pub fn asked<'a>(&self, run: RunId, rows: &'a [ApprovalRow]) -> Option<&'a ApprovalRow> {
        let id = self.id(run);
        rows.iter().find(|row| row.id == id && row.digest == self.text.hash)
    }

    fn id(&self, run: RunId) -> ApprovalId {
        ApprovalId::of(run, &format!("plan:{}", self.text.hash))
    }

    /// Adds the question to `change`.
    pub fn ask(self, change: &mut Change) {
        let (id, subject) = (self.id(change.run), format!("a plan of {} tasks", self.tasks));
        let body = EventBody::AwaitingApproval {
            what: subject.as_str().into(),
            approval: Some(id),
            kind: Some(ApprovalKind::Plan),
        };
        change.events.push(NewEvent::of_run(change.at, body));
        change.approvals.push(NewApproval {
            id,
            task: None,
            kind: ApprovalKind::Plan,
            subject,
            detail: self.text.hash,
            digest: self.text.hash,
        });
        change.texts.push(self.text);
    }

    /// Asks anew in `change`, which changes a plan that `waiting` is about.
    pub fn ask_anew(self, change: &mut Change, waiting: &[ApprovalRow]) {
        if waiting.is_empty() || self.asked(change.run, waiting).is_some() {
            return;
        }
        change.approvals_withdrawn.extend(waiting.iter().map(|row| row.id));
        // Who listens stops at the event that says how the run stands.
        let last = change.events.pop();
        self.ask(change);
        change.events.extend(last);
    }
}

/// The questions about a run's plan that wait for an answer.
pub async fn waiting(store: &Store, run: RunId) -> Result<Vec<ApprovalRow>, crewline_store::Error> {
    let mut rows = store.approvals(ApprovalFilter { run: Some(run), is_pending: true }).await?;
    rows.retain(|row| row.kind == ApprovalKind::Plan && row.state == ApprovalState::Pending);
    Ok(rows)
}
