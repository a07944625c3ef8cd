//! The group commit: many changes of many runs in one transaction.
//!
//! A statement is dear and a row in it is cheap, so each kind of row of the whole batch is one statement. In order:
//! epochs are checked and event numbers given out, new tasks are inserted, transitions applied, then everything else.
//!
//! Nearly always all transitions apply, so only their number is checked. When some do not, the transaction is rolled
//! back, done again with statements that name the rows, and once more without the changes that turned out stale.
//!
//! **Invariant:** a change is written as a whole or not at all, and all that are written become durable together.
//! **Invariant:** the order of changes is kept for each task: its n-th transition is in the n-th wave.
//! **Invariant:** event numbers of a run have no gaps: they are counted for changes that are written only.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    time::Instant,
};

use crewline_types::{Event, RunId, Task, TaskId, Text, TextHash};

use crate::{
    Backend, Error, Store,
    change::{Change, Committed, RunEnd},
    metrics,
    rows::{
        EventOf, Move, add_attempt, add_attempt_end, add_call, add_call_end, add_context, add_event, add_memory,
        add_move, add_task, add_text, same_text,
    },
    sql::{Args, Part, ROWS_MAX, clamp},
    statements as sql,
    tx::{By, Tx},
};

/// Deadlocks of PostgreSQL that are answered by doing it again.
const DEADLOCKS_MAX: u32 = 3;

/// Task numbers that are kept; more than any run that is being worked on has.
const NUMBERS_MAX: usize = 100_000;

/// Task numbers that a batch needs.
pub(crate) type Numbers = HashMap<TaskId, i64>;

/// The `seq` of each run's last event.
type Seqs = BTreeMap<RunId, i64>;

/// Why a transaction was not committed.
enum Stop {
    /// Some change turned out stale and is marked now, or the next try shall say which.
    Again,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// What one try of a batch knows.
struct Batch<'a> {
    changes: &'a [Change],
    /// Which changes are left out.
    stale: Vec<bool>,
    /// Use the statements that name the rows.
    is_careful: bool,
}

impl Store {
    /// Records `changes` in one transaction; the answer has one entry for each, in order.
    ///
    /// A change that is stale (its run has another epoch, a transition does not apply, a task does not exist) leaves no
    /// trace and does not keep the others from being recorded. An error means that nothing was recorded, except for
    /// [`Error::CommitUnknown`]. A row that the schema refuses fails the whole batch: it is a defect.
    pub async fn commit(&self, changes: &[Change]) -> Result<Vec<Committed>, Error> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        let mut batch = Batch { changes, stale: vec![false; changes.len()], is_careful: false };
        let mut deadlocks = 0;
        let (numbers, events) = loop {
            if batch.live().next().is_none() {
                break (Numbers::new(), vec![Vec::new(); changes.len()]);
            }
            let mut tx = self.inner.writer.begin_by(By::FirstStatement).await?;
            let error = match batch.apply(&mut tx, self.known_numbers(changes)).await {
                Ok((numbers, seqs)) => {
                    let (rows, events) = batch.number_events(seqs);
                    match tx.commit_with(&sql::INSERT_EVENTS, &sql::INSERT_EVENTS_AND_COMMIT, &rows, add_event).await {
                        Ok(()) => break (numbers, events),
                        Err(error) => error,
                    }
                }
                Err(Stop::Again) => {
                    tx.undo().await;
                    continue;
                }
                Err(Stop::Failed(error)) => {
                    tx.rollback(&error).await;
                    error
                }
            };
            if !error.is_deadlock() || deadlocks == DEADLOCKS_MAX {
                return Err(error);
            }
            deadlocks += 1;
        };
        self.keep_numbers(&numbers);
        metrics::record_commit(begun.elapsed());
        Ok(batch
            .stale
            .into_iter()
            .zip(events)
            .map(|(is_stale, events)| if is_stale { Committed::Stale } else { Committed::Done { events } })
            .collect())
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
        .chain(change.attempts.iter().map(|it| it.id.task))
        .chain(change.attempts_ended.iter().map(|it| it.id.task))
        .chain(change.calls.iter().map(|it| it.id.attempt.task))
        .chain(change.calls_ended.iter().map(|it| it.id.attempt.task))
        .chain(change.contexts.iter().map(|it| it.id.task))
}

impl<'a> Batch<'a> {
    fn live(&self) -> impl Iterator<Item = (usize, &'a Change)> {
        self.changes.iter().enumerate().filter(|(index, _)| !self.stale[*index])
    }

    /// Everything but the events; the answer is the `seq` before the first event of each run.
    async fn apply(&mut self, tx: &mut Tx, mut numbers: Numbers) -> Result<(Numbers, Seqs), Stop> {
        let seqs = self.fence(tx).await?;
        self.insert_tasks(tx, &mut numbers).await?;
        self.find_numbers(tx, &mut numbers).await?;
        self.move_tasks(tx, &numbers).await?;
        self.end_runs(tx).await?;
        self.insert_rows(tx, &numbers).await?;
        Ok((numbers, seqs))
    }

    /// Checks epochs; the answer is the `seq` before the first event of each run.
    async fn fence(&mut self, tx: &mut Tx) -> Result<Seqs, Stop> {
        let mut wanted = BTreeMap::<(RunId, u64), i64>::new();
        for (_, change) in self.live() {
            *wanted.entry((change.run, change.epoch)).or_default() += clamp(change.events.len() as u64);
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        if tx.backend() == Backend::Postgres && wanted.len() > 1 {
            let add = |args: &mut Args, ((run, _), _): &((RunId, u64), i64)| args.text(run.as_str());
            tx.ask(&sql::LOCK_RUNS, &wanted, add, |_| Ok(())).await?;
        }
        let add = |args: &mut Args, ((run, epoch), events): &((RunId, u64), i64)| {
            args.text(run.as_str());
            args.count(*epoch);
            args.int(*events);
        };
        let statement = match tx.backend() {
            Backend::Sqlite if wanted.len() <= ROWS_MAX => &sql::BEGIN_AND_FENCE_RUNS,
            Backend::Sqlite => {
                tx.begin_now().await?;
                &sql::FENCE_RUNS
            }
            Backend::Postgres => &sql::FENCE_RUNS,
        };
        let mut found = BTreeMap::<RunId, (u64, i64)>::new();
        tx.ask(statement, &wanted, add, |row| {
            found.insert(run_id(row.text(0)?)?, (row.int(1)?.unsigned_abs(), row.int(2)?));
            Ok(())
        })
        .await?;
        for (index, change) in self.changes.iter().enumerate() {
            self.stale[index] |= found.get(&change.run).is_none_or(|(epoch, _)| *epoch != change.epoch);
        }
        Ok(wanted
            .into_iter()
            .filter_map(|((run, epoch), events)| {
                found.get(&run).filter(|(now, _)| *now == epoch).map(|(_, last)| (run, last - events))
            })
            .collect())
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
            if !self.stale[index] && tasks_of(change).any(|task| !numbers.contains_key(&task)) {
                self.stale[index] = true;
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
                        self.stale[it.index] = true;
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
        let mut first = BTreeMap::<RunId, (usize, &RunEnd)>::new();
        let mut is_repeated = false;
        for (index, change) in self.changes.iter().enumerate() {
            if let (false, Some(end)) = (self.stale[index], &change.run_status) {
                match first.entry(change.run) {
                    Entry::Vacant(entry) => drop(entry.insert((index, end))),
                    Entry::Occupied(_) => {
                        self.stale[index] = true;
                        is_repeated = true;
                    }
                }
            }
        }
        if is_repeated {
            return Err(Stop::Again);
        }
        let ends: Vec<_> = first.into_iter().collect();
        let add = |args: &mut Args, (run, (_, end)): &(RunId, (usize, &RunEnd))| {
            args.text(run.as_str());
            args.text(end.status.as_str());
            args.int(end.finished_at.0);
            args.text_or_null(end.error.as_deref());
        };
        let mut ended = HashSet::new();
        tx.ask(&sql::END_RUNS, &ends, add, |row| {
            ended.insert(run_id(row.text(0)?)?);
            Ok(())
        })
        .await?;
        if ended.len() != ends.len() {
            for (_, (index, _)) in ends.iter().filter(|(run, _)| !ended.contains(run)) {
                self.stale[*index] = true;
            }
            return Err(Stop::Again);
        }
        Ok(())
    }

    /// Everything that neither guards nor is counted.
    async fn insert_rows(&self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Error> {
        let number = |task: &TaskId| numbers.get(task).copied();
        let mut links = Vec::new();
        let (mut attempts, mut attempts_ended) = (Vec::new(), Vec::new());
        let (mut calls, mut calls_ended) = (Vec::new(), Vec::new());
        let mut contexts = Vec::new();
        let mut texts = BTreeMap::<TextHash, &Text>::new();
        let mut memories = Vec::new();
        let mut indexes = BTreeMap::<RunId, TextHash>::new();
        for (_, change) in self.live() {
            // `find_numbers` has seen to it that every number is there.
            let at = change.at;
            let links_of = change.links.iter();
            links.extend(links_of.filter_map(|(from, to, kind)| Some((number(from)?, number(to)?, *kind))));
            attempts.extend(change.attempts.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            attempts_ended.extend(change.attempts_ended.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            calls.extend(change.calls.iter().filter_map(|it| Some((number(&it.id.attempt.task)?, it, at))));
            calls_ended.extend(change.calls_ended.iter().filter_map(|it| Some((number(&it.id.attempt.task)?, it))));
            contexts.extend(change.contexts.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            texts.extend(change.texts.iter().map(|text| (text.hash, text)));
            memories.extend(change.memories.iter().map(|record| (record, same_text(change, record))));
            indexes.extend(change.index.map(|hash| (change.run, hash)));
        }
        tx.write(&sql::INSERT_LINKS, &links, |args, (from, to, kind)| {
            args.int(*from);
            args.int(*to);
            args.word(kind.as_str());
        })
        .await?;
        let beginnings = [
            Part {
                bulk: &sql::INSERT_ATTEMPTS,
                rows: attempts.len(),
                add: &|args, row| add_attempt(args, &attempts[row]),
            },
            Part { bulk: &sql::INSERT_CALLS, rows: calls.len(), add: &|args, row| add_call(args, &calls[row]) },
            Part {
                bulk: &sql::INSERT_CONTEXTS,
                rows: contexts.len(),
                add: &|args, row| add_context(args, &contexts[row]),
            },
        ];
        tx.write_group(&sql::BEGINNINGS, &beginnings).await?;
        // In the order of their hashes, so that two transactions never wait for each other.
        let texts: Vec<&Text> = texts.into_values().collect();
        let ends = [
            Part {
                bulk: &sql::END_ATTEMPTS,
                rows: attempts_ended.len(),
                add: &|args, row| add_attempt_end(args, &attempts_ended[row]),
            },
            Part {
                bulk: &sql::END_CALLS,
                rows: calls_ended.len(),
                add: &|args, row| add_call_end(args, &calls_ended[row]),
            },
            Part { bulk: &sql::INSERT_TEXTS, rows: texts.len(), add: &|args, row| add_text(args, texts[row]) },
            Part {
                bulk: &sql::INSERT_MEMORIES,
                rows: memories.len(),
                add: &|args, row| add_memory(args, &memories[row]),
            },
        ];
        tx.write_group(&sql::ENDS, &ends).await?;
        let indexes: Vec<(RunId, TextHash)> = indexes.into_iter().collect();
        tx.write(&sql::INDEX_RUNS, &indexes, |args, (run, hash)| {
            args.text(run.as_str());
            args.bytes(&hash.0);
        })
        .await?;
        Ok(())
    }

    /// The rows of all events, and the events of each change.
    fn number_events(&self, mut seqs: Seqs) -> (Vec<EventOf<'a>>, Vec<Vec<Event>>) {
        let mut rows = Vec::new();
        let mut answers = Vec::with_capacity(self.changes.len());
        for (index, change) in self.changes.iter().enumerate() {
            let mut answer = Vec::new();
            if let (false, Some(seq)) = (self.stale[index], seqs.get_mut(&change.run)) {
                answer.reserve(change.events.len());
                for event in &change.events {
                    *seq += 1;
                    rows.push(EventOf { run: change.run, seq: *seq, event });
                    answer.push(Event {
                        seq: seq.unsigned_abs(),
                        at: event.at,
                        run: change.run,
                        task: event.task,
                        attempt: event.attempt,
                        body: event.body.clone(),
                    });
                }
            }
            answers.push(answer);
        }
        (rows, answers)
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
