//! Finding a run or a task by what a person pastes: an id, the beginning of one, or a task's name inside a run.
//!
//! **Invariant:** what could mean two things is refused, with both named.

use crewline_types::{RunId, Task, TaskId};

use crate::{Error, Handle};

/// Candidates that are shown.
pub(crate) const CANDIDATES_MAX: u32 = 8;
/// Characters of what was given that are shown.
const SHOWN_MAX: usize = 40;

/// What an id names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A run.
    Run(RunId),
    /// A task of a run.
    Task(RunId, TaskId),
}

impl Found {
    /// The run, or the one the task belongs to.
    pub fn run(self) -> RunId {
        match self {
            Self::Run(run) | Self::Task(run, _) => run,
        }
    }

    /// The task, if it is one.
    pub fn task(self) -> Option<TaskId> {
        match self {
            Self::Run(_) => None,
            Self::Task(_, task) => Some(task),
        }
    }
}

impl Handle {
    /// The run or task that `text` names: the id of a run or a task, its shortest unique beginning, or `RUN/KEY`.
    pub async fn find(&self, text: &str) -> Result<Found, Error> {
        let text = text.trim();
        if let Some((run, key)) = text.split_once('/') {
            let run = self.find_run(run).await?;
            let task = pick(&self.store().tasks(run).await?, key)?;
            return Ok(Found::Task(run, task));
        }
        let prefix = text.to_ascii_lowercase();
        let runs = self.store().find_runs(&prefix, CANDIDATES_MAX).await?;
        let tasks = self.store().find_tasks(&prefix, CANDIDATES_MAX).await?;
        match (&*runs, &*tasks) {
            ([], []) => Err(not_found("run or task", text)),
            ([run], []) => Ok(Found::Run(*run)),
            ([], [(task, run)]) => Ok(Found::Task(*run, *task)),
            (runs, tasks) => {
                let runs = runs.iter().map(|run| format!("run {run}"));
                Err(ambiguous(text, runs.chain(tasks.iter().map(|(task, run)| format!("task {task} of run {run}")))))
            }
        }
    }

    /// The run that `text` names; a task's id names the run it belongs to. A run goes before a task.
    pub async fn find_run(&self, text: &str) -> Result<RunId, Error> {
        let text = text.trim();
        let prefix = text.to_ascii_lowercase();
        match &*self.store().find_runs(&prefix, CANDIDATES_MAX).await? {
            [] => {}
            [run] => return Ok(*run),
            runs => return Err(ambiguous(text, runs.iter().map(RunId::to_string))),
        }
        match &*self.store().find_tasks(&prefix, CANDIDATES_MAX).await? {
            [] => Err(not_found("run", text)),
            [(_, run)] => Ok(*run),
            tasks => Err(ambiguous(text, tasks.iter().map(|(task, run)| format!("task {task} of run {run}")))),
        }
    }

    /// The task of `run` that `text` names: its key, its id, or the beginning of its id.
    pub async fn find_task(&self, run: RunId, text: &str) -> Result<TaskId, Error> {
        pick(&self.store().tasks(run).await?, text)
    }
}

/// The task that `text` names: its key goes before the beginning of an id.
pub fn pick(tasks: &[Task], text: &str) -> Result<TaskId, Error> {
    let text = text.trim();
    if let Some(task) = tasks.iter().find(|task| &*task.key == text) {
        return Ok(task.id);
    }
    let prefix = text.to_ascii_lowercase();
    let fitting: Vec<&Task> =
        tasks.iter().filter(|task| !prefix.is_empty() && task.id.as_str().starts_with(&prefix)).collect();
    match &*fitting {
        [] => Err(not_found("task", text)),
        [task] => Ok(task.id),
        many => {
            let many = many.iter().take(CANDIDATES_MAX as usize);
            Err(ambiguous(text, many.map(|task| format!("{} ({})", task.id, task.key))))
        }
    }
}

pub(crate) fn not_found(what: &'static str, text: &str) -> Error {
    Error::NotFound { what, id: text.chars().take(SHOWN_MAX).collect() }
}

pub(crate) fn ambiguous(text: &str, candidates: impl Iterator<Item = String>) -> Error {
    Error::Ambiguous { prefix: text.chars().take(SHOWN_MAX).collect(), candidates: candidates.collect() }
}

#[cfg(test)]
mod tests {
    use crewline_types::Role;

    use super::*;

    fn task(id: &str, key: &str) -> Task {
        let run = "aaaaaaaa".parse().unwrap();
        Task::new(id.parse().unwrap(), run, key, Role::from("writer"), crewline_types::Timestamp(0))
    }

    #[test]
    fn a_key_goes_before_the_beginning_of_an_id() {
        let tasks = [task("k3v9x0ab", "t1"), task("t1111111", "t2"), task("t1222222", "k3")];
        for (text, id) in [("t1", "k3v9x0ab"), ("t11", "t1111111"), ("T12", "t1222222"), ("k3", "t1222222")] {
            assert_eq!(pick(&tasks, text).unwrap().as_str(), id, "{text}");
        }
        assert!(matches!(pick(&tasks, "zz"), Err(Error::NotFound { what: "task", .. })));
        assert!(matches!(pick(&tasks, ""), Err(Error::NotFound { .. })));
        let two = [task("t1111111", "a"), task("t1222222", "b")];
        let Err(Error::Ambiguous { candidates, .. }) = pick(&two, "t1") else { panic!() };
        assert_eq!(candidates, ["t1111111 (a)", "t1222222 (b)"]);
    }
}
