//! Plan files: JSON or YAML by content, and where in a file an error is.
//!
//! **Invariant:** a file that can not be read as written is an error with its line and column, never half a plan.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use crewline_engine::plan::compose;
use crewline_runtime::Document;
use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use crate::{error::Error, links, value::Loose};

/// Bytes of a plan file or a goal at most.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A plan file is neither JSON nor YAML.
#[derive(Debug)]
pub(crate) struct Syntax {
    /// The file.
    pub(crate) name: String,
    /// What is wrong.
    pub(crate) message: String,
    /// The file's text.
    pub(crate) text: String,
    /// Byte offset of the error.
    pub(crate) offset: Option<usize>,
}

/// Reads a plan file with all it links to; `-` is stdin.
pub(crate) fn read_plan(path: &Path) -> Result<Document, Error> {
    let (entry, sources) = links::follow(path, read_value(path)?)?;
    compose(&entry, &sources).map_err(|problems| Error::Plan { name: path.display().to_string(), problems })
}

/// Reads a JSON or YAML file; `-` is stdin.
pub(crate) fn read_value(path: &Path) -> Result<serde_json::Value, Error> {
    let text = if path == Path::new("-") { read_stdin()? } else { read_file(path)? };
    parse_value(&path.display().to_string(), &text)
}

/// Reads the text of a JSON or YAML file.
pub(crate) fn parse_value(name: &str, text: &str) -> Result<serde_json::Value, Error> {
    let syntax = |message: String, offset: Option<usize>| {
        Error::Syntax(Box::new(Syntax { name: name.to_owned(), message, text: text.to_owned(), offset }))
    };
    if text.trim().is_empty() {
        return Err(syntax("it is empty".into(), None));
    }
    // Nearly all JSON is YAML, but JSON is read ten times faster, and its errors are about JSON.
    let json_error = match serde_json::from_str(text) {
        Ok(Loose(value)) => return Ok(value),
        Err(error) => error,
    };
    match serde_saphyr::from_str(text) {
        Ok(Loose(value)) => Ok(value),
        Err(_) if text.trim_start().starts_with(['{', '[']) => {
            let offset = offset_of(text, json_error.line() as u64, json_error.column() as u64);
            let message = json_error.to_string();
            // The place is shown apart.
            let message = message.split(" at line ").next().unwrap_or(&message).to_owned();
            Err(syntax(format!("not valid JSON: {message}"), offset))
        }
        Err(error) => {
            let offset = error.location().and_then(|at| offset_of(text, at.line(), at.column()));
            let message = error.without_snippet().to_string();
            let message = message.lines().next().unwrap_or("unknown").trim_start_matches("error: ").to_owned();
            Err(syntax(format!("not valid YAML: {message}"), offset))
        }
    }
}

/// The byte at a line and column, both from 1; the end of the text when it is shorter.
fn offset_of(text: &str, line: u64, column: u64) -> Option<usize> {
    let line = usize::try_from(line).ok()?.checked_sub(1)?;
    let column = usize::try_from(column).ok()?.saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..)?;
    let within = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
    Some((start + within).min(text.len()))
}

/// The text of a file, with a limit on its size.
pub(crate) fn read_file(path: &Path) -> Result<String, Error> {
    let error = |source| Error::Read { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    read_limited(file).map_err(error)
}

/// All of stdin, with a limit on its size.
pub(crate) fn read_stdin() -> Result<String, Error> {
    read_limited(std::io::stdin()).map_err(|source| Error::Read { path: PathBuf::from("-"), source })
}

fn read_limited(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "more than 16 MiB"));
    }
    Ok(text)
}

/// A place in a file, drawn under an error.
#[derive(Debug)]
pub(crate) struct Place {
    message: String,
    help: Option<String>,
    source: NamedSource<String>,
    span: Option<std::ops::Range<usize>>,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Place {}

impl Diagnostic for Place {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.span.as_ref().map(|_| &self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_primary_with_span(Some("here".to_owned()), span))))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// The registry an error is about, when it is not valid.
pub(crate) fn invalid_registry(error: &Error) -> Option<&crewline_models::Invalid> {
    match error {
        Error::Models(crewline_models::Error::Registry(invalid))
        | Error::Runtime(crewline_runtime::Error::Models(crewline_models::Error::Registry(invalid))) => Some(invalid),
        _ => None,
    }
}

/// Where in a registry something is odd.
pub(crate) fn place_in(name: &str, text: &str, problem: &crewline_models::Problem) -> Box<dyn Diagnostic> {
    Box::new(Place {
        message: problem.message.clone(),
        help: problem.help.clone(),
        source: NamedSource::new(name, text.to_owned()),
        span: Some(problem.span.clone()),
    })
}

/// The places in files that an error is about.
pub(crate) fn places(error: &Error) -> Vec<Box<dyn Diagnostic>> {
    if let Error::Syntax(syntax) = error {
        let place = syntax.offset.map(|offset| Place {
            message: syntax.message.clone(),
            help: None,
            source: NamedSource::new(&syntax.name, syntax.text.clone()),
            span: Some(offset..offset),
        });
        return place.into_iter().map(|place| Box::new(place) as Box<dyn Diagnostic>).collect();
    }
    let Some(invalid) = invalid_registry(error) else { return Vec::new() };
    invalid.problems.iter().map(|problem| place_in(&invalid.name, &invalid.source, problem)).collect()
}

#[cfg(test)]
mod tests {
    use crewline_engine::plan::document_from_value;

    use super::*;

    fn parse_plan(name: &str, text: &str) -> Result<Document, Error> {
        let value = parse_value(name, text)?;
        document_from_value(&value).map_err(|problems| Error::Plan { name: name.to_owned(), problems })
    }

    const YAML: &str = "goal: g\ntasks:\n  - id: a\n    title: A\n  - {id: b, title: B, depends_on: [a]}\n";

    #[test]
    fn json_and_yaml_are_told_apart_by_content() {
        let json =
            r#"{"goal": "g", "tasks": [{"id": "a", "title": "A"}, {"id": "b", "title": "B", "depends_on": ["a"]}]}"#;
        for text in [json, YAML] {
            let document = parse_plan("plan", text).unwrap();
            assert_eq!(document.goal.as_deref(), Some("g"));
            assert_eq!(document.tasks[1].depends_on, ["a"]);
        }
    }

    #[test]
    fn a_syntax_error_has_its_place() {
        let text = "{\n  \"goal\": \"g\",\n  \"tasks\": [,]\n}";
        let Err(Error::Syntax(syntax)) = parse_plan("p.json", text) else { panic!() };
        assert!(syntax.message.starts_with("not valid JSON"), "{}", syntax.message);
        assert_eq!(syntax.offset, text.find(",]"));
        let text = "goal: g\ntasks: [a, b\nmore: x\n";
        let Err(Error::Syntax(syntax)) = parse_plan("p.yaml", text) else { panic!() };
        assert!(syntax.message.starts_with("not valid YAML"), "{}", syntax.message);
        assert!(syntax.offset.is_some());
        assert!(matches!(parse_plan("p", " \n"), Err(Error::Syntax(_))));
    }

    #[test]
    fn what_a_value_can_not_hold_is_refused() {
        for number in [".nan", ".inf", "1e999"] {
            let text = format!("tasks:\n  - {{id: a, title: A, duration: {number}}}\n");
            match parse_plan("p", &text) {
                Err(Error::Plan { problems, .. }) => {
                    assert_eq!((problems.len(), problems[0].code), (1, "invalid_field"), "{number}: {problems:?}");
                }
                // The reader of YAML refuses what is written as no number, with its place.
                Err(Error::Syntax(syntax)) => assert!(syntax.offset.is_some(), "{number}: {}", syntax.message),
                other => panic!("{number}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_wrong_shape_names_its_problems() {
        let Err(Error::Plan { problems, .. }) = parse_plan("p", "tasks: 5") else { panic!() };
        assert!(!problems.is_empty());
    }

    #[test]
    fn offsets_count_characters_not_bytes() {
        assert_eq!(offset_of("äb\ncd", 2, 2), Some(5));
        assert_eq!(offset_of("äb", 1, 2), Some(2));
        assert_eq!(offset_of("ab", 1, 9), Some(2));
        assert_eq!(offset_of("ab", 0, 1), None);
    }
}
