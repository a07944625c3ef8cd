//! Models as the router sees them: alias, window, price, limits. Endpoints and keys stay in the `models` crate.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

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

impl Locality {
    /// Where a host is, as far as its name tells.
    ///
    /// Names of one label, and names below `local`, `internal`, `lan` and `home.arpa`, are private: public DNS has none of them.
    pub fn of_host(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Self::of_ip(ip);
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        if name == "localhost" || name.ends_with(".localhost") {
            Self::Loopback
        } else if name.is_empty() {
            Self::Remote
        } else if !name.contains('.')
            || [".local", ".internal", ".lan", ".home.arpa"].iter().any(|suffix| name.ends_with(suffix))
        {
            Self::Private
        } else {
            Self::Remote
        }
    }

    /// Where an address is. Private: RFC 1918, shared (RFC 6598), link-local, unique local (RFC 4193).
    pub fn of_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => {
                let [a, b, ..] = ip.octets();
                if ip.is_loopback() || ip.is_unspecified() {
                    Self::Loopback
                } else if ip.is_private() || ip.is_link_local() || (a == 100 && (64..128).contains(&b)) {
                    Self::Private
                } else {
                    Self::Remote
                }
            }
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => Self::of_ip(IpAddr::V4(ip)),
                None if ip.is_loopback() || ip == Ipv6Addr::UNSPECIFIED => Self::Loopback,
                None if ip.is_unique_local() || ip.is_unicast_link_local() => Self::Private,
                None => Self::Remote,
            },
        }
    }

    /// The word for it in reports and as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Remote => "remote",
        }
    }
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
