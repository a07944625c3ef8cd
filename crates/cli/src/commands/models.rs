//! `crewline models`: what local servers have and what of it is loaded, loading and unloading, and a check of every model.
//!
//! **Invariant:** only `check` asks a model, and only `pull`, `load` and `unload` change anything.

use std::{sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use crewline_models::{
    Error as ModelsError, Mode, Models, Options, ProviderConfig, Registry,
    runtimes::{Host, LoadOptions, LoadState, PullProgress, RuntimeKind, RuntimeModel},
};
use crewline_types::model::Locality;
use futures::future::join_all;
use serde::Serialize;

use crate::{
    app,
    console::Console,
    error::Error,
    exit::Exit,
    machine,
    settings::{Settings, parse_time},
    view::{Align, Style, bytes, clean, count, table},
};

mod check;

/// What `crewline models` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline models ls
  crewline models load local-8b --keep-alive 30m
  crewline models check -o json")]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the models of local servers
    #[command(after_help = "Examples:
  crewline models ls
  crewline models ls --provider openrouter -o json")]
    Ls {
        /// Only this provider, also a remote one
        #[arg(long, value_name = "NAME")]
        provider: Option<String>,
    },
    /// List what is loaded, and how busy this machine is
    #[command(after_help = "Example:
  crewline models ps")]
    Ps,
    /// Let a local server download a model (Ollama)
    #[command(after_help = "Example:
  crewline models pull qwen3:8b --provider ollama")]
    Pull(Which),
    /// Load a model (Ollama, LM Studio, llama.cpp in router mode)
    #[command(after_help = "Examples:
  crewline models load local-8b
  crewline models load qwen3:8b --provider ollama --keep-alive 30m")]
    Load {
        #[command(flatten)]
        which: Which,
        /// How long it stays loaded without being asked (Ollama)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        keep_alive: Option<Duration>,
    },
    /// Take a model out of memory
    #[command(after_help = "Example:
  crewline models unload local-8b")]
    Unload(Which),
    /// Ask every model a trivial question: latency, tokens a second, size of the answer
    #[command(after_help = "Examples:
  crewline models check
  crewline models check cheap strong --offline -o json

Exits with 0 when all answered, else with the code of the first that did not: 4 for a refused key, 6 for no answer.")]
    Check(check::CheckArgs),
}

/// A model.
#[derive(Debug, Args)]
struct Which {
    /// Its name in the registry, or with `--provider` its identifier there
    #[arg(value_name = "MODEL")]
    model: String,
    /// The provider, for a model that the registry does not name
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
}

/// Runs the command.
pub(crate) async fn run(args: ModelsArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let registry = app::load_registry(settings, console)?;
    let mode = match &args.action {
        Action::Check(args) if args.offline => Mode::Offline,
        _ => Mode::Online,
    };
    let guard = std::env::current_exe().ok();
    let models = Models::new(
        registry.clone(),
        Options { data_dir: settings.data_dir.clone(), guard, mode, ..Options::default() },
    )?;
    match args.action {
        Action::Ls { provider } => ls(&models, &registry, provider.as_deref(), console).await,
        Action::Ps => ps(&models, &registry, console).await,
        Action::Pull(which) => {
            let place = Place::of(&which, &registry)?;
            models.pull(&place.provider, &place.model, &|progress| console.note(&told(&progress))).await?;
            changed(console, "pulled", &place)
        }
        Action::Load { which, keep_alive } => {
            let place = Place::of(&which, &registry)?;
            let options = LoadOptions { context_window: place.context_window, keep_alive };
            models.load(&place.provider, &place.model, options).await?;
            changed(console, "loaded", &place)
        }
        Action::Unload(which) => {
            let place = Place::of(&which, &registry)?;
            models.unload(&place.provider, &place.model).await?;
            changed(console, "unloaded", &place)
        }
        Action::Check(args) => {
            let ended = check::run(&args, &models, &registry, console).await;
            models.shutdown().await;
            ended
        }
    }
}

/// Where a model is.
#[derive(Debug, Serialize)]
struct Place {
    provider: String,
    model: String,
    context_window: Option<u32>,
}

impl Place {
    fn of(which: &Which, registry: &Registry) -> Result<Self, Error> {
        match (&which.provider, registry.config(&which.model)) {
            (Some(provider), _) => {
                Ok(Self { provider: provider.clone(), model: which.model.clone(), context_window: None })
            }
            (None, Some(config)) => Ok(Self {
                provider: config.spec.provider.to_string(),
                model: config.model.clone(),
                context_window: Some(config.spec.context_window),
            }),
            (None, None) => Err(ModelsError::UnknownModel { alias: which.model.as_str().into() }.into()),
        }
    }
}

fn changed(console: &Console, what: &'static str, place: &Place) -> Result<Exit, Error> {
    #[derive(Serialize)]
    struct Changed<'a> {
        done: &'static str,
        provider: &'a str,
        model: &'a str,
    }
    let changed = Changed { done: what, provider: &place.provider, model: &place.model };
    console.value(&changed, |_| format!("{what} {} at {}", clean(&place.model), clean(&place.provider)))?;
    Ok(Exit::Ok)
}

fn told(progress: &PullProgress) -> String {
    let status = clean(&progress.status).into_owned();
    match (progress.completed, progress.total) {
        (Some(completed), Some(total)) => format!("{status}: {} of {}", bytes(completed), bytes(total)),
        _ => status,
    }
}

/// A model on a server, with its place and its names in the registry.
#[derive(Debug, Serialize)]
struct Row {
    provider: String,
    runtime: RuntimeKind,
    #[serde(flatten)]
    model: RuntimeModel,
    aliases: Vec<String>,
}

/// Asks providers at once; those that do not answer are told on stderr.
async fn rows(
    models: &Models,
    registry: &Registry,
    providers: Vec<&Arc<ProviderConfig>>,
    console: &Console,
) -> (Vec<Row>, Option<ModelsError>) {
    let asked = join_all(providers.iter().map(|it| models.runtime(&it.name))).await;
    let mut rows = Vec::new();
    let mut failed = None;
    for (provider, status) in providers.into_iter().zip(asked) {
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                console.warn(&clean(&error.to_string()));
                failed = failed.or(Some(error));
                continue;
            }
        };
        let own = |id: &str| {
            let named = registry.models().filter(|it| it.spec.provider == provider.name && it.model == id);
            named.map(|it| it.spec.alias.to_string()).collect::<Vec<_>>()
        };
        let row = |model: RuntimeModel| Row {
            provider: provider.name.to_string(),
            runtime: status.kind,
            aliases: own(&model.id),
            model,
        };
        if status.kind == RuntimeKind::Managed {
            let named = registry.models().filter(|it| it.spec.provider == provider.name);
            rows.extend(named.map(|it| {
                row(RuntimeModel {
                    id: it.model.clone(),
                    state: LoadState::Unloaded,
                    size_bytes: None,
                    memory_bytes: None,
                    vram_bytes: None,
                    context_window: Some(it.spec.context_window),
                    expires_at: None,
                })
            }));
        }
        rows.extend(status.models.into_iter().map(row));
    }
    (rows, failed)
}

/// The providers of this machine and of private networks.
fn local(registry: &Registry) -> Vec<&Arc<ProviderConfig>> {
    registry.providers().filter(|it| it.locality != Locality::Remote).collect()
}

async fn ls(models: &Models, registry: &Registry, provider: Option<&str>, console: &Console) -> Result<Exit, Error> {
    let providers = match provider {
        None => local(registry),
        Some(name) => match registry.providers().find(|it| *it.name == *name) {
            Some(provider) => vec![provider],
            None => return Err(ModelsError::UnknownProvider { provider: name.to_owned() }.into()),
        },
    };
    if providers.is_empty() {
        console.hint("no provider of the registry is local; `--provider NAME` lists what a remote one offers");
    }
    let (rows, failed) = rows(models, registry, providers, console).await;
    console.list(&rows, |style| listing(style, &rows))?;
    match failed {
        Some(error) if rows.is_empty() => Err(error.into()),
        Some(_) | None => Ok(Exit::Ok),
    }
}

fn listing(style: Style, rows: &[Row]) -> String {
    let columns = [
        ("MODEL", Align::Left),
        ("PROVIDER", Align::Left),
        ("STATE", Align::Left),
        ("SIZE", Align::Right),
        ("MEMORY", Align::Right),
        ("WINDOW", Align::Right),
        ("NAMES", Align::Left),
    ];
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let size = |bytes_of: Option<u64>| bytes_of.map_or_else(|| "-".to_owned(), bytes);
            vec![
                clean(&row.model.id).into_owned(),
                clean(&row.provider).into_owned(),
                match row.model.state {
                    LoadState::Loaded => style.green("loaded"),
                    LoadState::Loading => "loading".to_owned(),
                    LoadState::Unloaded => "-".to_owned(),
                    LoadState::Unknown => "unknown".to_owned(),
                },
                size(row.model.size_bytes),
                size(row.model.memory_bytes),
                row.model.context_window.map_or_else(|| "-".to_owned(), |it| count(it.into())),
                clean(&row.aliases.join(", ")).into_owned(),
            ]
        })
        .collect();
    table(style, &columns, &lines)
}

async fn ps(models: &Models, registry: &Registry, console: &Console) -> Result<Exit, Error> {
    #[derive(Serialize)]
    struct Loaded {
        host: Host,
        models: Vec<Row>,
    }
    let (mut rows, _) = rows(models, registry, local(registry), console).await;
    rows.retain(|it| matches!(it.model.state, LoadState::Loaded | LoadState::Loading));
    let loaded = Loaded { host: machine::look().await?, models: rows };
    console.value(&loaded, |style| {
        let lines = machine::lines(&loaded.host).join("\n");
        if loaded.models.is_empty() {
            format!("{lines}\nno model is loaded")
        } else {
            format!("{lines}\n\n{}", listing(style, &loaded.models))
        }
    })?;
    Ok(Exit::Ok)
}
