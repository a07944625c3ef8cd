//! A task: its fields, its status and its links (T1–T5).

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Check, MicroUsd, Role, RunId, TaskId, TextHash, Timestamp, Usage};

/// A word is not one of those allowed for a field (T14).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not allowed for `{field}`: {allowed}")]
pub struct FieldError {
    /// The field.
    pub field: &'static str,
    /// What was given.
    pub value: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Where a task is in its life (T2). `ready` is derived, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaskStatus {
    /// Waits for its requirements, a slot or its time.
    Pending,
    /// An attempt is running.
    InProgress,
    /// A requirement failed or was cancelled.
    Blocked,
    /// Waits for a person.
    AwaitingApproval,
    /// Has a result.
    Completed,
    /// Will not have a result.
    Failed,
    /// A person ended it.
    Cancelled,
}

impl TaskStatus {
    /// The canonical name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Blocked => "blocked",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens by itself.
    pub fn is_final(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Cancelled => true,
            Self::Pending | Self::InProgress | Self::Blocked | Self::AwaitingApproval => false,
        }
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl FromStr for TaskStatus {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        Ok(match text.trim().to_ascii_lowercase().as_str() {
            "pending" | "created" | "queued" => Self::Pending,
            "in_progress" | "in-progress" | "running" => Self::InProgress,
            "blocked" => Self::Blocked,
            "awaiting_approval" => Self::AwaitingApproval,
            "completed" | "done" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            _ => {
                return Err(FieldError {
                    field: "status",
                    value: text.chars().take(40).collect(),
                    allowed: "pending, in_progress, blocked, awaiting_approval, completed, failed or cancelled",
                });
            }
        })
    }
}

impl Serialize for TaskStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TaskStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The beginning of the reason of a pending task that waits for its models; what follows says for which, and why.
pub const PARKED: &str = "parked: ";

/// What a task is in the tree (G2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// The goal; its work is planning.
    Root,
    /// Has children.
    Composite,
    /// One specialist does it.
    Atomic,
    /// Writes the final document from what the others made.
    Synthesis,
}

impl TaskKind {
    /// The name used in events and the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Composite => "composite",
            Self::Atomic => "atomic",
            Self::Synthesis => "synthesis",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "root" => Self::Root,
            "composite" => Self::Composite,
            "atomic" => Self::Atomic,
            "synthesis" => Self::Synthesis,
            _ => return None,
        })
    }
}

/// What a link between two tasks means (T5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkKind {
    /// `from` runs only after `to` is completed; acyclic.
    Requires,
    /// `from` should see what `to` made.
    Refers,
    /// `from` repeats `to`.
    Duplicates,
    /// Worth knowing of each other.
    RelatesTo,
}

impl LinkKind {
    /// The name used in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requires => "requires",
            Self::Refers => "refers",
            Self::Duplicates => "duplicates",
            Self::RelatesTo => "relates_to",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "requires" => Self::Requires,
            "refers" => Self::Refers,
            "duplicates" => Self::Duplicates,
            "relates_to" => Self::RelatesTo,
            _ => return None,
        })
    }
}

/// 1 (low) … 10 (high); words low=2, medium=5, high=8, critical=10 (T3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Priority(u8);

impl Priority {
    /// `None` outside 1 … 10.
    pub fn new(value: u8) -> Option<Self> {
        (1..=10).contains(&value).then_some(Self(value))
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl FromStr for Priority {
    type Err = FieldError;

    fn from_str(text: &str) -> Result<Self, FieldError> {
        let value = match text.trim().to_ascii_lowercase().as_str() {
            "low" => Some(Self(2)),
            "medium" => Some(Self(5)),
            "high" => Some(Self(8)),
            "critical" => Some(Self(10)),
            number => number.parse().ok().and_then(Self::new),
        };
        value.ok_or_else(|| FieldError {
            field: "priority",
            value: text.chars().take(40).collect(),
            allowed: "1 to 10, or low, medium, high, critical",
        })
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(i64),
            Word(String),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Number(number) => number.to_string().parse(),
            Raw::Word(word) => word.parse(),
        }
        .map_err(D::Error::custom)
    }
}

/// One success criterion of a task (T4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// What must hold; made from `check` when left out there.
    #[serde(default)]
    pub criterion: String,
    /// Whether a program can tell.
    #[serde(default)]
    pub measurable: bool,
    /// How a program tells: an answer that fails is rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// A task as the database holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// The run it belongs to.
    pub run: RunId,
    /// The task above it; none for the root.
    pub parent: Option<TaskId>,
    /// Its stable name inside the plan (`t1`); never changes between replays.
    pub key: Arc<str>,
    /// Its place in the plan; breaks ties after priority.
    pub position: u32,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// A line.
    pub title: Arc<str>,
    /// What is to be done.
    pub description: Arc<str>,
    /// Who does it.
    pub role: Role,
    /// How much it matters.
    pub priority: Priority,
    /// How long it should take.
    pub duration: Option<Duration>,
    /// Where it is in its life.
    pub status: TaskStatus,
    /// The criteria of success.
    pub success_criteria: Vec<Criterion>,
    /// Attempts so far, and the fencing token of the last one.
    pub attempts: u32,
    /// The result, once completed.
    pub result: Option<TextHash>,
    /// Why it failed or is blocked.
    pub reason: Option<String>,
    /// The model that made the result.
    pub model: Option<String>,
    /// Consumed by all attempts.
    pub usage: Usage,
    /// Cost of all priced calls.
    pub cost: MicroUsd,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When its first attempt began.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
    /// The task whose specialist asked for it; none for one of the plan.
    pub created_by: Option<TaskId>,
}

impl Task {
    /// A piece of work that nobody has begun, with neither title nor description.
    pub fn new(id: TaskId, run: RunId, key: impl Into<Arc<str>>, role: Role, at: Timestamp) -> Self {
        Self {
            id,
            run,
            parent: None,
            key: key.into(),
            position: 0,
            kind: TaskKind::Atomic,
            title: "".into(),
            description: "".into(),
            role,
            priority: Priority::default(),
            duration: None,
            status: TaskStatus::Pending,
            success_criteria: Vec::new(),
            attempts: 0,
            result: None,
            reason: None,
            model: None,
            usage: Usage::default(),
            cost: MicroUsd::ZERO,
            created_at: at,
            started_at: None,
            finished_at: None,
            created_by: None,
        }
    }
}

/// What people and outside agents say about a task; none of it is needed to run it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskDetails {
    /// Who works on it, or shall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planned_for: Option<Timestamp>,
    /// Not after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What it should take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_hours: Option<f64>,
    /// What it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_hours: Option<f64>,
    /// What came of it, in a few words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_summary: Option<String>,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What people say of its result, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    /// Who changed it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_agent: Option<String>,
    /// Anything else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How much of it is done: 0 to 100.
    pub percent: u8,
    /// What is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// When it was said.
    pub at: Timestamp,
}

/// What somebody says of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feedback {
    /// How good it is: 1 to 5.
    pub quality: u8,
    /// Whether it came in time: 1 to 5.
    pub timeliness: u8,
    /// More of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Who says it.
    pub agent: String,
    /// When.
    pub at: Timestamp,
}

impl TaskDetails {
    /// Whether nothing was said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synonyms_become_canonical() {
        for (word, status) in [
            ("created", TaskStatus::Pending),
            ("queued", TaskStatus::Pending),
            ("in-progress", TaskStatus::InProgress),
            ("running", TaskStatus::InProgress),
            ("done", TaskStatus::Completed),
        ] {
            assert_eq!(word.parse(), Ok(status));
        }
        assert_eq!(
            "ready".parse::<TaskStatus>().unwrap_err().to_string(),
            "`ready` is not allowed for `status`: pending, in_progress, blocked, awaiting_approval, completed, failed or cancelled"
        );
    }

    #[test]
    fn priority_takes_words_and_numbers() {
        assert_eq!("critical".parse::<Priority>().unwrap().get(), 10);
        assert_eq!(serde_json::from_str::<Priority>("8").unwrap().get(), 8);
        assert_eq!(serde_json::from_str::<Priority>("\"low\"").unwrap().get(), 2);
        for bad in ["0", "11", "-1", "urgent"] {
            assert!(bad.parse::<Priority>().is_err());
        }
    }
}
