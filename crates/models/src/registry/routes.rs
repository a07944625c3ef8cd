//! A role's rules on where its chain begins.
//!
//! **Invariant:** a rule names models of the role's chain only, does something, and leaves a model to ask.

use std::sync::Arc;

use crewline_types::{Complexity, ModelAlias, ModelSpec, RouteRule, RouteWhen, TaskKind};
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::Check;

/// Where the chain begins for tasks of some kind; the first rule that holds decides.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteEntry {
    /// All of it must hold. Default: always.
    #[serde(default)]
    pub(crate) when: WhenEntry,
    /// The model of the chain that is asked first; those before it follow when all others failed.
    #[serde(default)]
    pub(crate) start: Option<String>,
    /// Models of the chain that are not asked.
    #[serde(default)]
    pub(crate) without: Vec<String>,
}

/// When a rule holds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhenEntry {
    /// The task is of one of these kinds. Default: any.
    #[serde(default)]
    pub(crate) kinds: Vec<KindEntry>,
    /// One of these stands as `#tag` in the task's title or description. Default: whatever stands there.
    #[serde(default)]
    pub(crate) tags: Vec<String>,
    /// Tokens of the task's description, at least.
    #[serde(default)]
    pub(crate) tokens_min: Option<u32>,
    /// Tokens of the task's description, at most.
    #[serde(default)]
    pub(crate) tokens_max: Option<u32>,
    /// How hard the task looks, at least.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub(crate) complexity_min: Option<u8>,
    /// How hard the task looks, at most.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub(crate) complexity_max: Option<u8>,
}

/// What a task is in the plan.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum KindEntry {
    /// The goal; its work is planning.
    Root,
    /// One specialist does it.
    Atomic,
    /// Writes the final document from what the others made.
    Synthesis,
}

impl Check<'_> {
    /// The rules of a role whose chain is `chain`.
    pub(super) fn routes(&mut self, role: &str, entries: &[RouteEntry], chain: &[Arc<ModelSpec>]) -> Arc<[RouteRule]> {
        let known: Vec<&str> = chain.iter().map(|it| it.alias.as_str()).collect();
        let help = format!("the chain of `{role}` has {}", known.join(", "));
        for (place, entry) in entries.iter().enumerate() {
            let place = place.to_string();
            let path = ["roles", role, "routes", &*place];
            // What is wrong with the chain is reported there.
            if known.is_empty() {
                break;
            }
            for alias in entry.start.iter().chain(&entry.without).filter(|it| !known.contains(&it.as_str())) {
                self.report(&path, format!("`{alias}` is not in the chain of `{role}`"), help.as_str());
            }
            if entry.start.is_none() && entry.without.is_empty() {
                self.report(&path, "the rule does nothing".into(), "give `start`, `without` or both");
            }
            if entry.start.as_ref().is_some_and(|start| entry.without.contains(start)) {
                self.report(&path, "the rule starts at a model that it leaves out".into(), "keep one of both");
            }
            if known.iter().all(|alias| entry.without.iter().any(|it| it == alias)) {
                self.report(&path, "the rule leaves no model to ask".into(), "keep one of the chain");
            }
        }
        entries.iter().map(rule).collect()
    }
}

fn rule(entry: &RouteEntry) -> RouteRule {
    let when = &entry.when;
    RouteRule {
        when: RouteWhen {
            kinds: when
                .kinds
                .iter()
                .map(|kind| match kind {
                    KindEntry::Root => TaskKind::Root,
                    KindEntry::Atomic => TaskKind::Atomic,
                    KindEntry::Synthesis => TaskKind::Synthesis,
                })
                .collect(),
            tags: when.tags.iter().map(|tag| tag.trim_start_matches('#').to_owned()).collect(),
            tokens_min: when.tokens_min,
            tokens_max: when.tokens_max,
            complexity_min: when.complexity_min.map(Complexity::new),
            complexity_max: when.complexity_max.map(Complexity::new),
        },
        start: entry.start.as_deref().map(ModelAlias::from),
        without: entry.without.iter().map(|alias| ModelAlias::from(alias.as_str())).collect(),
    }
}
