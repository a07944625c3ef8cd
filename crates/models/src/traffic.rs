//! What goes to each host and comes back, counted where it passes: in the metrics, and for whoever the request is made for.
//!
//! **Invariant:** what passed is counted once, however the exchange ends, also when its future is dropped.
//! **Invariant:** what was not sent, as no connection was made, is not counted.
//! **Invariant:** a label is a host that the registry names, or `other`.

use std::{
    error::Error,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ::metrics::Counter;
use crewline_types::{HostBytes, Traffic, model::Locality};
use reqwest::Request;
use serde::Serialize;

use crate::metrics;

/// What passed for one attempt. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Traffic>>);

impl Tally {
    /// What passed since this was asked last.
    pub fn take(&self) -> Traffic {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, host: &Arc<str>, bytes: HostBytes) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(host, bytes);
    }
}

/// The counters of one host.
pub(crate) struct HostMeter {
    host: Arc<str>,
    sent: Counter,
    received: Counter,
}

impl HostMeter {
    /// A host that the registry names.
    pub(crate) fn named(host: &str, locality: Locality) -> Self {
        Self::labelled(host, host, locality)
    }

    /// A host that is below a name of the registry: there may be any number of these.
    pub(crate) fn unnamed(host: &str, locality: Locality) -> Self {
        Self::labelled(host, "other", locality)
    }

    fn labelled(host: &str, label: &str, locality: Locality) -> Self {
        let (sent, received) = metrics::traffic(label, locality);
        Self { host: host.into(), sent, received }
    }

    /// Begins to count an exchange that sends so many bytes.
    pub(crate) fn exchange<'a>(&'a self, tally: Option<&'a Tally>, sent: usize) -> Passing<'a> {
        Passing { meter: self, tally, bytes: HostBytes { sent: sent as u64, received: 0 } }
    }
}

/// The bytes that a request brings to its host: its address and its body. Headers are the same for every request.
pub(crate) fn sent_by(request: &Request) -> usize {
    let url = request.url();
    let body = request.body().and_then(reqwest::Body::as_bytes).map_or(0, <[u8]>::len);
    url.path().len() + url.query().map_or(0, str::len) + body
}

/// The bytes of a message that a library writes as JSON.
pub(crate) fn json_bytes(message: &impl Serialize) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    // What can not be written is not sent either, as far as it went.
    let _ = serde_json::to_writer(&mut count, message);
    count.0
}

/// An exchange that is under way; counted when it is dropped.
pub(crate) struct Passing<'a> {
    meter: &'a HostMeter,
    tally: Option<&'a Tally>,
    bytes: HostBytes,
}

impl Passing<'_> {
    /// So many bytes came.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.bytes.received += bytes as u64;
    }

    /// The request failed. Without a connection nothing was sent.
    pub(crate) fn failed(&mut self, error: &(dyn Error + 'static)) {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect) {
                self.bytes.sent = 0;
                return;
            }
            cause = error.source();
        }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let HostBytes { sent, received } = self.bytes;
        if sent == 0 && received == 0 {
            return;
        }
        self.meter.sent.increment(sent);
        self.meter.received.increment(received);
        if let Some(tally) = self.tally {
            tally.add(&self.meter.host, self.bytes);
        }
    }
}
