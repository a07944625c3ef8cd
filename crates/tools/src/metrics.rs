//! The metrics of this crate.
//!
//! **Invariant:** the label `tool` is the name of a tool of this program, or of a server in the registry: what a model calls
//! and does not exist counts as `unknown`.

use std::time::Duration;

use crate::Observation;

/// The label of calls of tools that do not exist.
pub(crate) const UNKNOWN: &str = "unknown";

/// Tells the installed recorder what the metrics mean.
pub(crate) fn describe() {
    metrics::describe_counter!("crewline_tool_calls_total", "Calls of tools that ended, by outcome.");
    metrics::describe_histogram!(
        "crewline_tool_call_duration_seconds",
        metrics::Unit::Seconds,
        "Duration of calls of tools that were made."
    );
    metrics::describe_counter!(
        "crewline_tool_output_bytes_total",
        metrics::Unit::Bytes,
        "Bytes that tools gave back, before anything was left out."
    );
}

/// Counts a call. `name` is that of a tool that exists, or [`UNKNOWN`].
pub(crate) fn count(name: &str, observation: &Observation, elapsed: Duration) {
    // The tools of another server are its own to name: they count as the server.
    let tool = name.split('.').next().unwrap_or(name).to_owned();
    metrics::counter!(
        "crewline_tool_calls_total", "tool" => tool.clone(), "outcome" => observation.outcome.as_str()
    )
    .increment(1);
    if !observation.outcome.did_nothing() {
        metrics::histogram!("crewline_tool_call_duration_seconds", "tool" => tool.clone()).record(elapsed);
        metrics::counter!("crewline_tool_output_bytes_total", "tool" => tool).increment(observation.bytes_out);
    }
}
