//! INDEX.md of a run: its versions, and a person's own.
//!
//! **Invariant:** no version is lost; the list of tasks in it follows the graph, what stands around it is the person's.

use std::sync::Arc;

use crewline_engine::context::estimate_tokens;
use crewline_store::{Change, Committed, IndexVersion};
use crewline_types::{EventBody, RunId, Text, event::NewEvent};
use serde::Serialize;

use crate::{Error, Handle};

/// Tokens of an INDEX.md at most: it is in every bundle.
const TOKENS_MAX: u32 = 20_000;

/// A version of a run's INDEX.md with its text.
#[derive(Debug, Clone, Serialize)]
pub struct IndexText {
    /// The run.
    pub run: RunId,
    /// Which version it is.
    #[serde(flatten)]
    pub version: IndexVersion,
    /// Its text.
    pub body: Arc<str>,
}

impl Handle {
    /// The versions of a run's INDEX.md, oldest first.
    pub async fn index_versions(&self, run: RunId) -> Result<Vec<IndexVersion>, Error> {
        self.row(run).await?;
        Ok(self.store().index_versions(run).await?)
    }

    /// One version of a run's INDEX.md; the last one when none is named.
    pub async fn index(&self, run: RunId, version: Option<u32>) -> Result<IndexText, Error> {
        let versions = self.index_versions(run).await?;
        let not_found = || Error::NotFound {
            what: "version",
            id: version.map_or_else(|| format!("of run {run}"), |it| it.to_string()),
        };
        let found = match version {
            Some(wanted) => versions.into_iter().find(|it| it.version == wanted),
            None => versions.into_iter().next_back(),
        };
        let version = found.ok_or_else(not_found)?;
        let body = self.store().texts(&[version.text]).await?.remove(&version.text).ok_or_else(not_found)?;
        Ok(IndexText { run, version, body })
    }

    /// Gives a run that nobody works on another INDEX.md; answers its version, or the old one when nothing changed.
    pub async fn edit_index(&self, run: RunId, text: &str, agent: &str) -> Result<u32, Error> {
        let tokens = estimate_tokens(text);
        if text.trim().is_empty() || tokens > TOKENS_MAX {
            let message = format!("INDEX.md has 1 to {TOKENS_MAX} tokens, and this has about {tokens}");
            return Err(Error::TaskField { message });
        }
        let _held = self.hold(run).await?;
        let row = self.row(run).await?;
        let last = self.index_versions(run).await?.last().map_or(0, |it| it.version);
        let text = Text::from(text);
        if row.index == Some(text.hash) {
            return Ok(last);
        }
        let at = self.deps().clock.now();
        let mut change = Change::new(run, row.epoch, at);
        change.last_seq = Some(row.last_seq);
        change.index = Some(text.hash);
        change.index_by = Some(agent.into());
        change.texts.push(text);
        let body = EventBody::IndexChanged { version: last + 1, agent: agent.into() };
        change.events.push(NewEvent::of_run(at, body));
        match self.store().commit(&[change]).await?.pop() {
            Some(Committed::Done { events }) => {
                self.publish(events);
                Ok(last + 1)
            }
            Some(Committed::Stale | Committed::OverBudget { .. }) | None => {
                Err(Error::Held { run, owner: "another process that was faster".into() })
            }
        }
    }
}
