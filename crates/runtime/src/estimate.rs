//! What a plan may cost before it runs: the worst case of one answered call per task.

use crewline_engine::{
    context::estimate_tokens,
    plan::{self, Document, Problem},
};
use crewline_models::Registry;
use crewline_types::{MicroUsd, ModelAlias};
use serde::Serialize;

use crate::verify;

/// Tokens of the prompt's own words and its index.
const FRAME_TOKENS: u64 = 900;

/// The worst case of a plan when the first model of each chain answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Model calls.
    pub calls: u32,
    /// Tokens sent, the longest outputs of required tasks included.
    pub input_tokens: u64,
    /// Tokens received at most.
    pub output_tokens_max: u64,
    /// Cost at most; `None` when a model has no price.
    pub cost_max: Option<MicroUsd>,
    /// Models without a price.
    pub unpriced: Vec<ModelAlias>,
}

/// Estimates `document`; refuses it with all its problems when it is not valid.
pub fn estimate(document: &Document, registry: &Registry) -> Result<Estimate, Vec<Problem>> {
    let plan = plan::check(document, &crate::planning::file_rules(registry))?;
    let problems = verify::problems(&plan, registry, verify::Workspace::Unknown);
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut estimate = Estimate {
        calls: 0,
        input_tokens: 0,
        output_tokens_max: 0,
        cost_max: Some(MicroUsd::ZERO),
        unpriced: Vec::new(),
    };
    for task in &plan.tasks {
        let Some(model) = registry.chain(&task.role).first() else { continue };
        let own = u64::from(estimate_tokens(&task.description)) + FRAME_TOKENS;
        let needed: u64 = task
            .depends_on
            .iter()
            .filter_map(|need| registry.chain(&plan.tasks[*need as usize].role).first())
            .map(|model| u64::from(model.output_tokens_max))
            .sum();
        let input = (own + needed).min(model.input_tokens_max().into());
        let output = u64::from(model.output_tokens_max);
        estimate.calls += 1;
        estimate.input_tokens += input;
        estimate.output_tokens_max += output;
        let cost = model.price.map(|price| price.of_tokens(input, output));
        estimate.cost_max = estimate.cost_max.zip(cost).map(|(sum, cost)| sum + cost);
        if cost.is_none() && !estimate.unpriced.contains(&model.alias) {
            estimate.unpriced.push(model.alias.clone());
        }
    }
    Ok(estimate)
}
