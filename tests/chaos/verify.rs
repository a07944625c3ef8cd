//! The promise, checked from outside: what the database, the documents, the events that were shown and the upstream say
//! must be one story.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    ledger::{self, Ledger, Served},
    plan::Plan,
    rows::{Attempt, Call, Database, Event, Run, Task},
};

/// What was seen to be done before the end.
#[derive(Debug, Default)]
pub struct Acknowledged {
    /// Events that were printed.
    pub events: Vec<Value>,
    /// Results of tasks that were completed, by task.
    pub results: BTreeMap<String, String>,
}

impl Acknowledged {
    /// Keeps the results that are recorded now; the answer names those that changed since.
    pub fn note(&mut self, tasks: &[Task]) -> Vec<String> {
        let mut changed = Vec::new();
        for (key, before) in &self.results {
            let now = tasks.iter().find(|task| task.key == *key).and_then(|task| task.result.as_ref());
            if now != Some(before) {
                changed.push(format!("the acknowledged result of {key} was lost or overwritten"));
            }
        }
        for task in tasks.iter().filter(|task| task.status == "completed") {
            if let Some(result) = &task.result {
                self.results.entry(task.key.clone()).or_insert_with(|| result.clone());
            }
        }
        changed
    }
}

/// A run that has ended.
pub struct Case<'a> {
    pub plan: &'a Plan,
    pub ledger: &'a Ledger,
    pub database: &'a Database,
    /// Where documents were written by whoever said that the run is complete; none where nobody writes any.
    pub outs: Option<&'a [PathBuf]>,
    /// What may have lost an attempt: kills, freezes past a lease, restarts of the database. None where a busy machine may
    /// let leases end as well.
    pub disruptions: Option<u64>,
    pub acknowledged: &'a mut Acknowledged,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    pub tasks: u64,
    pub calls: u64,
    pub repeated: u64,
}

/// Everything that is recorded of a run.
struct Story<'a> {
    run: Run,
    tasks: Vec<Task>,
    attempts: Vec<Attempt>,
    calls: Vec<Call>,
    events: Vec<Event>,
    served: Vec<Served>,
    case: &'a Case<'a>,
}

/// Checks a run that should be complete.
pub fn verify(case: &mut Case<'_>) -> Verdict {
    let database = case.database;
    let tag = &case.plan.tag;
    let read = |database: &Database| -> Result<Option<_>, sea_orm::DbErr> {
        let Some(run) = database.run(tag)? else { return Ok(None) };
        let tasks = database.tasks(&run.id)?;
        let (attempts, calls) = (database.attempts(&run.id)?, database.calls(&run.id)?);
        let events = database.events(&run.id)?;
        Ok(Some((run, tasks, attempts, calls, events)))
    };
    let mut verdict = Verdict::default();
    let (run, tasks, attempts, calls, events) = match database.patiently(read) {
        Ok(Some(found)) => found,
        Ok(None) => {
            verdict.violations.push("the run is not recorded".into());
            return verdict;
        }
        Err(error) => {
            verdict.violations.push(error);
            return verdict;
        }
    };
    verdict.violations.extend(case.acknowledged.note(&tasks));
    let served = case.ledger.served(tag);
    let story = Story { run, tasks, attempts, calls, events, served, case };
    story.check(&mut verdict);
    verdict
}

impl Story<'_> {
    fn check(&self, verdict: &mut Verdict) {
        verdict.tasks = self.tasks.len() as u64;
        verdict.calls = self.served.len() as u64;
        let found = &mut verdict.violations;
        self.shown_events_are_recorded(found);
        if self.run.status != "completed" {
            // Whatever else is missing follows from that.
            found.push(format!("the run is {} at its end", self.run.status));
            return;
        }
        self.all_tasks_are_there(found);
        for task in self.tasks.iter().filter(|task| task.kind != "root") {
            self.one_result(task, found);
        }
        self.nothing_is_open(found);
        verdict.repeated = self.repeats(found);
        self.money(found);
        self.events_are_gapless(found);
        self.order_is_kept(found);
        if self.case.outs.is_some_and(<[PathBuf]>::is_empty) {
            found.push("nobody wrote the documents".into());
        }
        for out in self.case.outs.into_iter().flatten() {
            self.documents(out, found);
        }
    }

    fn all_tasks_are_there(&self, found: &mut Vec<String>) {
        let mut recorded: Vec<&str> = self.tasks.iter().map(|task| task.key.as_str()).collect();
        recorded.sort_unstable();
        let mut wanted: Vec<&str> = self.case.plan.tasks.iter().map(|item| item.key.as_str()).collect();
        wanted.push(ledger::PLANNING);
        if recorded.contains(&ledger::SYNTHESIS) {
            // Whether a last task is needed is the product's business; it has to be one.
            wanted.push(ledger::SYNTHESIS);
        }
        wanted.sort_unstable();
        if recorded != wanted {
            found.push(format!("the tasks are {recorded:?} and should be {wanted:?}"));
        }
    }

    /// A task has one result, which is the answer of the last call of its last attempt.
    fn one_result(&self, task: &Task, found: &mut Vec<String>) {
        let key = &task.key;
        if task.status != "completed" {
            found.push(format!("{key} is {}", task.status));
            return;
        }
        let Some(result) = &task.result else {
            found.push(format!("{key} is completed and has no result"));
            return;
        };
        let Some(source) = self.served.iter().find(|it| *it.text == **result) else {
            found.push(format!("the result of {key} was never served: {result:.60}"));
            return;
        };
        if source.key != *key {
            found.push(format!("{key} has the result of {}", source.key));
        }
        let attempts: Vec<_> = self.attempts.iter().filter(|it| it.task == task.number).collect();
        let numbers: Vec<i64> = attempts.iter().map(|it| it.number).collect();
        if numbers.iter().copied().ne(1..=task.attempts) {
            found.push(format!("{key} counts {} attempts and has {numbers:?}", task.attempts));
        }
        let succeeded: Vec<i64> = attempts.iter().filter(|it| it.status == "succeeded").map(|it| it.number).collect();
        if succeeded != [task.attempts] {
            found.push(format!("{key} ran on after its result: attempts {succeeded:?} of {numbers:?} succeeded"));
        }
        let accepted = self.calls.iter().find(|it| it.task == task.number && it.reply.as_ref() == Some(result));
        match accepted {
            None => found.push(format!("no recorded call of {key} has its result")),
            Some(call) if call.attempt != task.attempts && self.case.plan.faults_percent == 0 => {
                // An answer that an earlier attempt recorded may be used by a later one.
                let has_later = self.calls.iter().any(|it| it.task == task.number && it.attempt > call.attempt);
                if has_later {
                    found.push(format!("the result of {key} is of attempt {}, and later ones called", call.attempt));
                }
            }
            Some(_) => {}
        }
    }

    fn nothing_is_open(&self, found: &mut Vec<String>) {
        for attempt in self.attempts.iter().filter(|it| it.status == "running") {
            found.push(format!("attempt {} of task {} is still running", attempt.number, attempt.task));
        }
        for call in self.calls.iter().filter(|it| it.outcome.is_none()) {
            found.push(format!("call {}.{} of task {} is still open", call.attempt, call.number, call.task));
        }
    }

    /// A call is repeated for an attempt that was lost only, and shows as such; an attempt is lost at most once for each
    /// disruption.
    fn repeats(&self, found: &mut Vec<String>) -> u64 {
        let mut times = BTreeMap::<&str, u64>::new();
        for served in &self.served {
            *times.entry(&served.key).or_default() += 1;
        }
        let mut repeated = 0;
        for task in &self.tasks {
            let key = &task.key;
            let again = times.get(key.as_str()).map_or(0, |times| times - 1);
            repeated += again;
            let lost = self.attempts.iter().filter(|it| it.task == task.number && it.is_lost).count() as u64;
            if again > lost {
                found.push(format!("{key} was answered {} times, and {lost} attempts were lost", again + 1));
            }
            if self.case.disruptions.is_some_and(|disruptions| lost > disruptions) {
                found.push(format!("{key} lost {lost} attempts to {:?} disruptions", self.case.disruptions));
            }
            let failed = u64::from(self.case.ledger.failed(&self.case.plan.tag, key));
            // One that asked nobody waited: every model it may ask was down for others.
            let asked = |number| self.calls.iter().any(|call| call.task == task.number && call.attempt == number);
            let tries = self.attempts.iter().filter(|it| it.task == task.number && !it.is_lost);
            let parked = tries.filter(|it| !asked(it.number)).count() as u64;
            if task.attempts.unsigned_abs() > 1 + lost + failed + parked {
                found.push(format!(
                    "{key} took {} attempts, {lost} lost, {failed} failed and {parked} waiting",
                    task.attempts
                ));
            }
        }
        repeated
    }

    /// What the upstream bills: what it served, and what it failed to deliver.
    fn billed(&self) -> u64 {
        let served: u64 = self.served.iter().map(|it| it.cost).sum();
        served + self.case.ledger.billed_failures(&self.case.plan.tag)
    }

    /// What is reported is at least what is billed.
    fn money(&self, found: &mut Vec<String>) {
        let billed = self.billed();
        let calls: i64 = self.calls.iter().filter_map(|it| it.cost).sum();
        let tasks: i64 = self.tasks.iter().map(|it| it.cost).sum();
        if calls.unsigned_abs() < billed {
            found.push(format!("calls say {calls} micro-dollars, and {billed} are billed"));
        }
        if tasks != calls {
            found.push(format!("tasks say {tasks} micro-dollars, and their calls {calls}"));
        }
    }

    fn events_are_gapless(&self, found: &mut Vec<String>) {
        if self.events.iter().map(|it| it.seq).ne(1..=self.run.last_seq) {
            found.push(format!("the events have gaps: {} of {}", self.events.len(), self.run.last_seq));
        }
        if self.events.last().is_none_or(|it| it.kind != "run_finished") {
            found.push("the last event is not run_finished".into());
        }
        for task in self.tasks.iter().filter(|task| task.kind != "root") {
            let ends =
                self.events.iter().filter(|it| it.kind == "task_completed" && it.task.as_ref() == Some(&task.id));
            let count = ends.count();
            if count != 1 {
                found.push(format!("{} has {count} events that say it is completed", task.key));
            }
        }
    }

    /// A task starts after what it needs is completed, and sees it.
    fn order_is_kept(&self, found: &mut Vec<String>) {
        let ids: HashMap<&str, &str> = self.tasks.iter().map(|task| (&*task.key, &*task.id)).collect();
        let seq = |key: &str, kind: &str| {
            let id = ids.get(key)?;
            self.events.iter().find(|it| it.kind == kind && it.task.as_deref() == Some(*id)).map(|it| it.seq)
        };
        let results: HashMap<&str, u64> = (self.tasks.iter())
            .filter_map(|task| Some((&*task.key, *ledger::answers_in(task.result.as_ref()?).first()?)))
            .collect();
        let served: HashMap<u64, &Served> = self.served.iter().map(|it| (it.number, it)).collect();
        for item in &self.case.plan.tasks {
            let started = seq(&item.key, "task_started");
            let saw: HashSet<u64> = (results.get(&*item.key).and_then(|number| served.get(number)))
                .map(|it| it.saw.iter().copied().collect())
                .unwrap_or_default();
            for need in &item.needs {
                let need = &self.case.plan.tasks[*need].key;
                if started < seq(need, "task_completed") {
                    found.push(format!("{} started before {need} was completed", item.key));
                }
                if results.get(&**need).is_some_and(|number| !saw.contains(number)) {
                    found.push(format!("{} was not told the result of {need}", item.key));
                }
            }
        }
    }

    /// What a person was shown is what is recorded.
    fn shown_events_are_recorded(&self, found: &mut Vec<String>) {
        let recorded: HashMap<i64, &Event> = self.events.iter().map(|it| (it.seq, it)).collect();
        for shown in &self.case.acknowledged.events {
            let seq = shown["seq"].as_i64().unwrap_or_default();
            let is_same = recorded.get(&seq).is_some_and(|event| {
                let payload: Value = serde_json::from_str(&event.payload).unwrap_or_default();
                let fields = payload.as_object().into_iter().flatten();
                shown["type"] == event.kind.as_str()
                    && shown["task"].as_str() == event.task.as_deref()
                    && fields.into_iter().all(|(name, value)| shown[name] == *value)
            });
            if !is_same {
                found.push(format!("event {seq} ({}) was shown and is not recorded", shown["type"]));
            }
        }
    }

    fn documents(&self, out: &Path, found: &mut Vec<String>) {
        let name = out.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let read = |path: &str| std::fs::read_to_string(out.join(path));
        for file in ["RESULT.md", "INDEX.md"] {
            if read(file).is_ok_and(|text| !text.trim().is_empty()) {
                continue;
            }
            found.push(format!("{name}/{file} is missing"));
        }
        let Some(report) = read("report.json").ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) else {
            found.push(format!("{name}/report.json is missing or broken"));
            return;
        };
        let billed = self.billed();
        let told = report["cost_usd"].as_f64().unwrap_or(-1.0) * 1e6;
        if told + 0.5 < billed as f64 {
            found.push(format!("{name}/report.json says {told} micro-dollars, and {billed} are billed"));
        }
        let mut written = BTreeSet::new();
        for task in report["tasks"].as_array().into_iter().flatten() {
            let Some(document) = task["document"].as_str() else { continue };
            let result = self.tasks.iter().find(|it| Some(it.id.as_str()) == task["id"].as_str());
            let result = result.and_then(|it| it.result.as_deref()).unwrap_or("no result");
            if !read(document).is_ok_and(|text| text.contains(result.trim())) {
                found.push(format!("{name}/{document} does not have its result"));
            }
            written.insert(out.join(document));
        }
        let expected = self.tasks.iter().filter(|task| task.kind != "root").count();
        if written.len() != expected {
            found.push(format!("{name} has {} documents of {expected} tasks", written.len()));
        }
        let files = std::fs::read_dir(out.join("tasks")).into_iter().flatten().flatten().map(|entry| entry.path());
        for file in files.filter(|file| !written.contains(file)) {
            found.push(format!("{} is nobody's document", file.display()));
        }
    }
}
