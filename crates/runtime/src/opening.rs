//! Opening a project's memory: its rows, its vectors and its words are read into the index.
//!
//! Taking texts apart is most of the work, so what comes of it is kept in the database: one segment for each stretch of rows
//! that is full. Who opens a project makes those that are missing, and so does who has written many memories.
//!
//! **Invariant:** a segment only spares work: an index that was made with it is the one that the texts make.
//! **Invariant:** a segment that can not be kept, or that is broken, never fails an opening.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

use crewline_memory::{Embedder, Opening, Segment, Vectors};
use crewline_store::{MemoryPage, Span, Spans, VectorPage};
use crewline_types::{MemoryRecord, ProjectScope};
use tokio::{
    sync::mpsc::{self, Receiver, Sender},
    task::{JoinError, JoinHandle, spawn_blocking},
};

use crate::{Error, Library, actor::AskError, hierarchy, metrics};

/// Rows of a stretch: what lies behind the last full one is taken apart by each opening.
pub(crate) const STRETCH: u32 = 4_096;
/// Memories of one page: what is freed after a large one stays with the process.
const PAGE: u32 = 128;
/// Pages that wait to be taken in.
const PAGES_MAX: usize = 2;
/// Memories that are taken in without leaving the async thread; fewer than a page.
const INLINE_MAX: usize = 127;
/// Bytes of a segment that is kept.
const SEGMENT_MAX: usize = 64 << 20;
/// Bytes from which the segments that were read are put together.
const WORDS_MAX: usize = 32 << 20;
/// How long keeping one may take while a project is opened.
const KEEP_LIMIT: Duration = Duration::from_secs(2);

/// The rows of a project that come next.
#[derive(Clone, Copy)]
struct Stretch {
    span: Span,
    /// Whether there is a segment.
    is_kept: bool,
    /// Whether it still grows.
    is_last: bool,
}

/// What is read of a project, in this order: all memories, then all words.
enum Part {
    Memories(MemoryPage),
    Words(Words),
}

/// The kept words of some stretches.
#[derive(Default)]
struct Words {
    bytes: Vec<u8>,
    /// Where in them the segment of each stretch is, if there is one.
    places: Vec<(Span, Option<Range<usize>>)>,
}

/// A segment that is new.
struct Made {
    span: Span,
    segment: Segment<'static>,
    /// Whether it takes the place of one that is broken.
    is_mended: bool,
}

impl Library {
    /// Reads a project's memories and vectors into the index, unless that was done.
    pub async fn load(&self, scope: &ProjectScope) -> Result<(), Error> {
        let index = self.index().local();
        if index.is_loaded(scope) {
            return Ok(());
        }
        let begun = Instant::now();
        // Who drops the project while it is opened has changed the database before.
        while let Some(opening) = index.open(scope).await? {
            // Whoever may open carries the future, and few do.
            if Box::pin(self.read(scope, opening)).await? {
                metrics::memory_opened(begun.elapsed());
            }
        }
        Ok(())
    }

    /// Reads a project, and says whether the index has taken it in.
    async fn read(&self, scope: &ProjectScope, mut opening: Opening) -> Result<bool, Error> {
        // Before any text is read, so that what is forgotten from here on keeps no segment.
        let Spans { epoch, spans } = self.store().memory_words(scope).await?;
        let first = self.store().memory_page(scope, 0, u64::MAX, PAGE).await?;
        // Those of another store stay there.
        let embedder = self.embedder().filter(|_| self.index().remote().is_none());
        if spans.is_empty() && first.len() <= INLINE_MAX {
            add(&mut opening, &first)?;
            let mut vectors = Vectors::default();
            if let Some(embedder) = embedder {
                push(&mut vectors, &self.store().vector_page(scope, embedder.model(), 0).await?);
            }
            return Ok(opening.finish(vectors));
        }
        let vectors = async {
            match embedder {
                Some(embedder) => self.vectors(scope, embedder).await,
                None => Ok(Vectors::default()),
            }
        };
        let (rest, keeps) = (Rest { after: 0, spans: spans.into() }, Keeps { epoch, is_refused: false });
        let memories = self.memories_and_words(scope, opening, first, rest, keeps);
        let (opening, vectors) = futures::try_join!(memories, vectors)?;
        spawn_blocking(move || opening.finish(vectors)).await.map_err(gone)
    }

    /// Reads all vectors; another thread takes them in while the next are read.
    async fn vectors(&self, scope: &ProjectScope, embedder: &Embedder) -> Result<Vectors, Error> {
        let (pages, mut read) = mpsc::channel(PAGES_MAX);
        let taking = spawn_blocking(move || {
            let mut vectors = Vectors::default();
            while let Some(page) = read.blocking_recv() {
                push(&mut vectors, &page);
            }
            vectors
        });
        let mut after = 0;
        loop {
            let page = self.store().vector_page(scope, embedder.model(), after).await?;
            let Some(last) = page.last() else { break };
            after = last;
            if pages.send(page).await.is_err() {
                break;
            }
        }
        drop(pages);
        taking.await.map_err(gone)
    }

    /// Reads all memories behind the `first` ones, and their words; another thread takes them in while the next are read.
    async fn memories_and_words(
        &self,
        scope: &ProjectScope,
        opening: Opening,
        first: MemoryPage,
        mut rest: Rest,
        mut keeps: Keeps,
    ) -> Result<Opening, Error> {
        // Before the memories are read: a stretch that is full has all of its rows then.
        let mut stretches = Vec::new();
        loop {
            let stretch = rest.next(self, scope).await?;
            if stretch.is_last {
                break;
            }
            stretches.push(stretch);
        }
        let (parts, read) = mpsc::channel(PAGES_MAX);
        let (made, mut new) = mpsc::channel(1);
        let taking: JoinHandle<Result<Opening, Error>> = spawn_blocking(move || take(opening, read, &made));
        // It ends early only when it fails, and tells then.
        self.send_parts(scope, first, &stretches, parts).await?;
        while let Some(made) = new.recv().await {
            keeps.keep(self, scope, made).await;
        }
        taking.await.map_err(gone)?
    }

    /// Stops early when nobody takes what is read.
    async fn send_parts(
        &self,
        scope: &ProjectScope,
        first: MemoryPage,
        stretches: &[Stretch],
        parts: Sender<Part>,
    ) -> Result<(), Error> {
        let mut page = first;
        while let Some(after) = page.last() {
            if parts.send(Part::Memories(page)).await.is_err() {
                return Ok(());
            }
            page = self.store().memory_page(scope, after, u64::MAX, PAGE).await?;
        }
        let mut words = Words::default();
        for stretch in stretches {
            let kept = if stretch.is_kept { self.store().words_of(scope, stretch.span).await? } else { None };
            let before = words.bytes.len();
            words.bytes.extend_from_slice(kept.as_deref().unwrap_or_default());
            words.places.push((stretch.span, kept.map(|_| before..words.bytes.len())));
            if words.bytes.len() >= WORDS_MAX && parts.send(Part::Words(std::mem::take(&mut words))).await.is_err() {
                return Ok(());
            }
        }
        // Who takes no more has failed, and tells why.
        parts.send(Part::Words(words)).await.ok();
        Ok(())
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
                let segment =
                    spawn_blocking(move || segment_of(rows.iter().map(|(row, it)| (*row, it)))).await.map_err(gone)?;
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
}

/// Puts together what is read, and hands over the segments that were missing. Those that were there come first, all at once.
fn take(mut opening: Opening, mut parts: Receiver<Part>, made: &Sender<Made>) -> Result<Opening, Error> {
    let mut missing = Vec::new();
    while let Some(part) = parts.blocking_recv() {
        match part {
            Part::Memories(page) => add(&mut opening, &page)?,
            Part::Words(Words { bytes, places }) => {
                let mut segments = Vec::with_capacity(places.len());
                for (span, place) in places {
                    let is_there = place.is_some();
                    match place.and_then(|place| Segment::read(&bytes[place])) {
                        Some(segment) => segments.push(segment),
                        None => missing.push((span, is_there)),
                    }
                }
                opening.add_words(&segments);
            }
        }
    }
    for (span, is_mended) in missing {
        if is_mended {
            tracing::warn!(project_id = opening.project(), "kept words of memories are broken or of another version");
        }
        let segments = [Segment::of(opening.texts(span.after, span.through))];
        opening.add_words(&segments);
        let [segment] = segments;
        if is_worth(&segment) {
            // Nobody keeps it when the opening is given up.
            made.blocking_send(Made { span, segment, is_mended }).ok();
        }
    }
    Ok(opening)
}

/// Adds memories that can be found.
fn add(opening: &mut Opening, page: &MemoryPage) -> Result<(), Error> {
    for (row, record) in page.records()? {
        if !hierarchy::is_old_version(&record) {
            opening.add(row, record)?;
        }
    }
    Ok(())
}

fn push(vectors: &mut Vectors, page: &VectorPage) {
    for (row, vector) in page.iter() {
        vectors.push(row, vector);
    }
}

fn gone(_: JoinError) -> Error {
    Error::Actor(AskError::Gone)
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
    async fn keep(&mut self, library: &Library, scope: &ProjectScope, made: Made) {
        if self.is_refused {
            return;
        }
        let Made { span, segment, is_mended } = made;
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

/// Whether it is kept: not when the memories of its rows are gone, nor when their texts are huge.
fn is_worth(segment: &Segment<'_>) -> bool {
    !segment.is_empty() && segment.bytes().len() <= SEGMENT_MAX
}

fn segment_of<'a>(rows: impl Iterator<Item = (u64, &'a MemoryRecord)>) -> Segment<'static> {
    let current = rows.filter(|(_, record)| !hierarchy::is_old_version(record));
    Segment::of(current.map(|(row, record)| (row, &*record.text)))
}
