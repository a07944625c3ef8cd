//! The words of a project's memories, in pieces of some thousand rows each, as whoever opens the project takes them apart.
//!
//! What is in a piece is not looked into here. A piece can be made again from the texts at any time.
//!
//! **Invariant:** a piece goes in the transaction in which a memory is forgotten whose row it spans.
//! **Invariant:** a piece that was made before a forgetting is not kept after it: the project's epoch has changed.
//! **Invariant:** the pieces of a project do not overlap.

use crewline_types::{MemoryId, ProjectScope};

use crate::{
    Error, Store, entity,
    memory_edit::{FORGET_MEMORIES, INSERT_FORGOTTEN, add_key, finish},
    sql::{Args, Bulk, Type},
    tx::Tx,
};

/// Raises the epoch of projects.
pub(crate) static RAISE_EPOCH: Bulk = Bulk::new(
    "INSERT INTO memory_epochs (project, epoch) SELECT column1, 1 FROM ",
    &[Type::Text],
    " WHERE column1 IS NOT NULL ON CONFLICT (project) DO UPDATE SET epoch = memory_epochs.epoch + 1",
);

/// Locks the epoch of a project; touches no row when it has changed.
pub(crate) static HOLD_EPOCH: Bulk = Bulk::new(
    "INSERT INTO memory_epochs (project, epoch) SELECT column1, column2 FROM ",
    &[Type::Text, Type::Int],
    " WHERE column1 IS NOT NULL ON CONFLICT (project) DO UPDATE SET epoch = excluded.epoch \
     WHERE memory_epochs.epoch = excluded.epoch",
);

/// Takes out the pieces that span memories.
pub(crate) static DELETE_WORDS_OF: Bulk = Bulk::new(
    "DELETE FROM memory_words WHERE (project, through_row, after_row) IN (SELECT w.project, w.through_row, w.after_row FROM ",
    &[Type::Bytes, Type::Text],
    " JOIN memories AS m ON m.id = v.column1 AND m.project = v.column2 \
     JOIN memory_words AS w ON w.project = m.project AND w.through_row >= m.seq AND w.after_row < m.seq)",
);

/// Takes out a piece.
pub(crate) static DELETE_WORDS: Bulk = Bulk::new(
    "DELETE FROM memory_words WHERE (project, through_row, after_row) IN (SELECT column1, column2, column3 FROM ",
    &[Type::Text, Type::Int, Type::Int],
    ")",
);

/// Adds a piece, unless there is one for some of its rows.
pub(crate) static INSERT_WORDS: Bulk = Bulk::new(
    "INSERT INTO memory_words (project, through_row, after_row, words) SELECT column1, column2, column3, column4 FROM ",
    &[Type::Text, Type::Int, Type::Int, Type::Bytes],
    " WHERE column1 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM memory_words AS w WHERE w.project = v.column1 \
     AND w.through_row > v.column3 AND w.after_row < v.column2)",
);

/// The rows of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// It begins behind this row.
    pub after: u64,
    /// Its last row.
    pub through: u64,
}

/// Which pieces of a project there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Spans {
    /// When that was, in forgettings.
    pub epoch: u64,
    /// By ascending rows.
    pub spans: Vec<Span>,
}

impl Store {
    /// The pieces of a project's words.
    pub async fn memory_words(&self, scope: &ProjectScope) -> Result<Spans, Error> {
        let add = |args: &mut Args| args.text(scope.project());
        let mut found = Spans::default();
        // The epoch first: what is forgotten in between is then noticed.
        self.read("SELECT epoch FROM memory_epochs WHERE project = $1", 1, add, |row| {
            found.epoch = entity::unsigned(row.int(0)?);
            Ok(())
        })
        .await?;
        let text = "SELECT after_row, through_row FROM memory_words WHERE project = $1 ORDER BY through_row";
        self.read(text, 1, add, |row| {
            found.spans.push(Span { after: entity::unsigned(row.int(0)?), through: entity::unsigned(row.int(1)?) });
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// One piece; none when it is gone.
    pub async fn words_of(&self, scope: &ProjectScope, span: Span) -> Result<Option<Vec<u8>>, Error> {
        let add = |args: &mut Args| {
            args.text(scope.project());
            args.count(span.through);
            args.count(span.after);
        };
        let text = "SELECT words FROM memory_words WHERE project = $1 AND through_row = $2 AND after_row = $3";
        let mut found = None;
        self.read(text, 3, add, |row| {
            found = Some(row.bytes(0)?.to_vec());
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// The row of the memory that stands at the place `number`, from 1, behind the row `after`; none when there are fewer, up
    /// to the row `through`.
    pub async fn memory_row(
        &self,
        scope: &ProjectScope,
        after: u64,
        through: u64,
        number: u32,
    ) -> Result<Option<u64>, Error> {
        let add = |args: &mut Args| {
            args.text(scope.project());
            args.count(after);
            args.count(through);
            args.int(i64::from(number.saturating_sub(1)));
        };
        let text =
            "SELECT seq FROM memories WHERE project = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT 1 OFFSET $4";
        let mut found = None;
        self.read(text, 4, add, |row| {
            found = Some(entity::unsigned(row.int(0)?));
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// Keeps a piece that was made after [`Self::memory_words`] had told `epoch`, in the place of one of the same rows if
    /// `instead`. False when something was forgotten since, or another process has kept one for some of its rows.
    pub async fn keep_words(
        &self,
        scope: &ProjectScope,
        epoch: u64,
        span: Span,
        words: &[u8],
        instead: bool,
    ) -> Result<bool, Error> {
        let place = |args: &mut Args| {
            args.text(scope.project());
            args.count(span.through);
            args.count(span.after);
        };
        let mut tx = self.inner.writer.begin().await?;
        let kept = async {
            let hold = |args: &mut Args, epoch: &u64| {
                args.text(scope.project());
                args.count(*epoch);
            };
            if tx.write(&HOLD_EPOCH, &[epoch], hold).await? == 0 {
                return Ok(false);
            }
            if instead {
                tx.write(&DELETE_WORDS, &[()], |args, ()| place(args)).await?;
            }
            let add = |args: &mut Args, words: &&[u8]| {
                place(args);
                args.bytes(words);
            };
            Ok(tx.write(&INSERT_WORDS, &[words], add).await? > 0)
        };
        let kept = kept.await;
        finish(tx, kept).await
    }
}

/// Takes memories out with all that holds their words, and says how many were there.
pub(crate) async fn forget(tx: &mut Tx, project: &str, ids: &[MemoryId]) -> Result<u64, Error> {
    if ids.is_empty() {
        return Ok(0);
    }
    let add = |args: &mut Args, id: &MemoryId| add_key(args, *id, project);
    // First: whoever keeps words at this moment has done so before the next statement looks, or waits and is refused.
    tx.write(&RAISE_EPOCH, &[project], |args, project| args.text(project)).await?;
    tx.write(&DELETE_WORDS_OF, ids, add).await?;
    tx.write(&INSERT_FORGOTTEN, ids, add).await?;
    tx.write(&FORGET_MEMORIES, ids, add).await
}
