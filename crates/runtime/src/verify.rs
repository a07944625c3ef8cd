//! Whether an answer meets the success criteria that a program can check.
//!
//! **Invariant:** the same answer and criteria give the same verdicts; nothing is asked, read or run. A check that needs more than
//! the answer is made by [`crate::attempt`].
//! **Invariant:** an answer is data: it chooses no expression and no schema that it is checked by.

use crewline_engine::plan::{Plan, Problem};
use crewline_models::{OutputSchema, Registry};
use crewline_types::{Check, Criterion, Role, check::Unit, event::CheckResult};
use regex::{Regex, RegexBuilder};
use serde_json::{Number, Value};

use crate::workshop;

/// Bytes of a compiled expression at most.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Characters of an answer that evidence shows.
const EXCERPT: usize = 120;

/// The code of an answer that a criterion rejects.
pub const REJECTED: &str = "check.failed";

/// What each check that needs nothing but the answer says of it, in the order of the criteria.
pub fn verdicts(criteria: &[Criterion], answer: &str) -> Vec<CheckResult> {
    let checked = criteria.iter().filter_map(|it| Some((it, it.check.as_ref()?)));
    checked
        .filter(|(_, check)| check.reads_answer_only())
        .map(|(criterion, check)| {
            let (passed, evidence) = match judge(check, answer) {
                Ok(evidence) => (true, evidence),
                Err(evidence) => (false, evidence),
            };
            CheckResult {
                criterion: criterion.criterion.as_str().into(),
                verifier: check.kind().into(),
                passed,
                evidence: evidence.into(),
            }
        })
        .collect()
}

/// What failed, for people and for the next model; `None` when everything passed.
pub fn rejection(verdicts: &[CheckResult]) -> Option<String> {
    let failed = found(verdicts);
    (!failed.is_empty()).then(|| format!("the answer does not meet: {}", failed.join("; ")))
}

/// What failed, each with its evidence.
pub fn found(verdicts: &[CheckResult]) -> Vec<String> {
    verdicts.iter().filter(|it| !it.passed).map(|it| format!("{} ({})", it.criterion, it.evidence)).collect()
}

/// Whether the attempts of a plan will have a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workspace {
    /// They will.
    There,
    /// They will not.
    Missing,
    /// Nobody knows yet.
    Unknown,
}

/// Why a check can not be made by attempts of `role`, however well it is written.
pub fn out_of_place(check: &Check, role: &Role, registry: &Registry, workspace: Workspace) -> Option<String> {
    if check.rubric().is_some() && !registry.has_role(&Role::judge()) {
        return Some("the registry has no role `judge`: name it, with a `chain` of models that judge".to_owned());
    }
    let (program, args) = check.command()?;
    match workspace {
        Workspace::Missing => Some(format!("{check}: the run has no workspace; give it one with `--workspace DIR`")),
        Workspace::There | Workspace::Unknown => {
            workshop::refuse_command(registry, role, program, args).map(|why| format!("{check}: {why}"))
        }
    }
}

/// The checks of a plan that can not be made, such as an expression that does not compile.
pub fn problems(plan: &Plan, registry: &Registry, workspace: Workspace) -> Vec<Problem> {
    let mut problems = Vec::new();
    for task in &plan.tasks {
        for criterion in &task.success_criteria {
            let Some(check) = &criterion.check else { continue };
            let found = usable(check).err().or_else(|| out_of_place(check, &task.role, registry, workspace));
            if let Some(message) = found {
                let message = format!("task `{}`, criterion `{}`: {message}", task.key, criterion.criterion);
                problems.push(Problem { code: "invalid_check", task: Some(task.key.to_string()), message });
            }
        }
    }
    problems
}

/// Why a check can not be made.
pub fn unusable(check: &Check) -> Option<String> {
    usable(check).err()
}

fn usable(check: &Check) -> Result<(), String> {
    let has_bounds = |min: bool, max: bool, in_order: bool| match (min || max, in_order) {
        (false, _) => Err("give `min`, `max` or both".to_owned()),
        (true, false) => Err("`min` is above `max`".to_owned()),
        (true, true) => Ok(()),
    };
    match check {
        Check::JsonSchema { schema } => form(schema).problem().map_or(Ok(()), Err),
        Check::Regex { pattern, .. } => compile(pattern).map(drop),
        Check::Contains { text, .. } if text.is_empty() => Err("`text` is empty".to_owned()),
        Check::Length { min, max, .. } => {
            has_bounds(min.is_some(), max.is_some(), min.zip(*max).is_none_or(|(min, max)| min <= max))
        }
        Check::Number { pattern, pointer, min, max } => {
            match (pattern, pointer) {
                (Some(_), Some(_)) | (None, None) => return Err("give one of `pattern` and `pointer`".to_owned()),
                (Some(pattern), None) => drop(compile(pattern)?),
                (None, Some(pointer)) if !pointer.is_empty() && !pointer.starts_with('/') => {
                    return Err("`pointer` begins with `/`".to_owned());
                }
                (None, Some(_)) => {}
            }
            let in_order = number(min.as_ref()).zip(number(max.as_ref())).is_none_or(|(min, max)| min <= max);
            has_bounds(min.is_some(), max.is_some(), in_order)
        }
        Check::Command { program, .. } if program.trim().is_empty() => Err("`program` is empty".to_owned()),
        Check::Judge { rubric } if rubric.trim().is_empty() => Err("`rubric` is empty".to_owned()),
        Check::Contains { .. } | Check::Command { .. } | Check::Judge { .. } => Ok(()),
    }
}

fn form(schema: &Value) -> OutputSchema {
    OutputSchema { name: "criterion".into(), schema: schema.clone() }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim().to_owned();
        format!("`{}` is no regular expression: {last}", excerpt(pattern))
    })
}

fn number(bound: Option<&Number>) -> Option<f64> {
    bound.and_then(Number::as_f64)
}

/// Why the answer passes, or why not.
fn judge(check: &Check, answer: &str) -> Result<String, String> {
    match check {
        Check::Command { .. } | Check::Judge { .. } => Err("the answer alone does not tell".to_owned()),
        Check::JsonSchema { schema } => match form(schema).check(answer) {
            Ok(_) => Ok("it follows the schema".into()),
            Err(problems) => Err(problems.join(", ")),
        },
        Check::Regex { pattern, absent } => {
            let found = compile(pattern)?.find(answer).map(|it| it.as_str());
            told(found, *absent, "no match")
        }
        Check::Contains { text, ignore_case, absent } => {
            let is_there =
                if *ignore_case { answer.to_lowercase().contains(&text.to_lowercase()) } else { answer.contains(text) };
            told(is_there.then_some(text.as_str()), *absent, "it is not there")
        }
        Check::Length { unit, min, max } => {
            let count = match unit {
                Unit::Words => answer.split_whitespace().count(),
                Unit::Characters => answer.chars().count(),
                Unit::Lines => answer.lines().filter(|it| !it.trim().is_empty()).count(),
            };
            let fits = min.is_none_or(|min| count >= min as usize) && max.is_none_or(|max| count <= max as usize);
            let evidence = format!("it has {count} {}", unit.as_str());
            if fits { Ok(evidence) } else { Err(evidence) }
        }
        Check::Number { pattern, pointer, min, max } => {
            let found = match (pattern, pointer) {
                (Some(pattern), _) => by_pattern(pattern, answer)?,
                (None, pointer) => by_pointer(pointer.as_deref().unwrap_or_default(), answer)?,
            };
            let fits = number(min.as_ref()).is_none_or(|min| found >= min)
                && number(max.as_ref()).is_none_or(|max| found <= max);
            let evidence = format!("it is {found}");
            if fits { Ok(evidence) } else { Err(evidence) }
        }
    }
}

fn told(found: Option<&str>, absent: bool, missing: &str) -> Result<String, String> {
    match (found, absent) {
        (Some(found), false) => Ok(format!("found `{}`", excerpt(found))),
        (Some(found), true) => Err(format!("found `{}`", excerpt(found))),
        (None, false) => Err(missing.to_owned()),
        (None, true) => Ok(missing.to_owned()),
    }
}

fn by_pattern(pattern: &str, answer: &str) -> Result<f64, String> {
    let expression = compile(pattern)?;
    let Some(groups) = expression.captures(answer) else { return Err("no match".to_owned()) };
    let text = groups.get(1).or_else(|| groups.get(0)).map_or("", |it| it.as_str());
    // Thousands may be set apart.
    let plain: String = text.chars().filter(|it| !matches!(it, ',' | '_' | ' ' | '\u{a0}' | '\u{202f}')).collect();
    let found: Option<f64> = plain.parse().ok();
    found.filter(|it| it.is_finite()).ok_or_else(|| format!("`{}` is no number", excerpt(text)))
}

fn by_pointer(pointer: &str, answer: &str) -> Result<f64, String> {
    let value = form(&Value::Bool(true)).check(answer).map_err(|problems| problems.join(", "))?;
    let Some(found) = value.pointer(pointer) else { return Err(format!("there is nothing at `{pointer}`")) };
    found.as_f64().ok_or_else(|| format!("`{}` is no number", excerpt(&found.to_string())))
}

fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).map(|it| if it.is_control() { ' ' } else { it }).collect();
    if text.chars().nth(EXCERPT).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn criterion(check: Value) -> Criterion {
        let check: Check = serde_json::from_value(check).unwrap();
        Criterion { criterion: check.to_string(), measurable: true, check: Some(check) }
    }

    #[track_caller]
    fn check(check: Value, answer: &str, expected: Result<&str, &str>) {
        let verdicts = verdicts(&[criterion(check)], answer);
        let [verdict] = verdicts.as_slice() else { panic!("{verdicts:?}") };
        let found = if verdict.passed { Ok(&*verdict.evidence) } else { Err(&*verdict.evidence) };
        assert_eq!(found, expected);
        assert_eq!(rejection(std::slice::from_ref(verdict)).is_some(), expected.is_err());
    }

    #[test]
    fn each_kind_accepts_and_rejects_with_evidence() {
        check(json!({"type": "contains", "text": "Rust"}), "In Rust.", Ok("found `Rust`"));
        check(json!({"type": "contains", "text": "Rust"}), "In rust.", Err("it is not there"));
        check(json!({"type": "contains", "text": "RUST", "ignore_case": true}), "In rust.", Ok("found `RUST`"));
        check(json!({"type": "contains", "text": "TODO", "absent": true}), "TODO", Err("found `TODO`"));
        check(json!({"type": "regex", "pattern": r"(?m)^\| .+ \|$"}), "a\n| b |\n", Ok("found `| b |`"));
        check(json!({"type": "regex", "pattern": "x{3}"}), "xx", Err("no match"));
        check(json!({"type": "length", "min": 3}), "one two", Err("it has 2 words"));
        check(json!({"type": "length", "unit": "lines", "max": 2}), "a\n\nb\n", Ok("it has 2 lines"));
        check(json!({"type": "length", "unit": "characters", "min": 2, "max": 2}), "日本", Ok("it has 2 characters"));
        let schema = json!({"type": "object", "required": ["a"]});
        check(json!({"type": "json_schema", "schema": schema}), "Here: {\"a\": 1}", Ok("it follows the schema"));
        check(json!({"type": "json_schema", "schema": schema}), "{}", Err("the answer: \"a\" is a required property"));
        let score = r"score:\s*([\d., ]+)";
        check(json!({"type": "number", "pattern": score, "min": 1_000}), "score: 1,200", Ok("it is 1200"));
        check(json!({"type": "number", "pattern": score, "max": 0.5}), "score: 0.75", Err("it is 0.75"));
        check(json!({"type": "number", "pattern": score, "max": 1}), "none", Err("no match"));
        check(json!({"type": "number", "pointer": "/a/1", "min": 2}), "{\"a\": [1, 2]}", Ok("it is 2"));
        check(json!({"type": "number", "pointer": "/b", "min": 2}), "{\"a\": 1}", Err("there is nothing at `/b`"));
        check(json!({"type": "number", "pointer": "/a", "min": 2}), "{\"a\": \"x\"}", Err("`\"x\"` is no number"));
    }

    #[test]
    fn what_can_not_be_checked_is_told_before_the_run() {
        for (check, part) in [
            (json!({"type": "regex", "pattern": "("}), "unclosed group"),
            (json!({"type": "regex", "pattern": "(a{9999}){9999}"}), "no regular expression"),
            (json!({"type": "contains", "text": ""}), "empty"),
            (json!({"type": "length"}), "`min`"),
            (json!({"type": "length", "min": 3, "max": 2}), "above"),
            (json!({"type": "number", "min": 1}), "`pattern` and `pointer`"),
            (json!({"type": "number", "pointer": "a", "min": 1}), "begins with"),
            (json!({"type": "number", "pointer": "/a"}), "`min`"),
            (json!({"type": "json_schema", "schema": {"type": "nothing"}}), "schema"),
        ] {
            let found = usable(criterion(check.clone()).check.as_ref().unwrap());
            assert!(found.as_ref().is_err_and(|it| it.contains(part)), "{check}: {found:?}");
        }
    }

    #[test]
    fn a_criterion_in_words_is_not_a_check() {
        let words = Criterion { criterion: "it is good".into(), measurable: true, check: None };
        assert!(verdicts(&[words], "").is_empty());
    }
}
