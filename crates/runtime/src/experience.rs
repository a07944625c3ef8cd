//! What came of the crew's calls, for the choice of models: read from the database once, then kept up to date.
//!
//! **Invariant:** a database that can not be read costs the experience, never the run.

use std::sync::{Mutex, PoisonError};

use crewline_engine::route::{Learned, Tally};
use crewline_store::Store;
use crewline_types::{ModelAlias, Role, TaskKind};
use tokio::sync::OnceCell;

/// Answers that are learned from: enough to be sure, few enough that an old habit of a model fades.
const ANSWERS_MAX: u32 = 20_000;

/// What came of the calls so far.
#[derive(Debug, Default)]
pub struct Experience {
    learned: Mutex<Learned>,
    loaded: OnceCell<()>,
}

impl Experience {
    /// Reads what the database knows, the first time it is asked to.
    pub async fn load_once(&self, store: &Store) {
        let load = || async {
            match read(store).await {
                Ok(learned) => self.with(|it| *it = learned),
                Err(error) => {
                    tracing::warn!(error.code = error.code(), %error, "no experience of earlier calls");
                }
            }
        };
        self.loaded.get_or_init(load).await;
    }

    /// Runs `work` on what is known.
    pub fn with<R>(&self, work: impl FnOnce(&mut Learned) -> R) -> R {
        work(&mut self.learned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An answer was accepted, or not.
    pub fn answered(&self, role: &Role, kind: TaskKind, model: &ModelAlias, is_accepted: bool) {
        let tally = Tally { accepted: u64::from(is_accepted), rejected: u64::from(!is_accepted) };
        self.with(|it| it.add(role, kind, model, tally));
    }

    /// An answer that counts as accepted was rejected after all.
    pub fn took_back(&self, role: &Role, kind: TaskKind, model: &ModelAlias) {
        self.with(|it| it.take_back(role, kind, model));
    }
}

/// What the database knows of earlier answers.
pub async fn read(store: &Store) -> Result<Learned, crewline_store::Error> {
    let mut learned = Learned::default();
    for row in store.answers(ANSWERS_MAX).await? {
        let tally = Tally { accepted: row.accepted, rejected: row.rejected };
        learned.add(&row.role.as_str().into(), row.kind, &row.model.as_str().into(), tally);
    }
    Ok(learned)
}
