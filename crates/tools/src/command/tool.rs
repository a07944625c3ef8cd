//! The tool `run_command`.
//!
//! **Invariant:** what is run was judged as it is run: program and arguments are never joined to a text and parsed again.
//! **Invariant:** a command starts in its view of the workspace, and has a home that ends with it.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{
    CommandPolicy, Runner, Unconfined,
    policy::Verdict,
    runner::{RunError, find_program, words},
};
use crate::{
    Effect, Observation, OutputStore, Review, Tool, ToolCall, ToolSpec, Tree,
    confine::{Ended, Limit, Order, Report},
    toolbox::blocking,
};

/// Bytes of an output that are shown; of a longer one its beginning and its end.
const SHOWN_BYTES_MAX: usize = 12 << 10;

/// Where commands of an attempt run.
#[derive(Debug, Clone)]
pub struct CommandPlace {
    /// The root of the view, as a real path.
    pub root: PathBuf,
    /// The same, to check paths in.
    pub tree: Tree,
    /// Where homes of commands are made and removed.
    pub scratch: PathBuf,
}

/// Runs programs.
#[derive(Debug)]
pub struct RunCommand {
    spec: Arc<ToolSpec>,
    place: CommandPlace,
    policy: Arc<CommandPolicy>,
    runner: Runner,
    outputs: OutputStore,
}

impl RunCommand {
    /// The tool for one view.
    pub fn new(place: CommandPlace, policy: Arc<CommandPolicy>, runner: Runner, outputs: OutputStore) -> Self {
        Self { spec: spec(), place, policy, runner, outputs }
    }
}

pub(crate) fn spec() -> Arc<ToolSpec> {
    static SPEC: LazyLock<Arc<ToolSpec>> = LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "run_command",
            "Runs a program in the workspace and answers with its exit code and what it printed. There is no shell: give each \
             argument by itself. Its standard input is empty; it has no network unless it was given one.",
            json!({
                "type": "object", "required": ["program"], "additionalProperties": false,
                "properties": {
                    "program": {"type": "string", "minLength": 1, "maxLength": 200, "description": "`cargo`, `pytest`, `./run.sh`."},
                    "args": {
                        "type": "array", "maxItems": 200, "items": {"type": "string", "maxLength": 10000},
                        "description": "Its arguments."
                    },
                    "dir": {"type": "string", "description": "Where it starts, relative to the workspace."},
                    "timeout_seconds": {"type": "integer", "minimum": 1, "description": "Stop it earlier than the policy would."}
                }
            }),
            Effect::Unsafe,
        ))
    });
    Arc::clone(&SPEC)
}

/// What a call asks for.
struct Wanted<'a> {
    program: &'a str,
    args: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    fn of(arguments: &'a Value) -> Self {
        let args = arguments["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        Self { program: arguments["program"].as_str().unwrap_or_default(), args }
    }

    fn line(&self) -> String {
        shell_words::join(std::iter::once(self.program).chain(self.args.iter().copied()))
    }
}

impl Tool for RunCommand {
    fn spec(&self) -> &Arc<ToolSpec> {
        &self.spec
    }

    fn review(&self, arguments: &Value) -> Review {
        let wanted = Wanted::of(arguments);
        if wanted.program.contains('\0') || wanted.args.iter().any(|it| it.contains('\0')) {
            return Review::Refuse("an argument has a zero byte in it".to_owned());
        }
        let rules = |rules: &[super::CommandRule]| {
            let rules: Vec<String> = rules.iter().map(|it| format!("`{}`", it.as_str())).collect();
            if rules.is_empty() { "nothing".to_owned() } else { rules.join(", ") }
        };
        let missing = self.runner.confinement().missing(self.policy.network);
        match (self.policy.judge(wanted.program, &wanted.args), missing.is_empty(), self.policy.unconfined) {
            (Verdict::Refuse, _, _) => Review::Refuse(format!(
                "`{}` is not a command that may be run here; allowed: {}; on request: {}",
                wanted.line(),
                rules(&self.policy.allow),
                rules(&self.policy.ask),
            )),
            (_, false, Unconfined::Refuse) => Review::Refuse(format!(
                "this machine cannot confine commands (it has no {}), and they may not be run without",
                missing.join(", no ")
            )),
            (_, false, Unconfined::Ask) => Review::Ask(format!(
                "run `{}` without confinement: this machine has no {}",
                wanted.line(),
                missing.join(", no ")
            )),
            (Verdict::Ask, _, _) => Review::Ask(format!("run `{}`", wanted.line())),
            (Verdict::Allow, true, _) | (Verdict::Allow, false, Unconfined::Run) => Review::Ready,
        }
    }

    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let wanted = Wanted::of(call.arguments);
            match self.run(call.key, &wanted, call.arguments).await {
                Ok(observation) | Err(observation) => observation,
            }
        })
    }
}

impl RunCommand {
    async fn run(&self, key: &str, wanted: &Wanted<'_>, arguments: &Value) -> Result<Observation, Observation> {
        let dir = self.dir(arguments["dir"].as_str()).await?;
        let Some(program) = find_program(wanted.program, &dir, &self.policy.path) else {
            return Err(Observation::failed(format!("there is no program `{}` here", wanted.program)));
        };
        let limits = self.policy.limits;
        let asked = arguments["timeout_seconds"].as_u64().map(Duration::from_secs);
        let time_max = asked.map_or(limits.time_max, |it| it.min(limits.time_max));
        let home = self.home()?;
        let order = self.order(program, wanted, dir, home.path(), time_max);
        let unusable = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, "a command cannot be run");
            Observation::failed(error.to_string())
        };
        let mut output = self.outputs.create(key).map_err(|error| unusable(&error))?;
        let report = self.runner.run(&order, &mut output, limits.output_bytes_max).await;
        let report = match report {
            Ok(report) => report,
            Err(error @ (RunError::Helper { .. } | RunError::Output(_))) => return Err(unusable(&error)),
        };
        let handle = output.handle.clone();
        let (seen, kept) = (output.seen, output.kept());
        drop(output);
        let outputs = self.outputs.clone();
        let shown = blocking(move || {
            let text = outputs.head_and_tail(&handle, SHOWN_BYTES_MAX);
            if kept <= SHOWN_BYTES_MAX as u64 {
                // All of it is shown; nobody will ask for it.
                outputs.remove(&handle);
            }
            (text, handle)
        });
        let Some((Ok(text), handle)) = shown.await else {
            return Err(Observation::failed("its output cannot be read"));
        };
        let mut observation = told(&report, time_max, limits.output_bytes_max, &text);
        observation.bytes_out = seen;
        observation.handle = (kept > SHOWN_BYTES_MAX as u64).then_some(handle);
        Ok(observation)
    }

    /// Where it starts: a directory that no link leads to.
    async fn dir(&self, path: Option<&str>) -> Result<PathBuf, Observation> {
        let Some(path) = path else { return Ok(self.place.root.clone()) };
        let path = self.place.tree.path(path).map_err(|error| Observation::refused(error.to_string()))?;
        let (tree, below) = (self.place.tree.clone(), path.clone());
        match blocking(move || tree.check_dir(&below)).await {
            Some(Ok(())) => Ok(self.place.root.join(path.as_str())),
            Some(Err(error)) => Err(Observation::failed(error.to_string())),
            None => Err(Observation::failed("the program is ending")),
        }
    }

    /// A home for one command.
    fn home(&self) -> Result<tempfile::TempDir, Observation> {
        let made = std::fs::create_dir_all(&self.place.scratch)
            .and_then(|()| tempfile::Builder::new().prefix("home-").tempdir_in(&self.place.scratch));
        made.map_err(|error| Observation::failed(format!("there is no room for its files: {error}")))
    }

    fn order(&self, program: PathBuf, wanted: &Wanted<'_>, dir: PathBuf, home: &Path, time_max: Duration) -> Order {
        let policy = &self.policy;
        let home_text = home.display().to_string();
        let path: Vec<String> = policy.path.iter().map(|it| it.display().to_string()).collect();
        let own = [
            ("PATH", path.join(":")),
            ("HOME", home_text.clone()),
            ("TMPDIR", home_text),
            ("LANG", "C.UTF-8".to_owned()),
            ("TERM", "dumb".to_owned()),
        ];
        let own = own.into_iter().map(|(name, value)| (name.to_owned(), value));
        let own = own.filter(|(name, _)| !policy.env.contains_key(name));
        Order {
            program,
            args: words(&wanted.args),
            dir,
            env: own.chain(policy.env.clone()).collect(),
            readable: policy.path.iter().chain(&policy.readable).cloned().collect(),
            writable: vec![self.place.root.clone(), home.to_owned()],
            network: policy.network,
            time_max,
            cpu_seconds_max: policy.limits.cpu_max.as_secs().max(1),
            memory_bytes_max: policy.limits.memory_bytes_max,
            processes_max: policy.limits.processes_max,
            file_bytes_max: policy.limits.file_bytes_max,
            with: self.runner.confinement(),
        }
    }
}

/// What a model is told.
fn told(report: &Report, time_max: Duration, output_bytes_max: u64, text: &str) -> Observation {
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let say = |what: String| format!("{text}{gap}[{what}]");
    match report {
        Report::Ended(Ended::Code(0)) => Observation::data(say("exit code 0".to_owned())),
        Report::Ended(Ended::Code(code)) => Observation::failed(say(format!("exit code {code}"))).untrusted(),
        Report::Ended(Ended::Signal(signal)) => {
            Observation::failed(say(format!("killed by signal {signal}"))).untrusted()
        }
        Report::Stopped(Limit::Time) => {
            Observation::timeout(say(format!("stopped after {} seconds", time_max.as_secs_f64()))).untrusted()
        }
        Report::Stopped(Limit::Processes) => {
            Observation::failed(say("stopped: it had too many processes".to_owned())).untrusted()
        }
        Report::Stopped(Limit::Memory) => {
            Observation::failed(say("stopped: it took too much memory".to_owned())).untrusted()
        }
        Report::Stopped(Limit::Output) => {
            Observation::failed(say(format!("stopped: it printed more than {output_bytes_max} bytes"))).untrusted()
        }
        Report::Failed(why) => Observation::failed(format!("it did not start: {why}")),
    }
}
