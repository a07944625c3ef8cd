//! The one door of the runtime: what the CLI and the API may ask for.

use std::{
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crewline_engine::{
    plan::{self, Document},
    route::Mode,
};
use crewline_memory::{Embedded, Hybrid};
use crewline_models::Reloader;
use crewline_store::{Change, Claim, Committed, RunRow, Store, Wished};
use crewline_types::{EventBody, IdSource, ModelAlias, Role, RunId, RunLimits, RunStatus, event::NewEvent};
use ractor::{Actor, ActorRef};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Config, Error, Limits, Report, RunSummary, TaskReport,
    actor::{ask, tell},
    attempt::Deps,
    choices::Choices,
    documents,
    experience::Experience,
    health::Health,
    hub::Hub,
    journal,
    library::Library,
    lock::{Locks, RunLock},
    manager, memory, planning,
    prompt::Prompts,
    report,
    residence::Residence,
    rooms::Rooms,
    root::{self, Root},
    settings::Settings,
    verify, warden,
    watch::Watch,
    workshop::Workshop,
};

/// Wait for an answer of the root.
const ROOT_LIMIT: Duration = Duration::from_secs(10);
/// How soon it is looked again whether a manager has let its run go.
const LET_GO: Duration = Duration::from_millis(10);

/// What a resumed run changes of what it was launched with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides {
    /// New hard limits.
    pub limits: Option<RunLimits>,
    /// Attempts at once.
    pub concurrency: Option<NonZeroUsize>,
    /// Which hosts may be asked.
    pub mode: Option<Mode>,
}

/// How far a run that is continued goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// To its end: somebody asked for it.
    Done,
    /// As far as it was launched to go: it lost its process.
    AsLaunched,
}

/// Why a run is managed.
pub(crate) enum Why {
    /// To be made.
    Admitted(Place),
    /// To be stopped, which nothing has to wait for.
    ToStop(manager::Halt),
}

/// A place among the runs that a process manages; given back when the manager is gone.
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

/// The runtime. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    root: ActorRef<root::Message>,
    deps: Arc<Deps>,
    store: Store,
    hub: Hub,
    ids: Arc<Mutex<IdSource>>,
    node: Arc<str>,
    locks: Locks,
    /// Places for runs.
    places: Arc<Semaphore>,
    pub(crate) reloader: Option<Reloader>,
    /// Whether this process goes on with runs by itself.
    keeps_runs: Arc<AtomicBool>,
}

impl Handle {
    /// Starts the actors. The database is open and migrated already.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let Config { store, models, reloader, memory, clock, node, locks, prompts, tools, dispatch, limits } = config;
        let rooms = Rooms::default();
        let hub = Hub::default();
        let deps = Arc::new(Deps {
            rooms,
            rules: memory.rules.clone(),
            models,
            health: Health::default(),
            experience: Experience::default(),
            residence: Residence::default(),
            prompts: Prompts::load(prompts.as_deref())?,
            choices: Choices::new(store.clone()),
            store: store.clone(),
            clock,
            dispatch,
            workshop: Workshop::new(&tools.folder, tools.helper),
            preparing: Semaphore::new(limits.preparing_max),
            limits,
        });
        let args = root::Args {
            deps: Arc::clone(&deps),
            journal: journal::Args {
                store: store.clone(),
                hub: hub.clone(),
                scribe: deps.rooms.scribe.clone(),
                commit_limit: limits.commit,
            },
            memory: Library::new(
                store.clone(),
                Hybrid::new(Embedded::with_weights(memory.weights).ruled(memory.rules.clone()), memory.qdrant)
                    .reranked(memory.reranker),
                memory.embedder,
                Arc::clone(&deps.clock),
            ),
        };
        let (root, _) = Actor::spawn(None, Root, args).await.map_err(|error| Error::Spawn(error.to_string()))?;
        let ids = Arc::new(Mutex::new(IdSource::random()));
        let keeps_runs = Arc::default();
        let node: Arc<str> = node.into();
        let locks = Locks::new(Arc::clone(&node), locks);
        let places = Arc::new(Semaphore::new(limits.runs_max.min(Semaphore::MAX_PERMITS)));
        Ok(Self { root, deps, store, hub, ids, node, locks, places, reloader, keeps_runs })
    }

    /// Continues a run that was interrupted, reached a limit or lost its process. Returns the `seq` to watch after.
    pub async fn resume(&self, id: RunId, overrides: Overrides) -> Result<u64, Error> {
        self.go_on(id, overrides, Wanted::Done).await
    }

    /// Continues a run. A run that is there for its plan only stops at it, unless a person wants it done.
    pub(crate) async fn go_on(&self, id: RunId, overrides: Overrides, wanted: Wanted) -> Result<u64, Error> {
        let place = self.admit()?;
        let lock = self.take(id).await?;
        let row = self.store.run(id).await?.ok_or_else(|| Error::NotFound { what: "run", id: id.to_string() })?;
        match row.status {
            RunStatus::Running | RunStatus::Interrupted | RunStatus::LimitReached => {}
            RunStatus::Completed | RunStatus::Failed | RunStatus::Cancelled => {
                return Err(Error::Finished { run: id, status: row.status });
            }
        }
        let mut settings = Settings::of(&row)?;
        let wished = match wanted {
            Wanted::Done => {
                settings.stop_after_plan = false;
                Wished::Forgotten
            }
            Wanted::AsLaunched => Wished::Kept,
        };
        settings.change(&overrides);
        self.refuse_unpriced(&settings.limits)?;
        let epoch = self.claim(id, lock.claim()).await?;
        self.store.configure_run(id, epoch, &settings.text(), wished).await?;
        let at = self.deps.clock.now();
        let mut change = Change::new(id, epoch, at);
        change.events.push(NewEvent::of_run(
            at,
            EventBody::RunStarted { project: row.project.clone(), goal: row.goal.clone(), resumed: true },
        ));
        self.commit(id, change).await?;
        self.start_manager(id, lock, Why::Admitted(place)).await?;
        Ok(row.last_seq)
    }

    /// The run's events after `after_seq`: from the database, then live; ends after `run_finished`.
    pub fn watch(&self, run: RunId, after_seq: u64) -> Watch {
        Watch::new(self.store.clone(), &self.hub, run, after_seq)
    }

    /// Starts nothing more, lets what runs end; the run ends as interrupted.
    pub async fn drain(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Drain).await
    }

    /// Like [`Self::drain`], but aborts what runs. `resume` continues the run.
    pub async fn abort(&self, run: RunId) -> Result<(), Error> {
        self.to_manager(run, manager::Message::Abort).await
    }

    /// All that is recorded of a run.
    pub async fn report(&self, run: RunId) -> Result<Report, Error> {
        report::report(&self.store, run).await
    }

    /// The runs, newest first.
    pub async fn runs(&self, project: Option<&str>, limit: u32) -> Result<Vec<RunSummary>, Error> {
        report::summaries(&self.store, self.store.runs(project, limit).await?).await
    }

    /// Writes `RESULT.md`, `INDEX.md`, `tasks/` and `report.json` of a run into `out`.
    pub async fn write_documents(&self, report: &Report, out: &Path) -> Result<(), Error> {
        documents::write(&self.store, report, out).await
    }

    /// What a task of a report made; none when it made nothing.
    pub async fn text(&self, task: &TaskReport) -> Result<Option<Arc<str>>, Error> {
        let Some(hash) = task.result else { return Ok(None) };
        Ok(self.store.texts(&[hash]).await?.remove(&hash))
    }

    /// Whether the database answers and the actors live.
    pub async fn is_ready(&self) -> Result<(), Error> {
        self.store.check().await?;
        ask(&self.root, ROOT_LIMIT, root::Message::Active).await?;
        Ok(())
    }

    /// Runs that a person's decision lets go on are gone on with here from now on: this process stays.
    pub fn keep_runs(&self) {
        self.keeps_runs.store(true, Ordering::Relaxed);
    }

    pub(crate) fn manages_runs(&self) -> bool {
        self.keeps_runs.load(Ordering::Relaxed)
    }

    /// Drains every run, empties the outbox as far as `limit` allows, and stops everything.
    pub async fn shutdown(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        tell(&self.root, root::Message::ToManagers(|| manager::Message::Drain));
        self.wind_down(until).await;
    }

    /// Like [`Self::shutdown`], but leaves the runs to whoever manages them next: another process on the same database, or
    /// this one when it is started again.
    pub async fn hand_over(&self, limit: Duration) {
        let until = tokio::time::Instant::now() + limit;
        tell(&self.root, root::Message::ToManagers(|| manager::Message::HandOver));
        self.wind_down(until).await;
    }

    async fn wind_down(&self, until: tokio::time::Instant) {
        self.deps.rooms.warden.tell(warden::Message::Drain);
        self.drain_worker(until).await;
        while tokio::time::Instant::now() < until {
            match ask(&self.root, ROOT_LIMIT, root::Message::Active).await {
                Ok(0) | Err(_) => break,
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        self.retire().await;
        self.close_shadow(until).await;
        if let Some(memory) = self.deps.rooms.memory.current() {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if ask(&memory, left, memory::Message::Flush).await.is_err() {
                tracing::debug!("memories stay in the outbox until the next start");
            }
        }
        self.root.stop(None);
        self.deps.models.shutdown().await;
    }

    /// The bounds in force.
    pub fn limits(&self) -> Limits {
        self.deps.limits
    }

    #[cfg(test)]
    pub(crate) fn rooms(&self) -> Rooms {
        self.deps.rooms.clone()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn deps(&self) -> Arc<Deps> {
        Arc::clone(&self.deps)
    }

    pub(crate) fn has_lock_files(&self) -> bool {
        self.locks.have_files()
    }

    pub(crate) fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    pub(crate) fn root_actor(&self) -> &ActorRef<root::Message> {
        &self.root
    }

    pub(crate) fn hint_events(&self, run: RunId) {
        self.hub.hint(run);
    }

    pub(crate) fn ids(&self) -> std::sync::MutexGuard<'_, IdSource> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn lock(&self, run: RunId) -> Result<Arc<RunLock>, Error> {
        self.locks.take(run).map(Arc::new)
    }

    /// Takes the run. A manager of this process that has recorded its end is about to let it go.
    pub(crate) async fn take(&self, run: RunId) -> Result<Arc<RunLock>, Error> {
        let until = tokio::time::Instant::now() + ROOT_LIMIT;
        loop {
            let owner = match self.lock(run) {
                Err(Error::Held { owner, .. }) => owner,
                taken => return taken,
            };
            let is_ours = owner == *self.node && tokio::time::Instant::now() < until;
            let is_managed = |row: RunRow| row.status == RunStatus::Running && row.owner.is_some();
            if !is_ours || self.store.run(run).await?.is_none_or(is_managed) {
                return Err(Error::Held { run, owner });
            }
            tokio::time::sleep(LET_GO).await;
        }
    }

    pub(crate) fn publish(&self, events: Vec<crewline_types::Event>) {
        self.hub.publish(events);
    }

    /// Takes a run for this process.
    pub(crate) async fn claim(&self, run: RunId, claim: Claim) -> Result<u64, Error> {
        match self.store.claim_run(run, &self.node, self.deps.limits.lease, claim).await {
            Ok(epoch) => Ok(epoch),
            Err(crewline_store::Error::Held { owner, .. }) => Err(Error::Held { run, owner }),
            Err(crewline_store::Error::Finished { status, .. }) => Err(Error::Finished { run, status }),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuses a model that the registry does not have.
    pub(crate) fn check_model(&self, model: Option<&ModelAlias>) -> Result<(), Error> {
        match model {
            Some(alias) if self.deps.registry().model(alias.as_str()).is_none() => {
                Err(Error::NotFound { what: "model", id: alias.as_str().chars().take(40).collect() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A place for a run among those that this process manages.
    pub(crate) fn admit(&self) -> Result<Place, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(Arc::new).map_err(|_| Error::Busy { active: self.deps.limits.runs_max })
    }

    pub(crate) fn checked(&self, document: &Document, workspace: verify::Workspace) -> Result<plan::Plan, Error> {
        let registry = self.deps.registry();
        let rules = planning::file_rules(&registry);
        let plan = plan::check(document, &rules).map_err(|problems| Error::Plan { problems })?;
        let problems = verify::problems(&plan, &registry, workspace);
        if problems.is_empty() { Ok(plan) } else { Err(Error::Plan { problems }) }
    }

    /// A cap on cost can only hold where every model has a price.
    pub(crate) fn refuse_unpriced(&self, limits: &RunLimits) -> Result<(), Error> {
        if limits.cost_max.or(limits.task_cost_max).or(limits.project_cost_max).is_none() {
            return Ok(());
        }
        let registry = self.deps.registry();
        let default = Role::from("default");
        let mut models: Vec<String> = registry
            .roles()
            .iter()
            .chain([&default])
            .flat_map(|role| registry.chain(role))
            .filter(|model| model.price.is_none())
            .map(|model| format!("`{}`", model.alias))
            .collect();
        models.sort_unstable();
        models.dedup();
        if models.is_empty() { Ok(()) } else { Err(Error::Unpriced { models }) }
    }

    /// A commit outside the journal: the run's manager does not exist yet.
    pub(crate) async fn commit(&self, run: RunId, change: Change) -> Result<(), Error> {
        match self.store.commit(&[change]).await?.pop() {
            Some(Committed::Done { events }) => {
                self.hub.publish(events);
                Ok(())
            }
            Some(Committed::Stale | Committed::OverBudget { .. }) | None => {
                Err(Error::Held { run, owner: "another process that was faster".into() })
            }
        }
    }

    /// Before the first attempt of this process: what came of earlier calls.
    pub(crate) async fn load_experience(&self) {
        self.deps.experience.load_once(&self.store).await;
    }

    pub(crate) async fn start_manager(&self, run: RunId, lock: Arc<RunLock>, why: Why) -> Result<(), Error> {
        self.load_experience().await;
        let (place, halt) = match why {
            Why::Admitted(place) => (Some(place), None),
            Why::ToStop(halt) => (None, Some(halt)),
        };
        let args = manager::Args {
            run,
            deps: Arc::clone(&self.deps),
            store: self.store.clone(),
            hub: self.hub.clone(),
            node: Arc::clone(&self.node),
            lock,
            place,
            ids: Arc::clone(&self.ids),
            halt,
            had: Arc::new(AtomicU64::new(match halt {
                // Also one that is at rest.
                Some(manager::Halt::Cancel | manager::Halt::Kill) => u64::MAX,
                // It may have come to rest by itself just now.
                Some(manager::Halt::Drain | manager::Halt::Abort) | None => 0,
            })),
        };
        self.hub.begin(run);
        ask(&self.root, ROOT_LIMIT, |reply| root::Message::Launch(Box::new(args), reply)).await?;
        Ok(())
    }

    pub(crate) async fn to_manager(&self, run: RunId, message: manager::Message) -> Result<(), Error> {
        let is_there = ask(&self.root, ROOT_LIMIT, |reply| root::Message::ToManager(run, message, reply)).await?;
        if is_there { Ok(()) } else { Err(Error::NotFound { what: "active run", id: run.to_string() }) }
    }
}
