//! The memory of one project, opened for a command.
//!
//! **Invariant:** a command sees the project of `--project` and no other.

use std::sync::Arc;

use crewline_memory::{Embedded, Hybrid};
use crewline_runtime::Library;
use crewline_store::Store;
use crewline_types::{MemoryId, MemoryRecord, ProjectScope, SystemClock};
use serde::Serialize;

use super::{Place, close, parts};
use crate::{
    app,
    console::Console,
    error::Error,
    settings::Settings,
    view::{Align, Style, clean, duration, fit, table},
};

/// The project when none is named.
const PROJECT: &str = "default";
/// Characters of an id that people see.
const ID: usize = 10;
/// Columns of a text in a table.
const TEXT: usize = 70;

/// Memory, opened.
pub(super) struct Session {
    pub(super) library: Library,
    pub(super) scope: ProjectScope,
}

impl Session {
    /// Opens the database, and the place of the vectors as it is configured.
    pub(super) async fn open(settings: &Settings) -> Result<Self, Error> {
        // The database and Qdrant both speak TLS; a second install is refused and means nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        app::make_data_dir(&settings.data_dir)?;
        let parts = parts(settings, Place::Configured)?;
        let store = Store::open(&settings.database_url()).await?;
        let local = Embedded::with_weights(parts.weights).ruled(app::rules(settings)?);
        let index = Hybrid::new(local, parts.qdrant).reranked(parts.reranker);
        let scope = ProjectScope::of(settings.project.as_deref().unwrap_or(PROJECT));
        Ok(Self { library: Library::new(store, index, parts.embedder, Arc::new(SystemClock)), scope })
    }

    /// All memories of the project, oldest first.
    pub(super) async fn all(&self) -> Result<Vec<(u64, MemoryRecord)>, Error> {
        Ok(self.library.all(&self.scope).await?)
    }

    /// The memory that `id`, whole or its beginning, names.
    pub(super) async fn find(&self, id: &str) -> Result<(u64, MemoryRecord), Error> {
        let mut found: Vec<_> =
            self.all().await?.into_iter().filter(|(_, record)| record.id.to_string().starts_with(id)).collect();
        match (found.pop(), found.len()) {
            (Some(only), 0) if !id.is_empty() => Ok(only),
            (Some(_), more) => Err(Error::Usage {
                message: format!("{} memories begin with `{id}`", more + 1),
                hint: "give more characters of the id",
            }),
            (None, _) => Err(Error::NoMemory { id: id.to_owned(), project: self.scope.project().to_owned() }),
        }
    }

    /// Carries the outbox to where the vectors are, as far as that can be done now, and keeps the words of what was written.
    /// Never fails a command: the outbox keeps what could not be carried, and words are kept by whoever comes next.
    pub(super) async fn carry(&self, console: &Console) -> usize {
        let mut carried = 0;
        loop {
            match self.library.drain().await {
                Ok(step) => {
                    carried += step.carried;
                    if !step.has_more {
                        break;
                    }
                }
                Err(error) => {
                    console.warn(&format!("memories wait in the outbox: {error}"));
                    break;
                }
            }
        }
        if let Err(error) = self.library.keep_words(&self.scope).await {
            tracing::warn!(error.code = error.code(), %error, "words of memories are not kept");
        }
        carried
    }

    /// Ends what was started.
    pub(super) async fn close(self) {
        close(&self.library).await;
    }
}

/// A memory as it is shown.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) seq: u64,
    pub(super) tokens: usize,
    #[serde(flatten)]
    pub(super) record: MemoryRecord,
}

impl Shown {
    pub(super) fn of((seq, record): (u64, MemoryRecord)) -> Self {
        Self { seq, tokens: crewline_memory::estimate_tokens(&record.text), record }
    }
}

/// The first characters of an id.
pub(super) fn short(id: MemoryId) -> String {
    id.to_string().chars().take(ID).collect()
}

/// Memories in rows.
pub(super) fn rows(shown: &[Shown], style: Style) -> String {
    use crewline_types::Clock;
    let now = SystemClock.now();
    let columns = [
        ("ID", Align::Left),
        ("TYPE", Align::Left),
        ("AGENT", Align::Left),
        ("AGE", Align::Right),
        ("TOKENS", Align::Right),
        ("", Align::Left),
        ("TEXT", Align::Left),
    ];
    let lines: Vec<Vec<String>> = shown
        .iter()
        .map(|it| {
            let marks = &it.record.marks;
            let mut flags = String::new();
            for (is, flag) in [(marks.pinned, 'P'), (marks.superseded_by.is_some(), 'S'), (marks.stale, '!')] {
                if is {
                    flags.push(flag);
                }
            }
            vec![
                short(it.record.id),
                clean(it.record.kind.as_str()).into_owned(),
                clean(&it.record.agent).into_owned(),
                duration(now.since(it.record.created_at)),
                it.tokens.to_string(),
                flags,
                fit(&clean(&it.record.text), TEXT).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &lines)
}
