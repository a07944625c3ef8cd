//! Brings the reader of pages, which `models` owns, to the tool that reads them.

use crewline_models::web::{HostRule, Page, Web};
use crewline_tools::{Fetch, Fetched, Hosts, NotFetched};
use futures::{FutureExt as _, future::BoxFuture};

/// Reads pages for `http_fetch`.
pub struct WebFetch(pub Web);

impl Fetch for WebFetch {
    fn fetch<'a>(&'a self, url: &'a str, hosts: &'a Hosts) -> BoxFuture<'a, Result<Fetched, NotFetched>> {
        async move {
            let rule = |host: &str, port| match hosts.allows(host, port) {
                true if hosts.names(host) => HostRule::Named,
                true => HostRule::Below,
                false => HostRule::Unknown,
            };
            match self.0.get(url, &rule).await {
                Ok(Page { url, status, kind, body, is_cut }) => Ok(Fetched { url, status, kind, body, is_cut }),
                Err(error) if error.is_refusal() => Err(NotFetched::Refused(error.to_string())),
                Err(error) => Err(NotFetched::Failed(error.to_string())),
            }
        }
        .boxed()
    }
}
