//! The rows as sea-orm reads them, one file a table, and their way into the domain's types. Private to the crate.
//!
//! Writing goes through `statements`, and `projects`, `memories` and `memory_vectors` are read by statements of their
//! own, so they have no entity.
//!
//! **Invariant:** a value that nothing here writes is [`Error::Corrupt`], never a default.

#![allow(unreachable_pub, clippy::struct_field_names, reason = "the derives write `pub`, and call every row `Model`")]

pub(crate) mod api_key;
pub(crate) mod approval;
pub(crate) mod attempt;
pub(crate) mod call;
pub(crate) mod context_choice;
pub(crate) mod event;
pub(crate) mod node;
pub(crate) mod offer;
pub(crate) mod run;
pub(crate) mod task;
pub(crate) mod task_context;
pub(crate) mod task_link;
pub(crate) mod text;
pub(crate) mod tool_call;
pub(crate) mod tool_pin;

use crewline_types::{TextHash, Usage, event::ErrorNote};

use crate::Error;

/// Reads a value of `column`.
pub(crate) fn parse<T>(column: &'static str, text: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
    read(text).ok_or_else(|| Error::corrupt(column, text))
}

/// Reads a value of `column` that may be NULL.
pub(crate) fn opt<T>(
    column: &'static str,
    text: Option<impl AsRef<str>>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Error> {
    text.map(|text| parse(column, text.as_ref(), read)).transpose()
}

/// Reads a hash of `column`.
pub(crate) fn hash(column: &'static str, bytes: &[u8]) -> Result<TextHash, Error> {
    TextHash::from_slice(bytes).ok_or_else(|| Error::corrupt(column, &format!("{} bytes", bytes.len())))
}

/// Reads a hash of `column` that may be NULL.
pub(crate) fn opt_hash(column: &'static str, bytes: Option<&[u8]>) -> Result<Option<TextHash>, Error> {
    bytes.map(|bytes| hash(column, bytes)).transpose()
}

/// Reads the JSON of an error note.
pub(crate) fn note(column: &'static str, json: Option<&str>) -> Result<Option<ErrorNote>, Error> {
    json.map(|json| serde_json::from_str(json).map_err(|_| Error::corrupt(column, json))).transpose()
}

/// Counts are never negative in the tables.
pub(crate) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A small count of `column`.
pub(crate) fn small<T: TryFrom<i64>>(column: &'static str, value: i64) -> Result<T, Error> {
    T::try_from(value).map_err(|_| Error::corrupt(column, &value.to_string()))
}

/// The five columns of a usage.
pub(crate) fn usage(input: i64, output: i64, cached: i64, reasoning: i64, estimated: bool) -> Usage {
    Usage {
        input_tokens: unsigned(input),
        output_tokens: unsigned(output),
        cached_tokens: unsigned(cached),
        reasoning_tokens: unsigned(reasoning),
        estimated,
    }
}
