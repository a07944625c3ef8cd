//! A task that its specialist hands to another role.
//!
//! **Invariant:** the task's role, the end of the attempt and what it left are one change: after a crash the new role goes on.

use std::sync::Arc;

use crewline_store::Change;
use crewline_types::{
    AttemptId, MemoryId, MemoryMarks, MemoryRecord, MemoryType, Role,
    event::{EventBody, NewEvent, TaskAction},
};

use super::run::Running;
use crate::{brief::TaskBrief, scribe::events_of};

impl Running {
    /// Gives the task to `to`, and keeps what `attempt` left for whoever asks memory later.
    pub(super) fn hand_over(&mut self, node: u32, attempt: AttemptId, to: &Role, summary: &str, change: &mut Change) {
        let entry = &mut self.tasks[node as usize];
        let old = Arc::clone(&entry.brief);
        entry.brief = Arc::new(TaskBrief { role: to.clone(), ..TaskBrief::clone(&old) });
        change.handed_over.push((old.id, to.clone()));
        let body = EventBody::TaskChanged {
            key: Arc::clone(&old.key),
            action: TaskAction::HandedOver,
            agent: old.role.as_str().into(),
            detail: format!("to {to}").into(),
        };
        change.events.push(NewEvent::of_task(change.at, old.id, Some(attempt.number), body));
        let project = self.brief.scope.project();
        let text = format!("{} hands `{}` to {to}.\n{summary}", old.role, old.title);
        let record = MemoryRecord {
            id: MemoryId::of(project, Some(old.id), MemoryType::HandoffSummary.as_str(), &text),
            project: project.into(),
            run: Some(self.brief.run),
            task: Some(old.id),
            kind: MemoryType::HandoffSummary,
            agent: old.role.as_str().into(),
            created_at: change.at,
            text: text.into(),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        };
        change.events.extend(events_of(std::slice::from_ref(&record), change.at));
        change.memories.push(record.clone());
        self.tasks[node as usize].memories.push(record);
    }
}
