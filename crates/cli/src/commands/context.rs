//! `crewline context`: what a task is told and why, and a person's say in it.

use clap::{Args, Subcommand};
use crewline_models::Mode;
use crewline_runtime::{Choice, ContextChange, ContextDiff, Form, Preview, PreviewRequest, Provenance, Snapshot, Tier};
use crewline_types::{RunId, TaskId};
use serde::Serialize;

use crate::{
    app::{self, App},
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, count, fit, table},
};

/// Columns of a source and a title at most.
const SOURCE: usize = 24;
const TITLE: usize = 40;
/// Characters of a bundle's hash that are shown.
const HASH: usize = 12;

/// What `crewline context` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline context preview k3v9/t2               what the next attempt would be told
  crewline context pin k3v9/t2 t1                this result goes before all others
  crewline context exclude k3v9/t2 memory:3f9a   this memory never goes in
  crewline context approve k3v9/t2               exactly this bundle, from now on
  crewline context show t7c2m1xq.1               what an attempt was told, item by item

A TASK is its id, the beginning of it, or RUN/KEY. An ITEM is a task (by its key, its id or RUN/KEY) or a memory of the project
(by the beginning of its id). Decisions hold from the next attempt on, also for retries, replays and forks.")]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what an attempt was told: every item, in or out, and why
    #[command(after_help = "Examples:
  crewline context show k3v9/t2        the last attempt
  crewline context show t7c2m1xq.1 -o json")]
    Show {
        /// The attempt (TASK.NUMBER), or a task for its last one
        #[arg(value_name = "ATTEMPT")]
        attempt: String,
    },
    /// Show what the next attempt would be told; asks no model
    #[command(after_help = "Examples:
  crewline context preview k3v9/t2
  crewline context preview k3v9/t2 --budget 4000 --k 20 --manual t1
  crewline context preview k3v9/t2 --text > bundle.txt")]
    Preview {
        #[command(flatten)]
        bundle: BundleArgs,
        /// Print the bundle itself, as it would be sent
        #[arg(long)]
        text: bool,
    },
    /// Put an item into the bundle, before all but INDEX.md
    #[command(after_help = "Example:
  crewline context pin k3v9/t2 t1")]
    Pin(ItemArgs),
    /// Take back that an item is pinned or excluded
    #[command(after_help = "Example:
  crewline context unpin k3v9/t2 t1")]
    Unpin(ItemArgs),
    /// Keep an item out of the bundle
    #[command(after_help = "Example:
  crewline context exclude k3v9/t2 memory:3f9a")]
    Exclude(ItemArgs),
    /// Approve the bundle as the preview shows it: attempts are told exactly that, and nothing is decided any more
    #[command(after_help = "Examples:
  crewline context approve k3v9/t2
  crewline context approve k3v9/t2 --budget 4000
  crewline context approve k3v9/t2 --revoke

The approval holds as long as the task requires no other results than those that were looked at. A model whose window is
smaller is told what of it fits.")]
    Approve {
        #[command(flatten)]
        bundle: BundleArgs,
        /// Take the approval back
        #[arg(long)]
        revoke: bool,
        /// Who decides
        #[arg(long, value_name = "NAME", default_value = "person")]
        agent: String,
    },
    /// List what the attempts of a task were told
    #[command(after_help = "Example:
  crewline context snapshots k3v9/t2")]
    Snapshots {
        /// The task
        #[arg(value_name = "TASK")]
        task: String,
    },
    /// Compare what two attempts were told
    #[command(after_help = "Examples:
  crewline context diff t7c2m1xq.1 t7c2m1xq.2
  crewline context diff k3v9/t2 p0a4/t2 -o json | jq .same")]
    Diff {
        /// An attempt (TASK.NUMBER), or a task for its last one
        #[arg(value_name = "A")]
        a: String,
        /// Another
        #[arg(value_name = "B")]
        b: String,
    },
}

/// A bundle to look at.
#[derive(Debug, Args)]
struct BundleArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// Tokens it may have [default: what the window of the first model leaves]
    #[arg(long, value_name = "N")]
    budget: Option<u32>,
    /// Memories that are recalled at most [default: as an attempt does]
    #[arg(long, value_name = "N")]
    k: Option<usize>,
    /// Add an item by hand
    #[arg(long, value_name = "ITEM")]
    manual: Vec<String>,
}

/// A task and an item.
#[derive(Debug, Args)]
struct ItemArgs {
    /// The task
    #[arg(value_name = "TASK")]
    task: String,
    /// A task or a memory
    #[arg(value_name = "ITEM")]
    item: String,
    /// Who decides
    #[arg(long, value_name = "NAME", default_value = "person")]
    agent: String,
}

/// Runs the command.
pub(crate) async fn run(args: ContextArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = match &args.action {
        // A preview is fitted to the windows of the registry's models and recalls as an attempt does.
        Action::Preview { .. } | Action::Approve { .. } => {
            App::start(settings, app::load_registry(settings, console)?, Mode::Offline).await?
        }
        Action::Show { .. }
        | Action::Pin(_)
        | Action::Unpin(_)
        | Action::Exclude(_)
        | Action::Snapshots { .. }
        | Action::Diff { .. } => App::read_only(settings).await?,
    };
    let done = act(args.action, &app, console).await;
    app.stop().await;
    done
}

async fn act(action: Action, app: &App, console: &Console) -> Result<Exit, Error> {
    let handle = &app.handle;
    match action {
        Action::Show { attempt } => {
            let snapshot = handle.snapshot(&attempt).await?;
            console.value(&snapshot, |style| shown(&snapshot, style))?;
        }
        Action::Preview { bundle, text } => {
            let (run, task) = find(app, &bundle.task).await?;
            let preview = handle.preview(run, task, &bundle.request()).await?;
            note_missing(&preview, console);
            if text {
                console.data(&preview.text)?;
            } else {
                console.value(&preview, |style| previewed(&preview, style))?;
            }
        }
        Action::Pin(args) => decide(args, Choice::Pin, app, console).await?,
        Action::Unpin(args) => decide(args, Choice::None, app, console).await?,
        Action::Exclude(args) => decide(args, Choice::Exclude, app, console).await?,
        Action::Approve { bundle, revoke: true, agent } => {
            let (_, task) = find(app, &bundle.task).await?;
            let revoked = handle.revoke_context(task, &agent).await?;
            console.value(&Revoked { task, revoked }, |_| {
                if revoked { "the approval is taken back".into() } else { "there was no approval".into() }
            })?;
        }
        Action::Approve { bundle, revoke: false, agent } => {
            let (run, task) = find(app, &bundle.task).await?;
            let preview = handle.approve_context(run, task, &bundle.request(), &agent).await?;
            console.value(&preview, |style| previewed(&preview, style))?;
        }
        Action::Snapshots { task } => {
            let (run, task) = find(app, &task).await?;
            let snapshots = handle.snapshots(run, task).await?;
            console.list(&snapshots, |style| listed(&snapshots, style))?;
        }
        Action::Diff { a, b } => {
            let (a, b) = (handle.snapshot(&a).await?, handle.snapshot(&b).await?);
            let diff = ContextDiff::of(&a, &b);
            console.value(&diff, |style| differing(&diff, style))?;
        }
    }
    Ok(Exit::Ok)
}

/// The task that a person names.
pub(crate) async fn find(app: &App, text: &str) -> Result<(RunId, TaskId), Error> {
    let found = app.handle.find(text).await?;
    match found.task() {
        Some(task) => Ok((found.run(), task)),
        None => Err(Error::Usage {
            message: format!("`{}` is a run, and a task is wanted", clean(&fit(text, 40))),
            hint: "write RUN/KEY; `crewline tree RUN` shows the keys",
        }),
    }
}

/// Says which results a preview can not show yet.
pub(crate) fn note_missing(preview: &Preview, console: &Console) {
    if !preview.missing.is_empty() {
        let keys: Vec<&str> = preview.missing.iter().map(|it| &**it).collect();
        console.note(&format!("not done yet, and so not in it: {}", fit(&clean(&keys.join(", ")), 200)));
    }
}

#[derive(Debug, Serialize)]
struct Decided {
    task: TaskId,
    item: String,
    choice: Choice,
}

#[derive(Debug, Serialize)]
struct Revoked {
    task: TaskId,
    revoked: bool,
}

async fn decide(args: ItemArgs, choice: Choice, app: &App, console: &Console) -> Result<(), Error> {
    let (run, task) = find(app, &args.task).await?;
    let item = app.handle.curate(run, task, &args.item, choice, &args.agent).await?;
    let decided = Decided { task, item, choice };
    console.value(&decided, |_| match choice {
        Choice::Pin => format!("{} is pinned", decided.item),
        Choice::Exclude => format!("{} is excluded", decided.item),
        Choice::None | Choice::Approved => format!("nothing is decided on {}", decided.item),
    })
}

impl BundleArgs {
    fn request(&self) -> PreviewRequest {
        PreviewRequest { budget: self.budget, recall_top: self.k, manual: self.manual.clone() }
    }
}

fn shown(snapshot: &Snapshot, style: Style) -> String {
    let hash = snapshot.bundle.map_or_else(|| "not recorded".to_owned(), |hash| short(&hash.to_string()));
    format!(
        "{} {} ({}) · {} of {} tokens, {} · {} in, {} out · bundle {hash}\n\n{}",
        style.bold("attempt"),
        snapshot.attempt,
        clean(&snapshot.key),
        count(snapshot.tokens.into()),
        count(snapshot.budget.into()),
        counted(&snapshot.tokenizer, snapshot.estimated),
        snapshot.items_in,
        snapshot.items_out,
        items(&snapshot.items, style)
    )
}

fn previewed(preview: &Preview, style: Style) -> String {
    let budget = match (&preview.model, preview.approved) {
        (_, true) => " (approved)".to_owned(),
        (Some(model), false) => format!(" (the window of `{}`)", clean(model.as_str())),
        (None, false) => String::new(),
    };
    format!(
        "{} {} ({}) · {} of {} tokens{budget}, {} · bundle {}\n\n{}",
        style.bold("task"),
        preview.task,
        clean(&preview.key),
        count(preview.tokens.into()),
        count(preview.budget.into()),
        counted(&preview.tokenizer, preview.estimated),
        short(&preview.bundle.to_string()),
        items(&preview.items, style)
    )
}

/// How tokens were counted, in words.
pub(crate) fn counted(tokenizer: &str, estimated: bool) -> String {
    match tokenizer.split_once(':') {
        _ if estimated => "estimated from above".to_owned(),
        Some((file, hash)) => format!("counted by {} {}", clean(file), short(hash)),
        None => format!("counted as {}", clean(tokenizer)),
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(HASH).collect()
}

/// The table that explains a bundle.
pub(crate) fn items(items: &[Provenance], style: Style) -> String {
    if items.is_empty() {
        return "nothing: no index, no results, no memories".into();
    }
    let columns = [
        ("#", Align::Right),
        ("IN", Align::Left),
        ("TIER", Align::Left),
        ("SOURCE", Align::Left),
        ("TITLE", Align::Left),
        ("SCORE", Align::Right),
        ("TOKENS", Align::Right),
        ("WHY", Align::Left),
    ];
    let rows: Vec<Vec<String>> = items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            vec![
                (place + 1).to_string(),
                form(item.form).to_owned(),
                tier(item.tier).to_owned(),
                fit(&clean(&item.source), SOURCE).into_owned(),
                fit(&clean(&item.title), TITLE).into_owned(),
                if item.tier == Tier::Retrieved { format!("{:.2}", item.score) } else { "-".into() },
                count(item.tokens.into()),
                format!("{}: {}", why_considered(item.tier), clean(&item.reason)),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}

fn form(form: Form) -> &'static str {
    match form {
        Form::Whole => "whole",
        Form::Summary => "summary",
        Form::Trimmed => "beginning",
        Form::LeftOut => "out",
    }
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Index => "index",
        Tier::Pinned => "pinned",
        Tier::Requires => "requires",
        Tier::Refers => "refers",
        Tier::Siblings => "siblings",
        Tier::Retrieved => "retrieved",
        Tier::Manual => "manual",
    }
}

fn why_considered(tier: Tier) -> &'static str {
    match tier {
        Tier::Index => "in every bundle",
        Tier::Pinned => "a person pinned it",
        Tier::Requires => "the task requires it",
        Tier::Refers => "the task refers to it",
        Tier::Siblings => "beside it in the plan",
        Tier::Retrieved => "memory found it alike",
        Tier::Manual => "added by hand",
    }
}

fn listed(snapshots: &[Snapshot], style: Style) -> String {
    if snapshots.is_empty() {
        return "no attempt was made yet".into();
    }
    let columns = [
        ("ATTEMPT", Align::Left),
        ("AT", Align::Left),
        ("TOKENS", Align::Right),
        ("BUDGET", Align::Right),
        ("IN", Align::Right),
        ("OUT", Align::Right),
        ("BUNDLE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = snapshots
        .iter()
        .map(|it| {
            vec![
                it.attempt.clone(),
                it.at.to_string(),
                count(it.tokens.into()),
                count(it.budget.into()),
                it.items_in.to_string(),
                it.items_out.to_string(),
                it.bundle.map_or_else(|| "-".into(), |hash| short(&hash.to_string())),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}

fn differing(diff: &ContextDiff, style: Style) -> String {
    let head = match diff.same {
        Some(true) => format!("{} and {} were sent the same bytes", diff.a, diff.b),
        Some(false) => format!("{} and {} were sent different bytes", diff.a, diff.b),
        None => format!("an older version did not record the bytes of {} or {}", diff.a, diff.b),
    };
    if diff.changes.is_empty() {
        return head;
    }
    let columns =
        [("SOURCE", Align::Left), ("KIND", Align::Left), ("A", Align::Left), ("B", Align::Left), ("WHY", Align::Left)];
    let side = |it: Option<Form>, tokens: u32| match it {
        Some(Form::LeftOut) => "out".to_owned(),
        Some(how) => format!("{} {}", form(how), count(tokens.into())),
        None => "-".to_owned(),
    };
    let rows: Vec<Vec<String>> = diff
        .changes
        .iter()
        .map(|it: &ContextChange| {
            let text = if it.other_text { "another text; " } else { "" };
            vec![
                fit(&clean(&it.source), SOURCE).into_owned(),
                clean(&it.kind).into_owned(),
                side(it.a, it.a_tokens),
                side(it.b, it.b_tokens),
                format!("{text}{}", clean(&it.reason)),
            ]
        })
        .collect();
    format!("{head}\n\n{}", table(style, &columns, &rows))
}
