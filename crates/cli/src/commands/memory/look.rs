//! `crewline memory search|ls|show|stats|export`: commands that change nothing.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use clap::Args;
use crewline_memory::{Filter, Query, Why};
use crewline_types::{MemoryRecord, MemoryType, TaskId};
use serde::Serialize;

use super::session::{Session, Shown, rows, short};
use crate::{
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, clean, fit, table},
};

/// What `crewline memory search` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory search \"why did we refuse the second broker\"
  crewline memory search deadline --agent user --top-k 3 -o json")]
pub(crate) struct SearchArgs {
    /// The question
    #[arg(required = true, value_name = "TEXT")]
    text: Vec<String>,
    /// Memories shown
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top_k: u16,
    /// Only this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    kinds: Vec<String>,
    /// Only what this agent said
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only what is about this task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
}

#[derive(Debug, Serialize)]
struct Found {
    score: f32,
    why: Why,
    #[serde(flatten)]
    memory: MemoryRecord,
}

/// Runs `crewline memory search`.
pub(crate) async fn search(args: SearchArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    session.library.load(&session.scope).await?;
    let query = Query {
        text: args.text.join(" "),
        vector: None,
        filter: Filter {
            kinds: args.kinds.iter().map(|kind| MemoryType::from(kind.as_str())).collect(),
            task: args.task,
            agent: args.agent.map(Into::into),
            ..Filter::default()
        },
        limit: args.top_k.into(),
    };
    let recalled = session.library.recall(&session.scope, query).await;
    session.close().await;
    let found: Vec<Found> = recalled?
        .hits
        .into_iter()
        .map(|hit| Found { score: hit.score, why: hit.why, memory: (*hit.record).clone() })
        .collect();
    console.list(&found, |style| {
        let columns = [
            ("ID", Align::Left),
            ("SCORE", Align::Right),
            ("WHY", Align::Left),
            ("AGENT", Align::Left),
            ("TEXT", Align::Left),
        ];
        let lines: Vec<Vec<String>> = found
            .iter()
            .map(|it| {
                vec![
                    short(it.memory.id),
                    format!("{:.2}", it.score),
                    reasons(&it.why),
                    clean(&it.memory.agent).into_owned(),
                    fit(&clean(&it.memory.text), 70).into_owned(),
                ]
            })
            .collect();
        table(style, &columns, &lines)
    })?;
    Ok(Exit::Ok)
}

/// The parts of a score, in words: similarities as they are, and what was added or taken off.
fn reasons(why: &Why) -> String {
    let mut parts = Vec::new();
    parts.extend(why.dense.map(|value| format!("vector {value:.2}")));
    parts.extend(why.sparse.map(|value| format!("words {value:.1}")));
    for (name, value) in [
        ("agent", why.agent),
        ("context", why.context),
        ("marks", why.marks),
        ("rerank", why.rerank),
        ("repeats", why.repeats),
    ] {
        if value != 0.0 {
            parts.push(format!("{name} {value:+.2}"));
        }
    }
    parts.join(", ")
}

/// What `crewline memory ls` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline memory ls --pinned
  crewline memory ls --type note -o jsonl")]
pub(crate) struct LsArgs {
    /// Only this type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only what is pinned
    #[arg(long)]
    pinned: bool,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// Runs `crewline memory ls`.
pub(crate) async fn ls(args: LsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let mut all = session.all().await?;
    all.retain(|(_, record)| {
        args.kind.as_deref().is_none_or(|kind| record.kind.as_str() == kind) && (!args.pinned || record.marks.pinned)
    });
    let shown: Vec<Shown> = all.into_iter().rev().take(args.limit).map(Shown::of).collect();
    console.list(&shown, |style| rows(&shown, style))?;
    session.close().await;
    Ok(Exit::Ok)
}

/// What `crewline memory show` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory show 3f9a1c -o yaml

Shows what a summary was made from, the summaries that were made from a memory, and its older versions.")]
pub(crate) struct ShowArgs {
    /// The id, or its beginning
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Debug, Serialize)]
struct Detail {
    #[serde(flatten)]
    memory: Shown,
    /// How often a summary was made again, from 1.
    version: u32,
    /// What it was made from, as far as that is still there.
    sources: Vec<Shown>,
    /// What was made from it.
    summaries: Vec<Shown>,
    /// What it took the place of.
    replaces: Vec<Shown>,
}

/// Runs `crewline memory show`.
pub(crate) async fn show(args: ShowArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let memory = Shown::of(session.find(&args.id).await?);
    let all = session.all().await?;
    session.close().await;
    let id = memory.record.id;
    let those = |is: &dyn Fn(&MemoryRecord) -> bool| -> Vec<Shown> {
        all.iter().filter(|(_, record)| is(record)).cloned().map(Shown::of).collect()
    };
    let detail = Detail {
        version: crewline_runtime::version_of(&memory.record),
        sources: those(&|it| memory.record.source_ids.contains(&it.id)),
        summaries: those(&|it| it.source_ids.contains(&id)),
        replaces: those(&|it| it.marks.superseded_by == Some(id)),
        memory,
    };
    console.value(&detail, |style| {
        let mut text = format!(
            "{}\n{}\n",
            rows(std::slice::from_ref(&detail.memory), style).trim_end(),
            clean(&detail.memory.record.text)
        );
        for (title, shown) in
            [("made from", &detail.sources), ("made into", &detail.summaries), ("takes the place of", &detail.replaces)]
        {
            if !shown.is_empty() {
                // Writing into memory can not fail.
                _ = write!(text, "\n{title}\n{}", rows(shown, style));
            }
        }
        text
    })?;
    Ok(Exit::Ok)
}

/// What `crewline memory rules` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory rules -o json > ~/.local/share/crewline/memory-rules.json

A file `memory-rules.json` in the data directory replaces the shipped rules; what it does not name stays as shipped.")]
pub(crate) struct RulesArgs {}

/// Runs `crewline memory rules`.
pub(crate) fn rules(_: &RulesArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let rules = crate::app::rules(settings)?;
    console.value(&rules, |style| {
        let lines = [
            vec!["words_min".to_owned(), rules.words_min.to_string()],
            vec!["same_min".to_owned(), rules.same_min.to_string()],
            vec!["courtesies".to_owned(), clean(&rules.courtesies.words().join(" ")).into_owned()],
        ];
        table(style, &[("", Align::Left), ("", Align::Left)], &lines)
    })?;
    Ok(Exit::Ok)
}

/// What `crewline memory stats` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory stats -o json")]
pub(crate) struct StatsArgs {}

#[derive(Debug, Serialize)]
struct Stats {
    project: String,
    memories: usize,
    tokens: usize,
    pinned: usize,
    superseded: usize,
    stale: usize,
    by_type: BTreeMap<String, usize>,
    /// Stretches of memories whose words are kept, so that they need not be taken apart again.
    words_kept: usize,
    /// Of all projects.
    outbox: u64,
    /// Where the vectors are; none without an embedding model.
    vectors: Option<String>,
}

/// Runs `crewline memory stats`.
pub(crate) async fn stats(_: StatsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let all = session.all().await?;
    let count = |is: fn(&crewline_types::MemoryMarks) -> bool| all.iter().filter(|(_, it)| is(&it.marks)).count();
    let mut by_type: BTreeMap<String, usize> = BTreeMap::new();
    for (_, record) in &all {
        *by_type.entry(record.kind.to_string()).or_default() += 1;
    }
    let stats = Stats {
        project: session.scope.project().to_owned(),
        memories: all.len(),
        tokens: all.iter().map(|(_, record)| crewline_memory::estimate_tokens(&record.text)).sum(),
        pinned: count(|marks| marks.pinned),
        superseded: count(|marks| marks.superseded_by.is_some()),
        stale: count(|marks| marks.stale),
        by_type,
        words_kept: session.library.store().memory_words(&session.scope).await?.spans.len(),
        outbox: session.library.store().memory_outbox_depth().await?,
        vectors: session.library.target(),
    };
    session.close().await;
    console.value(&stats, |style| {
        let mut lines = vec![
            vec!["project".to_owned(), clean(&stats.project).into_owned()],
            vec!["memories".to_owned(), stats.memories.to_string()],
            vec!["tokens".to_owned(), stats.tokens.to_string()],
            vec!["pinned".to_owned(), stats.pinned.to_string()],
            vec!["superseded".to_owned(), stats.superseded.to_string()],
            vec!["stale".to_owned(), stats.stale.to_string()],
            vec!["stretches with their words kept".to_owned(), stats.words_kept.to_string()],
            vec!["waiting for the vector store".to_owned(), stats.outbox.to_string()],
            vec!["vectors".to_owned(), stats.vectors.clone().unwrap_or_else(|| "none: words alone".to_owned())],
        ];
        lines.extend(stats.by_type.iter().map(|(kind, count)| vec![clean(kind).into_owned(), count.to_string()]));
        table(style, &[("", Align::Left), ("", Align::Left)], &lines)
    })?;
    Ok(Exit::Ok)
}

/// What `crewline memory export` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory export --out memories.jsonl

One memory a line; `crewline memory import` reads it, into any project.")]
pub(crate) struct ExportArgs {
    /// The file [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs `crewline memory export`.
pub(crate) async fn export(args: ExportArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let session = Session::open(settings).await?;
    let mut text = String::new();
    for memory in session.all().await? {
        let line =
            serde_json::to_string(&Shown::of(memory)).map_err(|error| Error::Encode { message: error.to_string() })?;
        text.push_str(&line);
        text.push('\n');
    }
    session.close().await;
    match &args.out {
        Some(path) => std::fs::write(path, &text).map_err(|source| Error::Write { path: path.clone(), source })?,
        None => console.raw(text.as_bytes())?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_says_what_it_is_made_of() {
        let why = Why { dense: Some(0.62), sparse: Some(7.31), agent: 0.35, rerank: -0.2, ..Why::default() };
        let why = Why { repeats: -0.1, ..why };
        assert_eq!(reasons(&why), "vector 0.62, words 7.3, agent +0.35, rerank -0.20, repeats -0.10");
        assert_eq!(reasons(&Why::default()), "");
    }
}
