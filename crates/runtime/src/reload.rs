//! The part of [`Handle`] that takes a changed registry over.
//!
//! **Invariant:** files are read where blocking is allowed, never on an actor's thread.

use crewline_models::{Reloaded, Reloader};

use crate::{Error, Handle};

impl Handle {
    /// Takes the registry file over as it is now. What is wrong with it is the error, and the registry before stays.
    pub async fn reload_registry(&self) -> Result<Reloaded, Error> {
        let reloaded = self.with_registry_file(|it| Some(it.reload())).await;
        reloaded.unwrap_or(Err(Error::FixedRegistry))
    }

    /// Takes the registry file over if it has changed; what became of it is in the log and the metrics.
    pub async fn look_at_registry(&self) {
        self.with_registry_file(Reloader::look).await;
    }

    async fn with_registry_file(
        &self,
        work: impl FnOnce(&Reloader) -> Option<Result<Reloaded, crewline_models::Error>> + Send + 'static,
    ) -> Option<Result<Reloaded, Error>> {
        let reloader = self.reloader.clone()?;
        let read = tokio::task::spawn_blocking(move || work(&reloader)).await;
        // Only a shut-down cancels it.
        let taken = read.ok().flatten()?;
        let deps = self.deps();
        deps.health.keep(&deps.registry());
        Some(taken.map_err(Error::from))
    }
}
