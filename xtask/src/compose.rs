//! Tests of `docker-compose.yml` and of what it mounts, for machines without docker.
//!
//! **Invariant:** every service that is waited for exists and says when it is well; every mounted file exists; every
//! port is bound to loopback; every image has a version; every metric of the dashboard is one the program has.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Metrics the shipped program has; `docs/metrics.md` describes them.
const METRICS: [&str; 11] = [
    "crewline_runs_total",
    "crewline_tasks_total",
    "crewline_task_duration_seconds",
    "crewline_llm_requests_total",
    "crewline_llm_request_duration_seconds",
    "crewline_llm_tokens_total",
    "crewline_llm_cost_usd_total",
    "crewline_llm_fallbacks_total",
    "crewline_store_commit_duration_seconds",
    "crewline_memory_outbox_depth",
    "crewline_actor_restarts_total",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn yaml(name: &str) -> Value {
    let text = std::fs::read_to_string(root().join(name)).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn services(compose: &Value) -> Vec<(&String, &Value)> {
    compose["services"].as_object().unwrap().iter().collect()
}

fn list(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `${NAME:-default}` becomes its default.
fn with_defaults(text: &str) -> String {
    let Some(start) = text.find("${") else { return text.into() };
    let end = start + text[start..].find('}').unwrap();
    let (_, default) = text[start + 2..end].split_once(":-").unwrap_or_else(|| panic!("`{text}` has no default"));
    format!("{}{default}{}", &text[..start], with_defaults(&text[end + 1..]))
}

#[test]
fn services_wait_for_services_that_say_when_they_are_well() {
    let compose = yaml("docker-compose.yml");
    let names: BTreeSet<&String> = services(&compose).into_iter().map(|(name, _)| name).collect();
    for expected in ["crewline", "postgres", "qdrant", "prometheus", "grafana", "vllm", "llama-cpp"] {
        assert!(names.contains(&expected.to_owned()), "no service `{expected}`");
    }
    for (name, service) in services(&compose) {
        assert!(service["healthcheck"]["test"].is_array(), "`{name}` has no health check");
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            assert!(names.contains(needed), "`{name}` waits for `{needed}`, which is not there");
            assert_eq!(how["condition"], "service_healthy", "`{name}` -> `{needed}`");
            // Compose refuses to start a service whose requirement belongs to a profile that is off.
            let is_optional = how["required"] == false;
            assert!(is_optional || compose["services"][needed].get("profiles").is_none(), "`{name}` -> `{needed}`");
        }
    }
    assert_eq!(list(&compose["services"]["vllm"]["profiles"]), ["gpu"]);
    assert_eq!(list(&compose["services"]["llama-cpp"]["profiles"]), ["cpu"]);
}

#[test]
fn what_is_mounted_exists() {
    let compose = yaml("docker-compose.yml");
    let volumes = compose["volumes"].as_object().unwrap();
    let mut used = BTreeSet::new();
    for (name, service) in services(&compose) {
        for mount in list(&service["volumes"]) {
            let mount = with_defaults(mount);
            let source = mount.split(':').next().unwrap();
            if source.starts_with('.') {
                assert!(root().join(source).exists(), "`{name}` mounts `{source}`, which is not there");
                assert!(mount.ends_with(":ro"), "`{name}` may change `{source}`");
            } else {
                assert!(volumes.contains_key(source), "`{name}` uses the volume `{source}`, which is not declared");
                used.insert(source.to_owned());
            }
        }
        for config in service["configs"].as_array().into_iter().flatten() {
            let source = config["source"].as_str().unwrap();
            assert!(
                compose["configs"].get(source).is_some(),
                "`{name}` uses the config `{source}`, which is not declared"
            );
        }
        if let Some(context) = service["build"]["context"].as_str() {
            let file = service["build"]["dockerfile"].as_str().unwrap_or("Dockerfile");
            assert!(root().join(context).join(file).exists(), "`{name}` is built from `{file}`, which is not there");
        }
    }
    assert_eq!(used, volumes.keys().cloned().collect(), "a volume is declared and not used");
}

#[test]
fn nothing_listens_outside_and_versions_are_pinned() {
    let compose = yaml("docker-compose.yml");
    for (name, service) in services(&compose) {
        for port in list(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "`{name}` opens `{port}` to everybody");
        }
        let image = with_defaults(service["image"].as_str().unwrap());
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(
            service["build"].is_object() || tag.bytes().any(|byte| byte.is_ascii_digit()),
            "`{name}`: `{image}` has no version"
        );
        if service["network_mode"] == "host" {
            let words = format!("{}{}", service["command"], service["environment"]);
            assert!(
                words.contains("127.0.0.1") && !words.contains("0.0.0.0"),
                "`{name}` listens on the host's network"
            );
        }
    }
}

#[test]
fn the_embedded_registry_is_a_registry() {
    let compose = yaml("docker-compose.yml");
    let text = with_defaults(compose["configs"]["registry"]["content"].as_str().unwrap());
    let registry: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(registry["version"], 1);
    for (role, entry) in registry["roles"].as_object().unwrap() {
        for model in list(&entry["chain"]) {
            let provider =
                registry["models"][model]["provider"].as_str().unwrap_or_else(|| panic!("{role}: no `{model}`"));
            assert!(registry["providers"].get(provider).is_some(), "{model}: no `{provider}`");
        }
    }
}

#[test]
fn prometheus_scrapes_crewline_and_grafana_reads_prometheus() {
    let prometheus = yaml("config/prometheus/prometheus.yml");
    let jobs = prometheus["scrape_configs"].as_array().unwrap();
    let crewline = jobs.iter().find(|job| job["job_name"] == "crewline").unwrap();
    let target = crewline["static_configs"][0]["targets"][0].as_str().unwrap();
    let compose = yaml("docker-compose.yml");
    assert!(
        list(&compose["services"]["crewline"]["command"]).contains(&target),
        "crewline does not listen on {target}"
    );
    for rules in list(&prometheus["rule_files"]) {
        assert!(root().join("config/prometheus").join(rules).exists(), "{rules}");
    }
    let sources = yaml("config/grafana/provisioning/datasources/prometheus.yml");
    let source = &sources["datasources"][0];
    let words = list(&compose["services"]["prometheus"]["command"]);
    let address = source["url"].as_str().unwrap().trim_start_matches("http://");
    assert!(words.iter().any(|word| word.ends_with(address)), "Prometheus does not listen on {address}");
    let dashboards = yaml("config/grafana/provisioning/dashboards/crewline.yml");
    let inside = dashboards["providers"][0]["options"]["path"].as_str().unwrap();
    let mounts = list(&compose["services"]["grafana"]["volumes"]);
    assert!(mounts.iter().any(|mount| mount.ends_with(&format!(":{inside}:ro"))), "`{inside}` is not mounted");
}

#[test]
fn panels_and_rules_use_metrics_that_exist() {
    let text = std::fs::read_to_string(root().join("config/grafana/dashboards/crewline.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let uid = yaml("config/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]["uid"].clone();
    let mut expressions = Vec::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], uid, "{}", panel["title"]);
            expressions.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    for group in yaml("config/prometheus/alerts.yml")["groups"].as_array().unwrap() {
        expressions
            .extend(group["rules"].as_array().unwrap().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()));
    }
    let mut shown = BTreeSet::new();
    for expression in &expressions {
        let names = expression
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| word.starts_with("crewline_"));
        for name in names {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(METRICS.contains(&base), "no metric `{name}` in `{expression}`");
            shown.insert(base.to_owned());
        }
    }
    assert_eq!(shown, METRICS.iter().map(ToString::to_string).collect(), "the dashboard shows every metric");
}
