//! What other processes did, told by the database (`LISTEN`/`NOTIFY`), on PostgreSQL.
//!
//! One channel, one message for each transaction that has something to tell.
//!
//! **Invariant:** a hint only makes somebody look earlier than the next poll; losing one loses nothing.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    time::Duration,
};

use crewline_types::RunId;
use sea_orm::sqlx::{
    Error as DriverError, PgPool,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::Instant;

use crate::{Error, Store, open::CONNECT_LIMIT, sql::Args, statements as sql};

/// The name of the channel.
pub(crate) const CHANNEL: &str = "crewline";

/// Bytes of a message; the server takes 8,000.
const NEWS_MAX: usize = 7_000;

/// Pauses between tries to connect.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Somebody else did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hint {
    /// There is something to claim.
    Work,
    /// There is something to settle in the run.
    Reports(RunId),
    /// Something is asked of the run's manager.
    Wish(RunId),
    /// The run has new events.
    Events(RunId),
    /// A run waits for a manager.
    Orphan,
    /// What was told may have been missed: look everywhere. Also said once after connecting.
    Lost,
}

/// What a transaction has to tell.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) has_work: bool,
    pub(crate) has_orphan: bool,
    pub(crate) reports: BTreeSet<RunId>,
    pub(crate) wishes: BTreeSet<RunId>,
    pub(crate) events: BTreeSet<RunId>,
}

impl News {
    /// The message; empty when there is nothing to tell.
    pub(crate) fn text(&self) -> String {
        let mut words = Vec::new();
        if self.has_work {
            words.push("w".to_owned());
        }
        if self.has_orphan {
            words.push("o".to_owned());
        }
        for (letter, runs) in [('r', &self.reports), ('x', &self.wishes), ('e', &self.events)] {
            words.extend(runs.iter().map(|run| format!("{letter}{run}")));
        }
        let text = words.join(" ");
        if text.len() > NEWS_MAX { "*".into() } else { text }
    }
}

fn hint_of(word: &str) -> Option<Hint> {
    if word == "w" {
        return Some(Hint::Work);
    }
    if word == "o" {
        return Some(Hint::Orphan);
    }
    let run = word.get(1..)?.parse().ok()?;
    match word.as_bytes()[0] {
        b'r' => Some(Hint::Reports(run)),
        b'x' => Some(Hint::Wish(run)),
        b'e' => Some(Hint::Events(run)),
        _ => None,
    }
}

/// Hears what other processes tell, and this one.
pub struct Hints {
    pool: PgPool,
    listener: Option<PgListener>,
    heard: VecDeque<Hint>,
    pause: Duration,
    retry_at: Option<Instant>,
}

impl fmt::Debug for Hints {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hints").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Hints {
    /// The next hint; of equal ones that wait there is one. It may be dropped while it waits.
    pub async fn next(&mut self) -> Hint {
        loop {
            if let Some(hint) = self.heard.pop_front() {
                return hint;
            }
            if let Some(retry_at) = self.retry_at {
                tokio::time::sleep_until(retry_at).await;
                self.retry_at = None;
            }
            let Some(listener) = &mut self.listener else {
                match connect(&self.pool).await {
                    Ok(listener) => {
                        self.listener = Some(listener);
                        self.pause = PAUSE_FIRST;
                        return Hint::Lost;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot listen to the database");
                        self.retry_at = Some(Instant::now() + self.pause);
                        self.pause = (self.pause * 2).min(PAUSE_MAX);
                    }
                }
                continue;
            };
            match listener.try_recv().await {
                Ok(Some(message)) => {
                    hear(&mut self.heard, message.payload());
                    while let Some(message) = listener.next_buffered() {
                        hear(&mut self.heard, message.payload());
                    }
                }
                Ok(None) | Err(_) => self.listener = None,
            }
        }
    }
}

fn hear(heard: &mut VecDeque<Hint>, message: &str) {
    for word in message.split(' ') {
        // What nobody here understands was told by a newer version.
        let hint = hint_of(word).unwrap_or(Hint::Lost);
        if !heard.contains(&hint) {
            heard.push_back(hint);
        }
    }
}

async fn connect(pool: &PgPool) -> Result<PgListener, DriverError> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

impl Store {
    /// What other processes tell; `None` on SQLite, where nobody can. It connects when it is first asked, and again
    /// after each loss, for as long as it takes.
    pub fn hints(&self) -> Result<Option<Hints>, Error> {
        let Some(options) = &self.inner.listening else { return Ok(None) };
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(CONNECT_LIMIT)
            .connect_lazy_with((**options).clone());
        Ok(Some(Hints { pool, listener: None, heard: VecDeque::new(), pause: PAUSE_FIRST, retry_at: None }))
    }

    /// Tells other processes; when that fails they look by themselves a moment later.
    pub(crate) async fn tell(&self, news: &News) {
        if self.inner.listening.is_some() {
            let add = |args: &mut Args, text: &String| args.text(text);
            if let Err(error) = self.write_alone(&sql::NOTIFY, &[news.text()], add).await {
                tracing::debug!(%error, "cannot tell other processes");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_told_once() {
        let run: RunId = "aaaaaaaa".parse().unwrap();
        let news = News {
            has_work: true,
            has_orphan: true,
            reports: [run].into(),
            wishes: [run].into(),
            events: [run].into(),
        };
        assert_eq!(news.text(), "w o raaaaaaaa xaaaaaaaa eaaaaaaaa");
        let mut heard = VecDeque::new();
        hear(&mut heard, &news.text());
        hear(&mut heard, &news.text());
        assert_eq!(heard, [Hint::Work, Hint::Orphan, Hint::Reports(run), Hint::Wish(run), Hint::Events(run)]);
        hear(&mut heard, "qaaaaaaaa e");
        assert_eq!(heard.pop_back(), Some(Hint::Lost));
        assert_eq!(News::default().text(), "");
    }

    #[test]
    fn too_much_news_is_everything() {
        let mut ids = crewline_types::IdSource::seeded(1);
        let news = News { events: (0..1_000).map(|_| RunId::new(&mut ids)).collect(), ..News::default() };
        let mut heard = VecDeque::new();
        hear(&mut heard, &news.text());
        assert_eq!(heard, [Hint::Lost]);
    }
}
