//! Prints what plans and bundles cost: `cargo run --release -p crewline-engine --example timings`.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use crewline_engine::{
    context::{self, Item, Place, Tier, assemble, neighbours},
    plan::{Rules, check, document_from_value},
    schedule::{Graph, Job, Strategy},
};
use crewline_types::Priority;
use serde_json::{Value, json};

const REPEATS: u32 = 20;

#[expect(clippy::print_stdout, reason = "printing is what it is for")]
fn main() {
    let mut random = Random(7);
    let text = large_plan(&mut random).to_string();
    let before = peak_kib();
    let begun = Instant::now();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let loaded = begun.elapsed();
    let plan = document_from_value(&value).and_then(|it| check(&it, &Rules::open()));
    let checked = begun.elapsed();
    let graph = plan.as_ref().ok().and_then(|it| it.graph().ok());
    let length = graph.as_ref().map(|it| it.critical_path().length);
    let all = begun.elapsed();
    println!(
        "10,000 tasks, 30,000 links: load {loaded:?}, check {:?}, graph and critical path {:?}",
        checked.saturating_sub(loaded),
        all.saturating_sub(checked)
    );
    println!("  all {all:?}, length {length:?}, peak memory {} KiB, {before} KiB before it", peak_kib());
    if let Ok(plan) = &plan {
        let (begun, web) = (Instant::now(), Web(plan));
        for index in 0..10_000 {
            black_box(neighbours(&web, index));
        }
        println!("  what each of its tasks is told of its neighbours {:?}", begun.elapsed() / 10_000);
    }
    if let Some(graph) = &graph {
        let begun = Instant::now();
        black_box(graph.timetable(NonZeroUsize::new(16), Strategy::Dag));
        println!("  timetable for 16 workers {:?}", begun.elapsed());
    }

    for size in [12_usize, 25, 50, 100] {
        let (mut longest, mut gap, mut sum) = (Duration::ZERO, 1.0_f64, 0.0);
        for _ in 0..REPEATS {
            let jobs = random_jobs(&mut random, size);
            let Ok(graph) = Graph::new(jobs.clone()) else { continue };
            let begun = Instant::now();
            let makespan = graph.timetable(NonZeroUsize::new(3), Strategy::Dag).makespan;
            longest = longest.max(begun.elapsed());
            let work: f64 = jobs.iter().filter_map(|it| it.duration).sum();
            let bound = graph.critical_path().length.max(work / 3.0);
            gap = gap.max(makespan / bound);
            sum += makespan / bound;
        }
        println!(
            "{size} tasks, 3 workers: mean {:.4}, worst {gap:.4} of the bound, longest {longest:?}",
            sum / f64::from(REPEATS)
        );
    }

    let items: Vec<Item> = (0..1_000).map(|index| candidate(index, &mut random)).collect();
    let mut best = Duration::MAX;
    let mut total = Duration::ZERO;
    for _ in 0..REPEATS {
        let begun = Instant::now();
        black_box(assemble(&items, 8_000));
        best = best.min(begun.elapsed());
        total += begun.elapsed();
    }
    println!("assemble 1,000 candidates at 8,000 tokens: best {best:?}, mean {:?}", total / REPEATS);
}

/// A plan without a tree.
struct Web<'a>(&'a crewline_engine::plan::Plan);

impl context::Plan for Web<'_> {
    fn place(&self, index: u32) -> Option<Place<'_>> {
        let task = self.0.tasks.get(index as usize)?;
        Some(Place {
            key: &task.key,
            title: &task.title,
            description: &task.description,
            criteria: &task.success_criteria,
            parent: None,
            needs: &task.depends_on,
            refers: &[],
            result: Some("# A result\n\nIt says what was found, and on what that rests."),
            is_cancelled: false,
        })
    }

    fn needs(&self, index: u32) -> Option<&[u32]> {
        self.0.tasks.get(index as usize).map(|task| &*task.depends_on)
    }
}

/// The same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (self.0 >> 33) % n
    }
}

fn large_plan(random: &mut Random) -> Value {
    let tasks: Vec<Value> = (0..10_000_u64)
        .map(|index| {
            let needs: Vec<String> =
                (0..3).filter(|_| index > 0).map(|_| format!("t{}", random.below(index.max(1)))).collect();
            let description = "Do what the title says, and say on what it rests. ".repeat(4);
            json!({"id": format!("t{index}"), "title": format!("Task {index}"), "description": description,
                "depends_on": needs, "duration": 1 + random.below(600)})
        })
        .collect();
    json!({"goal": "A large plan", "tasks": tasks})
}

fn random_jobs(random: &mut Random, size: usize) -> Vec<Job> {
    (0..size)
        .map(|index| {
            let needs =
                (0..index).filter(|_| random.below(size as u64) < 2).filter_map(|it| u32::try_from(it).ok()).collect();
            let seconds = 60 * (1 + u32::try_from(random.below(30)).unwrap_or(0));
            Job { needs, priority: Priority::default(), duration: Some(f64::from(seconds)) }
        })
        .collect()
}

fn candidate(index: usize, random: &mut Random) -> Item {
    let words = ["index", "task", "memory", "because", "router", "budget", "decided", "the", "of", "and", "latency"];
    let mut text = String::new();
    for _ in 0..40 + random.below(200) {
        text.push_str(words[usize::try_from(random.below(words.len() as u64)).unwrap_or(0)]);
        text.push_str(if random.below(12) == 0 { ". " } else { " " });
    }
    Item {
        tier: [Tier::Requires, Tier::Refers, Tier::Siblings, Tier::Retrieved][index % 4],
        source: format!("task:{index:08}").into(),
        kind: "result".into(),
        title: format!("Result {index}").into(),
        text: text.into(),
        score: (index % 100) as f32 / 100.0,
    }
}

/// The most memory the process had, where the system tells.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
