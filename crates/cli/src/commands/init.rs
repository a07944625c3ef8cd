//! `crewline init`: write a registry from what this machine has.
//!
//! **Invariant:** a file that exists is overwritten with `--force` only, and never left half written.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use crewline_models::{
    Registry,
    detect::{Found, detect, registry_yaml},
};
use serde::Serialize;

use crate::{
    console::Console,
    error::Error,
    exit::Exit,
    settings::{Settings, process_env, quote},
    view::clean,
};

/// What `crewline init` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  crewline init
  crewline init --registry team.yaml --force

Looks for OPENAI_API_KEY, ANTHROPIC_API_KEY and OPENROUTER_API_KEY, for Ollama, LM Studio, vLLM and llama-server on this
machine, and for what `crewline setup --local` has installed. Writes the file that `--registry` names, else ./crewline.yaml.")]
pub(crate) struct InitArgs {
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
}

/// Runs the command.
pub(crate) async fn run(args: InitArgs, settings: &Settings, console: &Console) -> Result<Exit, Error> {
    let path = settings.registry.clone().unwrap_or_else(|| PathBuf::from("crewline.yaml"));
    if !args.force && path.exists() {
        return Err(Error::Exists { path });
    }
    // The probes speak plain HTTP, but their client is built with TLS.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let found = detect(&process_env, &settings.data_dir).await;
    for line in describe(&found) {
        console.note(&line);
    }
    let Some(text) = registry_yaml(&found) else { return Err(Error::NothingFound) };
    let registry =
        Registry::parse(&text, &path.display().to_string(), &process_env).map_err(crewline_models::Error::from)?;
    write(&path, &text, args.force).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
        _ => Error::Write { path: path.clone(), source },
    })?;
    let written = Written {
        file: &path,
        models: registry.models().map(|model| model.spec.alias.to_string()).collect(),
        servers: found.servers.iter().map(|server| server.kind.label()).collect(),
        keys: found.keys.iter().map(|key| key.variable()).collect(),
        has_local_model: found.managed.is_some(),
    };
    console.value(&written, |_| path.display().to_string())?;
    let option = match &settings.registry {
        Some(path) => format!(" --registry {}", quote(&path.display().to_string())),
        None => String::new(),
    };
    console.note(&format!("try it: crewline run \"Write a haiku about teamwork\"{option}"));
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    models: Vec<String>,
    servers: Vec<&'static str>,
    keys: Vec<&'static str>,
    has_local_model: bool,
}

/// What was found, a line each.
fn describe(found: &Found) -> Vec<String> {
    let mut lines = Vec::new();
    for key in &found.keys {
        lines.push(format!("found {} in the environment", key.variable()));
    }
    for server in &found.servers {
        let models: Vec<_> = server.models.iter().map(|model| clean(&model.id).into_owned()).collect();
        let models = if models.is_empty() { "no models".to_owned() } else { models.join(", ") };
        lines.push(format!("found {} at {}: {models}", server.kind.label(), server.base_url));
    }
    if let Some(parts) = &found.managed {
        lines.push(format!("found the local model {}", clean(&parts.name)));
    }
    lines
}

fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.tmp", std::process::id()));
    let draft = PathBuf::from(draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // A link fails where a file has appeared meanwhile; a rename would replace it.
        if force { fs::rename(&draft, path) } else { fs::hard_link(&draft, path) }
    })();
    let _ = fs::remove_file(&draft);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_kept_unless_forced() {
        let folder = std::env::temp_dir().join(format!("crewline-init-{}", std::process::id()));
        let path = folder.join("sub/crewline.yaml");
        write(&path, "one", false).unwrap();
        assert_eq!(write(&path, "two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no draft is left");
        fs::remove_dir_all(folder).unwrap();
    }
}
