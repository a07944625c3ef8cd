//! `crewline registry`: check it, show what it means, compare and import it, print its schema.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use crewline_models::{Registry, import::litellm, registry::json_schema};
use serde::Serialize;

use crate::{
    app,
    console::Console,
    document,
    error::Error,
    exit::Exit,
    settings::{Settings, process_env},
    view::{Align, Style, clean, count, table},
};

/// What `crewline registry` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline registry check
  crewline registry show --registry other.yaml -o json
  crewline registry diff crewline.yaml new.yaml
  crewline registry import litellm.yaml > crewline.yaml
  crewline registry schema > crewline.schema.json")]
pub(crate) struct RegistryArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check a registry: every problem with its place and what is allowed
    #[command(after_help = "Example:
  crewline registry check config/crewline.yaml")]
    Check {
        /// The file [default: the one a run would use]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show models and who uses them
    #[command(after_help = "Example:
  crewline registry show -o json")]
    Show {
        /// The file [default: the one a run would use]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Show what differs between two registries, by meaning
    #[command(after_help = "Examples:
  crewline registry diff new.yaml               against the one a run would use
  crewline registry diff old.yaml new.yaml -o json

Exits with 0 when they mean the same, with 1 when they differ.")]
    Diff {
        /// The older file, or the newer one when it is the only one
        #[arg(value_name = "FILE")]
        first: PathBuf,
        /// The newer file
        #[arg(value_name = "NEWER")]
        second: Option<PathBuf>,
    },
    /// Print a registry made from the configuration of a LiteLLM proxy
    #[command(after_help = "Example:
  crewline registry import litellm.yaml > crewline.yaml")]
    Import {
        /// The configuration, with its `model_list`
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print the JSON Schema of a registry
    #[command(after_help = "Example:
  crewline registry schema > crewline.schema.json")]
    Schema,
}

/// Runs the command.
pub(crate) fn run(args: &RegistryArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    match &args.action {
        Action::Check { file } => {
            let registry = load(file.as_ref(), settings)?;
            registry.check_tokenizers().map_err(crewline_models::Error::from)?;
            check(&registry, console)?;
        }
        Action::Show { file } => {
            let shown = Shown::of(&load(file.as_ref(), settings)?);
            console.value(&shown, |style| shown.table(style))?;
        }
        Action::Diff { first, second } => {
            let (older, newer) = match second {
                Some(second) => (load(Some(first), settings)?, load(Some(second), settings)?),
                None => (load(None, settings)?, load(Some(first), settings)?),
            };
            return diff(&older, &newer, console);
        }
        Action::Import { file } => import(file, console)?,
        Action::Schema => {
            let text = serde_json::to_string_pretty(&json_schema())
                .map_err(|error| Error::Encode { message: error.to_string() })?;
            console.data(&text)?;
        }
    }
    Ok(Exit::Ok)
}

fn diff(older: &Registry, newer: &Registry, console: &Console) -> Result<Exit, Error> {
    let differences = older.diff(newer);
    console.list(&differences, |style| {
        let side = |value: &serde_json::Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
        let rows: Vec<Vec<String>> = differences
            .iter()
            .map(|it| {
                let cells = [it.path.clone(), side(&it.before), side(&it.after)];
                cells.map(|cell| clean(&cell).into_owned()).into()
            })
            .collect();
        table(style, &[("WHAT", Align::Left), ("BEFORE", Align::Left), ("AFTER", Align::Left)], &rows)
    })?;
    if differences.is_empty() {
        console.note(&format!("{} and {} mean the same", older.name(), newer.name()));
        return Ok(Exit::Ok);
    }
    Ok(Exit::Failed)
}

fn import(file: &Path, console: &Console) -> Result<(), Error> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let imported = litellm(&text).map_err(|message| Error::Import { path: file.to_owned(), message })?;
    for note in &imported.notes {
        console.warn(&clean(note));
    }
    console.data(imported.text.trim_end())
}

fn load(file: Option<&PathBuf>, settings: &Settings) -> Result<Registry, Error> {
    let path = match file {
        Some(path) => path.clone(),
        None => app::find_registry(settings)?,
    };
    let registry = Registry::load(&path, &process_env)?;
    crewline_runtime::check_rules(&registry).map_err(crewline_models::Error::from)?;
    Ok(registry)
}

fn check(registry: &Registry, console: &Console) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Warning<'a> {
        line: u32,
        column: u32,
        message: &'a str,
        help: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Checked<'a> {
        file: &'a str,
        ok: bool,
        models: usize,
        providers: usize,
        roles: usize,
        warnings: Vec<Warning<'a>>,
    }
    for warning in registry.warnings() {
        let place = document::place_in(registry.name(), registry.text(), warning);
        console.warn(console.snippet(place.as_ref()).trim());
    }
    let warnings = registry.warnings().iter().map(|it| Warning {
        line: it.line,
        column: it.column,
        message: &it.message,
        help: it.help.as_deref(),
    });
    let checked = Checked {
        file: registry.name(),
        ok: true,
        models: registry.models().count(),
        providers: registry.providers().count(),
        roles: registry.roles().len(),
        warnings: warnings.collect(),
    };
    console.value(&checked, |style| {
        format!(
            "{} {}: {} providers, {} models, {} roles",
            style.green("ok"),
            checked.file,
            checked.providers,
            checked.models,
            checked.roles
        )
    })
}

/// What a registry means.
#[derive(Debug, Serialize)]
struct Shown {
    file: String,
    hash: String,
    models: Vec<Model>,
    roles: Vec<Role>,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    provider: String,
    identifier: String,
    context_window: u32,
    output_tokens_max: u32,
    tokenizer: String,
    json_schema: bool,
    input_per_million: Option<f64>,
    output_per_million: Option<f64>,
    locality: crewline_types::model::Locality,
    concurrency: Option<u32>,
    key: &'static str,
}

#[derive(Debug, Serialize)]
struct Role {
    name: String,
    chain: Vec<String>,
    slots: Option<u32>,
}

impl Shown {
    fn of(registry: &Registry) -> Self {
        let models = registry.models().map(|config| {
            let spec = &config.spec;
            Model {
                name: spec.alias.to_string(),
                provider: spec.provider.to_string(),
                identifier: config.model.clone(),
                context_window: spec.context_window,
                output_tokens_max: spec.output_tokens_max,
                tokenizer: config.tokenizer.to_string(),
                json_schema: spec.has_json_schema,
                input_per_million: spec.price.map(|price| price.input_per_million.as_usd()),
                output_per_million: spec.price.map(|price| price.output_per_million.as_usd()),
                locality: spec.locality,
                concurrency: spec.concurrency_max,
                key: match (config.provider.has_key(), config.provider.key_problem()) {
                    (_, Some(_)) => "missing",
                    (true, None) => "set",
                    (false, None) => "none",
                },
            }
        });
        let default = crewline_types::Role::from("default");
        let roles = registry.roles().into_iter().chain([default]).map(|role| Role {
            chain: registry.chain(&role).iter().map(|model| model.alias.to_string()).collect(),
            slots: registry.slots(&role),
            name: role.to_string(),
        });
        Self {
            file: registry.name().to_owned(),
            hash: registry.hash().to_string(),
            models: models.collect(),
            roles: roles.collect(),
        }
    }

    fn table(&self, style: Style) -> String {
        let columns = [
            ("MODEL", Align::Left),
            ("PROVIDER", Align::Left),
            ("IDENTIFIER", Align::Left),
            ("WINDOW", Align::Right),
            ("TOKENIZER", Align::Left),
            ("$ IN / OUT PER MILLION", Align::Right),
            ("WHERE", Align::Left),
            ("KEY", Align::Left),
        ];
        let models = self.models.iter().map(|model| {
            vec![
                clean(&model.name).into_owned(),
                clean(&model.provider).into_owned(),
                clean(&model.identifier).into_owned(),
                count(model.context_window.into()),
                clean(&model.tokenizer).into_owned(),
                match (model.input_per_million, model.output_per_million) {
                    (Some(input), Some(output)) => format!("{input} / {output}"),
                    _ => "unknown".to_owned(),
                },
                format!("{:?}", model.locality).to_lowercase(),
                model.key.to_owned(),
            ]
        });
        let roles = self.roles.iter().map(|role| {
            vec![
                clean(&role.name).into_owned(),
                clean(&role.chain.join(" → ")).into_owned(),
                role.slots.map_or_else(|| "-".to_owned(), |slots| slots.to_string()),
            ]
        });
        format!(
            "{} {}\n\n{}\n\n{}",
            style.bold("registry"),
            self.file,
            table(style, &columns, &models.collect::<Vec<_>>()),
            table(
                style,
                &[("ROLE", Align::Left), ("CHAIN", Align::Left), ("SLOTS", Align::Right)],
                &roles.collect::<Vec<_>>()
            ),
        )
    }
}
