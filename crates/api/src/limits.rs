//! What a server takes on at once, and how long it waits.

use std::{num::NonZeroUsize, time::Duration};

/// Connections at most, however many descriptors there are.
const CONNECTIONS_MAX: usize = 1_024;
/// Connections of a listener for probes and metrics.
const FEW: usize = 16;
/// The share of a process's descriptors that connections take; the others are for models, databases, files and tools.
const SHARE: usize = 4;

/// What a server takes on at once, and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at once.
    pub connections_max: NonZeroUsize,
    /// Event streams open at once. Fewer than connections, so that they never keep others out.
    pub streams_max: usize,
    /// How long a connection may be without the head of a request: at its beginning, and after each answer.
    pub head_time_max: Duration,
    /// How long a request may take until its response begins, its body included. Event streams run on after that.
    pub answer_time_max: Duration,
    /// How long a client may take nothing of what is sent to it.
    pub stall_time_max: Duration,
    /// How long open connections may live on once the server is told to stop.
    pub drain_time_max: Duration,
}

impl Limits {
    /// For a process that may have so many descriptors; `None` is without a limit.
    pub fn within(descriptors: Option<u64>) -> Self {
        let descriptors = descriptors.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX);
        Self::with((descriptors / SHARE).min(CONNECTIONS_MAX))
    }

    /// For a listener of the same process that answers probes and scrapes only.
    pub fn few(self) -> Self {
        Self::with(self.connections_max.get().min(FEW))
    }

    fn with(connections: usize) -> Self {
        let connections_max = NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN);
        Self {
            connections_max,
            streams_max: connections_max.get() * 3 / 4,
            head_time_max: Duration::from_secs(30),
            answer_time_max: Duration::from_secs(30),
            stall_time_max: Duration::from_secs(30),
            drain_time_max: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_descriptors_are_left_for_runs() {
        let of = |descriptors| {
            let limits = Limits::within(descriptors);
            (limits.connections_max.get(), limits.streams_max, limits.few().connections_max.get())
        };
        assert_eq!(of(Some(256)), (64, 48, 16));
        assert_eq!(of(Some(1_024)), (256, 192, 16));
        assert_eq!(of(Some(1 << 20)), (1_024, 768, 16));
        assert_eq!(of(None), (1_024, 768, 16));
        assert_eq!(of(Some(0)), (1, 0, 1));
    }
}
