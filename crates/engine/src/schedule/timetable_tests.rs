//! Timetables, critical paths and strategies against plain readings of their rules.
//!
//! **Invariant:** every failure prints its seed.

use std::num::NonZeroUsize;

use crewline_types::Priority;

use super::{simulation::Rng, *};

fn job(seconds: f64, needs: &[u32]) -> Job {
    Job { needs: needs.to_vec(), priority: Priority::default(), duration: Some(seconds) }
}

fn graph(jobs: &[Job]) -> Graph {
    Graph::new(jobs.to_vec()).unwrap()
}

fn workers(number: usize) -> Option<NonZeroUsize> {
    NonZeroUsize::new(number)
}

/// A random plan; needs point forwards as well as backwards.
fn random_jobs(rng: &mut Rng, size: usize, density: u64) -> Vec<Job> {
    let mut order: Vec<u32> = (0..to_u32(size)).collect();
    for index in (1..size).rev() {
        order.swap(index, rng.index(index + 1));
    }
    let mut jobs = vec![job(0.0, &[]); size];
    for (place, task) in order.iter().enumerate() {
        let needs = order[..place].iter().copied().filter(|_| rng.below(100) < density).collect();
        let priority = Priority::new(1 + u8::try_from(rng.below(3)).unwrap()).unwrap();
        jobs[*task as usize] = Job { needs, priority, duration: Some(rng.below(7) as f64 * 0.3) };
    }
    jobs
}

/// No worker does two things at once, and nothing starts too early.
fn assert_possible(jobs: &[Job], workers: Option<NonZeroUsize>, table: &Timetable, note: &str) {
    for (slot, job) in table.slots.iter().zip(jobs) {
        assert!(slot.start >= 0.0 && slot.end <= table.makespan, "{note}");
        assert_eq!(slot.start + job.duration.unwrap(), slot.end, "{note}");
        for need in &job.needs {
            assert!(table.slots[*need as usize].end <= slot.start, "{note}");
        }
        let at_once = table.slots.iter().filter(|it| it.start <= slot.start && slot.start < it.end).count();
        assert!(workers.is_none_or(|it| at_once <= it.get()), "{note}: {at_once} at once");
    }
}

/// The shortest makespan, by trying every order in which tasks can start.
fn shortest(jobs: &[Job], workers: usize) -> f64 {
    shortest_released(jobs, &vec![0.0; jobs.len()], workers)
}

/// The same, when none may start before its release.
fn shortest_released(jobs: &[Job], releases: &[f64], workers: usize) -> f64 {
    fn go((jobs, releases): (&[Job], &[f64]), ends: &mut Vec<Option<f64>>, free_at: &[f64], now: f64, best: &mut f64) {
        let so_far = ends.iter().flatten().copied().fold(0.0, f64::max);
        if so_far >= *best {
            return;
        }
        if ends.iter().all(Option::is_some) {
            *best = so_far;
            return;
        }
        for task in 0..jobs.len() {
            if ends[task].is_some() {
                continue;
            }
            let begin = now.max(releases[task]);
            let Some(ready) =
                jobs[task].needs.iter().try_fold(begin, |at, it| ends[*it as usize].map(|end| at.max(end)))
            else {
                continue;
            };
            let mut free_at = free_at.to_vec();
            free_at.sort_by(f64::total_cmp);
            let start = ready.max(free_at[0]);
            free_at[0] = start + jobs[task].duration.unwrap();
            ends[task] = Some(free_at[0]);
            go((jobs, releases), ends, &free_at, start, best);
            ends[task] = None;
        }
    }
    let mut best = f64::INFINITY;
    go((jobs, releases), &mut vec![None; jobs.len()], &vec![0.0; workers], 0.0, &mut best);
    best
}

#[test]
fn small_plans_get_their_shortest_timetable() {
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.index(7);
        let density = 5 + rng.below(40);
        let jobs = random_jobs(&mut rng, size, density);
        for number in 1..=3 {
            let table = graph(&jobs).timetable(workers(number), Strategy::Dag);
            let note = format!("seed {seed}, {number} workers");
            assert_possible(&jobs, workers(number), &table, &note);
            let shortest = shortest(&jobs, number);
            assert!((table.makespan - shortest).abs() < 1e-9, "{note}: {} instead of {shortest}", table.makespan);
        }
    }
}

#[test]
fn no_task_starts_before_it_may() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.index(7);
        let jobs = random_jobs(&mut rng, size, 25);
        let releases: Vec<f64> = (0..size).map(|_| if rng.below(2) == 0 { 0.0 } else { rng.below(9) as f64 }).collect();
        let graph = graph(&jobs).released(&releases);
        for (number, strategy) in (1..=3).flat_map(|number| Strategy::ALL.map(|strategy| (number, strategy))) {
            let table = graph.timetable(workers(number), strategy);
            let note = format!("seed {seed}, {number} workers, {}", strategy.as_str());
            assert_possible(&jobs, workers(number), &table, &note);
            assert!(table.slots.iter().zip(&releases).all(|(slot, release)| slot.start >= *release), "{note}");
            let shortest = shortest_released(&jobs, &releases, number);
            let is_shortest = (table.makespan - shortest).abs() < 1e-9;
            assert!(table.makespan > shortest - 1e-9 && (is_shortest || strategy != Strategy::Dag), "{note}");
        }
        assert_eq!(graph.critical_path(), self::graph(&jobs).critical_path(), "seed {seed}");
    }
    let odd = graph(&[job(1.0, &[]), job(1.0, &[])]).released(&[f64::NAN, -5.0]);
    assert_eq!(odd.timetable(workers(1), Strategy::Dag).makespan, 2.0);
}

#[test]
fn a_worker_may_wait_when_that_is_shorter() {
    // `0` opens two long tasks that want both workers; starting `5` at once would take one of them.
    let jobs = [job(1.0, &[]), job(10.0, &[0]), job(10.0, &[0]), job(10.0, &[1, 2]), job(10.0, &[])];
    let table = graph(&jobs).timetable(workers(2), Strategy::Dag);
    assert_eq!(table.makespan, 21.0);
    assert_eq!(table.slots[4].start, 11.0);
}

#[test]
fn large_plans_are_possible_and_not_far_from_the_bound() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let size = 150 + rng.index(200);
        let jobs = random_jobs(&mut rng, size, 1);
        for number in [2, 5] {
            let graph = graph(&jobs);
            for strategy in Strategy::ALL {
                let table = graph.timetable(workers(number), strategy);
                assert_possible(&jobs, workers(number), &table, &format!("seed {seed}, {number} workers"));
            }
            let work: f64 = jobs.iter().filter_map(|it| it.duration).sum();
            let bound = graph.critical_path().length.max(work / number as f64);
            let makespan = graph.timetable(workers(number), Strategy::Dag).makespan;
            assert!(makespan <= bound * 1.05, "seed {seed}, {number} workers: {makespan} for {bound}");
        }
    }
}

#[test]
fn without_bounds_the_longest_way_is_the_end() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let size = rng.index(30);
        let jobs = random_jobs(&mut rng, size, 12);
        let graph = graph(&jobs);
        let (table, path) = (graph.timetable(None, Strategy::Dag), graph.critical_path());
        assert_possible(&jobs, None, &table, &format!("seed {seed}"));
        assert!((table.makespan - path.length).abs() < 1e-9, "seed {seed}");
        let sum: f64 = path.path.iter().map(|it| jobs[*it as usize].duration.unwrap()).sum();
        assert!((sum - path.length).abs() < 1e-9, "seed {seed}");
        for step in path.path.windows(2) {
            assert!(jobs[step[1] as usize].needs.contains(&step[0]), "seed {seed}");
        }
        assert!(path.path.iter().all(|it| path.slack[*it as usize] == 0.0), "seed {seed}");
        // A task that is later by its slack delays nothing; by more, it does.
        for task in 0..jobs.len() {
            let mut late = jobs.clone();
            late[task].duration = late[task].duration.map(|it| it + path.slack[task]);
            assert!((self::graph(&late).critical_path().length - path.length).abs() < 1e-9, "seed {seed}: {task}");
        }
    }
}

#[test]
fn a_run_takes_tasks_in_the_order_of_the_timetable() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let size = 1 + rng.index(20);
        let jobs = random_jobs(&mut rng, size, 15);
        for strategy in Strategy::ALL {
            let graph = graph(&jobs);
            let nodes = graph.urgencies(strategy).into_iter().zip(&jobs).map(|(urgency, job)| {
                let (needs, priority) = (job.needs.clone(), job.priority);
                Node { urgency, priority, needs, stage: Stage::Waiting, attempts: 0 }
            });
            let mut dag = Dag::new(nodes.collect(), Limits { parallel_max: 1, ..Limits::default() }).unwrap();
            let (mut now, mut starts) = (0.0, vec![f64::NAN; size]);
            let mut actions = dag.apply(Event::Begin);
            while let [Action::Dispatch { node, attempt }] = actions[..] {
                starts[node as usize] = now;
                now += graph.seconds[node as usize];
                actions = dag.apply(Event::Succeeded { node, attempt });
            }
            let one = workers(1).unwrap();
            assert_eq!(starts, list::starts(&graph, &graph.ranks(strategy), one), "seed {seed}, {}", strategy.as_str());
        }
    }
}

#[test]
fn strategies_differ_where_they_should() {
    // Two branches of two, and one long task at the end of the list.
    let jobs = [job(1.0, &[]), job(1.0, &[]), job(1.0, &[0]), job(1.0, &[1]), job(9.0, &[])];
    let order = |strategy| {
        let ranks = graph(&jobs).ranks(strategy);
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        order.sort_by_key(|it| ranks[*it]);
        order
    };
    assert_eq!(order(Strategy::Dag), [4, 0, 1, 2, 3]);
    assert_eq!(order(Strategy::Bfs), [0, 1, 4, 2, 3]);
    assert_eq!(order(Strategy::Postorder), [0, 2, 1, 3, 4]);
    for strategy in Strategy::ALL {
        assert_eq!(Strategy::parse(strategy.as_str()), Some(strategy));
    }
}

#[test]
fn without_durations_priority_decides() {
    let unknown = |priority| Job { needs: vec![], priority: Priority::new(priority).unwrap(), duration: None };
    let graph = Graph::new(vec![unknown(2), unknown(8), Job { needs: vec![0], ..unknown(5) }]).unwrap();
    assert_eq!(graph.urgencies(Strategy::Dag), [0, 0, 0]);
    assert_eq!((graph.has_durations(), graph.unknown()), (false, 3));
    assert_eq!(graph.ranks(Strategy::Dag), [2, 0, 1]);
    // Each counts a second, so that the timetable shows the steps.
    assert_eq!(graph.timetable(workers(2), Strategy::Dag).makespan, 2.0);
}

#[test]
fn what_is_no_duration_is_unknown_and_no_sum_overflows() {
    for duration in [f64::NAN, f64::INFINITY, -1.0] {
        assert_eq!(Graph::new(vec![job(duration, &[])]).unwrap().unknown(), 1);
    }
    let huge = graph(&[job(f64::MAX, &[]), job(f64::MAX, &[0])]);
    assert!(huge.timetable(workers(1), Strategy::Dag).makespan.is_finite());
    let empty = graph(&[]);
    assert_eq!((empty.timetable(workers(1), Strategy::Dag).makespan, empty.critical_path().length), (0.0, 0.0));
    assert!(matches!(Graph::new(vec![job(1.0, &[0])]), Err(Cycle::Closed { .. })));
}
