//! `crewline memory add|pin|unpin|forget|reset|import|ingest|migrate|reindex`: commands that write.
//!
//! **Invariant:** everything that is read is checked before anything is written.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use clap::Args;
use crewline_memory::chunk;
use crewline_runtime::{Kept, Limits, with_derivatives};
use crewline_types::{Clock, MemoryId, MemoryMarks, MemoryRecord, MemoryType, SystemClock, TaskId};
use serde::Serialize;

use super::{
    dataset::read_lines,
    session::{Session, Shown, rows, short},
};
use crate::{
    console::{self, Console},
    error::Error,
    exit::Exit,
    settings::Settings,
};

/// Tokens of one piece of a document.
const PIECE_TOKENS: usize = 220;
/// Bytes of a document.
const DOCUMENT_MAX: u64 = 16 << 20;

/// What `crewline memory add` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory add \"The API speaks French to customers\" --pin
  crewline memory add \"The port is 8443\" --supersedes 3f9a1c")]
pub(crate) struct AddArgs {
    /// The text
    #[arg(required = true, value_name = "TEXT")]
    text: Vec<String>,
    /// Its type
    #[arg(long = "type", value_name = "TYPE", default_value = "note")]
    kind: String,
    /// Who says it
    #[arg(long, value_name = "NAME", default_value = "user")]
    agent: String,
    /// The task it is about
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
    /// How much it matters, 0 to 1000
    #[arg(long, value_name = "N", default_value_t = crewline_types::memory::IMPORTANCE, value_parser = clap::value_parser!(u16).range(0..=1000))]
    importance: u16,
    /// Keep it near the top
    #[arg(long)]
    pin: bool,
    /// The memory whose place it takes; that one is kept and ranks lower
    #[arg(long, value_name = "ID")]
    supersedes: Option<String>,
}

/// Runs `crewline memory add`.
pub(crate) async fn add(args: AddArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let text = args.text.join(" ");
    if text.trim().is_empty() {
        return Err(Error::Usage { message: "there is no text".into(), hint: "give the text to remember" });
    }
    let session = Session::open(settings).await?;
    let old = match &args.supersedes {
        Some(id) => Some(session.find(id).await?.1.id),
        None => None,
    };
    let marks = MemoryMarks { importance: args.importance, pinned: args.pin, ..MemoryMarks::default() };
    let record = new_record(&session, &args.kind, &args.agent, args.task, &text, marks);
    let id = record.id;
    let kept = match old {
        // What replaces something is never taken for a repetition of it.
        Some(_) => {
            let added = session.library.add(vec![record]).await? == [true];
            Kept { added: usize::from(added), known: usize::from(!added), repeated: 0 }
        }
        None => session.library.remember(vec![record]).await?,
    };
    if let Some(old) = old {
        session.library.supersede(&session.scope, old, id).await?;
        session.library.refresh(&session.scope, Limits::default().project_tokens).await?;
    }
    session.carry(console).await;
    session.close().await;
    if kept.repeated > 0 {
        console.note("that was known already; it was counted");
    }
    report(kept, 0, (kept.repeated == 0).then_some(id), console)
}

fn new_record(
    session: &Session,
    kind: &str,
    agent: &str,
    task: Option<TaskId>,
    text: &str,
    marks: MemoryMarks,
) -> MemoryRecord {
    let kind = MemoryType::from(kind);
    MemoryRecord {
        id: MemoryId::of(session.scope.project(), task, kind.as_str(), text),
        project: session.scope.project().into(),
        run: None,
        task,
        kind,
        agent: agent.into(),
        created_at: SystemClock.now(),
        text: text.into(),
        source_ids: Vec::new(),
        marks,
    }
}

/// What stdout shows after writing.
#[derive(Debug, Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<MemoryId>,
    added: usize,
    known: usize,
    repeated: usize,
    left_out: usize,
}

fn report(kept: Kept, left_out: usize, id: Option<MemoryId>, console: &Console) -> Result<Exit, Error> {
    let written = Written { id, added: kept.added, known: kept.known, repeated: kept.repeated, left_out };
    console.value(&written, |_| match id {
        Some(id) => short(id),
        None => format!(
            "{} added, {} known, {} repeated, {left_out} left out as chatter",
            kept.added, kept.known, kept.repeated
        ),
    })?;
    Ok(Exit::Ok)
}

/// What `crewline memory pin` and `unpin` take.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory pin 3f9a1c")]
pub(crate) struct PinArgs {
    /// The ids, or their beginnings
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// Runs `crewline memory pin` and `unpin`.
pub(crate) async fn pin(args: PinArgs, pinned: bool, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let mut shown = Vec::new();
    for id in &args.ids {
        let (seq, mut record) = session.find(id).await?;
        record.marks.pinned = pinned;
        shown.push(Shown::of((seq, record)));
    }
    let marks = shown.iter().map(|it| (it.record.id, it.record.marks.clone())).collect();
    session.library.mark(&session.scope, marks).await?;
    session.close().await;
    console.list(&shown, |style| rows(&shown, style))?;
    Ok(Exit::Ok)
}

/// What `crewline memory forget` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory forget 3f9a1c --dry-run
  crewline memory forget 3f9a1c --yes

What was made from a memory, such as a summary, is forgotten with it, and is made again when it has other sources.
Recorded contexts of tasks are not changed; the tasks whose context held it are listed.")]
pub(crate) struct ForgetArgs {
    /// The ids, or their beginnings
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Show what would be forgotten
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Forgetting {
    forgotten: Vec<Shown>,
    /// Tasks whose recorded context held one of them.
    read_by: Vec<Reader>,
    /// Summaries that were made again from what is left of their sources.
    made_again: Vec<MemoryId>,
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Reader {
    task: TaskId,
    title: String,
}

/// Runs `crewline memory forget`.
pub(crate) async fn forget(args: ForgetArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let mut named = Vec::new();
    for id in &args.ids {
        named.push(session.find(id).await?.1.id);
    }
    let all = session.all().await?;
    let records: Vec<MemoryRecord> = all.iter().map(|(_, record)| record.clone()).collect();
    // What was made from something that goes, goes, too, however far up.
    let gone = with_derivatives(&records, &named);
    let forgotten: Vec<Shown> = all.into_iter().filter(|(_, it)| gone.contains(&it.id)).map(Shown::of).collect();
    let sources: Vec<String> = forgotten
        .iter()
        .map(|it| it.record.task.map_or_else(|| format!("memory:{}", it.record.id), |task| format!("task:{task}")))
        .collect();
    let readers = session.library.store().tasks_that_read(&sources).await?;
    let read_by = readers.into_iter().map(|(task, title)| Reader { task, title }).collect();
    let mut outcome = Forgetting { forgotten, read_by, made_again: Vec::new(), dry_run: args.dry_run };
    if !args.dry_run {
        agree(settings, &format!("forget {} memories for good?", outcome.forgotten.len()), "forgetting")?;
        let tokens_max = Limits::default().project_tokens;
        outcome.made_again = session.library.forget_all(&session.scope, &named, tokens_max).await?.1;
        session.carry(console).await;
    }
    session.close().await;
    console.value(&outcome, |style| {
        let mut text = rows(&outcome.forgotten, style);
        for reader in &outcome.read_by {
            // Writing into memory can not fail.
            _ = writeln!(text, "read by task {} {}", reader.task, crate::view::clean(&reader.title));
        }
        for id in &outcome.made_again {
            _ = writeln!(text, "made again: {}", short(*id));
        }
        text
    })?;
    if args.dry_run {
        console.hint("nothing was changed; leave out `--dry-run` to forget");
    }
    Ok(Exit::Ok)
}

fn agree(settings: &Settings, question: &str, what: &'static str) -> Result<(), Error> {
    if console::ask(settings, question) == Some(true) { Ok(()) } else { Err(Error::NeedsYes { what }) }
}

/// What `crewline memory reset` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory reset --project demo --dry-run")]
pub(crate) struct ResetArgs {
    /// Show what would be forgotten
    #[arg(long)]
    dry_run: bool,
}

/// Runs `crewline memory reset`.
pub(crate) async fn reset(args: ResetArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let ids: Vec<MemoryId> = session.all().await?.into_iter().map(|(_, record)| record.id).collect();
    if !args.dry_run {
        let question = format!("forget all {} memories of project `{}`?", ids.len(), session.scope.project());
        agree(settings, &question, "forgetting a project")?;
        session.library.forget(&session.scope, &ids).await?;
        session.carry(console).await;
    }
    let outcome =
        BTreeMap::from([("forgotten", serde_json::json!(ids.len())), ("dry_run", serde_json::json!(args.dry_run))]);
    session.close().await;
    console.value(&outcome, |_| {
        format!("{} memories{}", ids.len(), if args.dry_run { " would be forgotten" } else { " forgotten" })
    })?;
    Ok(Exit::Ok)
}

/// What `crewline memory import` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory import memories.jsonl.gz --project demo

Reads what `crewline memory export` wrote, plain or gzipped. Memories go into the project of `--project`.")]
pub(crate) struct ImportArgs {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs `crewline memory import`.
pub(crate) async fn import(args: ImportArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let mut records: Vec<MemoryRecord> = read_lines(&args.file)?;
    let session = Session::open(settings).await?;
    let scope = session.scope.project();
    // Another project gives other ids; what points at them must follow.
    let renamed: std::collections::HashMap<MemoryId, MemoryId> =
        records.iter().map(|it| (it.id, MemoryId::of(scope, it.task, it.kind.as_str(), &it.text))).collect();
    for record in &mut records {
        record.id = renamed.get(&record.id).copied().unwrap_or(record.id);
        record.project = scope.into();
        for id in record.source_ids.iter_mut().chain(record.marks.superseded_by.as_mut()) {
            *id = renamed.get(id).copied().unwrap_or(*id);
        }
        record.marks.importance = record.marks.importance.min(1_000);
    }
    let is_new = session.library.add(records).await?;
    let added = is_new.iter().filter(|is_new| **is_new).count();
    session.carry(console).await;
    session.close().await;
    report(Kept { added, known: is_new.len() - added, repeated: 0 }, 0, None, console)
}

/// What `crewline memory ingest` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory ingest docs/*.md notes.txt

Documents are cut at headings, paragraphs and code blocks; pieces that say nothing are left out.")]
pub(crate) struct IngestArgs {
    /// Text files, UTF-8
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Their type
    #[arg(long = "type", value_name = "TYPE", default_value = "design_doc")]
    kind: String,
}

/// Runs `crewline memory ingest`.
pub(crate) async fn ingest(args: IngestArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let mut documents = Vec::new();
    for path in &args.paths {
        documents.push((path, read_document(path)?));
    }
    let session = Session::open(settings).await?;
    let mut records = Vec::new();
    let mut left_out = 0;
    for (path, text) in &documents {
        for piece in chunk(text, PIECE_TOKENS) {
            if session.library.index().local().rules().is_chatter(piece) {
                left_out += 1;
                continue;
            }
            let metadata = BTreeMap::from([("path".to_owned(), path.display().to_string())]);
            let marks = MemoryMarks { metadata, ..MemoryMarks::default() };
            records.push(new_record(&session, &args.kind, "document", None, piece, marks));
        }
    }
    let kept = session.library.remember(records).await?;
    session.carry(console).await;
    session.close().await;
    report(kept, left_out, None, console)
}

fn read_document(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    if path.metadata().map_err(failed)?.len() > DOCUMENT_MAX {
        let reason = format!("it is larger than {} MiB", DOCUMENT_MAX >> 20);
        return Err(failed(std::io::Error::other(reason)));
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// What `crewline memory rollup` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory rollup --project demo

Runs do this by themselves. Summaries are extracts of what they are made from; `crewline memory show` tells what that is.")]
pub(crate) struct RollupArgs {}

/// Runs `crewline memory rollup`.
pub(crate) async fn rollup(_: RollupArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let made = session.library.refresh(&session.scope, Limits::default().project_tokens).await?;
    session.carry(console).await;
    let mut shown: Vec<Shown> = session.all().await?.into_iter().map(Shown::of).collect();
    session.close().await;
    shown.retain(|it| made.contains(&it.record.id));
    console.list(&shown, |style| rows(&shown, style))?;
    if shown.is_empty() {
        console.note("every summary is up to date");
    }
    Ok(Exit::Ok)
}

/// What `crewline memory migrate` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory migrate --qdrant http://127.0.0.1:6334   carry all vectors to that server
  crewline memory migrate                                  carry them back into the database

Vectors go to where the settings say they belong; texts stay in the database.")]
pub(crate) struct MigrateArgs {}

/// Runs `crewline memory migrate`.
pub(crate) async fn migrate(_: MigrateArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    carried(session, console).await
}

/// What `crewline memory reindex` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory reindex --project demo")]
pub(crate) struct ReindexArgs {}

/// Runs `crewline memory reindex`.
pub(crate) async fn reindex(_: ReindexArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    session.library.store().redrain_memories(&session.scope).await?;
    carried(session, console).await
}

#[derive(Debug, Serialize)]
struct Carrying {
    carried: usize,
    waiting: u64,
    vectors: Option<String>,
}

async fn carried(session: Session, console: &Console) -> Result<Exit, Error> {
    if session.library.embedder().is_none() {
        session.close().await;
        return Err(Error::Usage {
            message: "there is no embedding model, so there are no vectors".into(),
            hint: "`crewline setup --local` installs one",
        });
    }
    let carried = session.carry(console).await;
    let waiting = session.library.store().memory_outbox_depth().await?;
    let outcome = Carrying { carried, waiting, vectors: session.library.target() };
    session.close().await;
    console.value(&outcome, |_| {
        format!("{carried} carried, {waiting} waiting, vectors in {}", outcome.vectors.as_deref().unwrap_or("no place"))
    })?;
    Ok(if waiting == 0 { Exit::Ok } else { Exit::Unavailable })
}
