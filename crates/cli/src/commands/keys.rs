//! `crewline keys`: who may use the HTTP API and its MCP tools.
//!
//! **Invariant:** a key is shown once, on stdout, when it is made.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use crewline_runtime::{KeyState, KeyView, NewKey};
use crewline_types::{Clock, KeyScope, KeyScopes, SystemClock, Timestamp};

use crate::{
    app::App,
    args::Output,
    commands::approve::who,
    console::Console,
    error::Error,
    exit::Exit,
    settings::{Settings, parse_time},
    view::{Align, Style, clean, duration, table},
};

/// What `crewline keys` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline keys create ci --scope run --expires 90d
  crewline keys ls
  crewline keys revoke ci

`crewline serve` asks for a key as soon as there is one, and outside loopback always. A client sends it as
`Authorization: Bearer KEY`.")]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key; it is shown once
    Create(CreateArgs),
    /// List keys
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Take a key back; it holds no longer from then on
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline keys create dashboard
  crewline keys create ci --scope run --expires 90d
  crewline keys create phone --scope run,approve --json

Every key may read. `run` launches, changes and ends runs and stores memories; `approve` decides in a person's place.")]
struct CreateArgs {
    /// What it is called; the name of a revoked key is free again
    #[arg(value_name = "NAME")]
    name: String,
    /// What it allows beside reading
    #[arg(long, value_enum, value_name = "SCOPE", value_delimiter = ',', default_value = "read")]
    scope: Vec<Scope>,
    /// How long it holds, such as 12h or 90d [default: until it is revoked]
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline keys ls
  crewline keys ls --all --json")]
struct LsArgs {
    /// Show revoked ones, too
    #[arg(short, long)]
    all: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline keys revoke ci
  crewline keys revoke k3v9")]
struct RevokeArgs {
    /// Its name, or the beginning of its id
    #[arg(value_name = "KEY")]
    key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// Look at runs, tasks and memories.
    Read,
    /// Launch, change and end runs; store memories.
    Run,
    /// Decide in a person's place.
    Approve,
}

impl From<Scope> for KeyScope {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Read => Self::Read,
            Scope::Run => Self::Run,
            Scope::Approve => Self::Approve,
        }
    }
}

/// Runs the command.
pub(crate) async fn run(args: KeysArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let app = App::read_only(settings).await?;
    let done = match args.command {
        KeysCommand::Create(args) => create(args, &app, console).await,
        KeysCommand::Ls(args) => list(&args, &app, console).await,
        KeysCommand::Revoke(args) => revoke(&args, &app, console).await,
    };
    app.stop().await;
    done.map(|()| Exit::Ok)
}

async fn create(args: CreateArgs, app: &App, console: &Console) -> Result<(), Error> {
    let scopes = KeyScopes::new(args.scope.into_iter().map(KeyScope::from));
    let new = NewKey { name: args.name, scopes, lifetime: args.expires, by: who() };
    let made = app.handle.create_key(new).await?;
    console.value(&made, |_| made.token.clone())?;
    console.note(&format!(
        "key `{}` ({}) may {}; it is not shown again",
        clean(&made.key.name),
        made.key.id,
        made.key.scopes.to_string().replace(',', ", ")
    ));
    console.hint("a client sends it as `Authorization: Bearer KEY`; servers on this database ask for one from now on");
    Ok(())
}

async fn list(args: &LsArgs, app: &App, console: &Console) -> Result<(), Error> {
    let keys = app.handle.keys(args.all).await?;
    if keys.is_empty() && console.output == Output::Table {
        console.note("there is no key: the API answers everyone on this machine, and nobody else");
        return Ok(());
    }
    console.list(&keys, |style| rows(&keys, SystemClock.now(), style))
}

async fn revoke(args: &RevokeArgs, app: &App, console: &Console) -> Result<(), Error> {
    let key = app.handle.revoke_key(&args.key).await?;
    console.value(&key, |_| format!("{} {}", key.id, key.state.as_str()))?;
    if app.handle.is_open().await? {
        console.hint("no key is left: a server on loopback answers everyone on its machine again");
    }
    Ok(())
}

fn rows(keys: &[KeyView], now: Timestamp, style: Style) -> String {
    let columns = [
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("SCOPES", Align::Left),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("EXPIRES", Align::Left),
        ("USED", Align::Left),
        ("BY", Align::Left),
    ];
    let rows: Vec<Vec<String>> = keys
        .iter()
        .map(|key| {
            let state = match key.state {
                KeyState::Active => style.green(key.state.as_str()),
                KeyState::Expired => style.yellow(key.state.as_str()),
                KeyState::Revoked => style.red(key.state.as_str()),
            };
            let expires = match key.expires_at {
                Some(at) if at > now => format!("in {}", duration(at.since(now))),
                Some(at) => format!("{} ago", duration(now.since(at))),
                None => "-".to_owned(),
            };
            vec![
                key.id.to_string(),
                clean(&key.name).into_owned(),
                key.scopes.to_string(),
                state,
                duration(now.since(key.created_at)),
                expires,
                key.used_at.map_or_else(|| "-".to_owned(), |at| format!("{} ago", duration(now.since(at)))),
                clean(&key.created_by).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}
