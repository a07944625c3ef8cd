//! What the store measures.
//!
//! **Invariant:** no label; a series never depends on data.

use std::time::Duration;

/// How long a commit took: waiting for the writer, statements and the disk.
pub const COMMIT_DURATION: &str = "crewline_store_commit_duration_seconds";

/// Tells the recorder what the figures mean; call it once, after the recorder is installed.
pub fn describe() {
    metrics::describe_histogram!(
        COMMIT_DURATION,
        metrics::Unit::Seconds,
        "Time of a group commit: waiting for the writer, statements and the disk."
    );
}

pub(crate) fn record_commit(took: Duration) {
    metrics::histogram!(COMMIT_DURATION).record(took.as_secs_f64());
}
