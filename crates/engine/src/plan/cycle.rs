//! Which dependencies close a cycle.
//!
//! **Invariant:** dependencies are taken in the order of the document; one that closes a cycle with those before it is named,
//! and without the named ones there is no cycle. A document without cycles costs O(tasks + dependencies).

/// A dependency that closes a cycle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closing {
    /// The task that has the dependency; also the first and the last of `path`.
    pub(super) task: u32,
    /// The task it must not depend on.
    pub(super) need: u32,
    /// From task to need to need, and back to the task.
    pub(super) path: Vec<u32>,
}

const NONE: u32 = u32::MAX;

/// Finds the dependencies that close a cycle. `needs` holds no task itself and nothing out of range.
pub(super) fn closing(needs: &[Vec<u32>]) -> Vec<Closing> {
    let is_involved = involved(needs);
    let mut found = Vec::new();
    if !is_involved.contains(&true) {
        return found;
    }
    let mut kept: Vec<Vec<u32>> = vec![Vec::new(); needs.len()];
    // One search's marks; the number of the search keeps them apart, so they are never cleared.
    let mut marks = vec![(0_u32, NONE); needs.len()];
    let mut search = 0;
    for (task, list) in (0_u32..).zip(needs) {
        for &need in list.iter().filter(|it| is_involved[task as usize] && is_involved[**it as usize]) {
            search += 1;
            match path(&kept, need, task, search, &mut marks) {
                Some(mut path) => {
                    path.insert(0, task);
                    found.push(Closing { task, need, path });
                }
                None => kept[task as usize].push(need),
            }
        }
    }
    found
}

/// Tasks on a cycle, or between two: what is left when tasks without needs, and tasks nobody needs, are taken away.
fn involved(needs: &[Vec<u32>]) -> Vec<bool> {
    let mut dependents: Vec<Vec<u32>> = vec![Vec::new(); needs.len()];
    for (task, list) in (0_u32..).zip(needs) {
        for need in list {
            dependents[*need as usize].push(task);
        }
    }
    let mut is_left = vec![true; needs.len()];
    for (out, back) in [(needs, &dependents[..]), (&dependents[..], needs)] {
        let count = |list: &Vec<u32>| list.iter().filter(|it| is_left[**it as usize]).count();
        let mut degree: Vec<usize> = out.iter().map(count).collect();
        let mut free: Vec<usize> = (0..out.len()).filter(|it| is_left[*it] && degree[*it] == 0).collect();
        while let Some(at) = free.pop() {
            is_left[at] = false;
            for it in back[at].iter().map(|it| *it as usize) {
                degree[it] = degree[it].saturating_sub(1);
                if degree[it] == 0 && is_left[it] {
                    free.push(it);
                }
            }
        }
    }
    is_left
}

/// The shortest way from `from` to `to` along needs.
fn path(needs: &[Vec<u32>], from: u32, to: u32, search: u32, marks: &mut [(u32, u32)]) -> Option<Vec<u32>> {
    let mut queue = vec![from];
    marks[from as usize] = (search, NONE);
    let mut head = 0;
    while let Some(&at) = queue.get(head) {
        head += 1;
        if at == to {
            let mut path = vec![at];
            let mut back = marks[at as usize].1;
            while back != NONE {
                path.push(back);
                back = marks[back as usize].1;
            }
            path.reverse();
            return Some(path);
        }
        for &need in &needs[at as usize] {
            if marks[need as usize].0 != search {
                marks[need as usize] = (search, at);
                queue.push(need);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::simulation::Rng;

    #[test]
    fn the_later_dependency_is_named() {
        assert!(closing(&[vec![], vec![0], vec![0, 1]]).is_empty());
        let pair = closing(&[vec![1], vec![0]]);
        assert_eq!(pair, [Closing { task: 1, need: 0, path: vec![1, 0, 1] }]);
        let ring = closing(&[vec![2], vec![0], vec![1], vec![0]]);
        assert_eq!(ring, [Closing { task: 2, need: 1, path: vec![2, 1, 0, 2] }]);
    }

    #[test]
    fn without_the_named_ones_there_is_no_cycle() {
        let mut cyclic = 0_u64;
        let seeds = u64::from(crate::cases::cases(2_000).cases);
        for seed in 0..seeds {
            let mut rng = Rng::new(seed);
            let size = 1 + rng.index(10);
            let mut needs: Vec<Vec<u32>> = vec![Vec::new(); size];
            for _ in 0..rng.below(20) {
                let (task, need) = (rng.index(size), rng.index(size));
                let need = u32::try_from(need).unwrap();
                if task != need as usize && !needs[task].contains(&need) {
                    needs[task].push(need);
                }
            }
            let found = closing(&needs);
            cyclic += u64::from(!found.is_empty());
            for it in &found {
                assert_eq!((it.path.first(), it.path.last()), (Some(&it.task), Some(&it.task)), "seed {seed}");
                assert_eq!(it.path[1], it.need, "seed {seed}");
                for step in it.path.windows(2) {
                    assert!(needs[step[0] as usize].contains(&step[1]), "seed {seed}: the path is not there");
                }
            }
            for it in &found {
                needs[it.task as usize].retain(|need| *need != it.need);
            }
            assert!(closing(&needs).is_empty(), "seed {seed}");
            assert!(!involved(&needs).contains(&true), "seed {seed}");
        }
        assert!(cyclic > seeds / 4);
    }
}
