//! Models as the router sees them: alias, window, price, limits. Endpoints and keys stay in the `models` crate.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{MicroUsd, Usage};

macro_rules! name {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self(name.into())
            }
        }

        impl From<String> for $name {
            fn from(name: String) -> Self {
                Self(name.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.pad(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// The name of a model in the registry (`cheap`).
    ModelAlias
);
name!(
    /// The name of a role (`manager`, `researcher`).
    Role
);

impl Role {
    /// The role that plans.
    pub fn manager() -> Self {
        Self::from("manager")
    }

    /// The role that judges answers by a rubric.
    pub fn judge() -> Self {
        Self::from("judge")
    }
}

/// What a million tokens cost, in micro-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Per million tokens sent.
    pub input_per_million: MicroUsd,
    /// Per million tokens received.
    pub output_per_million: MicroUsd,
}

impl Price {
    /// What `usage` costs, rounded up: money is never under-reported.
    pub fn of(&self, usage: &Usage) -> MicroUsd {
        self.of_tokens(usage.input_tokens, usage.output_tokens)
    }

    /// What so many tokens cost, rounded up.
    pub fn of_tokens(&self, input: u64, output: u64) -> MicroUsd {
        let total = u128::from(input) * u128::from(self.input_per_million.0)
            + u128::from(output) * u128::from(self.output_per_million.0);
        MicroUsd(u64::try_from(total.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}

/// Where a model runs, as far as its endpoint tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// This machine.
    Loopback,
    /// A private network.
    Private,
    /// Anywhere else.
    Remote,
}

/// The limits of one call on time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the connection stands.
    pub connect: Duration,
    /// Until the first token, when streaming.
    pub first_token: Duration,
    /// Between tokens, when streaming.
    pub idle: Duration,
    /// The whole call.
    pub total: Duration,
}

/// A model of the registry as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its name in the registry.
    pub alias: ModelAlias,
    /// The provider's name in the registry.
    pub provider: Arc<str>,
    /// Tokens of prompt and answer together.
    pub context_window: u32,
    /// Tokens of the answer at most.
    pub output_tokens_max: u32,
    /// Enforces a JSON Schema on its output.
    pub has_json_schema: bool,
    /// `None` when the registry does not say.
    pub price: Option<Price>,
    /// Where it runs.
    pub locality: Locality,
    /// Its limits on time.
    pub timeouts: Timeouts,
    /// Calls at once; `None` for no limit of its own.
    pub concurrency_max: Option<u32>,
}

impl ModelSpec {
    /// Tokens a prompt may have so that the longest answer still fits.
    pub fn input_tokens_max(&self) -> u32 {
        self.context_window.saturating_sub(self.output_tokens_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_rounded_up() {
        let price = Price { input_per_million: MicroUsd(1_000_000), output_per_million: MicroUsd(2_500_000) };
        assert_eq!(price.of_tokens(10, 3), MicroUsd(18));
        assert_eq!(price.of_tokens(u64::MAX, u64::MAX), MicroUsd(u64::MAX));
    }
}
