//! The Prometheus recorder, installed only by commands that serve metrics.
//!
//! **Invariant:** without `--metrics-addr` or `serve` there is no recorder, and a metric costs next to nothing.

use std::{sync::Arc, time::Duration};

use crewline_api::MetricsText;
use metrics::{Unit, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

use crate::error::Error;

/// How often histograms are condensed; between scrapes they grow.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);

/// Tasks and calls: from a cached answer to a long generation.
const SECONDS: [f64; 14] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Commits and queries: from cached to a slow disk.
const FAST_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The recorder of this process.
pub(crate) struct Recorder {
    handle: metrics_exporter_prometheus::PrometheusHandle,
}

impl Recorder {
    /// Installs the recorder. Do this before anything records.
    pub(crate) fn install() -> Result<Self, Error> {
        let handle = builder()
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(|error| Error::Metrics { message: error.to_string() })?;
        crewline_runtime::metrics::describe();
        crewline_store::metrics::describe();
        crewline_memory::describe();
        crewline_api::metrics::describe();
        describe_gauge!("crewline_build_info", Unit::Count, "Always 1; the version is a label.");
        gauge!("crewline_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { handle })
    }

    /// What `/metrics` answers.
    pub(crate) fn text(&self) -> MetricsText {
        let handle = self.handle.clone();
        Arc::new(move || with_cost_counter(&handle.render()))
    }

    /// Condenses histograms until it is dropped.
    pub(crate) async fn upkeep(&self) {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn builder() -> Result<PrometheusBuilder, metrics_exporter_prometheus::BuildError> {
    let fast = ["crewline_store_commit_duration_seconds", "crewline_memory_query_duration_seconds"];
    let mut builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?;
    for name in fast {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.into()), &FAST_SECONDS)?;
    }
    Ok(builder)
}

/// Declares the cost as the counter it is: the recorder's own counters are whole numbers, and a call costs less than a
/// dollar, so it is kept in a gauge that only grows.
fn with_cost_counter(text: &str) -> String {
    text.replace("# TYPE crewline_llm_cost_usd_total gauge", "# TYPE crewline_llm_cost_usd_total counter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_histograms_with_base_units() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("crewline_task_duration_seconds", "role" => "writer").record(0.3);
            metrics::histogram!("crewline_store_commit_duration_seconds").record(0.002);
        });
        let text = handle.render();
        assert!(text.contains("crewline_task_duration_seconds_bucket{role=\"writer\",le=\"0.5\"} 1"), "{text}");
        assert_eq!(
            with_cost_counter("# TYPE crewline_llm_cost_usd_total gauge\ncrewline_llm_cost_usd_total 0.5\n"),
            "# TYPE crewline_llm_cost_usd_total counter\ncrewline_llm_cost_usd_total 0.5\n"
        );
        assert!(text.contains("crewline_store_commit_duration_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
    }
}
