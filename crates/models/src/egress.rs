//! Where an endpoint is, and what may be reached when a run is offline.
//!
//! **Invariant:** a name is judged without asking DNS; what DNS says later is judged again before a connection is opened.

use std::{fmt, net::SocketAddr};

use crewline_types::model::Locality;
use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// Whether hosts outside this machine and private networks may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Any host.
    #[default]
    Online,
    /// This machine and private networks only.
    Offline,
}

/// Where `url` points, as far as its host tells.
pub fn locality(url: &Url) -> Locality {
    Locality::of_host(url.host_str().unwrap_or_default())
}

/// A private name that DNS sends to a public address.
#[derive(Debug)]
pub(crate) struct PublicAddress {
    host: String,
}

impl fmt::Display for PublicAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "`{}` has a public address only", self.host)
    }
}

impl std::error::Error for PublicAddress {}

/// Whether something failed because a private name has a public address only.
pub(crate) fn is_public_address(error: &dyn std::error::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<PublicAddress>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Resolves names to addresses of this machine and of private networks, and to no other.
#[derive(Debug)]
pub(crate) struct PrivateOnly;

impl Resolve for PrivateOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str();
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0))
                .await?
                .filter(|it| Locality::of_ip(it.ip()) != Locality::Remote)
                .collect();
            if found.is_empty() {
                // Boxed once, so that it is still found among the causes.
                let refusal: Box<dyn std::error::Error + Send + Sync> =
                    Box::new(PublicAddress { host: host.to_owned() });
                return Err(refusal);
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_classed() {
        for (url, expected) in [
            ("http://127.0.0.1:9100/v1", Locality::Loopback),
            ("http://127.9.9.9", Locality::Loopback),
            ("http://[::1]:80/v1", Locality::Loopback),
            ("http://[::ffff:127.0.0.1]/", Locality::Loopback),
            ("http://localhost:1234", Locality::Loopback),
            ("http://LOCALHOST.:1234", Locality::Loopback),
            ("http://0.0.0.0:1", Locality::Loopback),
            ("http://10.1.2.3", Locality::Private),
            ("http://172.31.0.1", Locality::Private),
            ("http://172.32.0.1", Locality::Remote),
            ("http://192.168.1.5", Locality::Private),
            ("http://100.64.0.1", Locality::Private),
            ("http://100.128.0.1", Locality::Remote),
            ("http://169.254.1.1", Locality::Private),
            ("http://[fd00::1]/", Locality::Private),
            ("http://[2001:db8::1]/", Locality::Remote),
            ("http://vllm:8000/v1", Locality::Private),
            ("http://gpu.lan/v1", Locality::Private),
            ("http://host.docker.internal:11434", Locality::Private),
            ("https://api.openai.com/v1", Locality::Remote),
            ("https://localhost.example.com/v1", Locality::Remote),
            ("https://127.0.0.1.example.com/v1", Locality::Remote),
            ("https://evil-internal/v1", Locality::Private),
            ("https://evilinternal.com/v1", Locality::Remote),
            ("http://2130706433/", Locality::Loopback),
        ] {
            assert_eq!(locality(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
