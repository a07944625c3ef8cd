//! `crewline worker`: work on the runs that servers manage.

use std::{num::NonZeroUsize, time::Duration};

use clap::Args;
use crewline_models::Mode;
use crewline_runtime::Post;
use crewline_types::Role;

use crate::{
    app::{self, App, Ops, Part},
    commands::serve::DRAIN_TIME_MAX,
    console::Console,
    error::Error,
    exit::Exit,
    settings::{RunDefaults, Settings, parse_lease, process_env},
    signals::Signals,
};

/// What `crewline worker` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline worker --database postgres://crew@db/crewline
  crewline worker --roles coder,tester --slots 8 --database postgres://crew@db/crewline
  crewline nodes --database postgres://crew@db/crewline     who shares the database

A worker claims attempts of tasks that `crewline serve` offers on the same PostgreSQL database, makes them with the
models of its own registry, and records what they made. The first Ctrl-C or SIGTERM lets what runs end; the second
stops at once, and what ran is made again elsewhere when its lease ends.")]
pub(crate) struct WorkerArgs {
    /// Work for these roles only
    #[arg(long, value_name = "ROLE", value_delimiter = ',')]
    roles: Vec<String>,
    /// Attempts at once
    #[arg(long, value_name = "N", default_value = "4")]
    slots: NonZeroUsize,
    /// How long this worker may be silent before others take over its attempts [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_lease)]
    lease: Option<Duration>,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<std::net::SocketAddr>,
    /// Use models on this machine or a private network only
    #[arg(long)]
    offline: bool,
}

/// Runs the command.
pub(crate) async fn run(args: WorkerArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let settings = settings.with_lease(args.lease);
    let registry = app::load_registry(&settings, console)?;
    let mut ops = Ops::open(args.metrics_addr, console)?;
    let offline = args.offline || RunDefaults::load(&process_env)?.offline;
    let mode = if offline { Mode::Offline } else { Mode::Online };
    let app = App::start_as(&settings, registry, mode, Part::Worker).await?;
    let mut signals = Signals::listen()?;
    ops.start(&app.handle);
    ops.keep_registry(&app.handle)?;
    let roles: Vec<Role> = args.roles.iter().map(|role| Role::from(role.trim())).collect();
    let post = Post { slots: Some(args.slots), roles: (!roles.is_empty()).then_some(roles), is_server: false };
    let joined = app.handle.join(post).await;
    if let Err(error) = joined {
        app.stop().await;
        return Err(error.into());
    }
    let what = if args.roles.is_empty() { "every role".to_owned() } else { args.roles.join(", ") };
    console.note(&format!("working for {what} with {} slots on {}", args.slots, app.store.target()));
    signals.next().await;
    console.note("stopping: finishing what runs; press Ctrl-C again to stop at once");
    tokio::select! {
        () = app.handle.hand_over(DRAIN_TIME_MAX) => {}
        () = signals.next() => {}
    }
    app.stop().await;
    Ok(Exit::Ok)
}
