//! Crewline: the database. SQLite (default) and PostgreSQL, one schema, one behaviour, one conformance suite.
//!
//! The heart is [`Store::commit`]: many changes of many runs in one transaction, in a few set-based statements.
//! Where things are: `open` (URL, pragmas, pools, migrations), `change` (what a caller hands over), `commit` (how it
//! is written), `run` (runs and their leases), `queue` (offers and claims), `node` (processes and wishes), `hints`
//! (what others tell), `query` and `packed`, `recover`, `find` and `lineage` (reads), `choice` (what a person decided on
//! contexts), `acts` (calls of tools, what a person is asked), `api_keys`, `launch_keys`, `shadows` (copies of
//! questions for candidates), `memory` (memories, vectors, the outbox),
//! `memory_edit` (adding, marking, forgetting), `backup`, `integrity` and `prune` (for operators), `entity` (rows,
//! private), `migration` (the schema), `sql`, `statements`, `rows`, `tx`, `reader` and `retry` (texts, arguments, the one
//! writing connection and those for reading).
//!
//! **Invariant:** sea-orm, and sqlx through it, are used in this crate only; no row type leaves it.
//! **Invariant:** all writing goes through one connection of the process, one transaction at a time; on PostgreSQL
//! statements that are transactions by themselves go through a second one, and lock no run before they lock an offer.
//! **Invariant:** a manager whose epoch is no longer the run's writes nothing, nor does a worker whose claim is gone.
//! **Invariant:** a NUL character in a text is stored as U+FFFD on both databases (PostgreSQL can not hold it);
//! hashes and ids are those of the text as it was given.
//! **Invariant:** the feature `unfenced` lets late managers and workers write, so that a test that must fail without fences can be
//! seen to fail. A build for use (without debug assertions) refuses it.

#[cfg(all(feature = "unfenced", not(debug_assertions)))]
compile_error!("`unfenced` takes the fences out, and is for `cargo xtask chaos --unfenced` only");

mod acts;
mod api_keys;
mod backup;
mod change;
mod choice;
mod commit;
mod data_file;
mod entity;
mod error;
mod find;
mod graph;
mod hints;
mod integrity;
mod launch_keys;
mod lineage;
mod memory;
mod memory_edit;
mod memory_words;
pub mod metrics;
mod migration;
mod node;
mod nodelay;
mod open;
mod packed;
mod prune;
mod query;
mod queue;
mod reader;
mod recover;
mod retry;
mod rows;
mod run;
mod shadows;
mod sql;
mod statements;
mod stats;
mod summaries;
mod tool_pins;
mod traffic;
mod tx;
mod work;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use crewline_types::TaskId;
use sea_orm::sqlx::postgres::PgConnectOptions;

pub use acts::{ApprovalFilter, ApprovalRow, NewDecision, ToolCallRow};
pub use api_keys::ApiKey;
pub use change::{
    AttemptEnd, CallAnswer, CallEnd, Change, Committed, Fence, NewApproval, NewAttempt, NewCall, NewContext, NewOffer,
    NewToolCall, Payer, ProjectMax, RunEnd, RunMove, ToolCallEnd, Transition,
};
pub use choice::{BUNDLE, Choice, ContextChoice};
pub use commit::Turn;
pub use error::Error;
pub use graph::IndexVersion;
pub use hints::{Hint, Hints};
pub use integrity::Problem;
pub use launch_keys::LaunchKey;
pub use lineage::{Lineage, Origin};
pub use memory::{MemoryPage, VectorPage};
pub use memory_words::{Span, Spans};
pub use node::{NodeKind, NodeRow, Wish};
pub use prune::Deleted;
pub use query::{AttemptRow, AttemptStatus, CallRow, ContextRow};
pub use queue::{Offer, OfferState, OpenOffer, Withdraw};
pub use recover::{Answer, Before, OpenAttempt};
pub use run::{Claim, NewRun, RunRow, Wished};
pub use shadows::{NewShadow, ShadowRow, ShadowSum};
pub use stats::{AnswerRow, CostBy, CostRow, HistoryRow};
pub use summaries::{Said, Superseded};
pub use tool_pins::{Pin, ToolPin};
pub use work::WorkRow;

use crate::{data_file::DataFile, reader::Reader, sql::Args, tx::Row};

/// Which database a store speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// A file, or memory.
    Sqlite,
    /// A server.
    Postgres,
}

/// The database. Cloning is cheap and shares connections.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    /// Where it is, without a password.
    target: String,
    writer: tx::Writer,
    /// Where statements go that are transactions by themselves; `None`: where changes go.
    aside: Option<tx::Writer>,
    reader: Reader,
    /// Row numbers of tasks: they never change, so they are looked up once.
    numbers: Mutex<HashMap<TaskId, i64>>,
    /// How to listen to other processes, where that can be done.
    listening: Option<Box<PgConnectOptions>>,
    /// The file, when it is one.
    file: Option<DataFile>,
}

impl Store {
    /// Which database this is.
    pub fn backend(&self) -> Backend {
        self.inner.backend
    }

    /// Closes every connection of all clones. The last process to close a SQLite file leaves it whole, without a
    /// write-ahead log beside it.
    pub async fn close(&self, limit: Duration) {
        let close = async {
            self.inner.reader.close().await?;
            if let Some(aside) = &self.inner.aside {
                aside.close().await?;
            }
            self.inner.writer.close().await
        };
        match tokio::time::timeout(limit, close).await {
            Ok(Ok(())) => {}
            // Nothing is lost: whoever opens it next reads the log.
            Ok(Err(error)) => tracing::debug!(error.code = error.code(), %error, "the database was not closed"),
            Err(_) => tracing::debug!("the database was not closed in time"),
        }
    }

    /// Whether what was written is in the file that others open.
    fn check_file(&self) -> Result<(), Error> {
        self.inner.file.as_ref().map_or(Ok(()), DataFile::check)
    }

    /// The file, where the database is one.
    pub fn file(&self) -> Option<&Path> {
        self.inner.file.as_ref().map(DataFile::path)
    }

    /// Where the database is, without a password; for people.
    pub fn target(&self) -> &str {
        &self.inner.target
    }

    /// The connection for statements that are transactions by themselves: on PostgreSQL they do not wait until it is this
    /// process's turn to write for a run.
    fn aside(&self) -> &tx::Writer {
        self.inner.aside.as_ref().unwrap_or(&self.inner.writer)
    }

    /// The connection for reading. One that is shared with the writer is freed of what a dropped commit left.
    async fn reader(&self) -> Result<&Reader, Error> {
        self.inner.writer.settle().await?;
        Ok(&self.inner.reader)
    }

    /// Hands every row of an answer to `take`, as it comes. `add` adds the `count` values of the question.
    async fn read(
        &self,
        text: &str,
        count: usize,
        add: impl FnOnce(&mut Args),
        take: impl FnMut(&Row) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        self.reader().await?.read(text, count, add, take).await
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Store").field("backend", &self.inner.backend).field("target", &self.inner.target).finish()
    }
}
