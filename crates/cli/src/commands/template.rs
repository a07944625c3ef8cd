//! `crewline template`: plans with blanks, shipped and of one's own.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use crewline_runtime::{
    Document,
    template::{Given, Parameter, SHIPPED, Summary, Template},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    console::{Console, encode},
    document::{parse_value, read_file, read_value},
    error::Error,
    exit::Exit,
    settings::Settings,
    view::{Align, Style, clean, fit, table},
};

/// What `crewline template` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline template list
  crewline template show research-report
  crewline template apply research-report --set question=\"Which broker fits us?\" -o json | crewline run --plan -

A template of your own is a file, or stands as NAME.yaml in the folder `templates` of your configuration.")]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List all templates; what must be given ends with `*`
    #[command(after_help = "Example:
  crewline template list -o json")]
    List,
    /// Show a template's parameters and tasks
    #[command(after_help = "Example:
  crewline template show code-review")]
    Show {
        /// Its name, or a file
        #[arg(value_name = "TEMPLATE")]
        template: String,
    },
    /// Check a template: every problem with its place
    #[command(after_help = "Example:
  crewline template check mine.yaml")]
    Check {
        /// Its name, or a file
        #[arg(value_name = "TEMPLATE")]
        template: String,
    },
    /// Fill a template and print the plan
    #[command(after_help = "Examples:
  crewline template apply changelog --set history=\"$(git log --oneline -30)\" > plan.yaml
  crewline template apply code-review --values values.yaml -o json | crewline run --plan -")]
    Apply {
        /// Its name, or a file
        #[arg(value_name = "TEMPLATE")]
        template: String,
        /// A parameter; a list has commas between, or is a JSON list
        #[arg(long, value_name = "NAME=VALUE", value_parser = parse_set)]
        set: Vec<(String, String)>,
        /// Parameters as a JSON or YAML object; `--set` goes before it
        #[arg(long, value_name = "FILE")]
        values: Option<PathBuf>,
    },
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give a name, `=` and a value")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Runs the command.
pub(crate) fn run(args: &TemplateArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match &args.action {
        Action::List => list(settings, console)?,
        Action::Show { template } => {
            let loaded = load(template, settings)?;
            let shown = Shown::of(template, &loaded);
            console.value(&shown, |style| shown.table(style))?;
        }
        Action::Check { template } => {
            let summary = load(template, settings)?.summary(template);
            console.value(&summary, |style| format!("{} {template}: {}", style.green("ok"), clean(&summary.title)))?;
        }
        Action::Apply { template, set, values } => {
            let document = apply(template, set, values.as_deref(), settings)?;
            let text = encode(serde_saphyr::to_string(&document))?;
            console.value(&document, |_| text)?;
        }
    }
    Ok(Exit::Ok)
}

fn apply(name: &str, set: &[(String, String)], values: Option<&Path>, settings: &Settings) -> Result<Document, Error> {
    let template = load(name, settings)?;
    let mut given: Vec<(String, Given)> =
        set.iter().map(|(name, text)| (name.clone(), Given::Typed(text.clone()))).collect();
    if let Some(path) = values {
        let Value::Object(map) = read_value(path)? else {
            return Err(Error::Usage {
                message: format!("`{}` holds no object of parameters", path.display()),
                hint: "write `name: value`, one a line",
            });
        };
        let more = map.into_iter().filter(|(name, _)| set.iter().all(|(other, _)| other != name));
        given.extend(more.map(|(name, value)| (name, Given::Value(value))));
    }
    template.apply(&given).map_err(|problems| Error::Template { name: name.to_owned(), problems })
}

fn list(settings: &Settings, console: &Console) -> Result<(), Error> {
    let mut summaries: Vec<Summary> = Vec::new();
    for name in names(settings) {
        match load(&name, settings) {
            Ok(template) => summaries.push(template.summary(&name)),
            // One broken file must not hide the others.
            Err(error) => console.warn(&format!("template `{}`: {}", clean(&name), clean(&error.to_string()))),
        }
    }
    console.list(&summaries, |style| {
        let columns = [("TEMPLATE", Align::Left), ("TITLE", Align::Left), ("PARAMETERS", Align::Left)];
        let row = |it: &Summary| {
            vec![
                clean(&it.name).into_owned(),
                fit(&clean(&it.title), 48).into_owned(),
                clean(&it.parameters.join(", ")).into_owned(),
            ]
        };
        table(style, &columns, &summaries.iter().map(row).collect::<Vec<_>>())
    })
}

/// Names of shipped templates and of the user's, sorted.
fn names(settings: &Settings) -> Vec<String> {
    let mut names: Vec<String> = SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let files = settings.templates_dir().and_then(|dir| dir.read_dir().ok());
    for file in files.into_iter().flatten().flatten() {
        let path = file.path();
        let is_template = path.extension().is_some_and(|it| it == "yaml");
        names.extend(path.file_stem().filter(|_| is_template).map(|it| it.to_string_lossy().into_owned()));
    }
    names.sort();
    names.dedup();
    names
}

/// The template of a file, or of a name: the user's before the shipped one.
fn load(template: &str, settings: &Settings) -> Result<Template, Error> {
    let is_file = template.contains(['/', '\\']) || Path::new(template).extension().is_some();
    let own = settings.templates_dir().map(|dir| dir.join(format!("{template}.yaml"))).filter(|path| path.is_file());
    let shipped = SHIPPED.iter().find(|(name, _)| *name == template).map(|(_, text)| *text);
    let value = match (is_file, own, shipped) {
        (true, _, _) => parse_value(template, &read_file(Path::new(template))?)?,
        (false, Some(path), _) => parse_value(template, &read_file(&path)?)?,
        (false, None, Some(text)) => parse_value(template, text)?,
        (false, None, None) => return Err(Error::NoTemplate { name: template.to_owned(), known: names(settings) }),
    };
    Template::read(&value).map_err(|problems| Error::Template { name: template.to_owned(), problems })
}

/// A template in full.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a str,
    title: &'a str,
    description: &'a str,
    parameters: &'a [Parameter],
    document: &'a Value,
}

impl<'a> Shown<'a> {
    fn of(name: &'a str, template: &'a Template) -> Self {
        let Template { title, description, parameters, document } = template;
        Self { name, title, description, parameters, document }
    }

    fn table(&self, style: Style) -> String {
        let rows: Vec<Vec<String>> = self.parameters.iter().map(row).collect();
        let columns =
            [("PARAMETER", Align::Left), ("TYPE", Align::Left), ("DEFAULT", Align::Left), ("MEANING", Align::Left)];
        let tasks = self.document["tasks"].as_array().map_or(&[][..], Vec::as_slice);
        let tasks: Vec<Vec<String>> = tasks
            .iter()
            .map(|task| {
                ["id", "role", "title"].map(|key| clean(task[key].as_str().unwrap_or("-")).into_owned()).to_vec()
            })
            .collect();
        let task_columns = [("TASK", Align::Left), ("ROLE", Align::Left), ("TITLE", Align::Left)];
        format!(
            "{} {}\n{}\n\n{}\n\n{}",
            style.bold(&clean(self.name)),
            clean(self.title),
            clean(self.description),
            table(style, &columns, &rows),
            table(style, &task_columns, &tasks),
        )
    }
}

fn row(parameter: &Parameter) -> Vec<String> {
    let default = match (&parameter.default, parameter.is_required()) {
        (Some(value), _) => fit(&clean(&value.to_string()), 32).into_owned(),
        (None, true) => "must be given".to_owned(),
        (None, false) => "-".to_owned(),
    };
    let kind = if parameter.values.is_empty() {
        format!("{:?}", parameter.kind).to_lowercase()
    } else {
        parameter.values.join(" | ")
    };
    vec![
        clean(&parameter.name).into_owned(),
        clean(&kind).into_owned(),
        default,
        clean(&parameter.description).into_owned(),
    ]
}
