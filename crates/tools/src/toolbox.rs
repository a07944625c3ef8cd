//! The tools of one attempt, and the one way to call them.
//!
//! **Invariant:** every call ends within [`Limits::time_max`]. A tool that is dropped must stop what it started.
//! **Invariant:** what the model reads of a call is at most [`Limits::shown_bytes_max`] long, and a note; the rest is kept.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::{
    Error, Observation, OutputStore, ToolSpec, command, files, git, http, metrics,
    output::{Part, shorten},
    spec::Effect,
};

/// What a tool is asked to do.
#[derive(Debug, Clone, Copy)]
pub struct ToolCall<'a> {
    /// The same for every try of this call, and for no other: `attempt/step/index`.
    pub key: &'a str,
    /// The tool, as the model wrote it.
    pub name: &'a str,
    /// Its arguments; inside [`Tool::call`] they follow the tool's schema.
    pub arguments: &'a Value,
    /// Whether a person agreed to exactly this call.
    pub approval: Approval,
}

/// Whether a person agreed to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Approval {
    /// Nobody was asked.
    Missing,
    /// Somebody said yes to these arguments.
    Given,
}

/// What a tool says of a call before it is made, by its own rules (the allow-list of commands, the hosts that may be read).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Review {
    /// It may be made.
    Ready,
    /// A person must agree first.
    Ask(String),
    /// It may not be made, whoever agrees.
    Refuse(String),
}

/// Something a specialist may do.
pub trait Tool: Send + Sync {
    /// How models and policies see it.
    fn spec(&self) -> &Arc<ToolSpec>;

    /// Whether the call may be made so. Does nothing, and is quick.
    fn review(&self, _arguments: &Value) -> Review {
        Review::Ready
    }

    /// Makes the call. Dropping the future stops what it began.
    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation>;
}

/// The limits of every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Time of a call. A tool with a limit of its own ends before.
    pub time_max: Duration,
    /// Bytes of an output that a model is shown.
    pub shown_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { time_max: Duration::from_mins(15), shown_bytes_max: 16 << 10 }
    }
}

/// The tools of one attempt.
pub struct Toolbox {
    tools: BTreeMap<Arc<str>, Box<dyn Tool>>,
    outputs: OutputStore,
    limits: Limits,
}

impl std::fmt::Debug for Toolbox {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Toolbox")
            .field("tools", &self.tools.keys())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Toolbox {
    /// A toolbox with the one tool that every other needs: `read_output`.
    pub fn new(outputs: OutputStore, limits: Limits) -> Result<Self, Error> {
        metrics::describe();
        let mut toolbox = Self { tools: BTreeMap::new(), outputs: outputs.clone(), limits };
        toolbox.add(ReadOutput { spec: read_output_spec(), outputs, bytes_max: limits.shown_bytes_max })?;
        Ok(toolbox)
    }

    /// Adds a tool.
    pub fn add(&mut self, tool: impl Tool + 'static) -> Result<(), Error> {
        self.add_boxed(Box::new(tool))
    }

    /// Adds a tool that is already behind a pointer.
    pub fn add_boxed(&mut self, tool: Box<dyn Tool>) -> Result<(), Error> {
        let spec = tool.spec();
        spec.check_self()?;
        let name = Arc::clone(&spec.name);
        if self.tools.contains_key(&name) {
            return Err(Error::Duplicate { name: name.to_string() });
        }
        self.tools.insert(name, tool);
        Ok(())
    }

    /// Leaves only the tools that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&ToolSpec) -> bool) {
        self.tools.retain(|_, tool| keep(tool.spec()));
    }

    /// The tools, by name.
    pub fn specs(&self) -> impl Iterator<Item = &Arc<ToolSpec>> {
        self.tools.values().map(|it| it.spec())
    }

    /// One of them.
    pub fn spec(&self, name: &str) -> Option<&Arc<ToolSpec>> {
        self.tools.get(name).map(|it| it.spec())
    }

    /// All that is wrong with a call (its tool, its arguments); empty when it can be made.
    pub fn problems(&self, name: &str, arguments: &Value) -> Vec<String> {
        match self.tools.get(name) {
            Some(tool) => tool.spec().problems(arguments),
            None => vec![self.unknown(name)],
        }
    }

    fn unknown(&self, name: &str) -> String {
        let name: String = name.chars().take(64).collect();
        let known: Vec<&str> = self.tools.keys().map(|it| &**it).collect();
        format!("there is no tool `{name}`; there are {}", known.join(", "))
    }

    /// What the tool itself says of a call. Arguments that do not follow its schema are refused.
    pub fn review(&self, name: &str, arguments: &Value) -> Review {
        let problems = self.problems(name, arguments);
        match self.tools.get(name) {
            Some(tool) if problems.is_empty() => tool.review(arguments),
            _ => Review::Refuse(problems.join("; ")),
        }
    }

    /// Makes a call: checks it, reviews it, bounds it, counts it.
    pub async fn call(&self, call: ToolCall<'_>) -> Observation {
        let started = Instant::now();
        let Some(tool) = self.tools.get(call.name) else {
            let observation = Observation::invalid(self.unknown(call.name));
            metrics::count(metrics::UNKNOWN, &observation, started.elapsed());
            return observation;
        };
        let observation = self.checked(&**tool, call).await;
        let observation = self.fit(call.key, observation);
        let elapsed = started.elapsed();
        metrics::count(&tool.spec().name, &observation, elapsed);
        tracing::debug!(
            tool = %tool.spec().name,
            outcome = observation.outcome.as_str(),
            elapsed_ms = elapsed.as_millis(),
            "tool was called"
        );
        observation
    }

    async fn checked(&self, tool: &dyn Tool, call: ToolCall<'_>) -> Observation {
        let problems = tool.spec().problems(call.arguments);
        if !problems.is_empty() {
            let list = problems.join("\n- ");
            return Observation::invalid(format!("the arguments of `{}` are not valid:\n- {list}", call.name));
        }
        match (tool.review(call.arguments), call.approval) {
            (Review::Refuse(why), _) => return Observation::refused(why),
            (Review::Ask(why), Approval::Missing) => {
                return Observation::refused(format!("a person must agree to this first: {why}"));
            }
            (Review::Ask(_), Approval::Given) | (Review::Ready, _) => {}
        }
        match timeout(self.limits.time_max, tool.call(call)).await {
            Ok(observation) => observation,
            Err(_) => Observation::timeout(format!(
                "`{}` did not end within {} seconds and was stopped",
                call.name,
                self.limits.time_max.as_secs_f64()
            )),
        }
    }

    /// Shortens what is too long to show, after keeping it.
    fn fit(&self, key: &str, observation: Observation) -> Observation {
        let Some(short) = shorten(&observation.text, self.limits.shown_bytes_max) else { return observation };
        let handle = match &observation.handle {
            // The tool has kept it already.
            Some(handle) => handle.clone(),
            None => match self.outputs.put(key, &observation.text) {
                Ok(handle) => handle,
                Err(error) => {
                    tracing::warn!(error.code = error.code(), "the output of a tool cannot be kept");
                    let text = format!("{}\n[the rest cannot be kept and is lost]\n{}", short.head, short.tail);
                    return Observation { text, ..observation };
                }
            },
        };
        let text = short.render(&handle);
        Observation { text, handle: Some(handle), ..observation }
    }
}

/// Reads what was left out of a long output.
struct ReadOutput {
    spec: Arc<ToolSpec>,
    outputs: OutputStore,
    bytes_max: usize,
}

/// The tools of this crate, by name. Those that need the database are the runtime's.
pub fn specs() -> Vec<Arc<ToolSpec>> {
    let mut specs = vec![read_output_spec(), command::spec(), Arc::clone(&http::SPEC)];
    specs.extend(files::specs());
    specs.extend(git::specs());
    specs.sort_by(|one, two| one.name.cmp(&two.name));
    specs
}

fn read_output_spec() -> Arc<ToolSpec> {
    static SPEC: std::sync::LazyLock<Arc<ToolSpec>> = std::sync::LazyLock::new(|| {
        Arc::new(ToolSpec::new(
            "read_output",
            "Reads on in a long output of an earlier call, which was shown without its middle.",
            json!({
                "type": "object", "required": ["handle"], "additionalProperties": false,
                "properties": {
                    "handle": {"type": "string", "description": "As the shortened output names it."},
                    "offset": {"type": "integer", "minimum": 0, "description": "Bytes from the beginning (default 0)."}
                }
            }),
            Effect::Read,
        ))
    });
    Arc::clone(&SPEC)
}

impl Tool for ReadOutput {
    fn spec(&self) -> &Arc<ToolSpec> {
        &self.spec
    }

    fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
        Box::pin(async move {
            let Some(handle) = call.arguments["handle"].as_str().and_then(|it| it.parse().ok()) else {
                return Observation::failed("that is no handle; a shortened output names its own");
            };
            let offset = call.arguments["offset"].as_u64().unwrap_or(0);
            let outputs = self.outputs.clone();
            // Room for the note, so that a piece is never itself shortened.
            let bytes_max = self.bytes_max.saturating_sub(200).max(64);
            match blocking(move || outputs.read(&handle, offset, bytes_max)).await {
                Some(Ok(Part { text, next, bytes_all })) if next < bytes_all => {
                    Observation::data(format!("{text}\n[up to byte {next} of {bytes_all}; offset {next} reads on]"))
                }
                Some(Ok(Part { text, .. })) => Observation::data(text),
                Some(Err(_)) | None => Observation::failed("there is no such output"),
            }
        })
    }
}

/// Runs work that blocks where it may; `None` when it was cut off by the end of the process.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    /// Says what it is asked to, sleeps when asked to, and has rules of its own.
    struct Echo(Arc<ToolSpec>);

    impl Echo {
        fn named(name: &str) -> Self {
            let parameters = json!({
                "type": "object", "required": ["text"], "additionalProperties": false,
                "properties": {"text": {"type": "string"}, "sleep": {"type": "integer"}}
            });
            Self(Arc::new(ToolSpec::new(name, "Echoes.", parameters, Effect::Read)))
        }
    }

    impl Tool for Echo {
        fn spec(&self) -> &Arc<ToolSpec> {
            &self.0
        }

        fn review(&self, arguments: &Value) -> Review {
            match arguments["text"].as_str() {
                Some("ask") => Review::Ask("it is loud".into()),
                Some("never") => Review::Refuse("not this".into()),
                _ => Review::Ready,
            }
        }

        fn call<'a>(&'a self, call: ToolCall<'a>) -> BoxFuture<'a, Observation> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(call.arguments["sleep"].as_u64().unwrap_or(0))).await;
                Observation::data(call.arguments["text"].as_str().unwrap_or_default())
            })
        }
    }

    fn toolbox(dir: &tempfile::TempDir) -> Toolbox {
        let limits = Limits { time_max: Duration::from_secs(5), shown_bytes_max: 400 };
        let mut toolbox = Toolbox::new(OutputStore::new(dir.path()), limits).unwrap();
        toolbox.add(Echo::named("echo")).unwrap();
        toolbox
    }

    async fn call(toolbox: &Toolbox, name: &str, arguments: Value, approval: Approval) -> Observation {
        toolbox.call(ToolCall { key: "a/1/0", name, arguments: &arguments, approval }).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_checked_reviewed_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let toolbox = toolbox(&dir);
        for (name, arguments, approval, outcome, start) in [
            ("echo", json!({"text": "hi"}), Approval::Missing, Outcome::Ok, "hi"),
            ("echo", json!({"text": 1}), Approval::Missing, Outcome::Invalid, "the arguments of `echo` are not valid"),
            ("shout", json!({}), Approval::Missing, Outcome::Invalid, "there is no tool `shout`; there are echo, "),
            ("echo", json!({"text": "ask"}), Approval::Missing, Outcome::Refused, "a person must agree"),
            ("echo", json!({"text": "ask"}), Approval::Given, Outcome::Ok, "ask"),
            ("echo", json!({"text": "never"}), Approval::Given, Outcome::Refused, "not this"),
            ("echo", json!({"text": "hi", "sleep": 6}), Approval::Missing, Outcome::Timeout, "`echo` did not end"),
        ] {
            let found = call(&toolbox, name, arguments.clone(), approval).await;
            assert_eq!(found.outcome, outcome, "{name} {arguments}");
            assert!(found.text.starts_with(start), "{name} {arguments}: {}", found.text);
        }
        assert_eq!(toolbox.review("echo", &json!({"text": "ask"})), Review::Ask("it is loud".into()));
        assert!(matches!(toolbox.review("echo", &json!({})), Review::Refuse(_)));
        assert!(matches!(toolbox.review("shout", &json!({})), Review::Refuse(_)));
    }

    #[tokio::test]
    async fn a_long_output_is_shown_in_part_and_can_be_read_on() {
        let dir = tempfile::tempdir().unwrap();
        let toolbox = toolbox(&dir);
        let text = (0..300).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        let seen = call(&toolbox, "echo", json!({"text": text}), Approval::Missing).await;
        assert!(seen.text.len() < 700 && seen.text.ends_with("line 299\n"), "{}", seen.text);
        assert_eq!(seen.bytes_out, text.len() as u64);
        let handle = seen.handle.unwrap().to_string();
        let (mut at, mut all) = (0, String::new());
        loop {
            let arguments = json!({"handle": handle, "offset": at});
            let part = call(&toolbox, "read_output", arguments, Approval::Missing).await;
            assert_eq!(part.handle, None, "a piece is short enough itself");
            let Some((piece, note)) = part.text.split_once("\n[up to byte ") else {
                all.push_str(&part.text);
                break;
            };
            all.push_str(piece);
            at = note.split(' ').next().unwrap().parse::<u64>().unwrap();
        }
        assert_eq!(all, text);
        let other = call(&toolbox, "read_output", json!({"handle": "../../etc/passwd"}), Approval::Missing).await;
        assert_eq!(other.outcome, Outcome::Failed);
    }

    #[test]
    fn two_tools_never_share_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut toolbox = toolbox(&dir);
        assert!(matches!(toolbox.add(Echo::named("echo")), Err(Error::Duplicate { .. })));
        assert!(matches!(toolbox.add(Echo::named("a b")), Err(Error::Invalid { .. })));
        toolbox.retain(|spec| &*spec.name == "echo");
        assert_eq!(toolbox.specs().map(|it| &*it.name).collect::<Vec<_>>(), ["echo"]);
    }
}
