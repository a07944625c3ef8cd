//! What stands beside what: the memories of each task in the order they were made.
//!
//! **Invariant:** the order is by age, then by id, whatever the order of arrival.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

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

/// A memory. Its id is asked for only where two are of one age.
#[derive(Clone, Copy)]
struct Member {
    created_at: i64,
    slot: u32,
}

impl Member {
    /// Whether it stands before, at or behind `record`, which has the slot `slot`.
    fn cmp(self, record: &MemoryRecord, slot: u32, id_of: impl Fn(u32) -> Option<MemoryId>) -> Ordering {
        self.created_at.cmp(&record.created_at.0).then_with(|| {
            if self.slot == slot {
                return Ordering::Equal;
            }
            id_of(self.slot).cmp(&Some(record.id)).then(self.slot.cmp(&slot))
        })
    }
}

/// Tells the id of the record in a slot.
pub(crate) fn id_in(records: &[Option<Arc<MemoryRecord>>]) -> impl Fn(u32) -> Option<MemoryId> {
    |slot| Some(records.get(slot as usize)?.as_ref()?.id)
}

/// What surrounds a memory in its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) previous: Option<u32>,
    pub(crate) next: Option<u32>,
}

impl Tasks {
    /// `id_of` tells the id of a slot, here and below.
    pub(crate) fn add(
        &mut self,
        record: &MemoryRecord,
        slot: u32,
        tokens: u32,
        id_of: impl Fn(u32) -> Option<MemoryId>,
    ) {
        let Some(id) = record.task else { return };
        let task = self.tasks.entry(id).or_default();
        let at = task.members.partition_point(|other| other.cmp(record, slot, &id_of).is_lt());
        task.members.insert(at, Member { created_at: record.created_at.0, slot });
        task.tokens += u64::from(tokens);
    }

    pub(crate) fn remove(
        &mut self,
        record: &MemoryRecord,
        slot: u32,
        tokens: u32,
        id_of: impl Fn(u32) -> Option<MemoryId>,
    ) {
        let Some(id) = record.task else { return };
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Ok(at) = task.members.binary_search_by(|other| other.cmp(record, slot, &id_of)) {
            task.members.remove(at);
            task.tokens -= u64::from(tokens).min(task.tokens);
        }
        if task.members.is_empty() {
            self.tasks.remove(&id);
        }
    }

    /// Gives back the room that nothing takes.
    pub(crate) fn shrink(&mut self) {
        for task in self.tasks.values_mut() {
            task.members.shrink_to_fit();
        }
    }

    /// The neighbours of a memory; none when it is of no task.
    pub(crate) fn place(
        &self,
        record: &MemoryRecord,
        slot: u32,
        id_of: impl Fn(u32) -> Option<MemoryId>,
    ) -> Option<Place> {
        let members = &self.tasks.get(&record.task?)?.members;
        let at = members.binary_search_by(|other| other.cmp(record, slot, &id_of)).ok()?;
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
        let alone = record("p", "no task", 2);
        let all = [&third, &first, &second, &alone];
        let id_of = |slot: u32| Some(all[slot as usize].id);
        for (slot, record) in [(0, &third), (1, &first), (2, &second), (3, &alone)] {
            tasks.add(record, slot, 10, id_of);
        }
        assert_eq!(tasks.place(&second, 2, id_of), Some(Place { previous: Some(1), next: Some(0) }));
        assert_eq!(tasks.place(&first, 1, id_of), Some(Place { previous: None, next: Some(2) }));
        assert_eq!(tasks.place(&alone, 3, id_of), None);
        assert_eq!(tasks.size(second.task.unwrap()), Some((3, 10.0)));
        tasks.remove(&second, 2, 10, id_of);
        assert_eq!(tasks.place(&first, 1, id_of), Some(Place { previous: None, next: Some(0) }));
    }

    #[test]
    fn neighbours_of_one_age_are_by_id() {
        let of = |text: &str| MemoryRecord { task: Some("aaaaaaaa".parse().unwrap()), ..record("p", text, 1) };
        let mut all: Vec<MemoryRecord> = ["a", "b", "c", "d"].map(of).into();
        all.sort_by_key(|record| record.id);
        all.swap(0, 2);
        let id_of = |slot: u32| all.get(slot as usize).map(|record| record.id);
        let mut tasks = Tasks::default();
        for (slot, record) in (0..).zip(&all) {
            tasks.add(record, slot, 10, id_of);
        }
        tasks.shrink();
        let order = [2, 1, 0, 3];
        for (at, slot) in (0..).zip(order) {
            let previous = order[..at].last().copied();
            let place = Place { previous, next: order.get(at + 1).copied() };
            assert_eq!(tasks.place(&all[slot as usize], slot, id_of), Some(place));
        }
        // What goes has no id any more.
        tasks.remove(&all[1], 1, 10, |slot| id_of(slot).filter(|_| slot != 1));
        assert_eq!(tasks.place(&all[2], 2, id_of), Some(Place { previous: None, next: Some(0) }));
    }
}
