//! The API's metrics; names and labels as `docs/metrics.md` lists them.
//!
//! **Invariant:** labels come from closed sets; nothing of a request becomes one.

use metrics::{counter, describe_counter};

/// Describes all metrics of this crate to the recorder.
pub fn describe() {
    describe_counter!("crewline_api_requests_refused_total", "Requests that were not let in, by reason.");
}

/// Why a request was not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It came from a foreign page or for a foreign name.
    Foreign,
    /// It had no key.
    KeyMissing,
    /// Its key is none.
    KeyRefused,
    /// Its key does not allow it.
    Scope,
}

/// A request was not let in.
pub fn refused(reason: Refused) {
    let reason = match reason {
        Refused::Foreign => "foreign",
        Refused::KeyMissing => "key_missing",
        Refused::KeyRefused => "key_refused",
        Refused::Scope => "scope",
    };
    counter!("crewline_api_requests_refused_total", "reason" => reason).increment(1);
}
