//! Tools a model may call, and its calls.
//!
//! **Invariant:** a call is a wish: nothing here runs anything.

use std::sync::Arc;

/// A tool as the model is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_` and `-`; at most 64.
    pub name: String,
    /// When to call it and what it gives back.
    pub description: String,
    /// The JSON Schema of its arguments: an object.
    pub parameters: serde_json::Value,
}

/// Whether the model must call a tool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// None, though it sees them.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolSet {
    /// At least one.
    pub tools: Vec<Tool>,
    /// Whether one must be called.
    pub choice: ToolChoice,
}

/// A call the model wants to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The provider's name for it; unique within the answer.
    pub id: Arc<str>,
    /// The tool. Not yet checked against the tools of the request.
    pub name: Arc<str>,
    /// Its arguments: the text of a JSON value, as the model wrote it. `{}` when it wrote none.
    pub arguments: Arc<str>,
}
