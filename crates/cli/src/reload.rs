//! Keeps the registry of a long-lived process up to date: a look at the file now and then, and SIGHUP.
//!
//! **Invariant:** one look at a time; what is wrong with a file is logged once, and never ends the process.

use std::time::Duration;

use crewline_runtime::Handle;
use tokio::signal::unix::Signal;

/// How often the file is looked at: one system call.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes the registry over whenever its file changes, or when `hangup` is heard, until it is dropped.
pub(crate) async fn keep(handle: Handle, mut hangup: Signal) {
    loop {
        // What became of it is in the log and the metrics.
        tokio::select! {
            _ = hangup.recv() => drop(handle.reload_registry().await),
            () = tokio::time::sleep(PAUSE) => handle.look_at_registry().await,
        }
    }
}
