//! Who may depend on whom: the floors of the house and the owners of its libraries (`docs/architecture.md`).
//!
//! **Invariant:** arrows go down a floor only; everything may use `types`; the five crates of floor 1 never use each
//! other; `api` sees `runtime` and `types` only; `testkit` is for tests.
//! **Invariant:** a library that matters has one owner. Tests may use any library.
//! **Invariant:** a crate that has no floor here fails the check.

use cargo_metadata::{DependencyKind, Metadata};

use crate::process::{Cargo, Failure, metadata};

/// A crate, and the crates of the workspace it may use.
const FLOORS: [(&str, &[&str]); 11] = [
    ("crewline-types", &[]),
    ("crewline-engine", &["crewline-types"]),
    ("crewline-store", &["crewline-types"]),
    ("crewline-models", &["crewline-types"]),
    ("crewline-memory", &["crewline-types"]),
    ("crewline-tools", &["crewline-types"]),
    (
        "crewline-runtime",
        &[
            "crewline-types",
            "crewline-engine",
            "crewline-store",
            "crewline-models",
            "crewline-memory",
            "crewline-tools",
        ],
    ),
    ("crewline-api", &["crewline-types", "crewline-runtime"]),
    (
        "crewline-cli",
        &[
            "crewline-types",
            "crewline-engine",
            "crewline-store",
            "crewline-models",
            "crewline-memory",
            "crewline-tools",
            "crewline-runtime",
            "crewline-api",
        ],
    ),
    ("crewline-testkit", &["crewline-types"]),
    ("xtask", &[]),
];

/// For tests only: never an ordinary dependency.
const TESTKIT: &str = "crewline-testkit";
/// Wire things together, so their tests may use whatever is below them.
const TOP: [&str; 3] = ["crewline-runtime", "crewline-api", "crewline-cli"];

/// A library, and the only crates that may use it.
const OWNERS: [(&str, &[&str]); 31] = [
    ("ractor", &["crewline-runtime"]),
    ("minijinja", &["crewline-runtime"]),
    ("sea-orm", &["crewline-store"]),
    ("sea-orm-migration", &["crewline-store"]),
    ("sea-query-sqlx", &["crewline-store"]),
    ("sqlx", &["crewline-store"]),
    ("qdrant-client", &["crewline-memory", "crewline-testkit"]),
    ("prost", &["crewline-memory", "crewline-testkit"]),
    ("fastembed", &["crewline-memory"]),
    ("ort", &["crewline-memory"]),
    ("reqwest", &["crewline-models"]),
    ("regex-automata", &["crewline-models"]),
    ("tokenizers", &["crewline-models"]),
    ("nvml-wrapper", &["crewline-models"]),
    ("cap-std", &["crewline-tools"]),
    ("landlock", &["crewline-tools"]),
    ("seccompiler", &["crewline-tools"]),
    ("html2text", &["crewline-tools"]),
    ("axum", &["crewline-api", "crewline-testkit"]),
    ("rmcp", &["crewline-api", "crewline-models", "crewline-testkit"]),
    ("tower-http", &["crewline-api"]),
    ("hyper", &["crewline-api"]),
    ("hyper-util", &["crewline-api"]),
    ("clap", &["crewline-cli"]),
    ("clap_complete", &["crewline-cli"]),
    ("clap_mangen", &["crewline-cli"]),
    ("indicatif", &["crewline-cli"]),
    ("miette", &["crewline-cli"]),
    ("metrics-exporter-prometheus", &["crewline-cli"]),
    ("tracing-subscriber", &["crewline-cli"]),
    ("cargo_metadata", &["xtask"]),
];

/// Checks the workspace.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Failure> {
    let metadata = metadata(&cargo.root)?;
    let violations = check(&metadata);
    if violations.is_empty() {
        println!("{} crates, no arrow that must not be", metadata.packages.len());
        return Ok(());
    }
    Err(Failure::Check(format!("the house has wrong arrows:\n  {}", violations.join("\n  "))))
}

/// Every arrow that must not be, with the rule it breaks.
fn check(metadata: &Metadata) -> Vec<String> {
    let is_ours = |name: &str| metadata.packages.iter().any(|package| package.name.as_str() == name);
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let from = package.name.as_str();
        let Some((_, allowed)) = FLOORS.iter().find(|(name, _)| *name == from) else {
            violations
                .push(format!("{from}: it has no floor; give it one in xtask/src/arch.rs and docs/architecture.md"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let is_test_only = dependency.kind == DependencyKind::Development;
            let broken =
                if is_ours(to) { arrow(from, to, allowed, is_test_only) } else { library(from, to, is_test_only) };
            if let Some(rule) = broken {
                let kind = if is_test_only { " (in tests)" } else { "" };
                violations.push(format!("{from} -> {to}{kind}: {rule}"));
            }
        }
    }
    violations
}

/// The rule that an arrow between two crates of the workspace breaks.
fn arrow(from: &str, to: &str, allowed: &[&str], is_test_only: bool) -> Option<String> {
    if to == TESTKIT {
        return (!is_test_only).then(|| format!("`{TESTKIT}` is for tests: make it a dev-dependency"));
    }
    if allowed.contains(&to) || (is_test_only && TOP.contains(&from) && to != "crewline-cli") {
        return None;
    }
    let rule = match allowed {
        [] => "it may use no crate of the workspace".to_owned(),
        _ => format!("arrows go down a floor only; it may use {}", allowed.join(", ")),
    };
    Some(rule)
}

/// The rule that the use of a library breaks.
fn library(from: &str, to: &str, is_test_only: bool) -> Option<String> {
    let (_, owners) = OWNERS.iter().find(|(name, _)| *name == to)?;
    (!is_test_only && !owners.contains(&from)).then(|| format!("the library belongs to {}", owners.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    /// Metadata of crates with dependencies, each a name and a kind (`""` or `"dev"`).
    fn workspace(crates: &[(&str, &[(&str, &str)])]) -> Metadata {
        let dependency = |(name, kind): &(&str, &str)| {
            json!({
                "name": name, "source": null, "req": "*", "kind": if kind.is_empty() { Value::Null } else { json!(kind) },
                "rename": null, "optional": false, "uses_default_features": true, "features": [], "target": null,
                "registry": null, "path": null,
            })
        };
        let package = |(name, dependencies): &(&str, &[(&str, &str)])| {
            json!({
                "name": name, "version": "0.1.0", "id": format!("path+file:///w/{name}#0.1.0"), "license": null,
                "license_file": null, "description": null, "source": null,
                "dependencies": dependencies.iter().map(dependency).collect::<Vec<_>>(),
                "targets": [], "features": {}, "manifest_path": format!("/w/{name}/Cargo.toml"), "metadata": null,
                "publish": [], "authors": [], "categories": [], "keywords": [], "readme": null, "repository": null,
                "homepage": null, "documentation": null, "edition": "2024", "links": null, "default_run": null,
                "rust_version": null,
            })
        };
        serde_json::from_value(json!({
            "packages": crates.iter().map(package).collect::<Vec<_>>(),
            "workspace_members": [], "workspace_default_members": [], "resolve": null,
            "target_directory": "/w/target", "version": 1, "workspace_root": "/w", "metadata": null,
        }))
        .unwrap()
    }

    fn broken(crates: &[(&str, &[(&str, &str)])]) -> Vec<String> {
        check(&workspace(crates))
    }

    #[test]
    fn the_house_as_drawn_is_fine() {
        let arrows: Vec<(&str, Vec<(&str, &str)>)> =
            FLOORS.iter().map(|(name, allowed)| (*name, allowed.iter().map(|to| (*to, "")).collect())).collect();
        let crates: Vec<_> = arrows.iter().map(|(name, arrows)| (*name, arrows.as_slice())).collect();
        assert_eq!(broken(&crates), Vec::<String>::new());
    }

    #[test]
    fn sideways_and_upward_arrows_are_named_with_the_rule() {
        let found = broken(&[
            ("crewline-types", &[]),
            ("crewline-engine", &[("crewline-types", "")]),
            ("crewline-store", &[("crewline-engine", "")]),
            ("crewline-runtime", &[]),
            ("crewline-models", &[("crewline-runtime", "build")]),
            ("crewline-api", &[("crewline-store", "")]),
        ]);
        assert_eq!(
            found,
            [
                "crewline-store -> crewline-engine: arrows go down a floor only; it may use crewline-types",
                "crewline-models -> crewline-runtime: arrows go down a floor only; it may use crewline-types",
                "crewline-api -> crewline-store: arrows go down a floor only; it may use crewline-types, crewline-runtime",
            ]
        );
    }

    #[test]
    fn types_use_nobody_and_tests_do_not_excuse_floor_one() {
        let found = broken(&[
            ("crewline-types", &[("crewline-engine", "")]),
            ("crewline-engine", &[]),
            ("crewline-memory", &[("crewline-engine", "dev")]),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].starts_with("crewline-memory -> crewline-engine (in tests): "), "{found:?}");
    }

    #[test]
    fn testkit_is_for_tests() {
        let kit = ("crewline-testkit", [].as_slice());
        assert_eq!(broken(&[kit, ("crewline-models", &[("crewline-testkit", "dev")])]), Vec::<String>::new());
        let found = broken(&[kit, ("crewline-cli", &[("crewline-testkit", "")])]);
        assert_eq!(
            found,
            ["crewline-cli -> crewline-testkit: `crewline-testkit` is for tests: make it a dev-dependency"]
        );
    }

    #[test]
    fn libraries_have_owners_except_in_tests() {
        let found = broken(&[
            ("crewline-engine", &[("reqwest", ""), ("serde", "")]),
            ("crewline-models", &[("reqwest", "")]),
            ("crewline-api", &[("reqwest", "dev")]),
        ]);
        assert_eq!(found, ["crewline-engine -> reqwest: the library belongs to crewline-models"]);
    }

    #[test]
    fn a_new_crate_needs_a_floor() {
        let found = broken(&[("crewline-attic", &[])]);
        assert!(found[0].starts_with("crewline-attic: it has no floor"), "{found:?}");
    }

    #[test]
    fn this_workspace_is_fine() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let metadata = metadata(root).unwrap();
        assert!(metadata.packages.len() >= FLOORS.len(), "all crates are seen");
        assert_eq!(check(&metadata), Vec::<String>::new());
    }
}
