//! `crewline replay` and `crewline fork`: make a new run from a recorded one.

use clap::Args;
use crewline_runtime::{Edit, Mode, Origin, Overrides, ReplayRequest};
use crewline_types::{ModelAlias, RunId, TaskStatus};

use crate::{
    app::{self, App, Ops},
    commands::{
        context::find,
        resume::limits,
        run::{Common, models_mode},
    },
    console::Console,
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    out::OutDir,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
};

/// What `crewline replay` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline replay k3v9x0ab                         the same again: no call is made
  crewline replay k3v9 --from t3 --edit description=\"Write it for beginners\"
  crewline replay k3v9 --from t3 --model strong    the same task, by another model

Always makes a new run. Results are taken over where a task of the same key would be given the same inputs: its own fields,
the instructions of its role, the goal, INDEX.md, and what the tasks made that it builds on. Without --from, and before it,
another input refuses the replay (exit code 9) and is named; from TASK on, what has other inputs runs.")]
pub(crate) struct ReplayArgs {
    /// The recorded run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    /// The task from which on inputs may differ (its key or id); may be given again
    #[arg(long, value_name = "TASK")]
    from: Vec<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    common: Common,
}

/// What `crewline fork` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline fork k3v9x0ab --from t3
  crewline fork k3v9 --from t3 --edit role=researcher --edit title=\"Look it up\"

Always makes a new run. What does not depend on TASK is taken over as it is recorded; TASK and everything that depends on it
run anew.")]
pub(crate) struct ForkArgs {
    /// The recorded run, or the beginning of its id
    #[arg(value_name = "RUN")]
    run: String,
    /// The task that runs anew, with all that depends on it (its key or id); may be given again
    #[arg(long, value_name = "TASK", required = true)]
    from: Vec<String>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    common: Common,
}

/// What `crewline rerun` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline rerun k3v9/t3
  crewline rerun k3v9/t3 k3v9/t5 --model strong
  crewline rerun k3v9/build --subtree

Makes a new run in which the named tasks, and what depends on them, are made anew; all else is taken over as it is recorded. What
a person decided on contexts comes along: an approved bundle is sent again, byte for byte.")]
pub(crate) struct RerunArgs {
    /// The tasks (their ids, the beginnings of them, or RUN/KEY), all of one run
    #[arg(value_name = "TASK", required = true)]
    task: Vec<String>,
    /// Also all tasks below them
    #[arg(long)]
    subtree: bool,
    /// Ask only this model for them
    #[arg(long, value_name = "ALIAS")]
    model: Option<String>,
    #[command(flatten)]
    common: Common,
}

/// What both may change.
#[derive(Debug, Args)]
struct Change {
    /// Change a field of TASK: title, description, role, success_criteria or priority; may be given again
    #[arg(long, value_name = "FIELD=VALUE", requires = "from")]
    edit: Vec<String>,
    /// Ask only this model for TASK
    #[arg(long, value_name = "ALIAS", requires = "from")]
    model: Option<String>,
}

/// Runs `crewline replay`.
pub(crate) async fn replay(args: ReplayArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let ReplayArgs { run, from, change, common } = args;
    again(&run, Wanted { origin: Origin::Replay, from, change, common }, settings, console).await
}

/// Runs `crewline fork`.
pub(crate) async fn fork(args: ForkArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let ForkArgs { run, from, change, common } = args;
    again(&run, Wanted { origin: Origin::Fork, from, change, common }, settings, console).await
}

/// Runs `crewline rerun`.
pub(crate) async fn rerun(args: RerunArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let named = named(&args, &app).await;
    app.stop().await;
    let (run, from) = named?;
    let change = Change { edit: Vec::new(), model: args.model };
    let wanted = Wanted { origin: Origin::Fork, from, change, common: args.common };
    again(&run.to_string(), wanted, settings, console).await
}

/// The tasks that are made anew, by their ids.
async fn named(args: &RerunArgs, app: &App) -> Result<(RunId, Vec<String>), Error> {
    let (run, first) = find(app, &args.task[0]).await?;
    let mut ids = vec![first];
    for text in &args.task[1..] {
        let (other, id) = find(app, text).await?;
        if other != run {
            return Err(Error::Usage {
                message: format!("task {id} is of run {other}, and task {first} of run {run}"),
                hint: "name tasks of one run",
            });
        }
        ids.push(id);
    }
    if args.subtree {
        let views = app.handle.task_views(run).await?;
        let mut open = ids.clone();
        while let Some(id) = open.pop() {
            let Some(above) = views.iter().find(|view| view.id == id) else { continue };
            let below = views.iter().filter(|view| view.parent.as_ref() == Some(&above.key));
            for id in below.filter(|view| view.status != TaskStatus::Cancelled).map(|view| view.id) {
                if !ids.contains(&id) {
                    ids.push(id);
                    open.push(id);
                }
            }
        }
    }
    Ok((run, ids.iter().map(ToString::to_string).collect()))
}

/// What the command line asks for.
struct Wanted {
    origin: Origin,
    from: Vec<String>,
    change: Change,
    common: Common,
}

async fn again(recorded: &str, wanted: Wanted, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let edits = wanted.change.edit.iter().map(|edit| edit.parse()).collect::<Result<Vec<Edit>, _>>()?;
    let registry = app::load_registry(settings, console)?;
    let out = OutDir::prepare(wanted.common.out.clone())?;
    let offline = wanted.common.offline || RunDefaults::load(&process_env)?.offline;
    let mode = offline.then_some(Mode::Offline);
    let mut ops = Ops::open(wanted.common.metrics_addr, console)?;
    let app = App::start(settings, registry, models_mode(mode.unwrap_or(Mode::Online))).await?;
    ops.start(&app.handle);
    let ended = async {
        let mut signals = Signals::listen()?;
        let parent = app.handle.find_run(recorded).await?;
        let run = begin(parent, &wanted, edits, mode, &app, console).await?;
        let board = Board::default();
        Follow { settings, console, handle: &app.handle, run, out: Some(&out), after_seq: 0, board }
            .until_end(&mut signals)
            .await
    }
    .await;
    app.stop().await;
    ended
}

async fn begin(
    parent: RunId,
    wanted: &Wanted,
    edits: Vec<Edit>,
    mode: Option<Mode>,
    app: &App,
    console: &Console,
) -> Result<RunId, Error> {
    let limits = limits(&wanted.common, parent, &app.store).await?;
    let request = ReplayRequest {
        origin: wanted.origin,
        from: wanted.from.clone(),
        edits,
        model: wanted.change.model.as_deref().map(ModelAlias::from),
        overrides: Overrides { limits, concurrency: wanted.common.concurrency, mode },
    };
    let made = app.handle.replay(parent, &request).await?;
    let done = match wanted.origin {
        Origin::Replay => "replays",
        Origin::Fork => "forks",
    };
    console.note(&format!(
        "run {} {done} {parent}: {} results are taken over, {} tasks are open",
        made.run, made.reused, made.open
    ));
    Ok(made.run)
}
