//! The metrics of this crate, and the handles a model keeps so that a call looks nothing up.
//!
//! **Invariant:** labels are names of the registry and closed sets, never text from a request or a reply.
//! **Invariant:** every call is counted exactly once, also when its future is dropped.

use std::time::Duration;

use crewline_types::{Usage, event::CallOutcome, model::Locality};
use metrics::{Counter, Histogram, counter, histogram};

use crate::{ChatReply, Error, ModelConfig};

const OUTCOMES: [CallOutcome; 6] = [
    CallOutcome::Ok,
    CallOutcome::Error,
    CallOutcome::Timeout,
    CallOutcome::RateLimited,
    CallOutcome::Invalid,
    CallOutcome::Cancelled,
];

/// What a look at the registry file led to: `applied`, `unchanged` or `refused`.
pub(crate) fn reloaded(outcome: &'static str) {
    counter!("crewline_registry_reloads_total", "outcome" => outcome).increment(1);
}

/// A server of tools was connected to, or could not be. `server` is a name of the registry.
pub(crate) fn mcp_connected(server: &str, is_ok: bool) {
    let outcome = if is_ok { "ok" } else { "failed" };
    counter!("crewline_mcp_connects_total", "server" => server.to_owned(), "outcome" => outcome).increment(1);
}

/// Tells the installed recorder what the metrics mean.
pub(crate) fn describe() {
    metrics::describe_counter!("crewline_llm_requests_total", "Model calls that ended, by outcome.");
    metrics::describe_histogram!(
        "crewline_llm_request_duration_seconds",
        metrics::Unit::Seconds,
        "Duration of model calls, without the wait for a place."
    );
    metrics::describe_histogram!(
        "crewline_llm_time_to_first_token_seconds",
        metrics::Unit::Seconds,
        "From sending to the first token of streamed answers."
    );
    metrics::describe_histogram!(
        "crewline_llm_queue_seconds",
        metrics::Unit::Seconds,
        "Waits for a turn at a model with limits, of the calls that had to wait."
    );
    metrics::describe_counter!("crewline_llm_tokens_total", "Tokens of answered calls, by type.");
    metrics::describe_counter!(
        "crewline_mcp_connects_total",
        "Connections to servers of tools that were made or failed, by server and outcome."
    );
    metrics::describe_counter!("crewline_registry_reloads_total", "Changed registry files, by what became of them.");
    metrics::describe_counter!(
        "crewline_egress_bytes_total",
        metrics::Unit::Bytes,
        "Bytes of addresses and bodies of requests sent, by host."
    );
    metrics::describe_counter!(
        "crewline_ingress_bytes_total",
        metrics::Unit::Bytes,
        "Bytes of bodies of answers received, by host."
    );
}

/// The handles of one model.
pub(crate) struct ModelMetrics {
    requests: [Counter; OUTCOMES.len()],
    duration: Histogram,
    first_token: Histogram,
    queue: Histogram,
    tokens_in: Counter,
    tokens_out: Counter,
    tokens_cached: Counter,
    tokens_reasoning: Counter,
}

impl ModelMetrics {
    pub(crate) fn new(model: &ModelConfig) -> Self {
        let provider = model.spec.provider.to_string();
        let alias = model.spec.alias.to_string();
        let tokens =
            |kind: &'static str| counter!("crewline_llm_tokens_total", "model" => alias.clone(), "type" => kind);
        Self {
            requests: OUTCOMES.map(|outcome| {
                counter!(
                    "crewline_llm_requests_total",
                    "provider" => provider.clone(), "model" => alias.clone(), "outcome" => outcome.as_str()
                )
            }),
            duration: histogram!(
                "crewline_llm_request_duration_seconds",
                "provider" => provider.clone(), "model" => alias.clone()
            ),
            first_token: histogram!(
                "crewline_llm_time_to_first_token_seconds",
                "provider" => provider.clone(), "model" => alias.clone()
            ),
            queue: histogram!("crewline_llm_queue_seconds", "model" => alias.clone()),
            tokens_in: tokens("input"),
            tokens_out: tokens("output"),
            tokens_cached: tokens("cached"),
            tokens_reasoning: tokens("reasoning"),
        }
    }

    /// A call got its turn; only those that had to wait are recorded.
    pub(crate) fn waited(&self, waited: Duration) {
        if waited >= Duration::from_millis(1) {
            self.queue.record(waited.as_secs_f64());
        }
    }

    /// Begins to count a call.
    pub(crate) fn call(&self) -> CallMeter<'_> {
        CallMeter { metrics: self, started: std::time::Instant::now(), ended: false }
    }

    fn count(&self, outcome: CallOutcome, elapsed: Duration) {
        let place = match outcome {
            CallOutcome::Ok => 0,
            CallOutcome::Error | CallOutcome::Lost => 1,
            CallOutcome::Timeout => 2,
            CallOutcome::RateLimited => 3,
            CallOutcome::Invalid => 4,
            CallOutcome::Cancelled => 5,
        };
        self.requests[place].increment(1);
        self.duration.record(elapsed.as_secs_f64());
    }

    fn tokens(&self, usage: &Usage) {
        self.tokens_in.increment(usage.input_tokens);
        self.tokens_out.increment(usage.output_tokens);
        if usage.cached_tokens > 0 {
            self.tokens_cached.increment(usage.cached_tokens);
        }
        if usage.reasoning_tokens > 0 {
            self.tokens_reasoning.increment(usage.reasoning_tokens);
        }
    }
}

/// A call that is under way; dropped without an end, it counts as cancelled.
pub(crate) struct CallMeter<'a> {
    metrics: &'a ModelMetrics,
    started: std::time::Instant,
    ended: bool,
}

impl CallMeter<'_> {
    pub(crate) fn end(mut self, result: &Result<ChatReply, Error>) {
        self.ended = true;
        match result {
            Ok(reply) => {
                self.metrics.count(CallOutcome::Ok, reply.elapsed);
                self.metrics.tokens(&reply.usage);
                if let Some(first_token) = reply.first_token {
                    self.metrics.first_token.record(first_token.as_secs_f64());
                }
            }
            Err(error) => self.metrics.count(error.outcome(), self.started.elapsed()),
        }
    }
}

impl Drop for CallMeter<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.count(CallOutcome::Cancelled, self.started.elapsed());
        }
    }
}

/// The counters of bytes sent to and received from a host. `host` is a name of the registry, or `other`.
pub(crate) fn traffic(host: &str, locality: Locality) -> (Counter, Counter) {
    let class = locality.as_str();
    let sent = counter!("crewline_egress_bytes_total", "host_class" => class, "host" => host.to_owned());
    let received = counter!("crewline_ingress_bytes_total", "host_class" => class, "host" => host.to_owned());
    (sent, received)
}
