//! Memory under `kill -9`: processes that ingest are killed again and again while the vector store flaps, and nothing is
//! lost or there twice.
//!
//! The test runs itself as the process that is killed: with a database in its environment, [`a_process_that_ingests`]
//! writes until it dies.
#![allow(clippy::unwrap_used, reason = "a test's helpers are tests, too")]
#![expect(clippy::disallowed_methods, reason = "the environment tells the child what to do")]

use std::{
    collections::BTreeSet,
    env,
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crewline_memory::{Embedded, Embedder, Hybrid, Qdrant, QdrantOptions};
use crewline_runtime::Library;
use crewline_store::Store;
use crewline_testkit::{Illness, QdrantServer};
use crewline_types::{MemoryId, MemoryMarks, MemoryRecord, MemoryType, ProjectScope, Timestamp, time::ManualClock};

const DIMENSIONS: usize = 16;
const KILLS: usize = 50;
/// Where the child finds its folder, and its vector store.
const FOLDER: &str = "CREWLINE_TEST_KILLS_FOLDER";
const SERVER: &str = "CREWLINE_TEST_KILLS_SERVER";

fn record(number: usize) -> MemoryRecord {
    let (project, text) = (["p", "q"][number % 2], format!("memory number {number}"));
    let kind = MemoryType::TaskSummary;
    MemoryRecord {
        id: MemoryId::of(project, None, kind.as_str(), &text),
        project: project.into(),
        run: None,
        task: None,
        kind,
        agent: "coder".into(),
        created_at: Timestamp(1),
        text: text.into(),
        source_ids: Vec::new(),
        marks: MemoryMarks::default(),
    }
}

async fn library(folder: &Path, server: String, patience: Duration) -> Library {
    let store = Store::open(&format!("sqlite:{}", folder.join("c.db").display())).await.unwrap();
    let options = QdrantOptions { url: server, api_key: None, model: "test".to_owned(), dimensions: DIMENSIONS };
    let remote = Qdrant::new(options).unwrap().patient_for(patience);
    let embedder = Embedder::of("test", DIMENSIONS, |text| {
        let mut vector = vec![0.01; DIMENSIONS];
        for byte in text.bytes() {
            vector[usize::from(byte) % DIMENSIONS] += 1.0;
        }
        Ok(vector)
    });
    Library::new(store, Hybrid::new(Embedded::new(), Some(remote)), Some(embedder), Arc::new(ManualClock::default()))
}

/// The numbers that a child was told are kept.
fn acknowledged(folder: &Path) -> Vec<usize> {
    let text = std::fs::read_to_string(folder.join("acknowledged")).unwrap_or_default();
    // The last line may be half a number, and every child begins a new one.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter(|line| !line.is_empty()).map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_process_that_ingests() {
    let (Some(folder), Ok(server)) = (env::var_os(FOLDER), env::var(SERVER)) else { return };
    let folder = Path::new(&folder);
    // Who is killed meanwhile does not wait for a store that is ill.
    let library = library(folder, server, Duration::from_millis(300)).await;
    let mut file = OpenOptions::new().create(true).append(true).open(folder.join("acknowledged")).unwrap();
    // Half a line of somebody who was killed is not continued.
    file.write_all(b"\n").unwrap();
    let mut next = 0;
    for project in ["p", "q"] {
        next += library.all(&ProjectScope::of(project)).await.unwrap().len();
    }
    loop {
        let batch = 1 + fastrand::usize(..12);
        let records = (next..next + batch).map(record).collect();
        library.add(records).await.unwrap();
        for number in next..next + batch {
            file.write_all(format!("{number}\n").as_bytes()).unwrap();
        }
        next += batch;
        // The outbox keeps what an ill store does not take.
        let _ = library.drain().await;
    }
}

fn child(folder: &Path, server: &QdrantServer) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_process_that_ingests", "--nocapture"])
        .env(FOLDER, folder)
        .env(SERVER, server.url())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_leave_nothing_twice() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().unwrap();
    let server = QdrantServer::start().await.unwrap();
    let illnesses = [Illness::None, Illness::None, Illness::Down, Illness::Failing, Illness::Slow];
    for _ in 0..KILLS {
        server.set(*random.choice(&illnesses[..]).unwrap());
        let before = acknowledged(dir.path()).len();
        let mut child = child(dir.path(), &server);
        while acknowledged(dir.path()).len() <= before {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        server.set(*random.choice(&illnesses[..]).unwrap());
        tokio::time::sleep(Duration::from_millis(random.u64(..40))).await;
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    server.set(Illness::None);
    let library = library(dir.path(), server.url(), Duration::from_mins(1)).await;
    while library.drain().await.unwrap().has_more {}
    assert_eq!(library.store().memory_outbox_depth().await.unwrap(), 0);

    let mut kept = Vec::new();
    for project in ["p", "q"] {
        kept.extend(library.all(&ProjectScope::of(project)).await.unwrap().into_iter().map(|(_, record)| record.id));
    }
    let ids: BTreeSet<MemoryId> = kept.iter().copied().collect();
    assert_eq!(ids.len(), kept.len(), "none twice in the database");
    let promised = acknowledged(dir.path());
    assert!(promised.iter().all(|number| ids.contains(&record(*number).id)), "none lost");
    let points: Vec<String> = server.points().into_iter().map(|id| id.replace('-', "")).collect();
    assert_eq!(points.len(), ids.len(), "none twice in the vector store");
    assert_eq!(points.into_iter().collect::<BTreeSet<_>>(), ids.iter().map(ToString::to_string).collect());
    println!("{KILLS} kills, {} memories, {} acknowledged, {} requests", ids.len(), promised.len(), server.requests());
}
