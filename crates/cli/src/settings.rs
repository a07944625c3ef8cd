//! What the process was told: flag > environment > default.
//!
//! **Invariant:** this is the only reader of the environment. A variable is `CREWLINE_NAME` or `CREWLINE_SECTION__KEY`;
//! an empty one counts as not set.

use std::{
    fmt,
    num::NonZeroUsize,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::ValueEnum;
use crewline_runtime::Limits;
use crewline_types::{MicroUsd, time::parse_duration};
use etcetera::BaseStrategy;

use crate::{
    args::{Color, Global, Output},
    error::Error,
};

/// Prompt templates of the project in whose directory the command is run.
const PROJECT_PROMPTS: &str = "config/prompts";
/// The shortest and the longest lease.
const LEASE_MIN: Duration = Duration::from_secs(1);
const LEASE_MAX: Duration = Duration::from_hours(1);
/// Memories of a question that a reranker may read.
const READ: RangeInclusive<usize> = 2..=200;

/// Reads one environment variable.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dirs {
    /// For `crewline.yaml`.
    pub(crate) config: PathBuf,
    /// For the database, models, logs.
    pub(crate) data: PathBuf,
}

impl Dirs {
    /// By the XDG rules; `None` when the user has no home directory.
    pub(crate) fn of_user() -> Option<Self> {
        let base = etcetera::choose_base_strategy().ok()?;
        Some(Self { config: base.config_dir().join("crewline"), data: base.data_dir().join("crewline") })
    }
}

/// What reads the best of memory again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reranking {
    /// The cross-encoder of the data directory, if it is there.
    IfThere,
    /// The one in this folder.
    Named(PathBuf),
    /// None, also where one is there.
    Off,
}

impl Reranking {
    fn of(named: Option<PathBuf>) -> Self {
        match named {
            None => Self::IfThere,
            Some(dir) if dir == Path::new("none") => Self::Off,
            Some(dir) => Self::Named(dir),
        }
    }
}

/// What every command was told.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Settings {
    /// The registry, when it was named.
    pub(crate) registry: Option<PathBuf>,
    /// The project, when it was named.
    pub(crate) project: Option<String>,
    /// Where everything lives.
    pub(crate) data_dir: PathBuf,
    /// Where the user's configuration lives.
    pub(crate) config_dir: Option<PathBuf>,
    /// The database, when it was named.
    pub(crate) database: Option<String>,
    /// The Qdrant server.
    pub(crate) qdrant: Option<String>,
    /// Its key.
    pub(crate) qdrant_key: Option<String>,
    /// What `QDRANT_URL` names. Other programs read that as well, so crews do not.
    qdrant_of_all: Option<String>,
    /// What reads the best of memory again.
    pub(crate) reranker: Reranking,
    /// Memories of a question that it reads; `None` for the default.
    pub(crate) reranker_read: Option<usize>,
    /// How stdout looks.
    pub(crate) output: Output,
    /// Say less on stderr.
    pub(crate) quiet: bool,
    /// Say more on stderr.
    pub(crate) verbose: u8,
    /// Colours, with what the environment says about them.
    pub(crate) color: Color,
    /// A live view is welcome.
    pub(crate) progress: bool,
    /// Questions are welcome.
    pub(crate) input: bool,
    /// Every answer is yes.
    pub(crate) yes: bool,
    /// How long a process may be silent before others take over its work; `None` for the default.
    pub(crate) lease: Option<Duration>,
    /// What `resume` needs to find the run again.
    pub(crate) sticky: Vec<String>,
}

impl Settings {
    /// Joins flags, environment and defaults.
    pub(crate) fn load(global: &Global, env: Env<'_>, dirs: Option<Dirs>) -> Result<Self, Error> {
        let read = Reader { env };
        let mut sticky = Vec::new();
        let registry = global.registry.clone().or_else(|| read.text(&["CREWLINE_REGISTRY"]).map(PathBuf::from));
        if let Some(path) = &global.registry {
            sticky.extend(["--registry".to_owned(), path.display().to_string()]);
        }
        if let Some(path) = &global.data_dir {
            sticky.extend(["--data-dir".to_owned(), path.display().to_string()]);
        }
        // A URL may carry a password; the command we print must not.
        if let Some(url) = global.database.as_ref().filter(|url| !url.contains('@')) {
            sticky.extend(["--database".to_owned(), url.clone()]);
        }
        if let Some(url) = global.qdrant.as_ref().filter(|url| !url.contains('@')) {
            sticky.extend(["--qdrant".to_owned(), url.clone()]);
        }
        if let Some(dir) = &global.reranker {
            sticky.extend(["--reranker".to_owned(), dir.display().to_string()]);
        }
        let data_dir = global.data_dir.clone().or_else(|| read.text(&["CREWLINE_DATA_DIR"]).map(PathBuf::from));
        let data_dir = match (data_dir, &dirs) {
            (Some(dir), _) => dir,
            (None, Some(dirs)) => dirs.data.clone(),
            (None, None) => return Err(Error::NoHome),
        };
        let output = match (global.output, global.json) {
            (Some(output), _) => output,
            (None, true) => Output::Json,
            (None, false) => read.choice("CREWLINE_OUTPUT")?.unwrap_or_default(),
        };
        Ok(Self {
            registry,
            project: global.project.clone().or_else(|| read.text(&["CREWLINE_PROJECT"])),
            data_dir,
            config_dir: dirs.map(|dirs| dirs.config),
            database: global
                .database
                .clone()
                .or_else(|| read.text(&["CREWLINE_DATABASE__URL", "CREWLINE_DATABASE_URL", "CREWLINE_DATABASE"])),
            qdrant: global.qdrant.clone().or_else(|| read.text(&["CREWLINE_QDRANT__URL", "CREWLINE_QDRANT_URL"])),
            qdrant_key: read.text(&["CREWLINE_QDRANT__API_KEY"]),
            qdrant_of_all: read.text(&["QDRANT_URL"]),
            reranker: Reranking::of(
                global.reranker.clone().or_else(|| read.text(&["CREWLINE_RERANKER__DIR"]).map(PathBuf::from)),
            ),
            reranker_read: read.parsed("CREWLINE_RERANKER__READ", parse_read)?,
            output,
            quiet: global.quiet,
            verbose: global.verbose,
            color: match global.color {
                Some(color) => color,
                None => read.choice("CREWLINE_COLOR")?.unwrap_or_else(|| read.color()),
            },
            progress: !global.no_progress,
            input: !global.no_input,
            yes: global.yes,
            lease: read.parsed("CREWLINE_QUEUE__LEASE", parse_lease)?,
            sticky,
        })
    }

    /// The same with another lease, when one is given.
    pub(crate) fn with_lease(&self, lease: Option<Duration>) -> Self {
        Self { lease: lease.or(self.lease), ..self.clone() }
    }

    /// The same for measuring, which leaves nothing behind: with any Qdrant server that is named.
    pub(crate) fn with_any_qdrant(&self) -> Self {
        Self { qdrant: self.qdrant.clone().or_else(|| self.qdrant_of_all.clone()), ..self.clone() }
    }

    /// The bounds of the runtime.
    pub(crate) fn limits(&self) -> Limits {
        let standard = Limits::default();
        Limits { lease: self.lease.unwrap_or(standard.lease), ..standard }
    }

    /// The database's URL.
    pub(crate) fn database_url(&self) -> String {
        match &self.database {
            Some(url) => url.clone(),
            None => format!("sqlite:{}", self.data_dir.join("crewline.db").display()),
        }
    }

    /// The project, `default` when none was named.
    pub(crate) fn project(&self) -> &str {
        self.project.as_deref().unwrap_or("default")
    }

    /// Where a registry is looked for, best first.
    pub(crate) fn registry_candidates(&self) -> Vec<PathBuf> {
        let mut candidates = vec![PathBuf::from("crewline.yaml")];
        candidates.extend(self.config_dir.iter().map(|dir| dir.join("crewline.yaml")));
        candidates.push(self.data_dir.join("crewline.yaml"));
        candidates
    }

    /// The folder of prompt templates that replace the shipped ones, if there is one: the named one, else the project's, else
    /// the user's.
    pub(crate) fn prompts_dir(&self) -> Option<PathBuf> {
        let named = process_env("CREWLINE_PROMPTS__DIR").map(PathBuf::from);
        let of_project = || Some(PathBuf::from(PROJECT_PROMPTS)).filter(|dir| dir.is_dir());
        let of_user = || self.config_dir.as_ref().map(|dir| dir.join("prompts")).filter(|dir| dir.is_dir());
        named.or_else(of_project).or_else(of_user)
    }

    /// Where templates of the user are.
    pub(crate) fn templates_dir(&self) -> Option<PathBuf> {
        let named = process_env("CREWLINE_TEMPLATES__DIR").map(PathBuf::from);
        named.or_else(|| self.config_dir.as_ref().map(|dir| dir.join("templates")).filter(|dir| dir.is_dir()))
    }

    /// The command that continues `run`.
    pub(crate) fn resume_command(&self, run: impl fmt::Display, out: Option<&Path>) -> String {
        let mut command = format!("crewline resume {run}");
        for word in &self.sticky {
            command.push(' ');
            command.push_str(&quote(word));
        }
        if let Some(out) = out {
            command.push_str(" --out ");
            command.push_str(&quote(&out.display().to_string()));
        }
        command
    }
}

/// What a run was told, before defaults.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RunDefaults {
    /// `CREWLINE_RUN__MAX_COST`
    pub(crate) cost_max: Option<MicroUsd>,
    /// `CREWLINE_RUN__MAX_TASK_COST`
    pub(crate) task_cost_max: Option<MicroUsd>,
    /// `CREWLINE_RUN__MAX_PROJECT_COST`
    pub(crate) project_cost_max: Option<MicroUsd>,
    /// `CREWLINE_RUN__MAX_STEPS`
    pub(crate) steps_max: Option<u32>,
    /// `CREWLINE_RUN__MAX_TIME`
    pub(crate) time_max: Option<Duration>,
    /// `CREWLINE_RUN__CONCURRENCY`
    pub(crate) concurrency: Option<NonZeroUsize>,
    /// `CREWLINE_RUN__OFFLINE`
    pub(crate) offline: bool,
}

impl RunDefaults {
    /// What the environment says.
    pub(crate) fn load(env: Env<'_>) -> Result<Self, Error> {
        let read = Reader { env };
        Ok(Self {
            cost_max: read.parsed("CREWLINE_RUN__MAX_COST", parse_usd)?,
            task_cost_max: read.parsed("CREWLINE_RUN__MAX_TASK_COST", parse_usd)?,
            project_cost_max: read.parsed("CREWLINE_RUN__MAX_PROJECT_COST", parse_usd)?,
            steps_max: read.parsed("CREWLINE_RUN__MAX_STEPS", parse_number)?,
            time_max: read.parsed("CREWLINE_RUN__MAX_TIME", parse_time)?,
            concurrency: read.parsed("CREWLINE_RUN__CONCURRENCY", parse_number)?,
            offline: read.parsed("CREWLINE_RUN__OFFLINE", parse_switch)?.unwrap_or(false),
        })
    }
}

/// US dollars, as an argument or a variable has them.
pub(crate) fn parse_usd(text: &str) -> Result<MicroUsd, String> {
    let number = text.trim().trim_start_matches('$').parse().ok().and_then(MicroUsd::from_usd);
    number.ok_or_else(|| "give US dollars, such as 0.50".to_owned())
}

/// A duration above zero, as an argument or a variable has it.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "give a time above zero, such as 90s, 15m or 1h30m".to_owned())
}

/// A lease: shorter ones would be lost to a busy machine.
pub(crate) fn parse_lease(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| (LEASE_MIN..=LEASE_MAX).contains(time));
    time.ok_or_else(|| "give a time from 1s to 1h, such as 30s".to_owned())
}

/// How many memories of a question a reranker reads.
fn parse_read(text: &str) -> Result<usize, String> {
    let count = text.trim().parse().ok().filter(|count| READ.contains(count));
    count.ok_or_else(|| "give a number from 2 to 200".to_owned())
}

fn parse_number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| "give a whole number above zero".to_owned())
}

fn parse_switch(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("give true or false".to_owned()),
    }
}

struct Reader<'a> {
    env: Env<'a>,
}

impl Reader<'_> {
    /// The first of `names` that is set.
    fn text(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| (self.env)(name)).filter(|value| !value.is_empty())
    }

    fn parsed<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, Error> {
        let Some(value) = self.text(&[name]) else { return Ok(None) };
        match parse(&value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(expected) => Err(Error::Variable { name, value, expected }),
        }
    }

    fn choice<T: ValueEnum>(&self, name: &'static str) -> Result<Option<T>, Error> {
        self.parsed(name, |value| {
            T::from_str(value, true).map_err(|_| {
                let allowed = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
                let allowed: Vec<String> = allowed.map(|value| value.get_name().to_owned()).collect();
                format!("give one of {}", allowed.join(", "))
            })
        })
    }

    /// `NO_COLOR` (no-color.org) beats `CLICOLOR_FORCE` (bixense.com/clicolors).
    fn color(&self) -> Color {
        if self.text(&["NO_COLOR"]).is_some() {
            return Color::Never;
        }
        match self.text(&["CLICOLOR_FORCE"]).as_deref() {
            Some("0") | None => {}
            Some(_) => return Color::Always,
        }
        match self.text(&["TERM"]).as_deref() {
            Some("dumb") => Color::Never,
            Some(_) | None => Color::Auto,
        }
    }
}

/// Quotes a word for a POSIX shell where it needs to be.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> Dirs {
        Dirs { config: "/home/u/.config/crewline".into(), data: "/home/u/.local/share/crewline".into() }
    }

    fn load(global: &Global, env: &[(&str, &str)]) -> Result<Settings, Error> {
        let find = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::load(global, &find, Some(dirs()))
    }

    #[test]
    fn a_flag_beats_the_environment_beats_the_default() {
        let none = Global::default();
        assert_eq!(load(&none, &[]).unwrap().data_dir, Path::new("/home/u/.local/share/crewline"));
        let env = [("CREWLINE_DATA_DIR", "/env")];
        assert_eq!(load(&none, &env).unwrap().data_dir, Path::new("/env"));
        let flag = Global { data_dir: Some("/flag".into()), ..Global::default() };
        assert_eq!(load(&flag, &env).unwrap().data_dir, Path::new("/flag"));
        assert_eq!(load(&none, &[("CREWLINE_DATA_DIR", "")]).unwrap().data_dir, dirs().data);
    }

    #[test]
    fn the_database_follows_the_data_directory() {
        let flag = Global { data_dir: Some("/d".into()), ..Global::default() };
        assert_eq!(load(&flag, &[]).unwrap().database_url(), "sqlite:/d/crewline.db");
        let env = [("CREWLINE_DATABASE__URL", "postgres://h/db")];
        assert_eq!(load(&flag, &env).unwrap().database_url(), "postgres://h/db");
    }

    #[test]
    fn the_qdrant_server_of_all_programs_is_for_measuring_only() {
        let (of_all, own) = (("QDRANT_URL", "http://all"), ("CREWLINE_QDRANT__URL", "http://own"));
        let settings = load(&Global::default(), &[of_all]).unwrap();
        assert_eq!(settings.qdrant, None);
        assert_eq!(settings.with_any_qdrant().qdrant.as_deref(), Some("http://all"));
        let settings = load(&Global::default(), &[of_all, own]).unwrap();
        assert_eq!(settings.with_any_qdrant().qdrant.as_deref(), Some("http://own"));
    }

    #[test]
    fn a_reranker_is_named_turned_off_or_found() {
        let none = Global::default();
        assert_eq!(load(&none, &[]).unwrap().reranker, Reranking::IfThere);
        let env = ("CREWLINE_RERANKER__DIR", "/env");
        assert_eq!(load(&none, &[env]).unwrap().reranker, Reranking::Named("/env".into()));
        let off = load(&Global { reranker: Some("none".into()), ..Global::default() }, &[env]).unwrap();
        assert_eq!(
            (off.reranker, &off.sticky[..]),
            (Reranking::Off, &["--reranker".to_owned(), "none".to_owned()][..])
        );
        assert_eq!(load(&none, &[("CREWLINE_RERANKER__READ", "16")]).unwrap().reranker_read, Some(16));
        for bad in ["1", "201", "many"] {
            load(&none, &[("CREWLINE_RERANKER__READ", bad)]).unwrap_err();
        }
    }

    #[test]
    fn output_and_colour_come_from_the_environment_too() {
        let none = Global::default();
        assert_eq!(load(&none, &[]).unwrap().output, Output::Table);
        assert_eq!(load(&none, &[("CREWLINE_OUTPUT", "jsonl")]).unwrap().output, Output::Jsonl);
        let json = Global { json: true, ..Global::default() };
        assert_eq!(load(&json, &[("CREWLINE_OUTPUT", "jsonl")]).unwrap().output, Output::Json);
        for (env, color) in [
            (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")][..], Color::Never),
            (&[("CLICOLOR_FORCE", "1")], Color::Always),
            (&[("CLICOLOR_FORCE", "0")], Color::Auto),
            (&[("TERM", "dumb")], Color::Never),
            (&[("CREWLINE_COLOR", "always"), ("NO_COLOR", "1")], Color::Always),
        ] {
            assert_eq!(load(&none, env).unwrap().color, color, "{env:?}");
        }
        let error = load(&none, &[("CREWLINE_OUTPUT", "xml")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`xml` is not allowed for CREWLINE_OUTPUT: give one of table, json, jsonl, yaml, dot, mermaid"
        );
    }

    #[test]
    fn run_defaults_are_checked() {
        let env = |name: &str| match name {
            "CREWLINE_RUN__MAX_COST" => Some("0.5".to_owned()),
            "CREWLINE_RUN__MAX_TIME" => Some("15m".to_owned()),
            "CREWLINE_RUN__CONCURRENCY" => Some("4".to_owned()),
            _ => None,
        };
        let defaults = RunDefaults::load(&env).unwrap();
        assert_eq!(defaults.cost_max, Some(MicroUsd(500_000)));
        assert_eq!(defaults.time_max, Some(Duration::from_mins(15)));
        assert_eq!(defaults.concurrency.map(NonZeroUsize::get), Some(4));
        assert!(RunDefaults::load(&|name| (name == "CREWLINE_RUN__CONCURRENCY").then(|| "0".to_owned())).is_err());
    }

    #[test]
    fn the_resume_command_can_be_pasted() {
        let global = Global {
            data_dir: Some("/my data".into()),
            database: Some("postgres://user:secret@host/db".into()),
            ..Global::default()
        };
        let command = load(&global, &[]).unwrap().resume_command("k3v9x0ab", Some(Path::new("out")));
        assert_eq!(command, "crewline resume k3v9x0ab --data-dir '/my data' --out out");
    }

    #[test]
    fn without_a_home_a_data_directory_must_be_named() {
        assert!(matches!(Settings::load(&Global::default(), &|_| None, None), Err(Error::NoHome)));
    }
}
