//! The metrics of memory.
//!
//! **Invariant:** no label but the one host of the vector store, hence four series, and the reasons of a reranking's failure.

use std::{sync::Arc, time::Duration};

use crewline_types::{ErrorKind, model::Locality};
use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::Error;

const WRITES_TOTAL: &str = "crewline_memory_writes_total";
const QUERY_DURATION_SECONDS: &str = "crewline_memory_query_duration_seconds";
const RERANK_DURATION_SECONDS: &str = "crewline_memory_rerank_duration_seconds";
const RERANK_FAILURES_TOTAL: &str = "crewline_memory_rerank_failures_total";

/// Describes the metrics to the recorder; call it once, after the recorder is installed.
pub fn describe() {
    describe_counter!(WRITES_TOTAL, "Memories added to an index");
    describe_histogram!(QUERY_DURATION_SECONDS, metrics::Unit::Seconds, "Duration of a recall, without embedding");
    describe_histogram!(RERANK_DURATION_SECONDS, metrics::Unit::Seconds, "Wait of a recall for the reranker");
    describe_counter!(RERANK_FAILURES_TOTAL, "Recalls whose best memories the reranker has not all read");
}

/// Counts what passes between us and the server of a vector store, beside what other hosts are sent.
#[derive(Debug, Clone)]
pub(crate) struct HostMeter {
    host: Arc<str>,
    class: &'static str,
}

impl HostMeter {
    pub(crate) fn new(host: &str) -> Self {
        Self { host: host.into(), class: Locality::of_host(host).as_str() }
    }

    pub(crate) fn passed(&self, sent: usize, received: usize) {
        for (name, bytes) in [("crewline_egress_bytes_total", sent), ("crewline_ingress_bytes_total", received)] {
            counter!(name, "host_class" => self.class, "host" => self.host.to_string()).increment(bytes as u64);
        }
    }
}

pub(crate) fn written(count: usize) {
    counter!(WRITES_TOTAL).increment(count as u64);
}

pub(crate) fn reranked(elapsed: Duration) {
    histogram!(RERANK_DURATION_SECONDS).record(elapsed.as_secs_f64());
}

pub(crate) fn rerank_failed(error: &Error) {
    let reason = match error.kind() {
        ErrorKind::Timeout => "late",
        ErrorKind::Busy => "busy",
        ErrorKind::Invalid
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Unavailable
        | ErrorKind::Auth
        | ErrorKind::Limit
        | ErrorKind::Internal => "failed",
    };
    counter!(RERANK_FAILURES_TOTAL, "reason" => reason).increment(1);
}

pub(crate) fn queried(elapsed: Duration) {
    histogram!(QUERY_DURATION_SECONDS).record(elapsed.as_secs_f64());
}
