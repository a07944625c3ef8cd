//! The API's metrics; names and labels as `docs/metrics.md` lists them.
//!
//! **Invariant:** labels come from closed sets; nothing of a request becomes one.

use metrics::{counter, describe_counter, describe_gauge, gauge};

/// Describes all metrics of this crate to the recorder.
pub fn describe() {
    describe_counter!("crewline_api_requests_refused_total", "Requests that were not let in, by reason.");
    describe_gauge!("crewline_api_connections", "Open connections.");
    describe_counter!(
        "crewline_api_connections_cut_total",
        "Connections that were closed because of their client or for another, by reason."
    );
}

/// Why a connection is closed before its client goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The head of a request did not come in time.
    Head,
    /// The body did not.
    Body,
    /// The client takes nothing of what is sent.
    Unread,
    /// Another client needs the place.
    Room,
}

/// A connection is closed.
pub(crate) fn cut(reason: Cut) {
    let reason = match reason {
        Cut::Head => "head",
        Cut::Body => "body",
        Cut::Unread => "unread",
        Cut::Room => "room",
    };
    counter!("crewline_api_connections_cut_total", "reason" => reason).increment(1);
}

/// A connection was accepted.
pub(crate) fn connected() {
    gauge!("crewline_api_connections").increment(1.0);
}

/// A connection has ended.
pub(crate) fn disconnected() {
    gauge!("crewline_api_connections").decrement(1.0);
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
