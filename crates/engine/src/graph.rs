//! A graph of tasks that people change by hand: what a new link would close, and what follows from a task that is done.
//!
//! **Invariant:** a link that would close a circle is found before it is written, with the way round.
//! **Invariant:** what follows from a change costs O(edges touched) and is settled at once: nothing that is done is undone,
//! and only what depends on the change is looked at.

use std::collections::VecDeque;

use crewline_types::{TaskKind, TaskStatus};

/// A task; its index is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vertex {
    /// Where it is.
    pub status: TaskStatus,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// The task above it, when that is in the list.
    pub parent: Option<u32>,
    /// The tasks it requires.
    pub needs: Vec<u32>,
}

/// What a change leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consequence {
    /// The task.
    pub task: u32,
    /// Where it goes.
    pub to: TaskStatus,
    /// The task that is why.
    pub because: u32,
}

/// The shortest way from `to` back to `from` along what tasks need: with `from` needing `to` it would be a circle. It begins
/// and ends with `from`. None when the link closes nothing.
pub fn closing_path(needs: &[Vec<u32>], from: u32, to: u32) -> Option<Vec<u32>> {
    if from == to {
        return Some(vec![from, from]);
    }
    let mut before = vec![None; needs.len()];
    let mut open = VecDeque::from([to]);
    while let Some(at) = open.pop_front() {
        for &next in needs.get(at as usize)? {
            let seen = before.get_mut(next as usize)?;
            if next == to || seen.is_some() {
                continue;
            }
            *seen = Some(at);
            if next == from {
                // From the end back to `to`, then the other way round, and `from` before it.
                let mut path = vec![from];
                let mut step = from;
                while let Some(at) = before[step as usize] {
                    path.push(at);
                    step = at;
                }
                path.push(from);
                path.reverse();
                return Some(path);
            }
            open.push_back(next);
        }
    }
    None
}

/// What each task needs with what follows from the tree: a task that has children needs them, and each child needs what the
/// task above it needs. Children that were cancelled are nobody's.
pub fn with_parents(vertices: &[Vertex]) -> Vec<Vec<u32>> {
    let mut needs: Vec<Vec<u32>> = vertices.iter().map(|it| it.needs.clone()).collect();
    let is_composite = |place: u32| vertices.get(place as usize).is_some_and(|it| it.kind == TaskKind::Composite);
    for (place, vertex) in (0_u32..).zip(vertices) {
        let mut above = vertex.parent;
        // The tree is shallow; what is deeper than the list is long is no tree.
        for _ in 0..vertices.len() {
            let Some(parent) = above.filter(|it| is_composite(*it)) else { break };
            let inherited = vertices[parent as usize].needs.iter().copied().filter(|need| *need != place);
            needs[place as usize].extend(inherited);
            above = vertices[parent as usize].parent;
        }
        if let Some(parent) = vertex.parent.filter(|it| is_composite(*it))
            && vertex.status != TaskStatus::Cancelled
        {
            needs[parent as usize].push(place);
        }
    }
    for list in &mut needs {
        list.sort_unstable();
        list.dedup();
    }
    needs
}

/// What follows from the new statuses of `changed`: a task whose requirement failed, was cancelled or is blocked is blocked;
/// one that has no such requirement any more waits again; a task with children is done when they are, and not before.
pub fn settle(vertices: &[Vertex], changed: &[u32]) -> Vec<Consequence> {
    let needs = with_parents(vertices);
    let mut users = vec![Vec::new(); vertices.len()];
    for (place, list) in (0_u32..).zip(&needs) {
        for need in list {
            if let Some(users) = users.get_mut(*need as usize) {
                users.push(place);
            }
        }
    }
    let mut status: Vec<TaskStatus> = vertices.iter().map(|it| it.status).collect();
    let mut consequences = Vec::new();
    let mut open: VecDeque<u32> = changed.iter().copied().filter(|it| (*it as usize) < vertices.len()).collect();
    // Each task changes at most twice on an acyclic graph: this only bounds what is none.
    let mut left = 4 * (vertices.len() + needs.iter().map(Vec::len).sum::<usize>()) + changed.len();
    while let Some(because) = open.pop_front() {
        if left == 0 {
            break;
        }
        left -= 1;
        // A task that changed may itself have become ready, or done by its children.
        let touched = std::iter::once(because).chain(users[because as usize].iter().copied());
        for task in touched.collect::<Vec<u32>>() {
            let place = task as usize;
            let to = wanted(&vertices[place], status[place], &needs[place], &status);
            if to != status[place] {
                status[place] = to;
                consequences.push(Consequence { task, to, because });
                open.push_back(task);
            }
        }
    }
    consequences
}

fn wanted(vertex: &Vertex, now: TaskStatus, needs: &[u32], status: &[TaskStatus]) -> TaskStatus {
    let of = |need: &u32| status.get(*need as usize).copied().unwrap_or(TaskStatus::Completed);
    let is_lost = |it: TaskStatus| match it {
        TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Blocked => true,
        TaskStatus::Pending | TaskStatus::InProgress | TaskStatus::AwaitingApproval | TaskStatus::Completed => false,
    };
    let has_lost = needs.iter().map(of).any(is_lost);
    let all_done = needs.iter().map(of).all(|it| it == TaskStatus::Completed);
    match (vertex.kind, now) {
        (TaskKind::Composite, TaskStatus::Completed) if has_lost => TaskStatus::Blocked,
        (TaskKind::Composite, TaskStatus::Completed) if !all_done => TaskStatus::Pending,
        (TaskKind::Composite, TaskStatus::Pending | TaskStatus::Blocked) if all_done && !needs.is_empty() => {
            TaskStatus::Completed
        }
        (_, TaskStatus::Pending) if has_lost => TaskStatus::Blocked,
        (_, TaskStatus::Blocked) if !has_lost && !needs.is_empty() => TaskStatus::Pending,
        (_, now) => now,
    }
}

/// Whether a task can be worked on: it waits, has work of its own, and all it needs is done.
pub fn is_ready(vertex: &Vertex, needs: &[u32], vertices: &[Vertex]) -> bool {
    let has_work = match vertex.kind {
        TaskKind::Atomic | TaskKind::Synthesis => true,
        TaskKind::Root | TaskKind::Composite => false,
    };
    let is_done = |need: &u32| vertices.get(*need as usize).is_none_or(|it| it.status == TaskStatus::Completed);
    has_work && vertex.status == TaskStatus::Pending && needs.iter().all(is_done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn atomic(status: TaskStatus, needs: &[u32]) -> Vertex {
        Vertex { status, kind: TaskKind::Atomic, parent: None, needs: needs.to_vec() }
    }

    #[test]
    fn a_closing_link_shows_the_way_round() {
        // 2 → 1 → 0
        let needs = [vec![], vec![0], vec![1]];
        assert_eq!(closing_path(&needs, 0, 2), Some(vec![0, 2, 1, 0]));
        assert_eq!(closing_path(&needs, 0, 1), Some(vec![0, 1, 0]));
        assert_eq!(closing_path(&needs, 2, 0), None);
        assert_eq!(closing_path(&needs, 1, 1), Some(vec![1, 1]));
    }

    #[test]
    fn what_failed_blocks_and_what_is_mended_unblocks() {
        use TaskStatus::{Blocked, Cancelled, Completed, Failed, Pending};
        let mut graph = vec![
            atomic(Failed, &[]),
            atomic(Pending, &[0]),
            atomic(Pending, &[1]),
            atomic(Pending, &[]),
            atomic(Completed, &[0]),
        ];
        let blocked = settle(&graph, &[0]);
        assert_eq!(
            blocked,
            [Consequence { task: 1, to: Blocked, because: 0 }, Consequence { task: 2, to: Blocked, because: 1 }]
        );
        (graph[1].status, graph[2].status, graph[0].status) = (Blocked, Blocked, Completed);
        let free: Vec<_> = settle(&graph, &[0]).iter().map(|it| (it.task, it.to)).collect();
        assert_eq!(free, [(1, Pending), (2, Pending)]);
        // What a person blocked stays so as long as nothing it requires changes.
        assert_eq!(settle(&[atomic(Blocked, &[])], &[0]), []);
        assert_eq!(settle(&[atomic(Cancelled, &[]), atomic(Pending, &[0])], &[0]).len(), 1);
    }

    #[test]
    fn a_task_with_children_is_done_when_they_are() {
        use TaskStatus::{Blocked, Cancelled, Completed, Pending};
        let composite = Vertex { status: Pending, kind: TaskKind::Composite, parent: None, needs: vec![3] };
        let child = |status| Vertex { parent: Some(0), ..atomic(status, &[]) };
        let mut graph =
            vec![composite, child(Completed), child(Pending), atomic(Completed, &[]), atomic(Pending, &[0])];
        assert_eq!(with_parents(&graph), [vec![1, 2, 3], vec![3], vec![3], vec![], vec![0]]);
        assert_eq!(settle(&graph, &[1]), []);
        graph[2].status = Completed;
        assert_eq!(settle(&graph, &[2]), [Consequence { task: 0, to: Completed, because: 2 }]);
        graph[2].status = Cancelled;
        assert_eq!(settle(&graph, &[0]), [Consequence { task: 0, to: Completed, because: 0 }]);
        // A child that is opened again opens what is above it, and what was not begun waits for that again.
        (graph[0].status, graph[2].status) = (Completed, Pending);
        assert_eq!(settle(&graph, &[2]), [Consequence { task: 0, to: Pending, because: 2 }]);
        graph[2].status = TaskStatus::Failed;
        let lost: Vec<_> = settle(&graph, &[2]).iter().map(|it| (it.task, it.to)).collect();
        assert_eq!(lost, [(0, Blocked), (4, Blocked)]);
    }

    #[test]
    fn only_what_has_work_and_all_it_needs_is_ready() {
        use TaskStatus::{Completed, Pending};
        let graph = [atomic(Completed, &[]), atomic(Pending, &[0]), atomic(Pending, &[1])];
        let ready: Vec<bool> = graph.iter().map(|it| is_ready(it, &it.needs, &graph)).collect();
        assert_eq!(ready, [false, true, false]);
    }

    fn any_status() -> impl Strategy<Value = TaskStatus> {
        prop_oneof![
            Just(TaskStatus::Pending),
            Just(TaskStatus::InProgress),
            Just(TaskStatus::Blocked),
            Just(TaskStatus::Completed),
            Just(TaskStatus::Failed),
            Just(TaskStatus::Cancelled),
        ]
    }

    proptest! {
        #![proptest_config(crate::cases::cases(2_000))]

        #[test]
        fn links_that_close_nothing_never_make_a_circle(
            count in 2_u32..12,
            wanted in prop::collection::vec((any::<u32>(), any::<u32>()), 0..60),
        ) {
            let mut needs = vec![Vec::new(); count as usize];
            for (from, to) in wanted {
                let (from, to) = (from % count, to % count);
                match closing_path(&needs, from, to) {
                    None => needs[from as usize].push(to),
                    Some(path) => {
                        // The way is one: each step but the first is a link that is there, and the first would close it.
                        prop_assert_eq!((path[0], path[1], *path.last().unwrap()), (from, to, from));
                        for step in path[1..].windows(2) {
                            prop_assert!(needs[step[0] as usize].contains(&step[1]), "{:?} in {:?}", path, needs);
                        }
                    }
                }
                let jobs = needs.iter().map(|it| crate::schedule::Job { needs: it.clone(), priority: crewline_types::Priority::default(), duration: None });
                prop_assert!(crate::schedule::Graph::new(jobs.collect()).is_ok());
            }
        }

        #[test]
        fn settling_twice_is_settling_once(
            seeds in prop::collection::vec((any_status(), prop::collection::vec(any::<u32>(), 0..3)), 1..14),
        ) {
            let mut graph: Vec<Vertex> = Vec::new();
            for (place, (status, needs)) in (0_u32..).zip(seeds) {
                let mut needs: Vec<u32> = needs.into_iter().filter(|_| place > 0).map(|it| it % place.max(1)).collect();
                needs.sort_unstable();
                needs.dedup();
                graph.push(atomic(status, &needs));
            }
            let all: Vec<u32> = (0..u32::try_from(graph.len()).unwrap()).collect();
            for it in settle(&graph, &all) {
                graph[it.task as usize].status = it.to;
            }
            prop_assert_eq!(settle(&graph, &all), []);
            for vertex in &graph {
                let lost = vertex.needs.iter().any(|need| matches!(graph[*need as usize].status, TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Blocked));
                prop_assert!(vertex.status != TaskStatus::Pending || !lost);
                prop_assert!(vertex.status != TaskStatus::Blocked || lost || vertex.needs.is_empty());
            }
        }
    }
}
