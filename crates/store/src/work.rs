//! Reading what an attempt needs when its manager is elsewhere: the task and what it builds on.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crewline_types::{Task, TaskId, task::LinkKind};
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};

use crate::{Error, Store, entity, entity::parse};

/// Keys in one statement.
const KEYS_MAX: usize = 500;

/// A task and what its links name.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkRow {
    /// The task.
    pub task: Task,
    /// The tasks it links to, in a fixed order.
    pub linked: Vec<(LinkKind, Task)>,
}

impl Store {
    /// The tasks with these ids and what they link to; one that does not exist is left out.
    pub async fn work(&self, tasks: &[TaskId]) -> Result<Vec<WorkRow>, Error> {
        let reader = self.reader().await?;
        let mut rows = Vec::with_capacity(tasks.len());
        for chunk in tasks.chunks(KEYS_MAX) {
            let ids = chunk.iter().map(|it| it.as_str().to_owned());
            rows.extend(entity::task::Entity::find().filter(entity::task::Column::Id.is_in(ids)).all(reader).await?);
        }
        let numbers: Vec<i64> = rows.iter().map(|row| row.number).collect();
        let mut links = BTreeMap::<i64, Vec<(i64, LinkKind)>>::new();
        for chunk in numbers.chunks(KEYS_MAX) {
            let found = entity::task_link::Entity::find()
                .filter(entity::task_link::Column::FromTask.is_in(chunk.iter().copied()))
                .order_by_asc(entity::task_link::Column::ToTask)
                .order_by_asc(entity::task_link::Column::Kind)
                .all(reader)
                .await?;
            for link in found {
                let kind = parse("task_links.kind", &link.kind, LinkKind::parse)?;
                links.entry(link.from_task).or_default().push((link.to_task, kind));
            }
        }
        let wanted: BTreeSet<i64> = links.values().flatten().map(|(to, _)| *to).collect();
        let wanted: Vec<i64> = wanted.into_iter().collect();
        let mut targets = HashMap::<i64, Task>::with_capacity(wanted.len());
        for chunk in wanted.chunks(KEYS_MAX) {
            let found = entity::task::Entity::find()
                .filter(entity::task::Column::Number.is_in(chunk.iter().copied()))
                .all(reader)
                .await?;
            for row in found {
                targets.insert(row.number, Task::try_from(row)?);
            }
        }
        rows.into_iter()
            .map(|row| {
                let links = links.remove(&row.number).unwrap_or_default();
                let linked = links.into_iter().filter_map(|(to, kind)| Some((kind, targets.get(&to)?.clone())));
                Ok(WorkRow { linked: linked.collect(), task: Task::try_from(row)? })
            })
            .collect()
    }
}
