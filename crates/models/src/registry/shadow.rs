//! A candidate for a role: a model that is asked a share of the role's questions as well, to compare it with those of the chain.
//!
//! **Invariant:** a candidate is no model of the role's chain, and has a price: its budget could not hold otherwise.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crewline_types::{MicroUsd, ModelAlias, ModelSpec, Role, Share};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    ModelConfig,
    check::Check,
    file::Span,
    shape::{list, suggestion},
};

/// How long a copy may take when the file does not say.
const TIME_MAX: Duration = Duration::from_mins(2);

/// A model that gets copies of the role's questions, to compare it with those of the chain. Its answers are checked and counted,
/// never used.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShadowEntry {
    /// The candidate: a model with a price that is not in the chain of the role.
    pub(crate) model: String,
    /// The share of the role's questions that are copied, as `5%`.
    #[schemars(regex(pattern = r"^[0-9]{1,3}(\.[0-9]{1,2})?%$"))]
    pub(crate) share: String,
    /// US dollars that the copies of this role may cost in one run, beside what the run itself may cost.
    #[schemars(range(min = 0))]
    pub(crate) cost_max: f64,
    /// How long one copy may take. Default: `2m`.
    #[serde(default)]
    pub(crate) time_max: Option<Span>,
}

/// A candidate for a role.
#[derive(Debug, Clone)]
pub struct Shadow {
    /// The role that has it in the file, `default` for all that are not named: its copies share `cost_max`.
    pub role: Role,
    /// The model.
    pub model: Arc<ModelSpec>,
    /// How many of the role's questions it is asked.
    pub share: Share,
    /// What its copies may cost in one run.
    pub cost_max: MicroUsd,
    /// How long one may take.
    pub time_max: Duration,
}

impl Check<'_> {
    /// The candidate of a role whose chain is `chain`.
    pub(super) fn shadow(
        &mut self,
        role: &str,
        entry: Option<&ShadowEntry>,
        chain: &[Arc<ModelSpec>],
        models: &[Arc<ModelConfig>],
        places: &HashMap<ModelAlias, usize>,
    ) -> Option<Shadow> {
        let entry = entry?;
        let path = |field: &'static str| ["roles", role, "shadow", field];
        let alias = entry.model.as_str();
        let model = places.get(alias).and_then(|place| models.get(*place)).map(|it| Arc::clone(&it.spec));
        let known = self.names("models");
        match &model {
            None if known.contains(&alias) => {}
            None => {
                let others = format!("there are {}", list(known.iter().copied()));
                let help = suggestion(alias, known.iter().copied(), &others);
                self.report(&path("model"), format!("there is no model `{alias}`"), help);
            }
            Some(model) if chain.iter().any(|it| it.alias == model.alias) => {
                let message = format!("`{alias}` is in the chain of `{role}` already");
                self.report(
                    &path("model"),
                    message,
                    "name a model that is not: those of the chain are compared anyway",
                );
            }
            Some(model) if model.price.is_none() => {
                let message = format!("`{alias}` has no price, so `cost_max` could not hold");
                let help = format!("give `models.{alias}` a `price`; zeros for one that costs nothing");
                self.report(&path("model"), message, help);
            }
            Some(_) => {}
        }
        let share = entry.share.parse::<Share>().ok();
        if share.is_none() {
            let message = format!("`roles.{role}.shadow.share` is no share: `{}`", entry.share);
            self.report(
                &path("share"),
                message,
                "write it as `5%`: above 0 % and up to 100 %, at most two digits after the point",
            );
        }
        let cost_max = MicroUsd::from_usd(entry.cost_max);
        if cost_max.is_none() {
            let message = format!("`roles.{role}.shadow.cost_max` is not an amount of dollars");
            self.report(&path("cost_max"), message, "US dollars for one run, as `0.05`");
        }
        let time_max = entry.time_max.map_or(TIME_MAX, |it| it.0);
        Some(Shadow { role: role.into(), model: model?, share: share?, cost_max: cost_max?, time_max })
    }
}
