//! `cargo xtask chaos`: builds the binary and the chaos program (`tests/chaos`), and starts it on each database.
//!
//! **Invariant:** only a server that was started for it is crashed; one that is named is used and left alone.
//! **Invariant:** the binary without fences never stays where the ordinary one belongs.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    postgres::{self, Purpose},
    process::{self, Cargo, Failure},
};

/// How long it runs on one database unless told otherwise.
const TIME: Duration = Duration::from_mins(1);

/// Where runs are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Database {
    /// Files.
    Sqlite,
    /// A server of our own, which is crashed.
    Private,
    /// A server that is named, which is not.
    Named(String),
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    databases: Vec<Database>,
    time: Duration,
    is_unfenced: bool,
    is_release: bool,
    /// What the program understands by itself.
    passed: Vec<String>,
}

impl Options {
    /// A file, then a server of our own, so long on each.
    pub(crate) fn of(time: Duration) -> Self {
        Self {
            databases: vec![Database::Sqlite, Database::Private],
            time,
            is_unfenced: false,
            is_release: false,
            passed: Vec::new(),
        }
    }

    /// Reads the command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, Failure> {
        let mut options = Self::of(TIME);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| Failure::Usage(format!("`{word}` needs a value")));
            let mut number = || {
                let text = value()?;
                let parsed = text.parse::<u64>();
                parsed.map_err(|_| Failure::Usage(format!("`{text}` is no number that `{word}` takes")))
            };
            match *word {
                "--seconds" => options.time = Duration::from_secs(number()?),
                "--minutes" => options.time = Duration::from_secs(number()?.saturating_mul(60)),
                "--seed" | "--rounds" | "--kills" | "--lanes" => {
                    options.passed.extend([(*word).to_owned(), number()?.to_string()]);
                }
                "--database" => {
                    options.databases = match *value()? {
                        "sqlite" => vec![Database::Sqlite],
                        "postgres" => vec![Database::Private],
                        url if url.starts_with("postgres") && url.contains("://") => {
                            vec![Database::Named(url.to_owned())]
                        }
                        other => {
                            let message = format!("`{other}` is no database: sqlite, postgres or a URL postgres://…");
                            return Err(Failure::Usage(message));
                        }
                    };
                }
                "--unfenced" => options.is_unfenced = true,
                "--release" => options.is_release = true,
                _ => return Err(Failure::Usage(format!("chaos has no option `{word}`"))),
            }
        }
        if options.is_unfenced && options.is_release {
            return Err(Failure::Usage(
                "a release build always has its fences: `--unfenced` goes without `--release`".into(),
            ));
        }
        Ok(options)
    }
}

/// Runs it on each database.
pub(crate) fn run(cargo: &Cargo, options: &Options) -> Result<(), Failure> {
    let binary = if options.is_unfenced { Some(unfenced_binary(cargo)?) } else { None };
    for database in &options.databases {
        match database {
            Database::Sqlite => start(cargo, options, binary.as_deref(), Vec::new())?,
            Database::Named(url) => start(cargo, options, binary.as_deref(), vec!["--postgres".into(), url.into()])?,
            Database::Private => {
                let server = postgres::private(cargo, Purpose::Chaos)?;
                let mut arguments = vec!["--postgres".into(), OsString::from(&server.url)];
                arguments.extend(server.crash_arguments());
                start(cargo, options, binary.as_deref(), arguments)?;
            }
        }
    }
    Ok(())
}

fn start(cargo: &Cargo, options: &Options, binary: Option<&Path>, arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut command = cargo.command(&["test", "--quiet", "--package", "crewline-cli", "--test", "chaos"]);
    if options.is_release {
        command.arg("--release");
    }
    command.args(["--", "--seconds", &options.time.as_secs().to_string()]).args(arguments).args(&options.passed);
    if let Some(binary) = binary {
        command.arg("--unfenced").arg("--binary").arg(binary);
    }
    process::run(command)
}

/// Builds the binary without fences, puts it aside, and puts the ordinary one back.
fn unfenced_binary(cargo: &Cargo) -> Result<PathBuf, Failure> {
    let build = |features: &[&str]| {
        let mut command = cargo.command(&["build", "--quiet", "--package", "crewline-cli", "--bin", "crewline"]);
        command.args(features);
        process::run(command)
    };
    let built = cargo.crewline("debug");
    let aside = cargo.target.join("chaos").join("crewline-unfenced");
    let copy = || {
        build(&["--features", "unfenced"])?;
        let folder = aside.parent().unwrap_or(&cargo.target);
        let copied = fs::create_dir_all(folder).and_then(|()| fs::copy(&built, &aside));
        copied.map(drop).map_err(|error| Failure::File { path: aside.clone(), error })
    };
    let copied = copy();
    // Whatever became of it: what is built next must be the real thing.
    build(&[])?;
    copied?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parsed = Options::parse(&["--minutes", "2", "--database", "sqlite", "--seed", "7", "--unfenced"]).unwrap();
        assert_eq!(parsed.time, Duration::from_mins(2));
        assert_eq!(parsed.databases, [Database::Sqlite]);
        assert_eq!(parsed.passed, ["--seed", "7"]);
        assert!(parsed.is_unfenced && !parsed.is_release);
        assert_eq!(Options::parse(&[]).unwrap(), Options::of(TIME));
        let url = "postgres://me@here/chaos";
        assert_eq!(Options::parse(&["--database", url]).unwrap().databases, [Database::Named(url.into())]);
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (words, message) in [
            (&["--second", "1"][..], "chaos has no option `--second`"),
            (&["--seconds"], "`--seconds` needs a value"),
            (&["--seconds", "soon"], "`soon` is no number that `--seconds` takes"),
            (
                &["--unfenced", "--release"],
                "a release build always has its fences: `--unfenced` goes without `--release`",
            ),
            (&["--database", "mysql"], "`mysql` is no database: sqlite, postgres or a URL postgres://…"),
        ] {
            let error = Options::parse(words).unwrap_err();
            assert!(matches!(&error, Failure::Usage(text) if text == message), "{error:?}");
        }
    }
}
