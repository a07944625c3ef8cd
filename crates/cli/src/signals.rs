//! SIGINT and SIGTERM as one stream of requests to stop.
//!
//! **Invariant:** once made, no such signal ends the process by itself: the one who made it must answer.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::Error;

/// The requests to stop that this process gets.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// SIGHUP, which no longer ends the process: it is read as the wish to read the registry again.
pub(crate) fn hangup() -> Result<Signal, Error> {
    signal(SignalKind::hangup()).map_err(|source| Error::System { what: "listen for signals", source })
}

impl Signals {
    /// Takes over SIGINT and SIGTERM.
    pub(crate) fn listen() -> Result<Self, Error> {
        let error = |source: io::Error| Error::System { what: "listen for signals", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(error)?,
            terminate: signal(SignalKind::terminate()).map_err(error)?,
        })
    }

    /// The next request to stop. May be dropped and asked again without losing one.
    pub(crate) async fn next(&mut self) {
        let heard = tokio::select! {
            heard = self.interrupt.recv() => heard,
            heard = self.terminate.recv() => heard,
        };
        // The streams end only with the process; until then there is nothing to hear.
        if heard.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
