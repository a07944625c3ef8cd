//! Templates (G9): plans with blanks. A template is a task document whose texts hold `{{ name }}`, and typed parameters that
//! fill them.
//!
//! **Invariant:** a template is read as data first and its texts are filled afterwards, so what fills a blank stays within it:
//! it can not add a key, a task or a dependency.
//! **Invariant:** every blank has a parameter and every parameter a blank; what is not given and has no default is an error
//! where it is used.

mod fill;
mod parameter;

use crewline_engine::plan::{self, Document, Problem, Rules};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use parameter::{Given, Kind, Parameter};

/// Shipped templates: their names and texts.
pub const SHIPPED: [(&str, &str); 8] = [
    ("changelog", include_str!("../../../../config/templates/changelog.yaml")),
    ("code-change", include_str!("../../../../config/templates/code-change.yaml")),
    ("code-review", include_str!("../../../../config/templates/code-review.yaml")),
    ("data-analysis", include_str!("../../../../config/templates/data-analysis.yaml")),
    ("documentation", include_str!("../../../../config/templates/documentation.yaml")),
    ("meeting-tasks", include_str!("../../../../config/templates/meeting-tasks.yaml")),
    ("research-report", include_str!("../../../../config/templates/research-report.yaml")),
    ("test-generation", include_str!("../../../../config/templates/test-generation.yaml")),
];

/// A plan with blanks.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// One line: what it makes.
    pub title: String,
    /// When to use it.
    pub description: String,
    /// Its parameters, in the order of the file.
    pub parameters: Vec<Parameter>,
    /// The document with blanks: `goal` and `tasks`.
    pub document: Value,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(default)]
    goal: Option<String>,
    #[serde(alias = "steps")]
    tasks: Vec<Value>,
}

/// A template as lists show it.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// One line: what it makes.
    pub title: String,
    /// Its parameters' names; those that must be given end with `*`.
    pub parameters: Vec<String>,
}

impl Template {
    /// Reads a template that was parsed as YAML or JSON, and checks that it makes a valid plan.
    pub fn read(value: &Value) -> Result<Self, Vec<Problem>> {
        let file =
            File::deserialize(value).map_err(|error| vec![problem(format!("the template is not valid: {error}"))])?;
        let mut problems = Vec::new();
        if file.title.trim().is_empty() {
            problems.push(problem("`title` is blank; say in one line what the template makes".into()));
        }
        let mut parameters = Vec::with_capacity(file.parameters.len());
        for (name, value) in &file.parameters {
            match Parameter::read(name, value) {
                Ok(parameter) => parameters.push(parameter),
                Err(found) => problems.extend(found),
            }
        }
        let mut document = Map::new();
        document.extend(file.goal.map(|goal| ("goal".to_owned(), goal.into())));
        document.insert("tasks".to_owned(), file.tasks.into());
        let template =
            Self { title: file.title, description: file.description, parameters, document: Value::Object(document) };
        let declared: Vec<&str> = file.parameters.keys().map(String::as_str).collect();
        problems.extend(fill::check_blanks(&template.document, &declared));
        if problems.is_empty() {
            let samples = template.parameters.iter().map(|it| (it.name.clone(), it.sample())).collect();
            template.filled(&samples).map_err(|found| {
                let note = |it: Problem| Problem { message: format!("filled with examples, {}", it.message), ..it };
                found.into_iter().map(note).collect::<Vec<_>>()
            })?;
        }
        if problems.is_empty() { Ok(template) } else { Err(problems) }
    }

    /// The plan for these values; refused with all that is wrong with them.
    pub fn apply(&self, given: &[(String, Given)]) -> Result<Document, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut values = Map::new();
        for (name, given) in given {
            let Some(parameter) = self.parameters.iter().find(|it| it.name == *name) else {
                let known: Vec<String> = self.parameters.iter().map(|it| format!("`{}`", it.name)).collect();
                problems.push(problem(format!("`{name}` is not a parameter (there are: {})", known.join(", "))));
                continue;
            };
            if values.contains_key(name) {
                problems.push(problem(format!("`{name}` is given twice")));
                continue;
            }
            match parameter.accept(given) {
                Ok(value) => _ = values.insert(name.clone(), value),
                Err(reason) => problems.push(problem(format!("`{name}`: {reason}"))),
            }
        }
        for parameter in &self.parameters {
            let is_given = given.iter().any(|(name, _)| *name == parameter.name);
            match &parameter.default {
                _ if is_given => {}
                Some(default) => _ = values.insert(parameter.name.clone(), default.clone()),
                None if parameter.is_required() => {
                    let about = if parameter.description.is_empty() { "" } else { ": " };
                    let message = format!("`{}` must be given{about}{}", parameter.name, parameter.description);
                    problems.push(problem(message));
                }
                None => {}
            }
        }
        if problems.is_empty() { self.filled(&values) } else { Err(problems) }
    }

    fn filled(&self, values: &Map<String, Value>) -> Result<Document, Vec<Problem>> {
        let document = plan::document_from_value(&fill::fill(&self.document, values)?)?;
        plan::check(&document, &Rules::open())?;
        Ok(document)
    }

    /// As lists show it.
    pub fn summary(&self, name: &str) -> Summary {
        let shown = |it: &Parameter| format!("{}{}", it.name, if it.is_required() { "*" } else { "" });
        Summary {
            name: name.to_owned(),
            title: self.title.clone(),
            parameters: self.parameters.iter().map(shown).collect(),
        }
    }
}

fn problem(message: String) -> Problem {
    Problem { code: "template", task: None, message }
}

#[cfg(test)]
mod tests;
