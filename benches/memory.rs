//! What memory costs: opening a project, finding in it, adding to it, and making vectors. Texts and vectors are random and
//! the same each time: some eighty words a memory, drawn as words of a language are, in tasks of twenty.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_memory::{Embedded, Embedder, Filter, Hybrid, Purpose, Query, VectorStore};
use crewline_runtime::Library;
use crewline_store::Store;
use crewline_types::{
    IdSource, MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, SystemClock, TaskId, Timestamp,
};
use nix::sys::resource::{UsageWho, getrusage};

use crate::measure::{Figure, own};

const DIMENSIONS: usize = 384;
const MODEL: &str = "bench";
const WORDS: usize = 80;
const QUESTIONS: usize = 200;
const ADDED: usize = 2_000;
/// Names of what a child prints.
const NAMES: [&str; 4] = ["open", "held", "search", "filtered"];

pub fn figures(runs: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (count, target) in [(10_000, "≤ 2 ms"), (100_000, "≤ 15 ms; opening ≤ 1 s; held ≤ 2")] {
        let folder = tempfile::tempdir().expect("a folder");
        let words = |what: &str| ["memory".to_owned(), what.to_owned(), count.to_string(), folder_of(folder.path())];
        answers(&words("fill"));
        let mut values: [Vec<f64>; NAMES.len()] = Default::default();
        for _ in 0..runs {
            for (name, value) in answers(&words("ask")) {
                let at = NAMES.iter().position(|it| **it == name).expect("a name");
                values[at].push(value);
            }
        }
        let texts = [
            ("opening a project", "s"),
            ("what it holds, in sizes of its vectors", "×"),
            ("finding, p50, by vector and words", "ms"),
            ("finding, p50, one type only", "ms"),
        ];
        for ((text, unit), values) in texts.into_iter().zip(values) {
            figures.push(Figure::new(format!("memory of {count}: {text}"), unit, target, values));
        }
    }
    let added = (0..runs).flat_map(|_| {
        let folder = tempfile::tempdir().expect("a folder");
        answers(&["memory".to_owned(), "add".to_owned(), ADDED.to_string(), folder_of(folder.path())])
    });
    let added = added.map(|(_, value)| value).collect();
    figures.push(Figure::new("memory: adding one, CPU, without its vector", "ms", "≤ 0.3 ms", added));
    figures.extend(vectors(runs));
    figures
}

/// The embedding model that `cargo xtask test` fetches; nothing without it.
fn vectors(runs: usize) -> Vec<Figure> {
    #[expect(clippy::disallowed_methods, reason = "a benchmark has no settings")]
    let folder = std::env::var_os("CREWLINE_TEST_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/crewline-test-data"), PathBuf::from);
    if Embedder::find(&folder).expect("a folder that can be read").is_none() {
        return Vec::new();
    }
    let words = ["memory".to_owned(), "vectors".to_owned(), "0".to_owned(), folder_of(&folder)];
    let mut values: [Vec<f64>; 3] = Default::default();
    for _ in 0..runs {
        for ((_, value), values) in answers(&words).into_iter().zip(&mut values) {
            values.push(value);
        }
    }
    let [query, texts, held] = values;
    vec![
        Figure::new("memory: the vector of a question of ten words, CPU", "ms", "≤ 10 ms", query),
        Figure::new("memory: vectors of texts of 150 tokens, a second of CPU", "", "≥ 20", texts),
        Figure::new("memory: the process with the model", "MiB", "≤ 300 MB", held),
    ]
}

fn folder_of(path: &Path) -> String {
    path.display().to_string()
}

/// What a child prints: lines of a name and a number.
pub fn answers(words: &[String]) -> Vec<(String, f64)> {
    let mut command: Command = own(words);
    let output = command.stderr(Stdio::inherit()).output().expect("the binary starts");
    assert!(output.status.success(), "{words:?} failed");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines()
        .map(|line| {
            let (name, value) = line.split_once(' ').expect("a name and a number");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

pub fn run(what: &str, count: usize, folder: &str) {
    let executor =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    executor.block_on(async {
        match what {
            "fill" => fill(count, folder).await,
            "ask" => ask(count, folder).await,
            "add" => add(count, folder).await,
            _ => embed(folder).await,
        }
    });
}

#[expect(clippy::print_stdout, reason = "a child's answer is its output")]
pub fn say(name: &str, value: f64) {
    println!("{name} {value}");
}

struct Maker {
    random: fastrand::Rng,
    ids: IdSource,
    task: Option<TaskId>,
    made: i64,
}

impl Maker {
    fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), ids: IdSource::seeded(seed), task: None, made: 0 }
    }

    /// Some words are much more frequent than others.
    fn text(&mut self, words: usize) -> String {
        let mut word = || {
            let most = self.random.u32(1..=20_000);
            format!("word{}", self.random.u32(..most))
        };
        (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMENSIONS).map(|_| self.random.f32() - 0.5).collect()
    }

    fn record(&mut self) -> MemoryRecord {
        if self.made % 20 == 0 {
            self.task = Some(TaskId::new(&mut self.ids));
        }
        self.made += 1;
        let text = format!("{} number{}", self.text(WORDS), self.made);
        let kind = if self.made % 10 == 0 { MemoryType::Other("note".into()) } else { MemoryType::TaskSummary };
        MemoryRecord {
            id: MemoryId::of("bench", self.task, kind.as_str(), &text),
            project: "bench".into(),
            run: None,
            task: self.task,
            kind,
            agent: "coder".into(),
            created_at: Timestamp(self.made),
            text: text.into(),
            source_ids: Vec::new(),
            marks: MemoryMarks::default(),
        }
    }
}

async fn library(folder: &str) -> Library {
    let store = Store::open(&format!("sqlite:{folder}/memory.db")).await.expect("a database");
    // Names the vectors; questions come with theirs.
    let embedder = Embedder::of(MODEL, DIMENSIONS, |_| Ok(vec![1.0; DIMENSIONS]));
    Library::new(store, Hybrid::new(Embedded::new(), None), Some(embedder), Arc::new(SystemClock))
}

async fn fill(count: usize, folder: &str) {
    let library = library(folder).await;
    let mut maker = Maker::new(1);
    for start in (0..count).step_by(512) {
        let records: Vec<MemoryRecord> = (start..count.min(start + 512)).map(|_| maker.record()).collect();
        let ids: Vec<MemoryId> = records.iter().map(|record| record.id).collect();
        let vectors: Vec<Vec<f32>> = ids.iter().map(|_| maker.vector()).collect();
        library.store().add_memories(&records).await.expect("memories");
        library.store().memory_done(MODEL, &ids, Some(&vectors)).await.expect("vectors");
    }
    // As the commands do that write memories.
    library.keep_words(&ProjectScope::of("bench")).await.expect("words");
}

async fn ask(count: usize, folder: &str) {
    let library = library(folder).await;
    let scope = ProjectScope::of("bench");
    let before = status_kib("VmRSS:");
    let begun = Instant::now();
    library.load(&scope).await.expect("a project");
    say("open", begun.elapsed().as_secs_f64());
    let size = (count * DIMENSIONS * size_of::<f32>()) as f64 / 1024.0;
    say("held", (status_kib("VmRSS:") - before) / size);
    let mut maker = Maker::new(2);
    for (name, kinds) in [("search", Vec::new()), ("filtered", vec!["note".into()])] {
        let mut times = Vec::new();
        for _ in 0..QUESTIONS {
            let filter = Filter { kinds: kinds.clone(), ..Filter::default() };
            let query = Query { text: maker.text(10), vector: Some(maker.vector()), filter, limit: 10 };
            let begun = Instant::now();
            let hits = library.index().search(&scope, &query).await.expect("an answer");
            times.push(begun.elapsed());
            assert_eq!(hits.len(), 10);
        }
        times.sort_unstable();
        say(name, times[times.len() / 2].as_secs_f64() * 1e3);
    }
}

async fn add(count: usize, folder: &str) {
    let library = library(folder).await;
    let scope = ProjectScope::of("bench");
    library.load(&scope).await.expect("a project");
    let mut maker = Maker::new(3);
    let records: Vec<MemoryRecord> = (0..count).map(|_| maker.record()).collect();
    let before = cpu();
    for record in records {
        library.add(vec![record]).await.expect("a memory");
    }
    say("add", cpu().saturating_sub(before).as_secs_f64() * 1e3 / count as f64);
}

async fn embed(folder: &str) {
    let embedder = Embedder::find(Path::new(folder)).expect("a folder").expect("a model");
    let of = async |text: String, purpose| embedder.embed(vec![text.into()], purpose).await.expect("a vector");
    of("warm".to_owned(), Purpose::Query).await;
    let begun = cpu();
    for n in 0..50 {
        of(format!("what did the crew decide about the shared memory {n}?"), Purpose::Query).await;
    }
    say("query", cpu().saturating_sub(begun).as_secs_f64() * 1e3 / 50.0);
    let sentence = "the crew plans its tasks and writes what it decided into the shared memory of the project ";
    let text: Vec<&str> = sentence.split(' ').cycle().take(148).collect();
    let begun = cpu();
    for _ in 0..40 {
        of(text.join(" "), Purpose::Document).await;
    }
    say("texts", 40.0 / cpu().saturating_sub(begun).as_secs_f64());
    of("a long story ".repeat(500), Purpose::Document).await;
    say("held", status_kib("VmRSS:") / 1024.0);
    embedder.close(Duration::from_mins(1));
}

/// User and system time of this process.
pub fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells");
    let time = |it: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(it.tv_sec() * 1_000_000 + it.tv_usec()).unwrap_or_default())
    };
    time(usage.user_time()) + time(usage.system_time())
}

/// A field of this process's status.
fn status_kib(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("the system tells");
    let line = text.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number")
}
