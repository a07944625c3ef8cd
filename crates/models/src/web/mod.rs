//! Reads pages of the public web for tools, from hosts that a policy names.
//!
//! It stands here because this crate owns the HTTP client and the rules of egress; the tool itself knows neither.
//!
//! **Invariant:** a request goes only to a host that is allowed, at an address that is public; both hold again for every redirect.
//! **Invariant:** what a name resolved to is what is connected to.
//! **Invariant:** nothing of ours is sent along: no key, no cookie, no referrer, no proxy's credentials.

mod public;
#[cfg(test)]
mod tests;

use std::{
    error::Error as _,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
pub use public::is_public;
use public::{NotPublic, PublicOnly};
use reqwest::{
    Client, Response, Url,
    header::{ACCEPT, CONTENT_TYPE, LOCATION},
    redirect,
};
use tokio::time::timeout;

use crate::{
    Mode, Tally,
    egress::locality,
    providers::root_cause,
    traffic::{HostMeter, Passing, sent_by},
};

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an address.
const URL_BYTES_MAX: usize = 2_000;
/// Kinds of content that are text.
const TEXTS: [&str; 10] = [
    "application/json",
    "application/ld+json",
    "application/rss+xml",
    "application/atom+xml",
    "application/xhtml+xml",
    "application/xml",
    "application/x-ndjson",
    "application/yaml",
    "application/toml",
    "application/javascript",
];

/// Reads pages. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Web {
    client: Client,
    allows: fn(IpAddr) -> bool,
    limits: WebLimits,
    /// Who is told of the bytes, beside the metrics.
    tally: Option<Tally>,
}

/// What a policy says of a host at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRule {
    /// It may be asked, by its own name.
    Named,
    /// It may be asked, as it is below a name.
    Below,
    /// It may not be asked.
    Unknown,
}

/// Limits of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebLimits {
    /// From the first redirect to the last byte.
    pub time_max: Duration,
    /// Bytes that are read; of a longer page its beginning.
    pub bytes_max: usize,
}

impl Default for WebLimits {
    fn default() -> Self {
        Self { time_max: Duration::from_secs(30), bytes_max: 2 << 20 }
    }
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where it was found, after redirects.
    pub url: String,
    /// The status of the answer.
    pub status: u16,
    /// The kind of content, without parameters, in small letters.
    pub kind: String,
    /// Its beginning, or all of it.
    pub body: Vec<u8>,
    /// Whether there is more.
    pub is_cut: bool,
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebError {
    /// The run is offline.
    #[error("the run is offline: nothing outside is read")]
    Offline,
    /// The client can not be made.
    #[error("the HTTP client cannot be made: {message}")]
    Client {
        /// Why.
        message: String,
    },
    /// It is no address of a page.
    #[error("`{url}` is no address that can be read: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The policy does not name the host.
    #[error("`{host}` is not a host that may be read")]
    Host {
        /// The host, with the port where it is not the usual one.
        host: String,
    },
    /// The host is one of this machine or its networks.
    #[error("`{host}` is not on the public internet")]
    Private {
        /// The host.
        host: String,
    },
    /// One redirect follows the other.
    #[error("there are more than {REDIRECTS_MAX} redirects")]
    Redirects,
    /// The content is no text.
    #[error("it is `{kind}`, which is no text")]
    Kind {
        /// The kind.
        kind: String,
    },
    /// It took too long.
    #[error("it took longer than {} seconds", limit.as_secs())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The host can not be reached, or ends within its answer.
    #[error("`{host}` cannot be reached: {message}")]
    Unreachable {
        /// The host.
        host: String,
        /// Why.
        message: String,
    },
}

impl WebError {
    /// Whether it was refused, and nothing was sent.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Offline | Self::Address { .. } | Self::Host { .. } | Self::Private { .. } => true,
            Self::Client { .. }
            | Self::Redirects
            | Self::Kind { .. }
            | Self::Timeout { .. }
            | Self::Unreachable { .. } => false,
        }
    }
}

impl Web {
    /// A reader of pages; none when the run is offline.
    pub fn new(mode: Mode, limits: WebLimits) -> Result<Self, WebError> {
        match mode {
            Mode::Online => Self::with(limits, is_public),
            Mode::Offline => Err(WebError::Offline),
        }
    }

    fn with(limits: WebLimits, allows: fn(IpAddr) -> bool) -> Result<Self, WebError> {
        // Some other part of the program may have installed it before: both are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("crewline/", env!("CARGO_PKG_VERSION")))
            // Each is judged as a request of its own.
            .redirect(redirect::Policy::none())
            .referer(false)
            // A proxy would resolve names by itself.
            .no_proxy()
            .http1_only()
            .connect_timeout(limits.time_max)
            // A connection is used once: the next request resolves, and is judged, again.
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(PublicOnly { allows }))
            .build();
        let client = client.map_err(|error| WebError::Client { message: root_cause(&error) })?;
        Ok(Self { client, allows, limits, tally: None })
    }

    /// The same reader, of whose requests `tally` is told what they send and receive.
    #[must_use]
    pub fn tallied(&self, tally: Tally) -> Self {
        Self { tally: Some(tally), ..self.clone() }
    }

    /// Reads a page. `rule` says of a host and its port whether it may be asked.
    pub async fn get(&self, url: &str, rule: &(dyn Fn(&str, u16) -> HostRule + Send + Sync)) -> Result<Page, WebError> {
        let limit = self.limits.time_max;
        match timeout(limit, self.follow(url, rule)).await {
            Ok(page) => page,
            Err(_) => Err(WebError::Timeout { limit }),
        }
    }

    async fn follow(&self, url: &str, rule: &(dyn Fn(&str, u16) -> HostRule + Send + Sync)) -> Result<Page, WebError> {
        let mut url = parse(url)?;
        for _ in 0..=REDIRECTS_MAX {
            let (host, meter) = self.judge(&url, rule)?;
            let request =
                self.client.get(url.clone()).header(ACCEPT, "text/html, text/*;q=0.9, application/json;q=0.9");
            let request = request.build().map_err(|error| unreachable(&error, &host))?;
            let mut passing = meter.exchange(self.tally.as_ref(), sent_by(&request));
            let answer = self.client.execute(request).await.inspect_err(|error| passing.failed(error));
            let answer = answer.map_err(|error| unreachable(&error, &host))?;
            match next(&url, &answer)? {
                Some(further) => url = further,
                None => return self.read(&url, answer, &host, &mut passing).await,
            }
        }
        Err(WebError::Redirects)
    }

    /// The host of an address that may be asked, and what counts its bytes.
    fn judge(
        &self,
        url: &Url,
        rule: &(dyn Fn(&str, u16) -> HostRule + Send + Sync),
    ) -> Result<(String, HostMeter), WebError> {
        let address = |reason| WebError::Address { url: short(url.as_str()), reason };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(address("it is neither http nor https"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(address("it has a name or a password in it"));
        }
        let Some(host) = url.host_str() else { return Err(address("it has no host")) };
        let port = url.port_or_known_default().unwrap_or(443);
        let shown = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        // A number in any spelling has become an address by now.
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        // `localhost` is this machine, whatever a resolver makes of it (RFC 6761).
        let name = bare.trim_end_matches('.');
        let is_this_machine = name == "localhost" || name.ends_with(".localhost");
        let ip = if is_this_machine { Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { bare.parse::<IpAddr>() };
        if let Ok(ip) = ip
            && !(self.allows)(ip)
        {
            return Err(WebError::Private { host: shown });
        }
        let host = host.trim_end_matches('.');
        match rule(host, port) {
            HostRule::Named => Ok((shown, HostMeter::named(host, locality(url)))),
            HostRule::Below => Ok((shown, HostMeter::unnamed(host, locality(url)))),
            HostRule::Unknown => Err(WebError::Host { host: shown }),
        }
    }

    async fn read(&self, url: &Url, answer: Response, host: &str, passing: &mut Passing<'_>) -> Result<Page, WebError> {
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok()).unwrap_or("text/plain");
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !kind.starts_with("text/") && !TEXTS.contains(&kind.as_str()) {
            return Err(WebError::Kind { kind: short(&kind) });
        }
        let status = answer.status().as_u16();
        let (mut body, mut is_cut) = (Vec::new(), false);
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| unreachable(&error, host))?;
            passing.received(piece.len());
            let room = self.limits.bytes_max - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                is_cut = true;
                break;
            }
        }
        Ok(Page { url: url.to_string(), status, kind, body, is_cut })
    }
}

fn parse(text: &str) -> Result<Url, WebError> {
    let address = |reason| WebError::Address { url: short(text), reason };
    if text.len() > URL_BYTES_MAX {
        return Err(address("it is too long"));
    }
    let mut url: Url = text.trim().parse().map_err(|_| address("it can not be parsed"))?;
    url.set_fragment(None);
    Ok(url)
}

/// Where an answer sends on to.
fn next(url: &Url, answer: &Response) -> Result<Option<Url>, WebError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(place) = answer.headers().get(LOCATION).and_then(|it| it.to_str().ok()) else { return Ok(None) };
    let further =
        url.join(place).map_err(|_| WebError::Address { url: short(place), reason: "it can not be parsed" })?;
    if url.scheme() == "https" && further.scheme() != "https" {
        return Err(WebError::Address { url: short(further.as_str()), reason: "it leads from https to http" });
    }
    parse(further.as_str()).map(Some)
}

fn unreachable(error: &reqwest::Error, host: &str) -> WebError {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.is::<NotPublic>() {
            return WebError::Private { host: host.to_owned() };
        }
        cause = error.source();
    }
    WebError::Unreachable { host: host.to_owned(), message: root_cause(error) }
}

fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
