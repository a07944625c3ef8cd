//! `crewline prompt`: exactly what a model would be sent.

use clap::{Args, Subcommand};
use crewline_models::Mode;
use crewline_runtime::{PreviewRequest, RenderedPrompt};

use crate::{
    app::{self, App},
    commands::context::{counted, find},
    console::Console,
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, clean_lines, count, fit, table},
};

/// What `crewline prompt` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline prompt render k3v9/t2
  crewline prompt render k3v9/t2 -o json | jq .parts")]
pub(crate) struct PromptArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the messages that the next attempt of a task would send, and the tokens of each source
    #[command(after_help = "Examples:
  crewline prompt render k3v9/t2
  crewline prompt render k3v9/t2 --budget 2000

No model is asked. The templates are those of `config/prompts/`, each replaced by a file of its name in the folder
`config/prompts` of the directory you work in, or else in `prompts` of your configuration.")]
    Render {
        /// The task (its id, the beginning of it, or RUN/KEY)
        #[arg(value_name = "TASK")]
        task: String,
        /// Tokens of the context [default: what the window of the first model leaves]
        #[arg(long, value_name = "N")]
        budget: Option<u32>,
    },
}

/// Runs the command.
pub(crate) async fn run(args: PromptArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::start(settings, app::load_registry(settings, console)?, Mode::Offline).await?;
    let done = render(args, &app, console).await;
    app.stop().await;
    done
}

async fn render(args: PromptArgs, app: &App, console: &Console) -> Result<Exit, Error> {
    let Action::Render { task, budget } = args.action;
    let (run, task) = find(app, &task).await?;
    let request = PreviewRequest { budget, ..PreviewRequest::default() };
    let prompt = app.handle.render_prompt(run, task, &request).await?;
    console.value(&prompt, |style| shown(&prompt, style))?;
    Ok(Exit::Ok)
}

fn shown(prompt: &RenderedPrompt, style: Style) -> String {
    let mut text = String::new();
    for message in &prompt.messages {
        text.push_str(&style.dim(&format!("── {} ──", message.role)));
        text.push('\n');
        text.push_str(&clean_lines(&message.text));
        text.push_str("\n\n");
    }
    let columns = [("SOURCE", Align::Left), ("TOKENS", Align::Right)];
    let mut rows: Vec<Vec<String>> =
        prompt.parts.iter().map(|it| vec![fit(&clean(&it.source), 40).into_owned(), count(it.tokens)]).collect();
    rows.push(vec![format!("all, {}", counted(&prompt.tokenizer, prompt.estimated)), count(prompt.tokens)]);
    text.push_str(&table(style, &columns, &rows));
    text
}
