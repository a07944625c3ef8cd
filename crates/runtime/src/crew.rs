//! The part of [`Handle`] that joins this process with others on one database: a worker, the watch, taking over runs.

use std::{
    num::NonZeroUsize,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use crewline_store::{NodeKind, NodeRow};
use crewline_types::{Role, RunId, Timestamp};
use ractor::ActorRef;
use tokio::time::Instant;

use crate::{
    Error, Handle, Overrides,
    actor::{ask, tell},
    handle::Wanted,
    manager, root, shadow,
    warden::{self, TakeOver},
    worker,
};

/// Wait for an answer of the root.
const ROOT_LIMIT: Duration = Duration::from_secs(10);
/// Wait for the copies that candidates were asked.
const COPIES_LIMIT: Duration = Duration::from_secs(5);

/// What a process does for the others on its database.
#[derive(Debug, Clone)]
pub struct Post {
    /// Attempts it makes at once; none when it only manages.
    pub slots: Option<NonZeroUsize>,
    /// The roles it works for; every role when there is none.
    pub roles: Option<Vec<Role>>,
    /// Whether it takes over runs that nobody manages.
    pub is_server: bool,
}

/// A process that shares the database, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub struct NodeSummary {
    /// `host-random:pid`: one start of one process.
    pub id: String,
    /// What it does.
    pub kind: NodeKind,
    /// Its version of Crewline.
    pub version: String,
    /// The roles it works for; every role when there is none.
    pub roles: Option<Vec<String>>,
    /// Attempts it makes at once.
    pub slots: u32,
    /// Attempts it makes now.
    pub busy: u32,
    /// `alive`, `draining` or `lost`.
    pub state: &'static str,
    /// When it started.
    pub started_at: Timestamp,
    /// When it was last seen.
    pub seen_at: Timestamp,
}

impl Handle {
    /// Joins the other processes on this database: shows itself, watches, and works as far as it has slots.
    pub async fn join(&self, post: Post) -> Result<(), Error> {
        let Post { slots, roles, is_server } = post;
        if let Some(slots) = slots {
            self.load_experience().await;
            let args = worker::Args {
                deps: self.deps(),
                node: self.node(),
                roles: roles.clone().map(Into::into),
                slots,
                instances: Arc::new(AtomicU32::new(0)),
            };
            ask(self.root_actor(), ROOT_LIMIT, |reply| root::Message::Work(args, reply)).await?;
        }
        let deps = self.deps();
        let now = deps.clock.now();
        let node = NodeRow {
            id: self.node().to_string(),
            kind: if is_server { NodeKind::Server } else { NodeKind::Worker },
            version: env!("CARGO_PKG_VERSION").into(),
            roles,
            slots: slots.map_or(0, |it| u32::try_from(it.get()).unwrap_or(u32::MAX)),
            busy: 0,
            registry: deps.registry().hash(),
            is_draining: false,
            started_at: now,
            seen_at: now,
            lease: self.limits().lease,
        };
        let take_over = if is_server { TakeOver::Orphans } else { TakeOver::Nothing };
        let args = warden::Args { handle: self.clone(), node, take_over };
        ask(self.root_actor(), ROOT_LIMIT, |reply| root::Message::Watch(Box::new(args), reply)).await?;
        Ok(())
    }

    /// Continues the runs that nobody manages any more; answers which.
    pub async fn take_over(&self) -> Result<Vec<RunId>, Error> {
        let mut taken = Vec::new();
        for run in self.unmanaged().await? {
            match self.go_on(run, Overrides::default(), Wanted::AsLaunched).await {
                Ok(_) => {
                    tracing::info!(run_id = %run, "run without a manager is taken over");
                    taken.push(run);
                }
                // Somebody else was faster, or it is held after all.
                Err(Error::Held { .. } | Error::Finished { .. }) => {}
                Err(error @ Error::Busy { .. }) => {
                    tracing::warn!(error.code = error.code(), "no more runs are taken over: this process is full");
                    break;
                }
                Err(error) => {
                    tracing::warn!(run_id = %run, error.code = error.code(), %error, "run could not be taken over");
                }
            }
        }
        Ok(taken)
    }

    async fn unmanaged(&self) -> Result<Vec<RunId>, Error> {
        if !self.has_lock_files() {
            return Ok(self.store().orphaned_runs().await?);
        }
        // On one machine the lock tells who lives; a lease may outlast its holder.
        Ok(self.store().running_runs().await?)
    }

    /// The processes that share this database. One whose lease has ended is lost, and soon forgotten.
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, Error> {
        let (rows, now) = self.store().nodes().await?;
        let state = |row: &NodeRow| match now.since(row.seen_at) {
            silent if silent >= row.lease => "lost",
            _ if row.is_draining => "draining",
            _ => "alive",
        };
        Ok(rows
            .into_iter()
            .filter(|row| now.since(row.seen_at) < warden::FORGOTTEN_AFTER * row.lease)
            .map(|row| NodeSummary {
                state: state(&row),
                roles: row.roles.map(|roles| roles.iter().map(ToString::to_string).collect()),
                id: row.id,
                kind: row.kind,
                version: row.version,
                slots: row.slots,
                busy: row.busy,
                started_at: row.started_at,
                seen_at: row.seen_at,
            })
            .collect())
    }

    /// Claims nothing more and waits for what the worker of this process makes.
    pub(crate) async fn drain_worker(&self, until: Instant) {
        if let Some(worker) = self.worker() {
            let left = until.saturating_duration_since(Instant::now());
            if ask(&worker, left, worker::Message::Drain).await.is_err() {
                tracing::warn!("claimed attempts did not end in time; others make them again when their leases end");
            }
        }
    }

    /// Lets copies for candidates that are under way come to their end. What does not within the limit counts with its worst case.
    pub(crate) async fn close_shadow(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now()).min(COPIES_LIMIT);
        if let Some(shadow) = self.deps().rooms.shadow.current()
            && ask(&shadow, left, shadow::Message::Close).await.is_err()
        {
            tracing::debug!("copies for candidates are given up");
        }
    }

    /// Shows that this process is gone.
    pub(crate) async fn retire(&self) {
        if let Err(error) = self.store().remove_node(&self.node()).await {
            tracing::debug!(error.code = error.code(), "this process is shown until it is not seen any more");
        }
    }

    pub(crate) fn worker(&self) -> Option<ActorRef<worker::Message>> {
        self.deps().rooms.worker.current()
    }

    pub(crate) fn tell_worker(&self, message: worker::Message) {
        self.deps().rooms.worker.tell(message);
    }

    pub(crate) fn hint_manager(&self, run: RunId, message: manager::Message) {
        tell(self.root_actor(), root::Message::Hint(run, message));
    }

    pub(crate) fn hint_managers(&self) {
        tell(self.root_actor(), root::Message::ToManagers(|| manager::Message::Look));
    }
}
