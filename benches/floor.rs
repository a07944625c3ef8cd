//! The least that a crew could cost on this machine with these libraries: tokio and reqwest, and for each task a record before
//! its call and one after it, each durable before the next step, written in groups that share one `fsync`.
//!
//! No plan, no prompts, no database, no documents, no events: what a crew of ours costs more is the price of those.

#![expect(clippy::disallowed_methods, reason = "the floor has no actors")]

use std::{fs::File, io::Write as _, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

/// Records that may share an `fsync`, as in the journal of the program.
const GROUP_MAX: usize = 512;

type Record = (String, oneshot::Sender<()>);

/// Runs one task, then `width` in parallel, then one more; `folder` gets the records.
pub fn run(url: &str, width: usize, folder: &str) {
    // Another one may be installed already; any will do for plain HTTP.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    runtime.block_on(async {
        let file = File::create(std::path::Path::new(folder).join("floor.log")).expect("a file");
        let (records, waiting) = mpsc::channel(4 * GROUP_MAX);
        let writer = tokio::spawn(write(file, waiting));
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(width).build().expect("a client");
        let crew = Arc::new(Crew { client, url: format!("{url}/chat/completions"), records });
        task(Arc::clone(&crew), 0).await;
        let middle: Vec<_> = (1..=width).map(|number| tokio::spawn(task(Arc::clone(&crew), number))).collect();
        for one in middle {
            one.await.expect("it ends");
        }
        task(Arc::clone(&crew), width + 1).await;
        drop(crew);
        writer.await.expect("it ends");
    });
}

struct Crew {
    client: reqwest::Client,
    url: String,
    records: mpsc::Sender<Record>,
}

async fn task(crew: Arc<Crew>, number: usize) {
    let prompt = "Write one sentence about your part of the goal. ".repeat(20);
    let messages = json!([{"role": "system", "content": "You are a writer."}, {"role": "user", "content": prompt}]);
    let body = json!({"model": "cheap", "messages": messages, "max_tokens": 1_000});
    record(&crew, format!("{{\"task\":{number},\"state\":\"asked\"}}\n")).await;
    let answer = crew.client.post(&crew.url).json(&body).send().await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    let text = answer["choices"][0]["message"]["content"].as_str().expect("a text");
    record(&crew, format!("{{\"task\":{number},\"result\":\"{text}\"}}\n")).await;
}

/// Returns when the record is durable.
async fn record(crew: &Crew, line: String) {
    let (done, is_done) = oneshot::channel();
    assert!(crew.records.send((line, done)).await.is_ok(), "the writer lives");
    is_done.await.expect("it is written");
}

/// What arrives while a group is written is the next one.
async fn write(mut file: File, mut waiting: mpsc::Receiver<Record>) {
    let mut group: Vec<Record> = Vec::new();
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        let records = std::mem::take(&mut group);
        let written = tokio::task::spawn_blocking(move || {
            let lines: String = records.iter().map(|(line, _)| line.as_str()).collect();
            file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).expect("the disk takes it");
            (file, records)
        });
        let (back, records) = written.await.expect("it ends");
        file = back;
        for (_, done) in records {
            // Whoever waits does so to the end.
            let _ = done.send(());
        }
    }
}
