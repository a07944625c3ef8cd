//! What a crew remembers: the record, its type and the scope that every query needs (R1, R2, R6).

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{MemoryId, RunId, TaskId, Timestamp};

/// The project a memory belongs to. Every question to memory takes one, so an unscoped query does not compile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectScope(Arc<str>);

impl ProjectScope {
    /// The scope of the project with this name.
    pub fn of(project: &str) -> Self {
        Self(project.into())
    }

    /// The project's name.
    pub fn project(&self) -> &str {
        &self.0
    }
}

/// What a memory is (R1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryType {
    /// What was said, word for word.
    RawInteraction,
    /// What a task made, in short.
    TaskSummary,
    /// What one role tells the next.
    HandoffSummary,
    /// What a project knows, in short.
    ProjectSummary,
    /// A design.
    DesignDoc,
    /// Code.
    CodeSnippet,
    /// What a task has said so far, while it goes on.
    RollingSummary,
    /// A type of the user's own.
    Other(Arc<str>),
}

impl MemoryType {
    /// The name used in the database, in filters and on the command line.
    pub fn as_str(&self) -> &str {
        match self {
            Self::RawInteraction => "raw_interaction",
            Self::TaskSummary => "task_summary",
            Self::HandoffSummary => "handoff_summary",
            Self::ProjectSummary => "project_summary",
            Self::DesignDoc => "design_doc",
            Self::CodeSnippet => "code_snippet",
            Self::RollingSummary => "rolling_summary",
            Self::Other(name) => name,
        }
    }
}

impl From<&str> for MemoryType {
    fn from(name: &str) -> Self {
        match name {
            "raw_interaction" => Self::RawInteraction,
            "task_summary" => Self::TaskSummary,
            "handoff_summary" => Self::HandoffSummary,
            "project_summary" => Self::ProjectSummary,
            "design_doc" => Self::DesignDoc,
            "code_snippet" => Self::CodeSnippet,
            "rolling_summary" => Self::RollingSummary,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for MemoryType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

impl Serialize for MemoryType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MemoryType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// One memory. Its id is the hash of its content within its scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryRecord {
    /// Names the record.
    pub id: MemoryId,
    /// The project it belongs to.
    pub project: Arc<str>,
    /// The run that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// The task it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: MemoryType,
    /// Who said it.
    pub agent: Arc<str>,
    /// When.
    pub created_at: Timestamp,
    /// The text.
    pub text: Arc<str>,
    /// The memories it was made from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ids: Vec<MemoryId>,
    /// What happened to it since, and what people say about it.
    #[serde(flatten)]
    pub marks: MemoryMarks,
}

/// What may change about a memory while its text stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryMarks {
    /// How much it matters, in thousandths, 0 … 1000.
    pub importance: u16,
    /// Whether a person wants it near the top.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// The newer memory that took its place; it is kept, and ranks lower.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<MemoryId>,
    /// How often the same thing was said again.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeats: u32,
    /// Whether one of its sources was forgotten or superseded, so that it must be made again.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
    /// Whatever else its writer wants kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What a memory matters when nobody says otherwise, in thousandths.
pub const IMPORTANCE: u16 = 500;

impl Default for MemoryMarks {
    fn default() -> Self {
        Self {
            importance: IMPORTANCE,
            pinned: false,
            superseded_by: None,
            repeats: 0,
            stale: false,
            metadata: BTreeMap::new(),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u32) -> bool {
    *value == 0
}
