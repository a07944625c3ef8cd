//! The metrics of memory.
//!
//! **Invariant:** no labels, hence two series.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

const WRITES_TOTAL: &str = "crewline_memory_writes_total";
const QUERY_DURATION_SECONDS: &str = "crewline_memory_query_duration_seconds";

/// Describes the metrics to the recorder; call it once, after the recorder is installed.
pub fn describe() {
    describe_counter!(WRITES_TOTAL, "Memories added to an index");
    describe_histogram!(QUERY_DURATION_SECONDS, metrics::Unit::Seconds, "Duration of a recall, without embedding");
}

pub(crate) fn written(count: usize) {
    counter!(WRITES_TOTAL).increment(count as u64);
}

pub(crate) fn queried(elapsed: Duration) {
    histogram!(QUERY_DURATION_SECONDS).record(elapsed.as_secs_f64());
}
