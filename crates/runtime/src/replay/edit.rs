//! Changing a field of a task for a new run.

use std::str::FromStr;

use crewline_types::{Criterion, Priority, Role, Task};

use crate::{Error, verify};

/// What may be edited, for people.
const FIELDS: &str = "title, description, role, success_criteria or priority";

/// One field of a task and its new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Its line.
    Title(String),
    /// What is to be done.
    Description(String),
    /// Who does it.
    Role(Role),
    /// The criteria of success.
    Criteria(Vec<Criterion>),
    /// How much it matters.
    Priority(Priority),
}

impl FromStr for Edit {
    type Err = Error;

    /// Reads `FIELD=VALUE`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |message: String| Error::Edit { message };
        let (field, value) = text
            .split_once('=')
            .ok_or_else(|| invalid(format!("`{}` is not FIELD=VALUE; FIELD is {FIELDS}", shown(text))))?;
        let value = value.trim();
        let filled = || match value {
            "" => Err(invalid(format!("`{field}` must not be blank"))),
            value => Ok(value.to_owned()),
        };
        Ok(match field.trim() {
            "title" if value.lines().count() > 1 => return Err(invalid("`title` is one line".into())),
            "title" => Self::Title(filled()?),
            "description" => Self::Description(filled()?),
            "role" => Self::Role(Role::from(filled()?)),
            "priority" => Self::Priority(value.parse().map_err(|error| invalid(format!("{error}")))?),
            "success_criteria" => {
                let criteria: Vec<Criterion> = serde_json::from_str(value).map_err(|error| {
                    invalid(format!(
                        "`success_criteria` is a JSON array of {{\"criterion\": text, \"measurable\": true or false}}: {error}"
                    ))
                })?;
                let unusable = criteria.iter().find_map(|it| verify::unusable(it.check.as_ref()?));
                match unusable {
                    Some(message) => return Err(invalid(format!("`success_criteria`: {message}"))),
                    None => Self::Criteria(criteria),
                }
            }
            other => return Err(invalid(format!("`{}` can not be edited: it is {FIELDS}", shown(other)))),
        })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Edits the one task of `places`.
pub(super) fn apply(edits: &[Edit], places: &[usize], tasks: &mut [Task]) -> Result<(), Error> {
    if edits.is_empty() {
        return Ok(());
    }
    let [place] = places else {
        return Err(Error::Edit { message: "an edit changes one task: name it, and only it, with `--from`".into() });
    };
    let Some(task) = tasks.get_mut(*place) else { return Ok(()) };
    for edit in edits {
        match edit.clone() {
            Edit::Title(title) => task.title = title.into(),
            Edit::Description(description) => task.description = description.into(),
            Edit::Role(role) => task.role = role,
            Edit::Criteria(criteria) => task.success_criteria = criteria,
            Edit::Priority(priority) => task.priority = priority,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read() {
        for (text, edit) in [
            ("title=New", Edit::Title("New".into())),
            ("description=a = b\nc", Edit::Description("a = b\nc".into())),
            ("role=coder", Edit::Role(Role::from("coder"))),
            ("priority=high", Edit::Priority("8".parse().unwrap())),
            (
                r#"success_criteria=[{"criterion":"short"}]"#,
                Edit::Criteria(vec![Criterion { criterion: "short".into(), measurable: false, check: None }]),
            ),
        ] {
            assert_eq!(text.parse::<Edit>().unwrap(), edit);
        }
    }

    #[test]
    fn bad_edits_name_the_field_and_what_is_allowed() {
        for (text, words) in [
            ("title", "FIELD=VALUE"),
            ("title=", "`title` must not be blank"),
            ("title=a\nb", "one line"),
            ("status=completed", "`status` can not be edited: it is title"),
            ("priority=11", "1 to 10"),
            ("success_criteria=short", "JSON array"),
        ] {
            let error = text.parse::<Edit>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
