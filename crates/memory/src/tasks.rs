//! What stands beside what: the memories of each task in the order they were made.
//!
//! **Invariant:** the order is by age, then by id, whatever the order of arrival.

use std::collections::HashMap;

use crewline_types::{MemoryId, MemoryRecord, TaskId};

/// The memories of a project by task.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: HashMap<TaskId, Task>,
}

#[derive(Default)]
struct Task {
    members: Vec<Member>,
    tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    created_at: i64,
    id: MemoryId,
    slot: u32,
}

impl Member {
    fn of(record: &MemoryRecord, slot: u32) -> Self {
        Self { created_at: record.created_at.0, id: record.id, slot }
    }
}

/// What surrounds a memory in its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) previous: Option<u32>,
    pub(crate) next: Option<u32>,
}

impl Tasks {
    pub(crate) fn add(&mut self, record: &MemoryRecord, slot: u32, tokens: u32) {
        let Some(id) = record.task else { return };
        let task = self.tasks.entry(id).or_default();
        let member = Member::of(record, slot);
        let at = task.members.partition_point(|other| *other < member);
        task.members.insert(at, member);
        task.tokens += u64::from(tokens);
    }

    pub(crate) fn remove(&mut self, record: &MemoryRecord, slot: u32, tokens: u32) {
        let Some(id) = record.task else { return };
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Ok(at) = task.members.binary_search(&Member::of(record, slot)) {
            task.members.remove(at);
            task.tokens -= u64::from(tokens).min(task.tokens);
        }
        if task.members.is_empty() {
            self.tasks.remove(&id);
        }
    }

    /// The neighbours of a memory; none when it is of no task.
    pub(crate) fn place(&self, record: &MemoryRecord, slot: u32) -> Option<Place> {
        let members = &self.tasks.get(&record.task?)?.members;
        let at = members.binary_search(&Member::of(record, slot)).ok()?;
        let slot_at = |at: Option<usize>| members.get(at?).map(|member| member.slot);
        Some(Place { previous: slot_at(at.checked_sub(1)), next: slot_at(at.checked_add(1)) })
    }

    /// How many memories a task has, and their mean tokens.
    pub(crate) fn size(&self, task: TaskId) -> Option<(usize, f32)> {
        let task = self.tasks.get(&task)?;
        Some((task.members.len(), task.tokens as f32 / task.members.len() as f32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::record;

    #[test]
    fn neighbours_are_by_age() {
        let mut tasks = Tasks::default();
        let of = |text: &str, at| MemoryRecord { task: Some("aaaaaaaa".parse().unwrap()), ..record("p", text, at) };
        let (first, second, third) = (of("a", 1), of("b", 2), of("c", 3));
        for (slot, record) in [(0, &third), (1, &first), (2, &second)] {
            tasks.add(record, slot, 10);
        }
        let alone = record("p", "no task", 2);
        tasks.add(&alone, 3, 10);
        assert_eq!(tasks.place(&second, 2), Some(Place { previous: Some(1), next: Some(0) }));
        assert_eq!(tasks.place(&first, 1), Some(Place { previous: None, next: Some(2) }));
        assert_eq!(tasks.place(&alone, 3), None);
        assert_eq!(tasks.size(second.task.unwrap()), Some((3, 10.0)));
        tasks.remove(&second, 2, 10);
        assert_eq!(tasks.place(&first, 1), Some(Place { previous: None, next: Some(0) }));
    }
}
