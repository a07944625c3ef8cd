//! What persons decided on the contexts of tasks, read for all attempts at once that begin together.
//!
//! **Invariant:** a reading begins after it was asked for: a decision holds from the next attempt on.
//! **Invariant:** one reading at a time; what is asked meanwhile is read together by the next.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use crewline_store::{ContextChoice, Error, Store};
use crewline_types::TaskId;
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

type Found = Result<Arc<HashMap<TaskId, Vec<ContextChoice>>>, Arc<Error>>;

/// A reading that has not begun, and who is in it.
struct Next {
    tasks: Vec<TaskId>,
    reading: Shared<BoxFuture<'static, Found>>,
}

/// Reads decisions. Cloning shares the readings.
#[derive(Clone)]
pub struct Choices {
    store: Store,
    next: Arc<Mutex<Option<Next>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Choices {
    /// None is being read.
    pub fn new(store: Store) -> Self {
        Self { store, next: Arc::default(), turn: Arc::default() }
    }

    /// What was decided on the context of `task`, by item. Waits for a reading of others; whoever asks keeps the limit.
    pub async fn of(&self, task: TaskId) -> Result<Vec<ContextChoice>, Arc<Error>> {
        let found = self.join(task).await?;
        Ok(found.get(&task).cloned().unwrap_or_default())
    }

    fn join(&self, task: TaskId) -> Shared<BoxFuture<'static, Found>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let next =
            next.get_or_insert_with(|| Next { tasks: Vec::new(), reading: self.clone().read().boxed().shared() });
        next.tasks.push(task);
        next.reading.clone()
    }

    async fn read(self) -> Found {
        let _turn = self.turn.lock().await;
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tasks = next.map(|next| next.tasks).unwrap_or_default();
        self.store.choices_of(&tasks).await.map(Arc::new).map_err(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was asked while a reading was under way is in the next one, and whoever gives up stops nobody.
    #[tokio::test]
    async fn who_comes_later_is_in_the_next_reading() {
        let choices = Choices::new(Store::open("sqlite::memory:").await.unwrap());
        let task = |id: &str| id.parse::<TaskId>().unwrap();
        let turn = choices.turn.lock().await;
        let mut first = Box::pin(choices.of(task("aaaaaaa1")));
        assert!(first.as_mut().now_or_never().is_none());
        let second = choices.join(task("aaaaaaa2"));
        assert_eq!(choices.next.lock().unwrap().as_ref().unwrap().tasks.len(), 2, "both wait for one reading");
        drop(first);
        drop(turn);
        assert!(second.await.unwrap().is_empty());
        assert!(choices.next.lock().unwrap().is_none());
        assert_eq!(choices.of(task("aaaaaaa1")).await.unwrap(), []);
    }
}
