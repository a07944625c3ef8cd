//! `crewline serve`: the HTTP API on this machine.
//!
//! **Invariant:** there are no keys yet, so the API listens on loopback addresses only.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use crewline_models::Mode;

use crate::{
    app::{self, App, Ops},
    console::Console,
    error::Error,
    exit::Exit,
    settings::{RunDefaults, Settings, process_env},
    signals::Signals,
};

/// How long runs may take to finish what is in flight; orchestrators usually kill after 30 s.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);

/// What `crewline serve` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline serve
  curl -s localhost:7420/api/v1/runs -H 'content-type: application/json' -d '{\"goal\": \"Write a haiku\"}'
  curl -N localhost:7420/api/v1/runs/RUN/events

Also served: /healthz, /readyz, /metrics. The API has no keys yet, so it listens on loopback addresses only;
`--metrics-addr` serves health and metrics (nothing of a run) on any address.")]
pub(crate) struct ServeArgs {
    /// Where to listen
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7420")]
    addr: SocketAddr,
    /// Serve /metrics, /healthz and /readyz here, too
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<SocketAddr>,
    /// Use models on this machine or a private network only
    #[arg(long)]
    offline: bool,
}

/// Runs the command.
pub(crate) async fn run(args: ServeArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    if !args.addr.ip().is_loopback() {
        return Err(Error::PublicBind { addr: args.addr });
    }
    let registry = app::load_registry(settings, console)?;
    let listener = app::bind(args.addr).await?;
    let mut ops = Ops::recording(args.metrics_addr, console).await?;
    let offline = args.offline || RunDefaults::load(&process_env)?.offline;
    let app = App::start(settings, registry, if offline { Mode::Offline } else { Mode::Online }).await?;
    let mut signals = Signals::listen()?;
    ops.start(&app.handle);
    let router = crewline_api::router(app.handle.clone(), ops.metrics());
    console.note(&format!("listening on http://{}", listener.local_addr().unwrap_or(args.addr)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = crewline_api::serve(listener, router, async move {
        // A dropped sender asks for the same.
        let _ = stopped.await;
    });
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => {
            app.stop().await;
            ended?;
            return Ok(Exit::Ok);
        }
        () = signals.next() => {}
    }
    console.note("stopping: finishing what runs; press Ctrl-C again to stop at once");
    // Watchers see their runs end before the server goes.
    let drained = tokio::select! {
        () = app.handle.shutdown(DRAIN_TIME_MAX) => true,
        _ = &mut server => true,
        () = signals.next() => false,
    };
    let _ = stop.send(());
    if drained {
        server.await?;
    }
    app.stop().await;
    Ok(Exit::Ok)
}
