//! The group commit: many changes of many runs in one transaction.
//!
//! A statement is dear and a row in it is cheap, so each kind of row of the whole batch is one statement. In order:
//! fences are checked and event numbers given out, new tasks are inserted, transitions applied, budgets checked, then
//! everything else is written.
//!
//! Nearly always everything applies, so only numbers of rows are checked. When some do not, the transaction is rolled
//! back, done again with statements that name the rows, and once more without the changes that turned out stale.
//!
//! PostgreSQL's answer to COMMIT may get lost. The server remembers how each transaction ended, so it is asked.
//!
//! **Invariant:** a change is written as a whole or not at all, and all that are written become durable together.
//! **Invariant:** the order of changes is kept for each task: its n-th transition is in the n-th wave.
//! **Invariant:** event numbers of a run have no gaps: they are counted for changes that are written only.
//! **Invariant:** runs are locked first, by id, and all that a batch is for at once; offers by task and attempt. Tasks and what is below them are only written
//! by who holds their run's row.

mod budget;
mod create;
mod fence;
mod insert;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    time::Instant,
};

use crewline_types::{Event, RunId, RunStatus, Task, TaskId};

use crate::{
    Backend, Error, Fence, Store,
    change::{Change, Committed, Payer, RunEnd},
    hints::News,
    metrics,
    retry::{RETURN_LIMIT, Retry},
    rows::{Move, add_event, add_move, add_task},
    sql::Args,
    statements as sql,
    tx::{By, Tx},
};

pub(crate) use create::begin_run;

/// Task numbers that are kept; more than any run that is being worked on has.
const NUMBERS_MAX: usize = 100_000;

/// Task numbers that a batch needs.
pub(crate) type Numbers = HashMap<TaskId, i64>;

/// The `seq` of each run's last event.
type Seqs = BTreeMap<RunId, i64>;

/// Why a transaction was not committed.
enum Stop {
    /// Some change turned out to be refused and is marked now, or the next try shall say which.
    Again,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What becomes of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Live,
    Stale,
    OverBudget { whose: Payer, may_pass: bool },
}

/// What one try of a batch knows.
struct Batch<'a> {
    changes: &'a [Change],
    fates: Vec<Fate>,
    /// Use the statements that name the rows.
    is_careful: bool,
}

/// The right to write for some runs.
pub struct Turn {
    held: Option<(Tx, BTreeSet<RunId>)>,
    /// When it was asked for.
    since: Instant,
}

impl Turn {
    fn free() -> Self {
        Self { held: None, since: Instant::now() }
    }

    /// Whether changes of this run can be written in it.
    pub fn covers(&self, run: RunId) -> bool {
        self.held.as_ref().is_none_or(|(_, runs)| runs.contains(&run))
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Turn").field(&self.held.as_ref().map(|(_, runs)| runs)).finish()
    }
}

/// What a written batch is answered with.
type Written = (Numbers, Vec<Vec<Event>>);

impl Store {
    /// Records `changes` in one transaction; the answer has one entry for each, in order.
    ///
    /// A change that is stale (its fence does not hold, a transition does not apply, a task does not exist) or beyond its
    /// budget leaves no trace and does not keep the others from being recorded. An error means that nothing was recorded,
    /// except for [`Error::CommitUnknown`]. A row that the schema refuses fails the whole batch: it is a defect.
    ///
    /// A PostgreSQL server that is being restarted is waited for; a lost answer to COMMIT is asked for again.
    pub async fn commit(&self, changes: &[Change]) -> Result<Vec<Committed>, Error> {
        self.commit_in(Turn::free(), changes).await
    }

    /// Waits until nobody else writes for `runs`. Between this and [`Self::commit_in`] nothing is to be waited for.
    ///
    /// On PostgreSQL, where the writers of a run take turns at its row, so that what comes up meanwhile is written, too.
    /// SQLite's writers wait for each other in one place, and only for a commit: there it is always one's turn.
    pub async fn turn(&self, runs: BTreeSet<RunId>) -> Result<Turn, Error> {
        if self.backend() == Backend::Sqlite {
            return Ok(Turn::free());
        }
        let since = Instant::now();
        let names: Vec<RunId> = runs.iter().copied().collect();
        let mut retry = Retry::new(RETURN_LIMIT);
        loop {
            match self.lock_runs(&names).await {
                Ok(tx) => return Ok(Turn { held: Some((tx, runs)), since }),
                Err(error) => retry.after(self.backend(), error).await?,
            }
        }
    }

    async fn lock_runs(&self, runs: &[RunId]) -> Result<Tx, Error> {
        let mut tx = self.inner.writer.begin_by(By::FirstStatement).await?;
        match tx.ask(&sql::LOCK_RUNS, runs, |args, run| args.text(run.as_str()), |_| Ok(())).await {
            Ok(()) => Ok(tx),
            Err(error) => {
                tx.rollback(&error).await;
                Err(error)
            }
        }
    }

    /// [`Self::commit`] of changes that the turn covers.
    pub async fn commit_in(&self, turn: Turn, changes: &[Change]) -> Result<Vec<Committed>, Error> {
        debug_assert!(
            changes.iter().all(|change| turn.covers(change.run)),
            "runs are locked in the order of their ids"
        );
        let Turn { mut held, since } = turn;
        let checked = changes.iter().try_for_each(Change::check);
        if changes.is_empty() || checked.is_err() {
            if let Some((tx, _)) = held {
                tx.undo().await;
            }
            return checked.map(|()| Vec::new());
        }
        let mut batch = Batch { changes, fates: vec![Fate::Live; changes.len()], is_careful: false };
        batch.refuse_after_reports();
        let mut retry = Retry::new(RETURN_LIMIT);
        let (numbers, events) = loop {
            match self.try_commit(&mut batch, held.take().map(|(tx, _)| tx)).await {
                Ok(written) => break written,
                Err(Stop::Again) => {}
                Err(Stop::Failed(error)) => retry.after(self.backend(), error).await?,
            }
        };
        self.check_file()?;
        self.keep_numbers(&numbers);
        metrics::record_commit(since.elapsed());
        let answers = batch.fates.into_iter().zip(events).map(|(fate, events)| match fate {
            Fate::Live => Committed::Done { events },
            Fate::Stale => Committed::Stale,
            Fate::OverBudget { whose, may_pass } => Committed::OverBudget { whose, may_pass },
        });
        Ok(answers.collect())
    }

    async fn try_commit(&self, batch: &mut Batch<'_>, begun: Option<Tx>) -> Result<Written, Stop> {
        if batch.live().next().is_none() {
            return Ok((Numbers::new(), vec![Vec::new(); batch.changes.len()]));
        }
        // In a turn the runs are locked already.
        let (mut tx, is_locked) = match begun {
            Some(tx) => (tx, true),
            None => (self.inner.writer.begin_by(By::FirstStatement).await?, false),
        };
        let (numbers, seqs, id) = match batch.apply(&mut tx, is_locked, self.known_numbers(batch.changes)).await {
            Ok(applied) => applied,
            Err(Stop::Again) => {
                tx.undo().await;
                return Err(Stop::Again);
            }
            Err(Stop::Failed(error)) => {
                tx.rollback(&error).await;
                return Err(Stop::Failed(error));
            }
        };
        if self.backend() == Backend::Postgres {
            tx.tell(batch.news().text());
        }
        let (rows, events) = batch.number_events(seqs);
        match tx.commit_with(&sql::INSERT_EVENTS, &sql::INSERT_EVENTS_AND_COMMIT, &rows, add_event).await {
            Ok(()) => Ok((numbers, events)),
            Err(Error::CommitUnknown { source }) => {
                let Some(id) = id else { return Err(Stop::Failed(Error::CommitUnknown { source })) };
                if self.was_committed(&id).await? { Ok((numbers, events)) } else { Err(Stop::Again) }
            }
            Err(error) => Err(Stop::Failed(error)),
        }
    }

    /// How a transaction ended whose answer was lost.
    pub(crate) async fn was_committed(&self, id: &str) -> Result<bool, Error> {
        let mut retry = Retry::new(RETURN_LIMIT);
        loop {
            let add = |args: &mut Args, id: &&str| args.text(id);
            let read = |row: &crate::tx::Row| Ok(row.text_or_null(0)?.map(str::to_owned));
            let error = match self.ask_alone(&sql::TRANSACTION_STATUS, &[id], add, read).await {
                Ok(status) => match status.into_iter().next().flatten().as_deref() {
                    Some("committed") => return Ok(true),
                    Some("aborted") => return Ok(false),
                    // The server has not noticed yet, or it is too long ago.
                    _ => Error::unavailable("the end of a transaction is not known yet"),
                },
                Err(error) => error,
            };
            retry
                .after(Backend::Postgres, error)
                .await
                .map_err(|error| Error::CommitUnknown { source: crate::error::Cause(error.to_string()) })?;
        }
    }

    fn known_numbers(&self, changes: &[Change]) -> Numbers {
        let mut known = Numbers::new();
        let Ok(kept) = self.inner.numbers.lock() else { return known };
        for change in changes {
            // A change mostly names one task, many times.
            let mut last = None;
            for task in tasks_of(change) {
                if last != Some(task)
                    && let Some(number) = kept.get(&task)
                {
                    known.insert(task, *number);
                }
                last = Some(task);
            }
        }
        known
    }

    pub(crate) fn keep_numbers(&self, numbers: &Numbers) {
        let Ok(mut kept) = self.inner.numbers.lock() else { return };
        if kept.len() + numbers.len() > NUMBERS_MAX {
            kept.clear();
        }
        kept.extend(numbers);
    }
}

/// The tasks a change names, new ones aside; some more than once.
fn tasks_of(change: &Change) -> impl Iterator<Item = TaskId> {
    (change.transitions.iter().map(|it| it.task))
        .chain(change.links.iter().flat_map(|(from, to, _)| [*from, *to]))
        .chain(change.links_removed.iter().flat_map(|(from, to, _)| [*from, *to]))
        .chain(change.edits.iter().map(|it| it.id))
        .chain(change.details.iter().map(|(task, _)| *task))
        .chain(change.attempts.iter().map(|it| it.id.task))
        .chain(change.attempts_ended.iter().map(|it| it.id.task))
        .chain(change.calls.iter().map(|it| it.id.attempt.task))
        .chain(change.calls_answered.iter().map(|it| it.id.attempt.task))
        .chain(change.calls_ended.iter().map(|it| it.id.attempt.task))
        .chain(change.tool_calls.iter().map(|it| it.id.call.attempt.task))
        .chain(change.tool_calls_begun.iter().map(|(id, _)| id.call.attempt.task))
        .chain(change.tool_calls_ended.iter().map(|it| it.id.call.attempt.task))
        .chain(change.contexts.iter().map(|it| it.id.task))
        .chain(change.copied.iter().map(|(task, _)| *task))
        .chain(change.handed_over.iter().map(|(task, _)| *task))
        .chain(change.offers.iter().map(|it| it.id.task))
        .chain(change.offers_settled.iter().map(|it| it.task))
        .chain(match &change.fence {
            Fence::Manager { .. } => None,
            Fence::Claim { attempt, .. } => Some(attempt.task),
        })
}

impl<'a> Batch<'a> {
    fn live(&self) -> impl Iterator<Item = (usize, &'a Change)> {
        self.changes.iter().enumerate().filter(|(index, _)| self.fates[*index] == Fate::Live)
    }

    /// Everything but the events; the answer has the `seq` before the first event of each run, and the transaction's
    /// name where it has one.
    async fn apply(
        &mut self,
        tx: &mut Tx,
        is_locked: bool,
        mut numbers: Numbers,
    ) -> Result<(Numbers, Seqs, Option<String>), Stop> {
        let fenced = self.fence_runs(tx, is_locked).await?;
        self.insert_tasks(tx, &mut numbers).await?;
        self.find_numbers(tx, &mut numbers).await?;
        self.fence_claims(tx, &numbers).await?;
        self.move_tasks(tx, &numbers).await?;
        self.end_runs(tx).await?;
        self.check_budgets(tx, &numbers, &fenced.charged).await?;
        self.insert_rows(tx, &numbers).await?;
        Ok((numbers, fenced.seqs, fenced.transaction))
    }

    fn news(&self) -> News {
        let mut news = News::default();
        for (_, change) in self.live() {
            news.has_work |= !change.offers.is_empty();
            if change.report.is_some() {
                news.reports.insert(change.run);
            }
            if !change.events.is_empty() {
                news.events.insert(change.run);
            }
        }
        news
    }

    async fn insert_tasks(&self, tx: &mut Tx, numbers: &mut Numbers) -> Result<(), Error> {
        let tasks: Vec<&Task> = self.live().flat_map(|(_, change)| &change.tasks).collect();
        insert_tasks(tx, &tasks, numbers).await
    }

    /// Looks up the tasks nobody here has met yet. A change that names one that does not exist is stale.
    async fn find_numbers(&mut self, tx: &mut Tx, numbers: &mut Numbers) -> Result<(), Stop> {
        let mut unknown = HashSet::<TaskId>::new();
        for (_, change) in self.live() {
            let mut last = None;
            for task in tasks_of(change) {
                if last != Some(task) && !numbers.contains_key(&task) {
                    unknown.insert(task);
                }
                last = Some(task);
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<TaskId> = unknown.into_iter().collect();
        tx.ask(
            &sql::FIND_NUMBERS,
            &unknown,
            |args, task| args.text(task.as_str()),
            |row| {
                numbers.insert(task_id(row.text(0)?)?, row.int(1)?);
                Ok(())
            },
        )
        .await?;
        let mut is_missing = false;
        for (index, change) in self.changes.iter().enumerate() {
            if self.fates[index] == Fate::Live && tasks_of(change).any(|task| !numbers.contains_key(&task)) {
                self.fates[index] = Fate::Stale;
                is_missing = true;
            }
        }
        if is_missing { Err(Stop::Again) } else { Ok(()) }
    }

    async fn move_tasks(&mut self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Stop> {
        let mut waves: Vec<Vec<Move<'_>>> = Vec::new();
        let mut moved = HashMap::<i64, usize>::new();
        for (index, change) in self.live() {
            for transition in &change.transitions {
                let Some(number) = numbers.get(&transition.task).copied() else { continue };
                let wave = moved.entry(number).or_default();
                if waves.len() == *wave {
                    waves.push(Vec::new());
                }
                waves[*wave].push(Move { index, change, transition, number });
                *wave += 1;
            }
        }
        for wave in &waves {
            if self.is_careful {
                let mut applied = HashSet::new();
                tx.ask(&sql::MOVE_TASKS_NAMED, wave, add_move, |row| {
                    applied.insert(row.int(0)?);
                    Ok(())
                })
                .await?;
                if applied.len() != wave.len() {
                    for it in wave.iter().filter(|it| !applied.contains(&it.number)) {
                        self.fates[it.index] = Fate::Stale;
                    }
                    return Err(Stop::Again);
                }
            } else if tx.write(&sql::MOVE_TASKS, wave, add_move).await? != wave.len() as u64 {
                self.is_careful = true;
                return Err(Stop::Again);
            }
        }
        Ok(())
    }

    async fn end_runs(&mut self, tx: &mut Tx) -> Result<(), Stop> {
        let mut first = BTreeMap::<RunId, (usize, &RunEnd, Option<u64>)>::new();
        let mut is_repeated = false;
        for (index, change) in self.changes.iter().enumerate() {
            if let (Fate::Live, Some(end)) = (self.fates[index], &change.run_status) {
                match first.entry(change.run) {
                    Entry::Vacant(entry) => drop(entry.insert((index, end, change.decided_max))),
                    Entry::Occupied(_) => {
                        self.fates[index] = Fate::Stale;
                        is_repeated = true;
                    }
                }
            }
        }
        if is_repeated {
            return Err(Stop::Again);
        }
        let ends: Vec<_> = first.into_iter().collect();
        let add = |args: &mut Args, (run, (_, end, decided_max)): &(RunId, (usize, &RunEnd, Option<u64>))| {
            args.text(run.as_str());
            args.text(end.status.as_str());
            args.int(end.finished_at.0);
            args.text_or_null(end.error.as_deref());
            args.int_or_null(decided_max.map(|most| i64::try_from(most).unwrap_or(i64::MAX)));
        };
        let mut ended = HashSet::new();
        tx.ask(&sql::END_RUNS, &ends, add, |row| {
            ended.insert(run_id(row.text(0)?)?);
            Ok(())
        })
        .await?;
        if ended.len() != ends.len() {
            for (_, (index, ..)) in ends.iter().filter(|(run, _)| !ended.contains(run)) {
                self.fates[*index] = Fate::Stale;
            }
            return Err(Stop::Again);
        }
        let cancelled: Vec<_> = ends.iter().filter(|(_, (_, end, _))| end.status == RunStatus::Cancelled).collect();
        tx.write(&sql::CANCEL_TASKS, &cancelled, |args, (run, (_, end, _))| {
            args.text(run.as_str());
            args.int(end.finished_at.0);
        })
        .await?;
        let runs: Vec<RunId> = ends.iter().map(|(run, _)| *run).collect();
        tx.write(&sql::DELETE_OFFERS_OF_RUNS, &runs, |args, run| args.text(run.as_str())).await?;
        Ok(())
    }
}

pub(crate) fn run_id(text: &str) -> Result<RunId, Error> {
    text.parse().map_err(|_| Error::corrupt("runs.id", text))
}

pub(crate) fn task_id(text: &str) -> Result<TaskId, Error> {
    text.parse().map_err(|_| Error::corrupt("tasks.id", text))
}

pub(crate) async fn insert_tasks(tx: &mut Tx, tasks: &[&Task], numbers: &mut Numbers) -> Result<(), Error> {
    tx.ask(
        &sql::INSERT_TASKS,
        tasks,
        |args, task| add_task(args, task),
        |row| {
            numbers.insert(task_id(row.text(0)?)?, row.int(1)?);
            Ok(())
        },
    )
    .await
}
