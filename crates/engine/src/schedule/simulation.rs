//! The schedule under random graphs, faults, late and repeated events, checked at each step against a second, naive reading
//! of the rules.
//!
//! **Invariant:** every failure prints its seed.

use std::{cmp::Reverse, time::Duration};

use crewline_types::Priority;

use super::*;

/// A small generator of random numbers; the same seed gives the same numbers.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // The multiplier spreads neighbouring seeds.
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).unwrap()
    }
}

fn node(priority: u8, needs: &[u32]) -> Node {
    Node {
        urgency: 0,
        priority: Priority::new(priority).unwrap(),
        needs: needs.to_vec(),
        stage: Stage::Waiting,
        attempts: 0,
    }
}

fn limits(parallel_max: usize, attempts_max: u32) -> Limits {
    Limits { parallel_max, attempts_max, ..Limits::default() }
}

fn nodes_of(rng: &mut Rng, base: u32, size: u32) -> Vec<Node> {
    // A random order of the new tasks, so that needs point forwards as well as backwards.
    let mut rank: Vec<u64> = (0..size).map(|_| rng.below(1_000)).collect();
    rank.iter_mut().enumerate().for_each(|(index, it)| *it = *it * 1_000 + index as u64);
    (0..size)
        .map(|index| {
            let mut needs: Vec<u32> = (0..base).filter(|_| rng.below(6) == 0).collect();
            needs.extend(
                (0..size)
                    .filter(|other| rank[*other as usize] < rank[index as usize] && rng.below(3) == 0)
                    .map(|it| base + it),
            );
            // A need named twice must count once.
            if let Some(first) = needs.first().copied().filter(|_| rng.below(4) == 0) {
                needs.push(first);
            }
            let urgency = rng.below(3);
            Node { urgency, ..node(1 + u8::try_from(rng.below(3)).unwrap(), &needs) }
        })
        .collect()
}

/// The second reading of the rules: slow and plain.
struct Oracle {
    seed: u64,
    nodes: Vec<Node>,
    held: Vec<bool>,
    lost: Vec<u32>,
    is_draining: bool,
    finishes: u32,
}

impl Oracle {
    fn running(&self) -> usize {
        self.nodes.iter().filter(|it| it.stage == Stage::Running).count()
    }

    fn ready(&self) -> Vec<u32> {
        let is_done = |need: &u32| self.nodes[*need as usize].stage == Stage::Done;
        let mut ready: Vec<u32> = (0..to_u32(self.nodes.len()))
            .filter(|it| {
                let node = &self.nodes[*it as usize];
                node.stage == Stage::Waiting && !self.held[*it as usize] && node.needs.iter().all(is_done)
            })
            .collect();
        ready.sort_by_key(|it| {
            let node = &self.nodes[*it as usize];
            (Reverse(node.urgency), Reverse(node.priority), *it)
        });
        ready
    }

    /// Whether a task may get a further need.
    fn may_require(&self, node: u32, need: u32) -> bool {
        let it = &self.nodes[node as usize];
        let waits = it.needs.iter().any(|need| self.nodes[*need as usize].stage != Stage::Done);
        matches!(it.stage, Stage::Waiting | Stage::Parked) && waits && !self.reaches(need, node)
    }

    /// What is blocked by a need that it got later may name a blocked task as the cause; that is checked here, and its cause put in
    /// its place.
    fn name_causes(&self, actions: &mut [Action]) {
        for action in actions {
            let Action::Block { node, because } = *action else { continue };
            if self.nodes[because as usize].stage == Stage::Blocked {
                assert!(self.reaches(node, because), "seed {}", self.seed);
                let failed = (0..to_u32(self.nodes.len()))
                    .find(|it| self.nodes[*it as usize].stage == Stage::Failed && self.reaches(because, *it));
                *action = Action::Block { node, because: failed.unwrap() };
            }
        }
    }

    fn reaches(&self, from: u32, to: u32) -> bool {
        from == to || self.nodes[from as usize].needs.iter().any(|need| self.reaches(*need, to))
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Succeeded { node, attempt } if self.is_current(node, attempt) => {
                self.nodes[node as usize].stage = Stage::Done;
            }
            Event::AttemptLost { node, attempt } if self.is_current(node, attempt) => {
                self.nodes[node as usize].stage = Stage::Waiting;
                self.lost[node as usize] += 1;
            }
            Event::AttemptParked { node, attempt } if self.is_current(node, attempt) => {
                self.nodes[node as usize].stage = Stage::Waiting;
                self.lost[node as usize] += 1;
                self.held[node as usize] = true;
            }
            Event::AttemptFailed { node, attempt, .. } if self.is_current(node, attempt) => {
                self.nodes[node as usize].stage = Stage::Waiting;
            }
            Event::Parked { node, attempt } if self.is_current(node, attempt) => {
                self.nodes[node as usize].stage = Stage::Parked;
                self.lost[node as usize] += 1;
            }
            Event::Resumed { node } if self.nodes[node as usize].stage == Stage::Parked => {
                self.nodes[node as usize].stage = Stage::Waiting;
            }
            Event::RetryDue { node } if !self.is_draining => self.held[node as usize] = false,
            Event::Drain => self.is_draining = true,
            Event::Begin
            | Event::Succeeded { .. }
            | Event::AttemptFailed { .. }
            | Event::AttemptLost { .. }
            | Event::AttemptParked { .. }
            | Event::Parked { .. }
            | Event::Resumed { .. }
            | Event::RetryDue { .. }
            | Event::Due { .. } => {}
        }
    }

    fn is_current(&self, node: u32, attempt: u32) -> bool {
        let node = &self.nodes[node as usize];
        node.stage == Stage::Running && node.attempts == attempt
    }

    fn check(&mut self, action: Action, limits: Limits) {
        let seed = self.seed;
        assert_eq!(self.finishes, 0, "seed {seed}: {action:?} after the end");
        match action {
            Action::Dispatch { node, attempt } => {
                assert!(!self.is_draining, "seed {seed}: dispatched while draining");
                assert_eq!(self.ready().first(), Some(&node), "seed {seed}: wrong order");
                let it = &mut self.nodes[node as usize];
                it.stage = Stage::Running;
                it.attempts += 1;
                assert_eq!(it.attempts, attempt, "seed {seed}");
                let tries = attempt - self.lost[node as usize];
                assert!(tries <= limits.attempts_max, "seed {seed}: too many attempts");
            }
            Action::RetryAfter { node, delay } => {
                let attempt = self.nodes[node as usize].attempts;
                assert_eq!(delay, limits.retry_delay(attempt), "seed {seed}");
                self.held[node as usize] = true;
            }
            Action::Fail { node } => {
                assert_eq!(self.nodes[node as usize].stage, Stage::Waiting, "seed {seed}");
                self.nodes[node as usize].stage = Stage::Failed;
            }
            Action::Block { node, because } => {
                assert_eq!(self.nodes[node as usize].stage, Stage::Waiting, "seed {seed}: blocked twice");
                assert_eq!(self.nodes[because as usize].stage, Stage::Failed, "seed {seed}");
                assert!(self.reaches(node, because), "seed {seed}: an independent task is blocked");
                self.nodes[node as usize].stage = Stage::Blocked;
            }
            Action::Wait => {
                assert!(!self.is_draining && self.running() == 0 && self.ready().is_empty(), "seed {seed}: idle");
                assert!(self.nodes.iter().any(|it| it.stage == Stage::Parked), "seed {seed}: nobody is asked");
                assert!(!self.held.contains(&true), "seed {seed}: a retry is due");
            }
            Action::Finish(finish) => {
                self.finishes += 1;
                assert_eq!(self.running(), 0, "seed {seed}: finished while tasks run");
                let is_open = self.nodes.iter().any(|it| matches!(it.stage, Stage::Waiting | Stage::Parked));
                let is_lost = self.nodes.iter().any(|it| matches!(it.stage, Stage::Failed | Stage::Blocked));
                let expected = match (is_open, is_lost) {
                    (true, _) => Finish::Drained,
                    (false, true) => Finish::SomeFailed,
                    (false, false) => Finish::AllDone,
                };
                assert_eq!(finish, expected, "seed {seed}");
                assert!(!is_open || self.is_draining, "seed {seed}: tasks are left over");
            }
        }
    }

    fn compare(&self, dag: &Dag, limits: Limits, has_begun: bool) {
        let seed = self.seed;
        for (index, node) in (0_u32..).zip(&self.nodes) {
            assert_eq!(
                (dag.stage(index), dag.attempt(index)),
                (node.stage, node.attempts),
                "seed {seed}: task {index}"
            );
            if node.stage == Stage::Waiting {
                let lost = |it: &u32| matches!(self.nodes[*it as usize].stage, Stage::Failed | Stage::Blocked);
                assert!(!node.needs.iter().any(lost), "seed {seed}: task {index} should be blocked");
            }
        }
        let running = self.running();
        assert_eq!(dag.running(), running, "seed {seed}");
        assert!(running <= limits.parallel_max, "seed {seed}");
        let is_idle = running < limits.parallel_max && !self.ready().is_empty();
        assert!(!is_idle || self.is_draining || !has_begun, "seed {seed}: a place is free and a task is ready");
    }
}

/// Runs one graph to its end with random faults.
fn simulate(seed: u64) -> Finish {
    let mut rng = Rng::new(seed);
    let limits = limits(1 + rng.index(4), 1 + u32::try_from(rng.below(3)).unwrap());
    let size = u32::try_from(rng.below(12)).unwrap();
    let nodes = nodes_of(&mut rng, 0, size);
    let mut dag = Dag::new(nodes.clone(), limits).unwrap();
    let (held, lost) = (vec![false; nodes.len()], vec![0; nodes.len()]);
    let mut oracle = Oracle { seed, nodes, held, lost, is_draining: false, finishes: 0 };
    let (mut inbox, mut past, mut extensions) = (vec![Event::Begin], vec![Event::Begin], rng.below(3));
    let mut further_needs = rng.below(4);
    let drains = rng.below(8) == 0;
    let mut has_begun = false;
    for _ in 0..2_000 {
        let mut actions = Vec::new();
        if extensions > 0 && has_begun && rng.below(6) == 0 {
            extensions -= 1;
            let (base, size) = (to_u32(oracle.nodes.len()), u32::try_from(rng.below(5)).unwrap());
            // New tasks may need a lost one: they are blocked at once.
            let nodes = nodes_of(&mut rng, base, size);
            oracle.nodes.extend(nodes.clone());
            oracle.held.resize(oracle.nodes.len(), false);
            oracle.lost.resize(oracle.nodes.len(), 0);
            actions.extend(dag.extend(nodes).unwrap());
            oracle.name_causes(&mut actions);
        } else if further_needs > 0 && oracle.nodes.len() > 1 && rng.below(5) == 0 {
            further_needs -= 1;
            let [node, need] = [0; 2].map(|_: u8| to_u32(rng.index(oracle.nodes.len())));
            let made = dag.require(node, need);
            assert_eq!(made.is_some(), oracle.may_require(node, need), "seed {seed}: {node} requires {need}");
            if let Some(made) = made {
                oracle.nodes[node as usize].needs.push(need);
                actions.extend(made);
                oracle.name_causes(&mut actions);
            }
        } else {
            let event = if drains && has_begun && !oracle.is_draining && rng.below(8) == 0 {
                Event::Drain
            } else if rng.below(5) == 0 {
                past[rng.index(past.len())]
            } else {
                assert!(!inbox.is_empty(), "seed {seed}: the run is stuck");
                let index = rng.index(inbox.len());
                inbox.swap_remove(index)
            };
            past.push(event);
            has_begun |= event == Event::Begin;
            if let Event::AttemptParked { node, attempt } = event
                && oracle.is_current(node, attempt)
            {
                inbox.push(Event::RetryDue { node });
            }
            if let Event::Parked { node, .. } = event
                && !past[..past.len() - 1].contains(&event)
            {
                inbox.push(Event::Resumed { node });
            }
            oracle.on(event);
            actions.extend(dag.apply(event));
        }
        for action in actions {
            oracle.check(action, limits);
            match action {
                Action::Dispatch { node, attempt } if rng.below(9) == 0 => {
                    // The person may be faster than the attempt that asks; what is decided then is told again.
                    inbox.push(Event::Parked { node, attempt });
                }
                Action::Dispatch { node, attempt } => inbox.push(match rng.below(12) {
                    0 => Event::AttemptFailed { node, attempt, retry: Retry::Never },
                    10 => Event::AttemptLost { node, attempt },
                    11 => Event::AttemptParked { node, attempt },
                    1..4 => Event::AttemptFailed { node, attempt, retry: Retry::May },
                    _ => Event::Succeeded { node, attempt },
                }),
                Action::RetryAfter { node, .. } => inbox.push(Event::RetryDue { node }),
                Action::Fail { .. } | Action::Block { .. } | Action::Wait => {}
                Action::Finish(finish) => {
                    oracle.compare(&dag, limits, has_begun);
                    // Nothing wakes the dead.
                    for event in past.iter().chain(&inbox) {
                        assert!(dag.apply(*event).is_empty(), "seed {seed}: {event:?} after the end");
                    }
                    return finish;
                }
            }
        }
        oracle.compare(&dag, limits, has_begun);
    }
    panic!("seed {seed}: the run did not end");
}

#[test]
fn runs_end_under_random_faults() {
    let (mut done, mut failed, mut drained) = (0, 0, 0);
    for seed in 0..20_000 {
        match simulate(seed) {
            Finish::AllDone => done += 1,
            Finish::SomeFailed => failed += 1,
            Finish::Drained => drained += 1,
        }
    }
    assert!(done > 2_000 && failed > 2_000 && drained > 200, "{done} done, {failed} failed, {drained} drained");
}

#[test]
fn ten_thousand_tasks_cost_one_visit_per_edge() {
    let mut rng = Rng::new(7);
    let nodes: Vec<Node> = (0..10_000_u32)
        .map(|index| {
            let needs: Vec<u32> =
                if index == 0 { vec![] } else { (0..3).map(|_| to_u32(rng.index(index as usize))).collect() };
            node(5, &needs)
        })
        .collect();
    let edges = u64::try_from(nodes.iter().map(|it| it.needs.len()).sum::<usize>()).unwrap();
    assert!(edges > 29_000);
    for loses in [false, true] {
        let mut dag = Dag::new(nodes.clone(), limits(64, 1)).unwrap();
        let (mut work, mut finishes, mut ended) = (dag.apply(Event::Begin), 0, 0);
        while let Some(action) = work.pop() {
            work.extend(match action {
                Action::Dispatch { node, attempt } if loses && node == 1 => {
                    ended += 1;
                    dag.apply(Event::AttemptFailed { node, attempt, retry: Retry::Never })
                }
                Action::Dispatch { node, attempt } => {
                    ended += 1;
                    dag.apply(Event::Succeeded { node, attempt })
                }
                Action::Block { .. } => {
                    ended += 1;
                    Vec::new()
                }
                Action::Finish(_) => {
                    finishes += 1;
                    Vec::new()
                }
                Action::RetryAfter { .. } | Action::Fail { .. } | Action::Wait => Vec::new(),
            });
        }
        assert_eq!((finishes, ended), (1, 10_000));
        assert!(dag.visits <= edges, "{} visits for {edges} edges", dag.visits);
    }
}

#[test]
fn priority_goes_before_index() {
    let mut dag = Dag::new(vec![node(2, &[]), node(8, &[]), node(8, &[]), node(5, &[])], limits(2, 1)).unwrap();
    let dispatch = |node| Action::Dispatch { node, attempt: 1 };
    assert_eq!(dag.apply(Event::Begin), [dispatch(1), dispatch(2)]);
    assert_eq!(dag.ready(), 2);
    assert_eq!(dag.apply(Event::Succeeded { node: 2, attempt: 1 }), [dispatch(3)]);
    assert_eq!(dag.apply(Event::Succeeded { node: 1, attempt: 1 }), [dispatch(0)]);
}

#[test]
fn urgency_goes_before_priority() {
    let urgent = Node { urgency: 7, ..node(1, &[]) };
    let mut dag = Dag::new(vec![node(10, &[]), urgent], limits(1, 1)).unwrap();
    assert_eq!(dag.apply(Event::Begin), [Action::Dispatch { node: 1, attempt: 1 }]);
}

#[test]
fn a_failure_blocks_its_dependents_only() {
    let nodes = vec![node(5, &[]), node(5, &[0]), node(5, &[1]), node(5, &[]), node(5, &[3])];
    let mut dag = Dag::new(nodes, limits(1, 1)).unwrap();
    dag.apply(Event::Begin);
    assert_eq!(
        dag.apply(Event::AttemptFailed { node: 0, attempt: 1, retry: Retry::May }),
        [
            Action::Fail { node: 0 },
            Action::Block { node: 1, because: 0 },
            Action::Block { node: 2, because: 0 },
            Action::Dispatch { node: 3, attempt: 1 },
        ]
    );
    assert_eq!(dag.apply(Event::Succeeded { node: 3, attempt: 1 }), [Action::Dispatch { node: 4, attempt: 1 }]);
    assert_eq!(dag.apply(Event::Succeeded { node: 4, attempt: 1 }), [Action::Finish(Finish::SomeFailed)]);
}

#[test]
fn retries_wait_longer_each_time_up_to_a_minute() {
    let limits = limits(1, 9);
    let seconds: Vec<u64> = (1..=9).map(|it| limits.retry_delay(it).as_secs()).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(limits.retry_delay(u32::MAX), Duration::from_mins(1));
    let quick = Limits { retry_delay_base: Duration::from_millis(1), ..limits };
    assert_eq!(quick.retry_delay(3), Duration::from_millis(4));
}

#[test]
fn draining_lets_work_end_and_starts_none() {
    let mut dag = Dag::new(vec![node(5, &[]), node(5, &[]), node(5, &[0])], limits(2, 3)).unwrap();
    dag.apply(Event::Begin);
    let failed = dag.apply(Event::AttemptFailed { node: 1, attempt: 1, retry: Retry::May });
    assert_eq!(failed, [Action::RetryAfter { node: 1, delay: Duration::from_secs(1) }]);
    assert!(dag.apply(Event::Drain).is_empty());
    assert!(dag.apply(Event::RetryDue { node: 1 }).is_empty());
    assert_eq!(dag.apply(Event::Succeeded { node: 0, attempt: 1 }), [Action::Finish(Finish::Drained)]);
    assert_eq!((dag.stage(1), dag.stage(2)), (Stage::Waiting, Stage::Waiting));
    // Drained before it began, and when all was done already.
    let mut unborn = Dag::new(vec![node(5, &[])], limits(1, 1)).unwrap();
    assert_eq!(unborn.apply(Event::Drain), [Action::Finish(Finish::Drained)]);
    assert!(unborn.apply(Event::Begin).is_empty());
    let mut done = Dag::new(vec![Node { stage: Stage::Done, ..node(5, &[]) }], limits(1, 1)).unwrap();
    assert_eq!(done.apply(Event::Drain), [Action::Finish(Finish::AllDone)]);
}

#[test]
fn a_task_that_waits_for_a_person_takes_no_place_and_no_try() {
    let nodes = vec![node(5, &[]), node(4, &[]), node(5, &[0])];
    let mut dag = Dag::new(nodes, limits(1, 1)).unwrap();
    assert_eq!(dag.apply(Event::Begin), [Action::Dispatch { node: 0, attempt: 1 }]);
    assert_eq!(dag.apply(Event::Parked { node: 0, attempt: 1 }), [Action::Dispatch { node: 1, attempt: 1 }]);
    assert_eq!(dag.stage(0), Stage::Parked);
    assert_eq!(dag.apply(Event::Succeeded { node: 1, attempt: 1 }), [Action::Wait]);
    assert!(dag.apply(Event::Parked { node: 0, attempt: 1 }).is_empty(), "it is said once");
    assert_eq!(dag.apply(Event::Resumed { node: 0 }), [Action::Dispatch { node: 0, attempt: 2 }]);
    assert!(dag.apply(Event::Resumed { node: 0 }).is_empty());
    assert_eq!(dag.apply(Event::Parked { node: 0, attempt: 2 }), [Action::Wait], "it waits again");
    assert_eq!(dag.apply(Event::Drain), [Action::Finish(Finish::Drained)]);
    let parked = Node { stage: Stage::Parked, attempts: 2, ..node(5, &[]) };
    let mut loaded = Dag::new(vec![parked, node(5, &[0])], limits(1, 1)).unwrap();
    assert_eq!(loaded.apply(Event::Begin), [Action::Wait]);
    assert_eq!(loaded.apply(Event::Resumed { node: 0 }), [Action::Dispatch { node: 0, attempt: 3 }]);
    let next = loaded.apply(Event::Succeeded { node: 0, attempt: 3 });
    assert_eq!(next, [Action::Dispatch { node: 1, attempt: 1 }]);
}

#[test]
fn a_planned_task_begins_when_its_time_comes() {
    let nodes = || vec![node(5, &[]), node(5, &[]), node(5, &[1]), node(5, &[2])];
    let dispatch = |node| Action::Dispatch { node, attempt: 1 };
    let mut dag = Dag::new(nodes(), limits(4, 1)).unwrap();
    assert!(dag.plan(0) && !dag.plan(0) && dag.plan(2) && !dag.plan(9));
    assert_eq!(dag.apply(Event::Begin), [dispatch(1)]);
    assert!(!dag.plan(3), "the run has begun");
    assert!(dag.apply(Event::Succeeded { node: 1, attempt: 1 }).is_empty(), "all that is left is planned for later");
    assert_eq!(dag.apply(Event::Due { node: 2 }), [dispatch(2)]);
    assert!(dag.apply(Event::Due { node: 2 }).is_empty());
    assert_eq!(dag.apply(Event::Due { node: 0 }), [dispatch(0)]);
    assert_eq!(dag.apply(Event::Succeeded { node: 2, attempt: 1 }), [dispatch(3)]);
    // Its time comes before what it needs is there.
    let mut early = Dag::new(nodes(), limits(4, 1)).unwrap();
    early.plan(3);
    early.apply(Event::Begin);
    assert!(early.apply(Event::Due { node: 3 }).is_empty());
    // What it needs fails before its time comes; another is taken over although its time is to come.
    let mut lost = Dag::new(nodes(), limits(4, 1)).unwrap();
    assert!(lost.plan(2) && lost.plan(0) && lost.adopt(0, 1, Begun::Not));
    lost.apply(Event::Begin);
    lost.apply(Event::AttemptFailed { node: 1, attempt: 1, retry: Retry::Never });
    assert_eq!(lost.stage(2), Stage::Blocked);
    assert!(lost.apply(Event::Due { node: 2 }).is_empty());
    let end = lost.apply(Event::Succeeded { node: 0, attempt: 1 });
    assert_eq!(end, [Action::Finish(Finish::SomeFailed)]);
    // Who pauses the run does not wait for a time.
    let mut paused = Dag::new(vec![node(5, &[])], limits(1, 1)).unwrap();
    paused.plan(0);
    assert!(paused.apply(Event::Begin).is_empty());
    assert_eq!(paused.apply(Event::Drain), [Action::Finish(Finish::Drained)]);
}

#[test]
fn a_loaded_run_goes_on_where_it_was() {
    let at = |stage, attempts, needs: &[u32]| Node { stage, attempts, ..node(5, needs) };
    let nodes = vec![
        at(Stage::Done, 1, &[]),
        at(Stage::Running, 3, &[0]),
        at(Stage::Failed, 3, &[0]),
        at(Stage::Blocked, 0, &[2]),
        at(Stage::Waiting, 0, &[3]),
        at(Stage::Waiting, 0, &[4, 1]),
    ];
    let mut dag = Dag::new(nodes, limits(4, 3)).unwrap();
    assert_eq!(
        dag.apply(Event::Begin),
        [
            Action::Block { node: 4, because: 3 },
            Action::Block { node: 5, because: 3 },
            // A crash is not a failure of the task, so it gets one more try.
            Action::Dispatch { node: 1, attempt: 4 },
        ]
    );
    let last = dag.apply(Event::AttemptFailed { node: 1, attempt: 4, retry: Retry::May });
    assert_eq!(last, [Action::Fail { node: 1 }, Action::Finish(Finish::SomeFailed)]);
}

#[test]
fn a_plan_grows_the_graph() {
    let mut dag = Dag::new(vec![node(10, &[])], limits(4, 1)).unwrap();
    dag.apply(Event::Begin);
    assert!(dag.extend(vec![node(5, &[0]), node(5, &[3]), node(5, &[0])]).unwrap().is_empty());
    let dispatch = |node| Action::Dispatch { node, attempt: 1 };
    assert_eq!(dag.apply(Event::Succeeded { node: 0, attempt: 1 }), [dispatch(1), dispatch(3)]);
    let error = dag.extend(vec![node(5, &[5]), node(5, &[6]), node(5, &[5])]).unwrap_err();
    assert_eq!(error, Cycle::Closed { path: vec![5, 6, 5] });
    assert_eq!(error.to_string(), "tasks need each other in a circle: 5 → 6 → 5");
    assert_eq!(dag.len(), 4, "an error leaves the graph as it was");
    let error = dag.extend(vec![node(5, &[9])]).unwrap_err();
    assert_eq!(error, Cycle::Dangling { node: 4, need: 9 });
    // After the end an extension goes on.
    for node in [1, 3, 2] {
        dag.apply(Event::Succeeded { node, attempt: 1 });
    }
    assert!(dag.is_ended());
    assert_eq!(dag.extend(vec![node(5, &[2])]).unwrap(), [dispatch(4)]);
    assert_eq!(dag.apply(Event::Succeeded { node: 4, attempt: 1 }), [Action::Finish(Finish::AllDone)]);
}

#[test]
fn a_task_that_waits_gets_a_further_need() {
    let mut dag = Dag::new(vec![node(5, &[]), node(5, &[0]), node(5, &[1])], limits(4, 1)).unwrap();
    dag.apply(Event::Begin);
    assert!(dag.extend(vec![node(5, &[0])]).unwrap().is_empty());
    assert_eq!(dag.require(1, 3), Some(vec![]));
    assert_eq!((dag.require(0, 3), dag.require(3, 9)), (None, None), "what runs waits no more, and what is not there");
    assert_eq!((dag.require(1, 1), dag.require(3, 2)), (None, None), "it would be a circle");
    let dispatch = |node| Action::Dispatch { node, attempt: 1 };
    assert_eq!(dag.apply(Event::Succeeded { node: 0, attempt: 1 }), [dispatch(3)]);
    assert_eq!(dag.require(2, 0), Some(vec![]), "what is done holds nobody up");
    assert_eq!(dag.apply(Event::Succeeded { node: 3, attempt: 1 }), [dispatch(1)]);
    assert_eq!(dag.require(1, 0), None);
    // Through what is lost, too: a run that is loaded again refuses a circle.
    let blocked = Node { stage: Stage::Blocked, ..node(5, &[1]) };
    let mut loaded = Dag::new(vec![node(5, &[]), node(5, &[0]), blocked], limits(1, 1)).unwrap();
    assert_eq!(loaded.require(1, 2), None);
    // A need that is lost already blocks at once.
    let failed = Node { stage: Stage::Failed, ..node(5, &[]) };
    let mut lost = Dag::new(vec![node(5, &[]), node(5, &[0]), failed, node(5, &[1])], limits(1, 1)).unwrap();
    lost.apply(Event::Begin);
    let blocked = [Action::Block { node: 1, because: 2 }, Action::Block { node: 3, because: 2 }];
    assert_eq!(lost.require(1, 2), Some(blocked.to_vec()));
    let end = lost.apply(Event::Succeeded { node: 0, attempt: 1 });
    assert_eq!(end, [Action::Finish(Finish::SomeFailed)]);
}

#[test]
fn an_empty_graph_is_done_and_a_self_need_is_a_circle() {
    assert_eq!(Dag::new(vec![], limits(1, 1)).unwrap().apply(Event::Begin), [Action::Finish(Finish::AllDone)]);
    assert_eq!(Dag::new(vec![node(5, &[0])], limits(1, 1)).unwrap_err(), Cycle::Closed { path: vec![0, 0] });
}

#[test]
fn what_runs_elsewhere_is_taken_over() {
    let tried = Node { attempts: 1, ..node(5, &[]) };
    let mut dag = Dag::new(vec![tried, node(9, &[]), node(5, &[0])], limits(1, 3)).unwrap();
    assert!(!dag.adopt(2, 1, Begun::Not), "its need is not done");
    for (attempt, begun) in
        [(0, Begun::Not), (1, Begun::Not), (3, Begun::Not), (0, Begun::Recorded), (2, Begun::Recorded)]
    {
        assert!(!dag.adopt(0, attempt, begun), "{attempt} {begun:?}: what it makes could not be recorded");
    }
    assert!(dag.adopt(0, 2, Begun::Not) && !dag.adopt(0, 2, Begun::Not));
    assert_eq!((dag.running(), dag.ready()), (1, 1));
    assert_eq!(dag.apply(Event::Begin), [], "the one place is taken");
    let lost = dag.apply(Event::AttemptLost { node: 0, attempt: 2 });
    assert_eq!(lost, [Action::Dispatch { node: 1, attempt: 1 }], "the higher priority goes first");
    let next = dag.apply(Event::Succeeded { node: 1, attempt: 1 });
    assert_eq!(next, [Action::Dispatch { node: 0, attempt: 3 }]);
    assert!(!dag.adopt(2, 1, Begun::Not), "only before the run begins");
    let begun = Node { attempts: 3, ..node(5, &[]) };
    let mut dag = Dag::new(vec![begun], limits(1, 3)).unwrap();
    assert!(dag.adopt(0, 3, Begun::Recorded));
    dag.apply(Event::Begin);
    assert_eq!(dag.apply(Event::Succeeded { node: 0, attempt: 3 }), [Action::Finish(Finish::AllDone)]);
}
