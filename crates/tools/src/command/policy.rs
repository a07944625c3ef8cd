//! What commands a role may run, and within what.
//!
//! **Invariant:** a program that no rule names is not run; a rule that names all programs does not name the shells.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use globset::{Glob, GlobMatcher};

use crate::{Error, Network};

/// Programs that run what they are given as a text or as arguments: a rule must name each of these itself.
const SHELLS: [&str; 24] = [
    "ash", "bash", "busybox", "csh", "dash", "doas", "env", "exec", "fish", "ksh", "nice", "nohup", "nsenter", "nu",
    "pwsh", "sh", "setsid", "sudo", "su", "tcsh", "timeout", "unshare", "xargs", "zsh",
];

/// What commands a role may run, and within what.
#[derive(Debug, Clone)]
pub struct CommandPolicy {
    /// What may be run. Empty: nothing.
    pub allow: Vec<CommandRule>,
    /// What may be run when a person agrees.
    pub ask: Vec<CommandRule>,
    /// Limits of each command.
    pub limits: CommandLimits,
    /// What they may reach.
    pub network: Network,
    /// What is done where the kernel can not confine them.
    pub unconfined: Unconfined,
    /// Where programs are looked for.
    pub path: Vec<PathBuf>,
    /// Files and directories outside the workspace that they may read and run, beside what every program needs.
    pub readable: Vec<PathBuf>,
    /// Variables beside `PATH`, `HOME`, `TMPDIR`, `LANG` and `TERM`. Nothing of crewline's own environment is passed on.
    pub env: BTreeMap<String, String>,
}

impl Default for CommandPolicy {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            ask: Vec::new(),
            limits: CommandLimits::default(),
            network: Network::None,
            unconfined: Unconfined::Ask,
            path: ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"]
                .map(Into::into)
                .to_vec(),
            readable: Vec::new(),
            env: BTreeMap::new(),
        }
    }
}

/// Limits of one command and all it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandLimits {
    /// How long it may take.
    pub time_max: Duration,
    /// CPU of each of its processes.
    pub cpu_max: Duration,
    /// Memory of all its processes.
    pub memory_bytes_max: u64,
    /// Processes and threads.
    pub processes_max: u64,
    /// Bytes it may write to its output; at most what an output store keeps.
    pub output_bytes_max: u64,
    /// Bytes of a file it writes.
    pub file_bytes_max: u64,
}

impl Default for CommandLimits {
    fn default() -> Self {
        Self {
            time_max: Duration::from_mins(2),
            cpu_max: Duration::from_mins(10),
            memory_bytes_max: 4 << 30,
            processes_max: 512,
            output_bytes_max: crate::OUTPUT_BYTES_MAX,
            file_bytes_max: 1 << 30,
        }
    }
}

/// What is done with a command where the kernel can not confine it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unconfined {
    /// A person is asked, each time.
    #[default]
    Ask,
    /// It is run with what there is: its limits hold, its files and its network are those of crewline.
    Run,
    /// It is not run.
    Refuse,
}

impl Unconfined {
    /// The name in the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "ask",
            Self::Run => "run",
            Self::Refuse => "refuse",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Ask, Self::Run, Self::Refuse].into_iter().find(|it| it.as_str() == text)
    }
}

/// A program, and what it may be called with.
#[derive(Debug, Clone)]
pub struct CommandRule {
    text: String,
    program: GlobMatcher,
    args: Vec<GlobMatcher>,
    /// Whether more may follow.
    is_open: bool,
}

impl CommandRule {
    /// A rule from its words: `cargo test **`, `pytest -q *`, `npm run test:*`.
    ///
    /// The first word is the program, each further one a pattern of one argument, in their order; a last word `**` stands for any
    /// arguments. `cargo` alone allows `cargo` without arguments. A program with a `/` is a file below the workspace.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Rule { rule: text.to_owned(), reason };
        let words = shell_words::split(text).map_err(|error| invalid(error.to_string()))?;
        let glob = |word: &String| {
            let glob = Glob::new(word).map_err(|error| invalid(error.to_string()))?;
            Ok::<_, Error>(glob.compile_matcher())
        };
        let Some((program, args)) = words.split_first() else { return Err(invalid("it names no program".to_owned())) };
        let (is_open, args) = match args.split_last() {
            Some((last, args)) if last == "**" => (true, args),
            _ => (false, args),
        };
        let args = args.iter().map(glob).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), program: glob(program)?, args, is_open })
    }

    /// The rule as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn fits(&self, program: &str, args: &[&str]) -> bool {
        let name = program.rsplit('/').next().unwrap_or(program);
        let is_named = self.text.split_whitespace().next() == Some(program);
        if SHELLS.contains(&name) && !is_named {
            return false;
        }
        let fits_count = args.len() == self.args.len() || (self.is_open && args.len() > self.args.len());
        // A pattern of names is none of paths: `*` does not allow what the workspace brings along.
        let is_file = program.contains('/');
        let fits_program = if is_file { is_named } else { self.program.is_match(program) };
        fits_program && fits_count && self.args.iter().zip(args).all(|(pattern, arg)| pattern.is_match(arg))
    }
}

/// What a policy says of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allow,
    Ask,
    Refuse,
}

impl CommandPolicy {
    /// Whether the command may be run without asking anybody.
    pub fn allows(&self, program: &str, args: &[&str]) -> bool {
        self.judge(program, args) == Verdict::Allow
    }

    /// What is said of a command by its words alone.
    pub(crate) fn judge(&self, program: &str, args: &[&str]) -> Verdict {
        let fits = |rules: &[CommandRule]| rules.iter().any(|rule| rule.fits(program, args));
        if fits(&self.allow) {
            Verdict::Allow
        } else if fits(&self.ask) {
            Verdict::Ask
        } else {
            Verdict::Refuse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_programs_and_arguments() {
        for (rule, command, expected) in [
            ("cargo test **", "cargo test", true),
            ("cargo test **", "cargo test --workspace x", true),
            ("cargo test **", "cargo run", false),
            ("cargo test **", "cargo", false),
            ("cargo", "cargo", true),
            ("cargo", "cargo build", false),
            ("npm run test:*", "npm run test:unit", true),
            ("npm run test:*", "npm run test:unit --x", false),
            ("npm run test:*", "npm run deploy", false),
            ("pytest -q *", "pytest -q tests/a.py", true),
            ("* **", "make all", true),
            ("* **", "sh -c x", false),
            ("* **", "/bin/sh -c x", false),
            ("* **", "env sh -c x", false),
            ("* **", "./evil", false),
            ("?ash **", "bash -c x", false),
            ("sh -c 'make *'", "sh -c 'make all'", true),
            ("sh -c 'make *'", "sh -c 'rm all'", false),
            ("./check.sh **", "./check.sh --fast", true),
            ("./check.sh **", "./other.sh", false),
            ("check.sh **", "./check.sh", false),
            ("python3 **", "python -c 1", false),
        ] {
            let policy = CommandPolicy { allow: vec![CommandRule::parse(rule).unwrap()], ..CommandPolicy::default() };
            let words = shell_words::split(command).unwrap();
            let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            assert_eq!(policy.judge(&words[0], &args) == Verdict::Allow, expected, "{rule}: {command}");
        }
    }

    #[test]
    fn a_rule_that_says_nothing_is_refused() {
        for rule in ["", "  ", "'open", "cargo [z-"] {
            assert!(CommandRule::parse(rule).is_err(), "{rule:?}");
        }
        assert_eq!(CommandPolicy::default().judge("ls", &[]), Verdict::Refuse);
    }
}
