//! Opening a project's memory: its rows, its vectors and its words are read into the index.
//!
//! Taking texts apart is most of the work, so what comes of it is kept in the database: one segment for each stretch of rows
//! that is full. Who opens a project makes those that are missing, and so does who has written many memories.
//!
//! **Invariant:** a segment only spares work: an index that was made with it is the one that the texts make.
//! **Invariant:** a segment that can not be kept, or that is broken, never fails an opening.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_memory::{Embedded, Segment, Stored};
use crewline_store::{Span, Spans};
use crewline_types::{MemoryRecord, ProjectScope};
use tokio::task::JoinHandle;

use crate::{Error, Library, hierarchy, metrics};

/// Rows of a stretch: what lies behind the last full one is taken apart by each opening.
pub(crate) const STRETCH: u32 = 4_096;
/// Rows of one page when a project is loaded: what is freed after a large one stays with the process.
const PAGE: u32 = 1_024;
/// Records that are indexed without leaving the async thread.
const INLINE_MAX: usize = 128;
/// Bytes of a segment that is kept.
const SEGMENT_MAX: usize = 64 << 20;
/// How long keeping one may take while a project is opened.
const KEEP_LIMIT: Duration = Duration::from_secs(2);

/// A page that is being indexed.
type Indexing = JoinHandle<Result<Option<Made>, Error>>;

/// The rows of a project that come next.
#[derive(Clone, Copy)]
struct Stretch {
    span: Span,
    /// Whether there is a segment.
    is_kept: bool,
    /// Whether it still grows.
    is_last: bool,
}

/// What there is of a stretch's words.
enum Words {
    /// A segment.
    Kept(Segment),
    /// Only the texts so far; perhaps a segment that is broken.
    Missing { texts: Vec<(u64, Arc<str>)>, is_broken: bool },
    /// Only the texts: it grows.
    Open,
}

/// A segment that is new.
struct Made {
    span: Span,
    segment: Segment,
    /// Whether it takes the place of one that is broken.
    is_mended: bool,
}

impl Library {
    /// Reads a project's memories and vectors into the index, unless that was done. Page by page, so that what was read is in
    /// memory once; the next page is read while one is indexed.
    pub async fn load(&self, scope: &ProjectScope) -> Result<(), Error> {
        let index = self.index().local();
        if index.is_loaded(scope) {
            return Ok(());
        }
        let begun = Instant::now();
        // From here on new vectors come here as well, so none is missed between its page and the last.
        index.begin(scope);
        let Spans { epoch, spans } = self.store().memory_words(scope).await?;
        let mut rest = Rest { after: 0, spans: spans.into() };
        let mut keeps = Keeps { epoch, is_refused: false };
        let mut indexing: Option<Indexing> = None;
        loop {
            let stretch = rest.next(self, scope).await?;
            let mut words = self.words_of(scope, &stretch).await?;
            let mut after = stretch.span.after;
            loop {
                let full = self.store().memory_row(scope, after, stretch.span.through, PAGE).await?;
                let through = full.unwrap_or(stretch.span.through);
                let stored = self.stored(scope, Span { after, through }).await?;
                let is_small = stretch.is_last && after == stretch.span.after && stored.len() <= INLINE_MAX;
                after = through;
                if let Words::Missing { texts, .. } = &mut words {
                    texts.extend(stored.iter().map(|it| (it.row, Arc::clone(&it.record.text))));
                }
                let is_whole = through == stretch.span.through;
                let words = is_whole.then(|| std::mem::replace(&mut words, Words::Open));
                let made = indexed(indexing.take()).await?;
                if is_small {
                    index.load(scope, stored)?;
                    index.load_words(scope, None);
                } else {
                    let (index, scope) = (index.clone(), scope.clone());
                    indexing = Some(tokio::task::spawn_blocking(move || {
                        index.load(&scope, stored)?;
                        Ok(words.and_then(|words| words.add(&index, &scope, stretch.span)))
                    }));
                }
                // While the next page is indexed.
                keeps.keep(self, scope, made).await;
                if is_whole {
                    break;
                }
            }
            if stretch.is_last {
                let made = indexed(indexing.take()).await?;
                keeps.keep(self, scope, made).await;
                index.loaded(scope);
                metrics::memory_opened(begun.elapsed());
                return Ok(());
            }
        }
    }

    /// What there is of a stretch's words.
    async fn words_of(&self, scope: &ProjectScope, stretch: &Stretch) -> Result<Words, Error> {
        if stretch.is_last {
            return Ok(Words::Open);
        }
        let kept = if stretch.is_kept { self.store().words_of(scope, stretch.span).await? } else { None };
        let is_broken = match kept.map(Segment::read) {
            Some(Some(segment)) => return Ok(Words::Kept(segment)),
            Some(None) => true,
            None => false,
        };
        if is_broken {
            tracing::warn!(project_id = scope.project(), "kept words of memories are broken or of another version");
        }
        Ok(Words::Missing { texts: Vec::new(), is_broken })
    }

    /// Makes and keeps the segments that a project lacks, and says how many.
    pub async fn keep_words(&self, scope: &ProjectScope) -> Result<usize, Error> {
        let Spans { epoch, spans } = self.store().memory_words(scope).await?;
        let mut rest = Rest { after: 0, spans: spans.into() };
        let mut kept = 0;
        loop {
            let stretch = rest.next(self, scope).await?;
            if !stretch.is_kept && !stretch.is_last {
                let rows = self.store().memories_through(scope, stretch.span.after, stretch.span.through).await?;
                let segment = tokio::task::spawn_blocking(move || segment_of(rows.iter().map(|(row, it)| (*row, it))))
                    .await
                    .map_err(|_| Error::Actor(crate::actor::AskError::Gone))?;
                if !is_worth(&segment) {
                    continue;
                }
                if !self.store().keep_words(scope, epoch, stretch.span, segment.bytes(), false).await? {
                    return Ok(kept);
                }
                kept += 1;
            }
            if stretch.is_last {
                return Ok(kept);
            }
        }
    }

    /// The memories of some rows that can be found, with their vectors where those are in the database.
    async fn stored(&self, scope: &ProjectScope, span: Span) -> Result<Vec<Stored>, Error> {
        let rows = self.store().memories_through(scope, span.after, span.through);
        let vectors = async {
            match (self.embedder(), self.index().remote()) {
                (Some(embedder), None) => self.store().vectors(scope, embedder.model(), span.after, span.through).await,
                (Some(_), Some(_)) | (None, _) => Ok(Vec::new()),
            }
        };
        let (rows, vectors) = futures::try_join!(rows, vectors)?;
        let mut vectors = vectors.into_iter().peekable();
        let mut stored = Vec::with_capacity(rows.len());
        for (row, record) in rows {
            while vectors.next_if(|(of, _)| *of < row).is_some() {}
            let vector = vectors.next_if(|(of, _)| *of == row).map(|(_, vector)| vector);
            if !hierarchy::is_old_version(&record) {
                stored.push(Stored { row, record, vector });
            }
        }
        Ok(stored)
    }
}

/// What of a project is not read yet.
struct Rest {
    after: u64,
    spans: VecDeque<Span>,
}

impl Rest {
    async fn next(&mut self, library: &Library, scope: &ProjectScope) -> Result<Stretch, Error> {
        let after = self.after;
        // None overlap; what did would be read twice.
        while self.spans.pop_front_if(|span| span.after < after).is_some() {}
        if let Some(span) = self.spans.pop_front_if(|span| span.after == after) {
            self.after = span.through;
            return Ok(Stretch { span, is_kept: true, is_last: false });
        }
        // A gap between two was left by something that was forgotten.
        let gap = self.spans.front().map(|span| span.after);
        let full = library.store().memory_row(scope, after, gap.unwrap_or(u64::MAX), STRETCH).await?;
        let through = full.or(gap);
        self.after = through.unwrap_or(u64::MAX);
        Ok(Stretch { span: Span { after, through: self.after }, is_kept: false, is_last: through.is_none() })
    }
}

/// Whether new segments are kept.
struct Keeps {
    epoch: u64,
    is_refused: bool,
}

impl Keeps {
    async fn keep(&mut self, library: &Library, scope: &ProjectScope, made: Option<Made>) {
        let Some(Made { span, segment, is_mended }) = made.filter(|_| !self.is_refused) else { return };
        let keep = library.store().keep_words(scope, self.epoch, span, segment.bytes(), is_mended);
        match tokio::time::timeout(KEEP_LIMIT, keep).await {
            Ok(Ok(is_kept)) => self.is_refused = !is_kept,
            Ok(Err(error)) => {
                self.is_refused = true;
                tracing::warn!(project_id = scope.project(), error.code = error.code(), %error, "words of memories are not kept");
            }
            Err(_) => {
                self.is_refused = true;
                tracing::warn!(project_id = scope.project(), "words of memories are not kept: the database is busy");
            }
        }
    }
}

impl Words {
    /// Adds the words of a stretch whose memories are indexed, and makes the segment that it lacks.
    fn add(self, index: &Embedded, scope: &ProjectScope, span: Span) -> Option<Made> {
        match self {
            Self::Kept(segment) => {
                index.load_words(scope, Some(&segment));
                None
            }
            Self::Missing { texts, is_broken } => {
                let segment = Segment::of(texts.iter().map(|(row, text)| (*row, &**text)));
                index.load_words(scope, Some(&segment));
                Some(Made { span, segment, is_mended: is_broken }).filter(|it| is_worth(&it.segment))
            }
            Self::Open => {
                index.load_words(scope, None);
                None
            }
        }
    }
}

/// Whether it is kept: not when the memories of its rows are gone, nor when their texts are huge.
fn is_worth(segment: &Segment) -> bool {
    !segment.is_empty() && segment.bytes().len() <= SEGMENT_MAX
}

fn segment_of<'a>(rows: impl Iterator<Item = (u64, &'a MemoryRecord)>) -> Segment {
    let current = rows.filter(|(_, record)| !hierarchy::is_old_version(record));
    Segment::of(current.map(|(row, record)| (row, &*record.text)))
}

/// Waits until a page is indexed.
async fn indexed(page: Option<Indexing>) -> Result<Option<Made>, Error> {
    match page {
        Some(page) => page.await.map_err(|_| Error::Actor(crate::actor::AskError::Gone))?,
        None => Ok(None),
    }
}
