//! What all rounds share: the upstream, the counts, the server that may be crashed, and the places runs live in.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crewline_testkit::StubServer;

use crate::{cluster::Cluster, ledger::Ledger, tally::Tally};

/// What all rounds share.
pub struct Shop {
    pub ledger: Ledger,
    pub server: StubServer,
    pub tally: Tally,
    pub cluster: Option<Cluster>,
    /// When the last round begins.
    pub until: Instant,
    /// So many kills are enough.
    pub kills_max: u64,
    /// A violation is what is looked for, so one ends it.
    pub is_control: bool,
}

impl Shop {
    /// Restarts of the database server so far.
    pub fn restarts(&self) -> u64 {
        self.cluster.as_ref().map_or(0, Cluster::restarts)
    }

    /// Whether the database server was down at some moment since [`Cluster::changes`] was this.
    pub fn was_down_since(&self, changes: u64) -> bool {
        self.cluster.as_ref().is_some_and(|it| it.is_down() || it.changes() != changes)
    }

    /// [`Cluster::changes`], where there is a server of our own.
    pub fn changes(&self) -> u64 {
        self.cluster.as_ref().map_or(0, Cluster::changes)
    }

    /// Whether a control run has shown what it is for; what is under way then may be left as it is.
    pub fn has_shown(&self) -> bool {
        self.is_control && self.tally.violations() > 0
    }

    /// Whether nothing more shall be disturbed.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until || self.tally.of("kill -9") >= self.kills_max || self.has_shown()
    }
}

/// Where a run is recorded.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a file of its data directory.
    Sqlite,
    /// On a server.
    Postgres {
        /// The database.
        url: String,
    },
}

/// The lease that runs get, so that nobody waits half a minute for a dead process.
pub const LEASE: Duration = Duration::from_secs(3);

impl Place {
    /// Tells a process where to look.
    pub fn configure(&self, command: &mut Command) {
        if let Self::Postgres { url } = self {
            command.args(["--database", url]).env("CREWLINE_QUEUE__LEASE", format!("{}s", LEASE.as_secs()));
        }
    }

    /// How long a silent process keeps its run; one that is frozen on this machine keeps a file for ever.
    pub fn lease(&self) -> Duration {
        match self {
            Self::Sqlite => Duration::MAX,
            Self::Postgres { .. } => LEASE,
        }
    }

    /// A time to be frozen for.
    pub fn freeze(&self, rng: &mut fastrand::Rng) -> Duration {
        match self {
            Self::Sqlite => Duration::from_millis(rng.u64(10..400)),
            Self::Postgres { .. } if rng.bool() => Duration::from_millis(rng.u64(10..400)),
            Self::Postgres { .. } => self.freeze_long(rng),
        }
    }

    /// A time to be frozen for that outlasts every lease.
    pub fn freeze_long(&self, rng: &mut fastrand::Rng) -> Duration {
        LEASE + Duration::from_millis(rng.u64(500..3_000))
    }
}
