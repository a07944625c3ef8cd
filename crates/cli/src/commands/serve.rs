//! `crewline serve`: the HTTP API.
//!
//! **Invariant:** without a key the API listens on loopback addresses only.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use clap::Args;
use crewline_api::{Reach, mcp::Mcp};
use crewline_models::Mode;
use crewline_runtime::Post;

use crate::{
    app::{self, App, Ops, Part},
    console::Console,
    error::Error,
    exit::Exit,
    settings::{RunDefaults, Settings, parse_lease, process_env},
    signals::Signals,
};

/// How long runs may take to finish what is in flight; orchestrators usually kill after 30 s.
pub(crate) const DRAIN_TIME_MAX: Duration = Duration::from_secs(25);

/// What `crewline serve` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline serve
  curl -s localhost:7420/api/v1/runs -H 'content-type: application/json' -d '{\"goal\": \"Write a haiku\"}'
  curl -N localhost:7420/api/v1/runs/RUN/events
  crewline keys create ci --scope run && crewline serve --addr 0.0.0.0:7420

Also served: /healthz, /readyz, /metrics, and /mcp (the tools of `crewline mcp` over streamable HTTP). On loopback
nobody needs a key until `crewline keys create` makes one; other addresses need one from the beginning, and a proxy that speaks TLS.
`--metrics-addr` serves health and metrics (nothing of a run) on any address, to everyone.")]
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
    /// Attempts this server makes itself when its database is shared; 0 leaves them all to workers
    #[arg(long, value_name = "N", default_value_t = 16)]
    slots: usize,
    /// How long this server may be silent before others take over its runs [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_lease)]
    lease: Option<Duration>,
}

/// Runs the command.
pub(crate) async fn run(args: ServeArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let settings = settings.with_lease(args.lease);
    let registry = app::load_registry(&settings, console)?;
    let listener = app::bind(args.addr)?;
    let mut ops = Ops::recording(args.metrics_addr, console)?;
    let offline = args.offline || RunDefaults::load(&process_env)?.offline;
    let mode = if offline { Mode::Offline } else { Mode::Online };
    let app = App::start_as(&settings, registry, mode, Part::Server).await?;
    let reach = if args.addr.ip().is_loopback() { Reach::Loopback } else { Reach::Public };
    if let Err(error) = may_listen(&app, reach, args.addr).await {
        app.stop().await;
        return Err(error);
    }
    let mut signals = Signals::listen()?;
    ops.start(&app.handle);
    ops.keep_registry(&app.handle)?;
    let joined = join(&app, args.slots, console).await;
    if let Err(error) = joined {
        app.stop().await;
        return Err(error);
    }
    let router = {
        let mcp = Mcp::new(app.handle.clone(), settings.project());
        crewline_api::router(app.handle.clone(), ops.metrics(), mcp, reach)
    };
    console.note(&format!("listening on http://{}", listener.local_addr().unwrap_or(args.addr)));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = crewline_api::serve(listener, router, app::limits(), async move {
        // A dropped sender asks for the same.
        let _ = stopped.await;
    });
    let mut server = std::pin::pin!(server);
    tokio::select! {
        () = &mut server => {
            app.stop().await;
            return Ok(Exit::Ok);
        }
        () = signals.next() => {}
    }
    console.note("stopping: finishing what runs; press Ctrl-C again to stop at once");
    // Watchers see their runs end before the server goes.
    let drained = tokio::select! {
        () = app.handle.hand_over(DRAIN_TIME_MAX) => true,
        () = &mut server => true,
        () = signals.next() => false,
    };
    let _ = stop.send(());
    if drained {
        server.await;
    }
    app.stop().await;
    Ok(Exit::Ok)
}

/// Whether anybody could be told from everybody at this address.
async fn may_listen(app: &App, reach: Reach, addr: SocketAddr) -> Result<(), Error> {
    match reach {
        Reach::Public if app.handle.is_open().await? => Err(Error::PublicBind { addr }),
        Reach::Public | Reach::Loopback => Ok(()),
    }
}

/// Joins the others on a shared database, and continues runs that lost their process.
async fn join(app: &App, slots: usize, console: &Console) -> Result<(), Error> {
    app.handle.keep_runs();
    let taken = app.handle.take_over().await?;
    if !taken.is_empty() {
        let runs: Vec<String> = taken.iter().map(ToString::to_string).collect();
        console.note(&format!("continuing {}", runs.join(", ")));
    }
    if app.is_shared() {
        app.handle.join(Post { slots: NonZeroUsize::new(slots), roles: None, is_server: true }).await?;
    }
    Ok(())
}
