//! What holds for every task of a plan: rules, words and decisions, which INDEX.md begins with.
//!
//! **Invariant:** every line is one line and bounded; what does not fit is left out, never cut within.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;
use serde_json::Value;

use super::words;
use crate::context::{estimate_tokens, trim_to};

/// Lines of each kind at most.
const LINES_MAX: usize = 64;
/// Tokens of a line at most.
const LINE_TOKENS: u32 = 200;

/// What holds for every task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Preface {
    /// What every task keeps to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// What words mean.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub glossary: BTreeMap<String, String>,
    /// What is decided already.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<String>,
}

impl Preface {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.glossary.is_empty() && self.decisions.is_empty()
    }

    /// As INDEX.md shows it, in at most so many tokens.
    pub fn text(&self, tokens_max: u32) -> String {
        let glossary: Vec<String> = self.glossary.iter().map(|(word, meaning)| format!("{word}: {meaning}")).collect();
        let (mut text, mut tokens) = (String::new(), 0);
        for (head, lines) in [("Rules", &self.rules), ("Glossary", &glossary), ("Decisions", &self.decisions)] {
            let mut is_begun = false;
            for line in lines.iter().take(LINES_MAX) {
                let line = trim_to(words::one_line(line).trim(), LINE_TOKENS).to_owned();
                let costs = estimate_tokens(&line) + if is_begun { 3 } else { 12 };
                if line.is_empty() || tokens + costs > tokens_max {
                    continue;
                }
                tokens += costs;
                if !std::mem::replace(&mut is_begun, true) {
                    // Writing into memory can not fail.
                    let _ = write!(text, "\n\n{head}:");
                }
                let _ = write!(text, "\n- {line}");
            }
        }
        text
    }
}

/// The texts of a list; a single text is a list of one. None for anything else.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|it| it.as_str().map(str::to_owned)).collect(),
        Value::Null => Some(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Words with their meanings: an object of texts, or a list of `word: meaning`.
pub(super) fn glossary(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Object(map) => {
            map.iter().map(|(word, meaning)| Some((word.clone(), meaning.as_str()?.to_owned()))).collect()
        }
        other => {
            let pair = |line: String| match line.split_once(':') {
                Some((word, meaning)) => (word.trim().to_owned(), meaning.trim().to_owned()),
                None => (line, String::new()),
            };
            Some(texts(other)?.into_iter().map(pair).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_preface_is_a_few_lines() {
        let preface = Preface {
            rules: vec!["Metric units\nonly".into(), "  ".into(), "long ".repeat(2_000)],
            glossary: glossary(&json!(["crew: the people on board", "alone"])).unwrap(),
            decisions: vec!["We sail on Monday.".into()],
        };
        let text = preface.text(1_000);
        assert!(text.starts_with("\n\nRules:\n- Metric units only\n- long"), "{text}");
        assert!(
            text.contains("\n\nGlossary:\n- alone:\n- crew: the people on board\n\nDecisions:\n- We sail"),
            "{text}"
        );
        for tokens_max in [0, 5, 20, 100, 400] {
            assert!(estimate_tokens(&preface.text(tokens_max)) <= tokens_max);
        }
        assert_eq!(Preface::default().text(100), "");
        assert_eq!(glossary(&json!({"a": "b"})), glossary(&json!(["a: b"])));
        assert!(texts(&json!([1])).is_none() && glossary(&json!({"a": 1})).is_none());
    }
}
