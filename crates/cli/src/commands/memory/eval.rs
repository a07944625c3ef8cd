//! `crewline memory eval`: how well memory finds what is known to be relevant.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    Place,
    bench::{Bench, Parts},
    score::{Means, Worth, quantile, worth},
};
use crate::{
    app,
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, table},
};

/// What `crewline memory eval` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  crewline memory eval --memories set.memories.jsonl.gz --queries set.queries.jsonl.gz -o json

A memory is {id, project, task, kind, agent, created_at, seq, tokens, text}, a question {id, project, text,
relevant: [[ids], …], headline}, one JSON object a line. The memories go into a scratch project, never into yours.")]
pub(crate) struct EvalArgs {
    /// The memories, JSON lines, plain or gzipped
    #[arg(long, value_name = "FILE")]
    memories: PathBuf,
    /// The questions, JSON lines, plain or gzipped
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Memories a question is answered with
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    top_k: u16,
    /// Writes {question: [memory, …]}, best first
    #[arg(long, value_name = "FILE")]
    run_out: Option<PathBuf>,
    /// Where the vectors are
    #[arg(long, value_enum, default_value_t = StoreKind::Embedded, value_name = "STORE")]
    store: StoreKind,
    /// Weights to rank by [default: those of the data directory, else the shipped ones]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Keeps the scratch database in this folder, so that the next run need not make the vectors again
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StoreKind {
    /// In the database.
    Embedded,
    /// In the server of `--qdrant`, else of `QDRANT_URL`.
    Qdrant,
}

/// What stdout shows.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    all: Means,
    embed_ms_p50: f64,
    search_ms_p50: f64,
    search_ms_p99: f64,
    /// The embedding model; none when memory works by words alone.
    embedding_model: Option<String>,
    /// What the reranker did; none without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    rerank: Option<Reranked>,
    /// The questions that are marked so.
    #[serde(skip_serializing_if = "Option::is_none")]
    headline: Option<Means>,
}

#[derive(Debug, Serialize)]
struct Reranked {
    /// The model's folder.
    model: String,
    ms_p50: f64,
    ms_p99: f64,
    /// Questions whose best memories it has not all read in time.
    late: usize,
}

/// Runs the command.
pub(crate) async fn run(args: EvalArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let settings = &settings.with_any_qdrant();
    let place = match args.store {
        StoreKind::Embedded => Place::Database,
        StoreKind::Qdrant if settings.qdrant.is_some() => Place::Configured,
        StoreKind::Qdrant => {
            return Err(Error::Usage {
                message: "`--store qdrant` needs a server".into(),
                hint: "name it with `--qdrant URL`, or set `QDRANT_URL`",
            });
        }
    };
    let mut parts = super::parts(settings, place)?;
    if let Some(path) = &args.weights {
        parts.weights = app::read_weights(path)?;
    }
    let embedding_model = parts.embedder.as_ref().map(|embedder| embedder.model().to_owned());
    if embedding_model.is_none() {
        console
            .warn("there is no embedding model, so memory works by words alone; `crewline setup --local` installs one");
    }
    if let Some(reranker) = &parts.reranker {
        // One that does not work would be measured as if it were not there.
        reranker.check().await?;
    }
    let parts = Parts {
        embedder: parts.embedder,
        qdrant: parts.qdrant,
        reranker: parts.reranker,
        weights: parts.weights,
        scratch: args.scratch.as_deref(),
    };
    let bench = Bench::load(&args.memories, &args.queries, parts, console).await?;
    let outcome = ask_all(&bench, &args, embedding_model).await;
    bench.clean_up().await?;
    super::close(&bench.library).await;
    let (outcome, ranking) = outcome?;
    if let Some(path) = &args.run_out {
        let text = serde_json::to_string(&ranking).map_err(|error| Error::Encode { message: error.to_string() })?;
        std::fs::write(path, text).map_err(|source| Error::Write { path: path.clone(), source })?;
    }
    console.value(&outcome, |style| rows(&outcome, style))?;
    Ok(Exit::Ok)
}

type Ranking<'a> = BTreeMap<&'a str, Vec<String>>;

async fn ask_all<'a>(
    bench: &'a Bench,
    args: &EvalArgs,
    embedding_model: Option<String>,
) -> Result<(Outcome, Ranking<'a>), Error> {
    let limit = usize::from(args.top_k);
    let mut ranking = Ranking::new();
    let mut worths: Vec<(bool, Worth)> = Vec::new();
    let (mut embed_ms, mut search_ms, mut rerank_ms) = (Vec::new(), Vec::new(), Vec::new());
    let mut late = 0;
    for question in &bench.questions {
        let recalled = bench.ask(question, limit).await?;
        embed_ms.push(recalled.embedding.as_secs_f64() * 1_000.0);
        search_ms.push(recalled.search.as_secs_f64() * 1_000.0);
        if let Some(reading) = recalled.reading {
            rerank_ms.push(reading.elapsed.as_secs_f64() * 1_000.0);
            late += usize::from(reading.read < reading.wanted);
        }
        let ids = bench.ids(&recalled.hits, limit);
        if !question.relevant.is_empty() {
            worths.push((question.headline, worth(&question.relevant, &ids, &bench.tokens)));
        }
        ranking.insert(&question.id, ids);
    }
    let headline = worths.iter().any(|(is_headline, _)| *is_headline);
    let outcome = Outcome {
        all: Means::of(worths.iter().map(|(_, worth)| worth)),
        embed_ms_p50: quantile(&mut embed_ms, 0.5),
        search_ms_p50: quantile(&mut search_ms, 0.5),
        search_ms_p99: quantile(&mut search_ms, 0.99),
        embedding_model,
        rerank: bench.library.index().reranker().map(|reranker| Reranked {
            model: reranker.name().to_owned(),
            ms_p50: quantile(&mut rerank_ms, 0.5),
            ms_p99: quantile(&mut rerank_ms, 0.99),
            late,
        }),
        headline: headline
            .then(|| Means::of(worths.iter().filter(|(is_headline, _)| *is_headline).map(|(_, worth)| worth))),
    };
    Ok((outcome, ranking))
}

fn rows(outcome: &Outcome, style: Style) -> String {
    let line = |name: &str, means: &Means| {
        let mut row = vec![name.to_owned(), means.queries.to_string()];
        let values =
            [means.recall_5, means.recall_10, means.ndcg_10, means.mrr, means.ev_512, means.ev_1024, means.ev_2048];
        row.extend(values.map(|value| format!("{value:.1}")));
        row
    };
    let columns = ["QUESTIONS", "COUNT", "RECALL@5", "RECALL@10", "NDCG@10", "MRR", "EV@512", "EV@1024", "EV@2048"];
    let mut columns = columns.map(|name| (name, Align::Right));
    columns[0].1 = Align::Left;
    let mut lines = vec![line("all", &outcome.all)];
    lines.extend(outcome.headline.as_ref().map(|means| line("headline", means)));
    let rerank = outcome.rerank.as_ref().map_or_else(String::new, |it| {
        format!(", reranking {:.2} ms p50, {:.2} ms p99, {} questions late", it.ms_p50, it.ms_p99, it.late)
    });
    format!(
        "{}\nembedding {:.2} ms p50, search {:.2} ms p50, {:.2} ms p99{rerank}",
        table(style, &columns, &lines).trim_end(),
        outcome.embed_ms_p50,
        outcome.search_ms_p50,
        outcome.search_ms_p99
    )
}
