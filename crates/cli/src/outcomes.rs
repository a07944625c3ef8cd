//! Files of recorded outcomes: one question a line, as JSON, gzipped or not.
//!
//! **Invariant:** every line that can not be used is named with its number; a file is read as a whole or not at all.
//! **Invariant:** a line and the file have a limit on their size, unpacked.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use crewline_engine::route::learn::{Outcome, Question, Set};
use flate2::bufread::MultiGzDecoder;
use serde::Deserialize;

use crate::error::Error;

/// Bytes of a line at most.
const LINE_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of a file at most, unpacked.
const FILE_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// Questions of a file at most.
const QUESTIONS_MAX: usize = 2_000_000;
/// Problems that are collected before reading ends.
const PROBLEMS_MAX: usize = 20;

/// A line that can not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadLine {
    /// From 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) message: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}: {}", self.line, self.message)
    }
}

/// The questions of a file, and the split each belongs to.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// The questions.
    pub(crate) set: Set,
    splits: Vec<Option<String>>,
}

impl Recorded {
    /// The questions of a split; none is an error that says which splits there are.
    pub(crate) fn split(&self, name: &str, path: &Path) -> Result<Vec<&Question>, Error> {
        let belongs = |split: &Option<String>| split.as_deref() == Some(name);
        let pairs = self.set.questions.iter().zip(&self.splits);
        let questions: Vec<&Question> = pairs.filter(|(_, split)| belongs(split)).map(|(it, _)| it).collect();
        if questions.is_empty() {
            return Err(Error::NoSplit { path: path.to_owned(), name: name.to_owned(), there: self.there() });
        }
        Ok(questions)
    }

    fn there(&self) -> String {
        let mut counts: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for split in &self.splits {
            *counts.entry(split.as_deref()).or_default() += 1;
        }
        let named = counts.into_iter().map(|(name, count)| match name {
            Some(name) => format!("`{name}` ({count})"),
            None => format!("no split ({count})"),
        });
        named.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    task: String,
    #[serde(default)]
    split: Option<String>,
    outcomes: BTreeMap<String, Option<LineOutcome>>,
}

#[derive(Deserialize)]
struct LineOutcome {
    correct: Correct,
    cost: f64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`correct` is a number from 0 to 1, or true or false")]
enum Correct {
    Number(f64),
    Flag(bool),
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Recorded, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut file = BufReader::with_capacity(1 << 16, std::fs::File::open(path).map_err(failed)?);
    let is_packed = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    let text: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut reader = Reader::default();
    reader.read(BufReader::new(text.take(FILE_MAX))).map_err(failed)?;
    reader.finish().map_err(|problems| Error::Outcomes { path: path.to_owned(), problems })
}

#[derive(Default)]
struct Reader {
    models: BTreeMap<String, usize>,
    rows: Vec<(Question, Vec<(usize, Outcome)>)>,
    splits: Vec<Option<String>>,
    seen: HashMap<String, usize>,
    problems: Vec<BadLine>,
}

impl Reader {
    fn read(&mut self, mut text: impl BufRead) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut number = 0;
        while self.problems.len() < PROBLEMS_MAX {
            bytes.clear();
            let length = text.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes)?;
            if length == 0 {
                break;
            }
            number += 1;
            if length as u64 == LINE_MAX && !bytes.ends_with(b"\n") {
                self.problems.push(BadLine { line: number, message: format!("it has more than {LINE_MAX} bytes") });
                break;
            }
            let line = bytes.trim_ascii();
            if line.is_empty() {
                continue;
            }
            if let Err(message) = self.line(number, line) {
                self.problems.push(BadLine { line: number, message });
            }
        }
        Ok(())
    }

    fn line(&mut self, number: usize, line: &[u8]) -> Result<(), String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| {
            // The line is always the first one; only the column says something.
            error.to_string().replace(" at line 1 column", ", at column")
        })?;
        if self.rows.len() >= QUESTIONS_MAX {
            return Err(format!("the file has more than {QUESTIONS_MAX} questions"));
        }
        let mut outcomes = Vec::with_capacity(line.outcomes.len());
        for (model, outcome) in line.outcomes {
            let Some(outcome) = outcome else { continue };
            let correct = match outcome.correct {
                Correct::Number(number) => number,
                Correct::Flag(flag) => f64::from(u8::from(flag)),
            };
            if !(0.0..=1.0).contains(&correct) {
                return Err(format!("`correct` of `{model}` is {correct}, and must be 0 to 1"));
            }
            if !outcome.cost.is_finite() || outcome.cost < 0.0 {
                return Err(format!("`cost` of `{model}` is {}, and must be 0 or more", outcome.cost));
            }
            let next = self.models.len();
            let place = *self.models.entry(model).or_insert(next);
            outcomes.push((place, Outcome { correct, cost: outcome.cost }));
        }
        if outcomes.is_empty() {
            return Err("`outcomes` names no model that answered".to_owned());
        }
        if let Some(first) = self.seen.insert(line.id.clone(), number) {
            return Err(format!("the id `{}` is that of line {first}", line.id));
        }
        let question =
            Question { id: line.id, task: line.task, chars: line.text.chars().count(), outcomes: Vec::new() };
        self.rows.push((question, outcomes));
        self.splits.push(line.split);
        Ok(())
    }

    fn finish(mut self) -> Result<Recorded, Vec<BadLine>> {
        if self.problems.is_empty() && self.rows.is_empty() {
            self.problems.push(BadLine { line: 1, message: "the file has no questions".to_owned() });
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        // By name, so that the order of lines decides nothing.
        let models: Vec<String> = self.models.keys().cloned().collect();
        let mut rank = vec![0; models.len()];
        self.models.values().enumerate().for_each(|(place, seen)| rank[*seen] = place);
        let questions = self.rows.into_iter().map(|(mut question, outcomes)| {
            question.outcomes = vec![None; models.len()];
            for (seen, outcome) in outcomes {
                question.outcomes[rank[seen]] = Some(outcome);
            }
            question
        });
        let questions = questions.collect();
        Ok(Recorded { set: Set { models, questions }, splits: self.splits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Recorded, Vec<String>> {
        let mut reader = Reader::default();
        reader.read(text.as_bytes()).unwrap();
        reader.finish().map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn models_are_placed_by_name_and_gaps_stay_gaps() {
        let recorded = parse(
            "{\"id\":\"a\",\"text\":\"één\",\"task\":\"t\",\"split\":\"train\",\"outcomes\":{\"z\":{\"correct\":1,\"cost\":0.1}}}\n\n\
             {\"id\":\"b\",\"outcomes\":{\"c\":{\"correct\":false,\"cost\":0},\"z\":null},\"more\":1}\n",
        )
        .unwrap();
        assert_eq!(recorded.set.models, ["c", "z"]);
        let [a, b] = recorded.set.questions.as_slice() else { panic!("two questions") };
        assert_eq!((a.chars, a.outcomes[0], a.outcomes[1].unwrap().cost), (3, None, 0.1));
        assert_eq!((b.task.as_str(), b.outcomes[1]), ("", None));
        let error = recorded.split("test", Path::new("f")).unwrap_err();
        assert!(matches!(&error, Error::NoSplit { there, .. } if there == "no split (1), `train` (1)"), "{error:?}");
    }

    #[test]
    fn every_bad_line_is_named_with_what_is_wrong() {
        let good = r#"{"id":"a","outcomes":{"m":{"correct":1,"cost":1}}}"#;
        let problems = parse(
            &[
                good,
                "{",
                good,
                r#"{"id":"b","outcomes":{"m":{"correct":2,"cost":1}}}"#,
                r#"{"id":"c","outcomes":{"m":{"correct":1,"cost":-1}}}"#,
                r#"{"id":"d","outcomes":{}}"#,
                r#"{"id":"e","outcomes":{"m":{"correct":"yes","cost":1}}}"#,
                r#"{"outcomes":{}}"#,
                "\u{0}",
            ]
            .join("\n"),
        )
        .unwrap_err();
        let wanted = [
            "line 2: EOF",
            "line 3: the id `a` is that of line 1",
            "line 4: `correct` of `m` is 2",
            "line 5: `cost` of `m` is -1",
            "line 6: `outcomes` names no model",
            "line 7: `correct` is a number from 0 to 1, or true or false",
            "line 8: missing field `id`",
            "line 9: expected value, at column 1",
        ];
        assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
        for (problem, wanted) in problems.iter().zip(wanted) {
            assert!(problem.starts_with(wanted), "{problem}");
        }
        assert_eq!(parse("\n").unwrap_err(), ["line 1: the file has no questions"]);
        assert_eq!(parse(&"x\n".repeat(99)).unwrap_err().len(), PROBLEMS_MAX);
    }
}
