//! Takes a changed registry file over while the process runs.
//!
//! **Invariant:** a file that is not valid changes nothing; what is wrong with it is logged with its place.
//! **Invariant:** calls under way, and attempts that pinned the models, end with the registry they began with.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use crewline_types::TextHash;

use crate::{
    Error, Models, Registry, metrics,
    registry::{Difference, Invalid, RegistryFile},
};

/// Reads a variable of the environment.
pub type Env = fn(&str) -> Option<String>;

/// Checks what this crate does not read: rules of commands, hosts.
pub type Check = fn(&Registry) -> Result<(), Invalid>;

/// Takes the registry of [`Models`] from its file again. Cheap to clone; it reads files, so call it where blocking is allowed.
#[derive(Debug, Clone)]
pub struct Reloader {
    models: Models,
    file: Arc<Mutex<RegistryFile>>,
    env: Env,
    check: Check,
}

/// What a reload changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Reloaded {
    /// The registry that holds now.
    pub registry: TextHash,
    /// What differs from the one before, by meaning. Empty as well when only a key or a file of instructions changed.
    pub differences: Vec<Difference>,
}

impl Reloader {
    /// For `models`, whose registry was read from `path`. A file that `check` refuses is not taken.
    pub fn new(models: Models, path: PathBuf, env: Env, check: Check) -> Self {
        Self { models, file: Arc::new(Mutex::new(RegistryFile::new(path))), env, check }
    }

    /// Takes the file over if it has changed since the last look; `None` when it has not.
    pub fn look(&self) -> Option<Result<Reloaded, Error>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.changed(&self.env)?;
        if read.as_ref().is_ok_and(|it| it.hash() == self.models.registry().hash()) {
            // Touched, or the first look.
            return None;
        }
        Some(self.take(read))
    }

    /// Takes the file over as it is now, with the keys and instructions that stand in other files.
    pub fn reload(&self) -> Result<Reloaded, Error> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.load(&self.env);
        self.take(read)
    }

    /// The file stays locked meanwhile, so that an older state of it never follows a newer one.
    fn take(&self, read: Result<Registry, Error>) -> Result<Reloaded, Error> {
        let before = self.models.registry();
        let taken = read.and_then(|registry| {
            (self.check)(&registry)?;
            let registry = Arc::new(registry);
            self.models.reload(Arc::clone(&registry))?;
            Ok(registry)
        });
        match taken {
            Ok(registry) => {
                let differences = before.diff(&registry);
                metrics::reloaded(if before.hash() == registry.hash() { "unchanged" } else { "applied" });
                tracing::info!(registry = %registry.hash(), changes = differences.len(), "registry is reloaded");
                for warning in registry.warnings() {
                    tracing::warn!(line = warning.line, column = warning.column, warning = %warning.message, "registry");
                }
                Ok(Reloaded { registry: registry.hash(), differences })
            }
            Err(error) => {
                metrics::reloaded("refused");
                tracing::warn!(error.code = error.code(), %error, "registry is refused, the one before stays");
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    fn text(models: &str, chain: &str) -> String {
        format!(
            "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n{models}roles:\n  default: {{chain: [{chain}]}}\n"
        )
    }

    #[test]
    fn a_new_file_is_taken_over_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crewline.yaml");
        let model = |name: &str| format!("  {name}: {{provider: p, model: {name}, context_window: 1000}}\n");
        std::fs::write(&path, text(&model("a"), "a")).unwrap();
        let registry = Arc::new(Registry::load(&path, &|_| None).unwrap());
        let models = Models::new(registry, Options::default()).unwrap();
        let reloader = Reloader::new(models.clone(), path.clone(), |_| None, |_| Ok(()));
        // A change is taken over once the file rests.
        let look = || reloader.look().or_else(|| reloader.look());
        assert!(look().is_none(), "the file is the one that was read");

        let pinned = models.pinned();
        std::fs::write(&path, text(&format!("{}{}", model("a"), model("b")), "b, a")).unwrap();
        let reloaded = look().unwrap().unwrap();
        assert_eq!(reloaded.registry, models.registry().hash());
        let paths: Vec<&str> = reloaded.differences.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["models.b", "roles.default.chain"]);
        assert!(models.registry().model("b").is_some());
        assert!(pinned.registry().model("b").is_none(), "who pinned the models keeps them");

        std::fs::write(&path, text(&model("a"), "nobody")).unwrap();
        let refused = look().unwrap().unwrap_err();
        assert!(refused.to_string().contains("crewline.yaml:7:"), "{refused}");
        assert!(models.registry().model("b").is_some(), "the one before stays");
        assert!(look().is_none(), "it is told once");
        assert_eq!(reloader.reload().unwrap_err().code(), "registry.invalid", "and whenever it is asked for");

        std::fs::write(&path, text(&model("a"), "a")).unwrap();
        assert!(reloader.reload().unwrap().differences.iter().any(|it| it.path == "models.b"));
        assert!(look().is_none());
    }
}
