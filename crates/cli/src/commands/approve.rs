//! `crewline approvals`, `approve`, `reject` and `answer`: a person in charge of what waits for one.
//!
//! **Invariant:** what is decided is recorded before anything goes on because of it, and is decided once.

use std::io::IsTerminal as _;

use clap::Args;
use crewline_runtime::{Asked, Decision, Handle, Overrides};
use crewline_types::{ApprovalKind, ApprovalState, Clock, RunId, SystemClock, Timestamp};

use crate::{
    app::App,
    args::Output,
    console::{self, Console},
    error::Error,
    exit::Exit,
    follow::Follow,
    live::Board,
    out::OutDir,
    settings::{Settings, process_env},
    signals::Signals,
    view::{Align, Style, clean, duration, fit, table},
};

/// Columns of a subject.
const SUBJECT: usize = 80;
/// Lines of what exactly is asked that a prompt shows.
const DETAIL_LINES: usize = 40;

/// What `crewline approvals` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline approvals                   what waits for a decision
  crewline approvals k3v9 -o json      of one run, with what exactly is asked
  crewline approvals --all             what was decided, too")]
pub(crate) struct ApprovalsArgs {
    /// The run, or the beginning of its id [default: all runs]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Show what was decided, too
    #[arg(short, long)]
    all: bool,
}

/// What `crewline approve` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline approve k3v9x0ab
  crewline approve k3v9x0ab -m \"but not on Friday\" && crewline resume m2p1

The yes covers exactly what was asked: this plan, this context, or one call of a tool with these arguments.")]
pub(crate) struct ApproveArgs {
    /// What was asked, or a run or task that waits for one answer only
    #[arg(value_name = "ID")]
    id: String,
    /// Say something with it
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

/// What `crewline reject` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline reject k3v9x0ab -m \"use the staging host\"

A rejected call is not made, and its specialist reads why. A rejected plan ends its run, a rejected context its task.")]
pub(crate) struct RejectArgs {
    /// What was asked, or a run or task that waits for one answer only
    #[arg(value_name = "ID")]
    id: String,
    /// Say why
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

/// What `crewline answer` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline answer k3v9x0ab \"the second one\"")]
pub(crate) struct AnswerArgs {
    /// The question, or a run or task that waits for one answer only
    #[arg(value_name = "ID")]
    id: String,
    /// The answer
    #[arg(value_name = "TEXT")]
    text: String,
}

/// Runs `crewline approvals`.
pub(crate) async fn approvals(args: ApprovalsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let found = async {
        let run = match &args.run {
            Some(text) => Some(app.handle.find_run(text).await?),
            None => None,
        };
        app.handle.approvals(run, !args.all).await
    };
    let asked = found.await;
    app.stop().await;
    let asked = asked?;
    if asked.is_empty() && console.output == Output::Table {
        console.note("nothing waits for a decision");
    } else {
        console.list(&asked, |style| rows(&asked, SystemClock.now(), style))?;
    }
    Ok(Exit::Ok)
}

/// Runs `crewline approve`.
pub(crate) async fn approve(args: ApproveArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    decide(&args.id, &Decision::Approve, args.message, settings, console).await
}

/// Runs `crewline reject`.
pub(crate) async fn reject(args: RejectArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    decide(&args.id, &Decision::Reject, args.message, settings, console).await
}

/// Runs `crewline answer`.
pub(crate) async fn answer(args: AnswerArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    decide(&args.id, &Decision::Answer, Some(args.text), settings, console).await
}

/// Decides what was asked, and says how to go on.
pub(crate) async fn decide(
    id: &str,
    decision: &Decision,
    message: Option<String>,
    settings: &Settings,
    console: &Console,
) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let decided = async {
        let asked = app.handle.find_approval(id).await?;
        app.handle.settle(asked.id, decision, &who(), message).await
    };
    let decided = decided.await;
    app.stop().await;
    let decided = decided?;
    console.value(&decided, |_| format!("{} {}", decided.asked.id, decided.asked.state.as_str()))?;
    if decided.goes_on {
        return Ok(Exit::Ok);
    }
    if decided.pending > 0 {
        console.hint(&format!("{} more of this run: `crewline approvals {}`", decided.pending, decided.asked.run));
    }
    console.hint(&format!("continue with: {}", settings.resume_command(decided.asked.run, None)));
    Ok(Exit::Ok)
}

/// Who is at the keyboard, as far as the machine knows.
pub(crate) fn who() -> String {
    process_env("USER").or_else(|| process_env("USERNAME")).unwrap_or_else(|| "a person".to_owned())
}

/// Asks the person at the terminal about everything that a run waits for, and lets it go on; `None` when nobody is there, or
/// they leave it open.
async fn ask_here(
    handle: &Handle,
    run: RunId,
    settings: &Settings,
    console: &Console,
    signals: &mut Signals,
) -> Result<Option<u64>, Error> {
    let asked = handle.approvals(Some(run), true).await?;
    let is_here = settings.input && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !is_here {
        for it in &asked {
            console.hint(&advice(it));
        }
        return Ok(None);
    }
    for it in &asked {
        console.say(&shown(it, console.err));
        let is_question = it.kind == ApprovalKind::Question;
        let said = tokio::task::spawn_blocking(move || console::decide(is_question));
        let said = tokio::select! {
            said = said => said.ok().flatten(),
            () = signals.next() => None,
        };
        let Some((decision, message)) = said else { return Ok(None) };
        handle.settle(it.id, &decision, &who(), message).await?;
    }
    Ok(Some(handle.resume(run, Overrides::default()).await?))
}

/// As long as a run waits for the person at this terminal: asks them, and follows the run further.
pub(crate) async fn go_on(
    mut exit: Exit,
    run: RunId,
    out: &OutDir,
    app: &App,
    settings: &Settings,
    console: &Console,
    signals: &mut Signals,
) -> Result<Exit, Error> {
    while exit == Exit::Awaiting {
        let Some(after_seq) = ask_here(&app.handle, run, settings, console, signals).await? else { break };
        let board = Board::of_report(&app.handle.report(run).await?);
        let follow = Follow { settings, console, handle: &app.handle, run, out: Some(out), after_seq, board };
        exit = follow.until_end(signals).await?;
    }
    Ok(exit)
}

/// The command that decides.
fn advice(asked: &Asked) -> String {
    let subject = fit(&clean(&asked.subject), SUBJECT).into_owned();
    match asked.kind {
        ApprovalKind::Question => format!("{subject}: `crewline answer {} \"…\"`", asked.id),
        ApprovalKind::Plan | ApprovalKind::Context | ApprovalKind::Tool | ApprovalKind::Again => {
            format!("{subject}: `crewline approve {0}` or `crewline reject {0}`", asked.id)
        }
    }
}

fn shown(asked: &Asked, style: Style) -> String {
    let lines: Vec<String> = asked.detail.lines().take(DETAIL_LINES).map(|line| clean(line).into_owned()).collect();
    format!("\n{} {}\n{}", style.bold(asked.kind.as_str()), clean(&asked.subject), lines.join("\n"))
}

fn rows(asked: &[Asked], now: Timestamp, style: Style) -> String {
    let columns = [
        ("ID", Align::Left),
        ("RUN", Align::Left),
        ("TASK", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("BY", Align::Left),
        ("WHAT", Align::Left),
    ];
    let rows: Vec<Vec<String>> = asked
        .iter()
        .map(|it| {
            let state = match it.state {
                ApprovalState::Pending => style.yellow(it.state.as_str()),
                ApprovalState::Approved => style.green(it.state.as_str()),
                ApprovalState::Rejected => style.red(it.state.as_str()),
            };
            vec![
                it.id.to_string(),
                it.run.to_string(),
                it.task.map_or_else(|| "-".to_owned(), |task| task.to_string()),
                it.kind.as_str().to_owned(),
                state,
                duration(now.since(it.created_at)),
                it.decided_by.as_deref().map_or_else(|| "-".to_owned(), |by| clean(by).into_owned()),
                fit(&clean(&it.subject), SUBJECT).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}
