//! Whether the database still holds what it promises; for people who doubt it, and for tests that kill processes.
//!
//! **Invariant:** reading only; each question is one statement, so it sees one moment and does not stop who writes.

use std::fmt;

use sea_orm::{ConnectionTrait as _, Statement};

use crate::{Backend, Error, Store};

/// Rows that are named for one rule.
const NAMED_MAX: usize = 20;

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is violated, as `event.gap`.
    pub rule: &'static str,
    /// What that means.
    pub meaning: &'static str,
    /// What violates it: an id, or the database's own words.
    pub subject: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}: {}", self.rule, self.meaning, self.subject)
    }
}

/// Rule, meaning, and a query that names what violates it.
const RULES: &[(&str, &str, &str)] = &[
    (
        "event.gap",
        "the events of a run are not numbered from 1 without gaps",
        "SELECT r.id FROM runs AS r LEFT JOIN (SELECT run_id, COUNT(*) AS events, MIN(seq) AS first_seq, \
         MAX(seq) AS last_seq FROM events GROUP BY run_id) AS e ON e.run_id = r.id \
         WHERE COALESCE(e.events, 0) <> r.last_seq OR COALESCE(e.last_seq, 0) <> r.last_seq \
         OR COALESCE(e.first_seq, 1) <> 1",
    ),
    (
        "event.run",
        "events belong to a run that is not there",
        "SELECT DISTINCT e.run_id FROM events AS e WHERE NOT EXISTS (SELECT 1 FROM runs AS r WHERE r.id = e.run_id)",
    ),
    (
        "task.finished_at",
        "a task is final without a time, or has a time without being final",
        "SELECT t.id FROM tasks AS t WHERE \
         (t.status = 'completed' OR t.status = 'failed' OR t.status = 'cancelled') <> (t.finished_at IS NOT NULL)",
    ),
    (
        "task.result",
        "a task is completed without a result",
        "SELECT t.id FROM tasks AS t WHERE t.status = 'completed' AND t.result IS NULL \
         AND (t.kind = 'atomic' OR t.kind = 'synthesis')",
    ),
    (
        "task.run",
        "a completed run has a task that is under way",
        "SELECT t.id FROM tasks AS t JOIN runs AS r ON r.id = t.run_id \
         WHERE r.status = 'completed' AND (t.status = 'pending' OR t.status = 'in_progress')",
    ),
    (
        "attempt.task",
        "an attempt belongs to no task, or its number is higher than the task's attempts",
        "SELECT a.task || '.' || a.number FROM attempts AS a LEFT JOIN tasks AS t ON t.number = a.task \
         WHERE t.number IS NULL OR a.number > t.attempts",
    ),
    (
        "attempt.open",
        "an attempt runs although its task is completed",
        "SELECT t.id || '.' || a.number FROM attempts AS a JOIN tasks AS t ON t.number = a.task \
         WHERE a.status = 'running' AND t.status = 'completed'",
    ),
    (
        "call.attempt",
        "a call belongs to no attempt",
        "SELECT c.task || '.' || c.attempt || '.' || c.number FROM calls AS c \
         WHERE NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.task = c.task AND a.number = c.attempt) \
         AND c.purpose <> 'summary'",
    ),
    (
        "call.open",
        "a call has no end although its attempt has one, or a summary's although its run has",
        "SELECT t.id || '.' || c.attempt || '.' || c.number FROM calls AS c JOIN tasks AS t ON t.number = c.task \
         JOIN runs AS r ON r.id = t.run_id LEFT JOIN attempts AS a ON a.task = c.task AND a.number = c.attempt \
         WHERE c.outcome IS NULL \
         AND CASE WHEN c.purpose = 'summary' THEN r.status <> 'running' ELSE a.status <> 'running' END",
    ),
    (
        "tool_call.call",
        "a call of a tool belongs to no call of a model",
        "SELECT x.task || '.' || x.attempt || '.' || x.call || '.' || x.place FROM tool_calls AS x \
         WHERE NOT EXISTS (SELECT 1 FROM calls AS c \
         WHERE c.task = x.task AND c.attempt = x.attempt AND c.number = x.call)",
    ),
    (
        "text.tool_call",
        "the text of a tool's output is missing",
        "SELECT x.task || '.' || x.attempt || '.' || x.call || '.' || x.place FROM tool_calls AS x \
         WHERE x.output IS NOT NULL AND NOT EXISTS (SELECT 1 FROM texts AS t WHERE t.hash = x.output)",
    ),
    (
        "context.attempt",
        "a context belongs to no attempt",
        "SELECT x.task || '.' || x.attempt FROM task_contexts AS x \
         WHERE NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.task = x.task AND a.number = x.attempt)",
    ),
    (
        "link.task",
        "a link leads from or to no task",
        "SELECT l.from_task || '-' || l.to_task FROM task_links AS l \
         WHERE NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.number = l.from_task) \
         OR NOT EXISTS (SELECT 1 FROM tasks AS t WHERE t.number = l.to_task)",
    ),
    (
        "offer.run",
        "an offer belongs to no task, or its run has ended",
        "SELECT o.task_id || '.' || o.attempt FROM offers AS o LEFT JOIN tasks AS t ON t.number = o.task \
         LEFT JOIN runs AS r ON r.id = o.run_id WHERE t.number IS NULL OR t.id <> o.task_id OR t.run_id <> o.run_id \
         OR r.id IS NULL OR (r.status <> 'running' AND r.status <> 'interrupted')",
    ),
    (
        "run.charged",
        "what a run has cost is not the sum of its calls",
        "SELECT r.id FROM runs AS r WHERE r.charged_micro_usd IS NOT NULL AND r.charged_micro_usd <> ( \
         SELECT COALESCE(SUM(CASE WHEN c.outcome IS NULL AND c.reply IS NULL THEN COALESCE(c.reserved_micro_usd, 0) \
         ELSE COALESCE(c.cost_micro_usd, 0) END), 0) \
         FROM tasks AS t JOIN calls AS c ON c.task = t.number WHERE t.run_id = r.id)",
    ),
    (
        "text.task",
        "the text of a result is missing",
        "SELECT t.id FROM tasks AS t WHERE t.result IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM texts AS x WHERE x.hash = t.result)",
    ),
    (
        "text.call",
        "the text of an answer is missing",
        "SELECT t.id || '.' || c.attempt || '.' || c.number FROM calls AS c JOIN tasks AS t ON t.number = c.task \
         WHERE c.reply IS NOT NULL AND NOT EXISTS (SELECT 1 FROM texts AS x WHERE x.hash = c.reply)",
    ),
    (
        "text.index",
        "the text of an index is missing",
        "SELECT r.id FROM runs AS r WHERE r.index_hash IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM texts AS x WHERE x.hash = r.index_hash)",
    ),
    (
        "text.memory",
        "the text of a memory is missing",
        "SELECT CAST(m.seq AS TEXT) FROM memories AS m WHERE m.text_hash IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM texts AS x WHERE x.hash = m.text_hash)",
    ),
];

impl Store {
    /// What is wrong with the database; at most twenty of a kind. Reads all of it: a large one takes a while.
    pub async fn integrity(&self) -> Result<Vec<Problem>, Error> {
        let mut problems = Vec::new();
        if self.backend() == Backend::Sqlite {
            for word in self.words(&format!("PRAGMA integrity_check({NAMED_MAX})"), 0).await? {
                if word != "ok" {
                    problems.push(Problem { rule: "file", meaning: "the file is damaged", subject: word });
                }
            }
            for table in self.words("PRAGMA foreign_key_check", 0).await? {
                let meaning = "a row refers to one that is not there";
                problems.push(Problem { rule: "foreign_key", meaning, subject: table });
            }
        }
        for (rule, meaning, query) in RULES {
            for subject in self.words(&format!("{query} LIMIT {NAMED_MAX}"), 0).await? {
                problems.push(Problem { rule, meaning, subject });
            }
        }
        Ok(problems)
    }

    async fn words(&self, query: &str, column: usize) -> Result<Vec<String>, Error> {
        let reader = self.reader().await?;
        let rows = reader.query_all_raw(Statement::from_string(reader.get_database_backend(), query)).await?;
        rows.iter().take(NAMED_MAX).map(|row| Ok(row.try_get_by_index(column)?)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names_of_their_own() {
        let mut names: Vec<_> = RULES.iter().map(|(rule, ..)| *rule).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }
}
