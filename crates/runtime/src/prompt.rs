//! Prompts: minijinja templates, shipped in `config/prompts/` and replaceable by files of the same name.
//!
//! **Invariant:** a template sees text only; nothing in a task, an output or memory is ever evaluated.

use std::{path::Path, sync::Arc};

use crewline_engine::context::estimate_tokens;
use crewline_models::{ChatMessage, Speaker};
use minijinja::{Environment, UndefinedBehavior, Value, context};

use crate::{
    Error,
    assignment::Work,
    brief::{RunBrief, TaskBrief},
    tokens::Tokens,
};

const SHIPPED: [(&str, &str); 10] = [
    ("system.j2", include_str!("../../../config/prompts/system.j2")),
    ("task.j2", include_str!("../../../config/prompts/task.j2")),
    ("synthesis.j2", include_str!("../../../config/prompts/synthesis.j2")),
    ("plan.j2", include_str!("../../../config/prompts/plan.j2")),
    ("summary.j2", include_str!("../../../config/prompts/summary.j2")),
    ("tools.j2", include_str!("../../../config/prompts/tools.j2")),
    ("judge.j2", include_str!("../../../config/prompts/judge.j2")),
    ("rejected.j2", include_str!("../../../config/prompts/rejected.j2")),
    ("conflict.j2", include_str!("../../../config/prompts/conflict.j2")),
    ("handed_over.j2", include_str!("../../../config/prompts/handed_over.j2")),
];

/// Tokens a chat format adds to each message.
const MESSAGE_OVERHEAD_TOKENS: u32 = 8;

/// The prompt templates, checked at start.
#[derive(Debug)]
pub struct Prompts {
    environment: Environment<'static>,
    /// Tokens of the templates' own words, measured once.
    own_tokens: u32,
}

impl Prompts {
    /// The shipped templates, each replaced by a file of its name in `folder` where there is one.
    pub fn load(folder: Option<&Path>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        let mut own_tokens = 0;
        for (name, shipped) in SHIPPED {
            let own = match folder.map(|it| it.join(name)) {
                Some(path) => match std::fs::read_to_string(&path) {
                    Ok(text) => Some(text),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(source) => return Err(Error::Io { path, source }),
                },
                None => None,
            };
            let text = own.unwrap_or_else(|| shipped.to_owned());
            own_tokens = own_tokens.max(estimate_tokens(&text));
            environment.add_template_owned(name, text).map_err(|error| broken(name, &error))?;
        }
        Ok(Self { environment, own_tokens: own_tokens + 2 * MESSAGE_OVERHEAD_TOKENS })
    }

    /// Tokens of a prompt without its context section, from above: what the templates say is estimated.
    pub async fn fixed_tokens(
        &self,
        run: &RunBrief,
        task: &TaskBrief,
        instructions: &str,
        problem: Option<&str>,
        tokens: &Tokens,
    ) -> u32 {
        tokens.prepare([&run.goal, &task.title, &task.description].map(Arc::clone)).await;
        let criteria = task.success_criteria.iter().map(|it| tokens.count(&it.criterion).saturating_add(2));
        [&*run.goal, &*task.title, &*task.description, instructions, problem.unwrap_or_default()]
            .iter()
            .map(|text| tokens.count(text))
            .chain(criteria)
            // The system template comes on top of the largest one.
            .fold(2 * self.own_tokens, u32::saturating_add)
    }

    /// The messages for one call.
    pub fn render(
        &self,
        run: &RunBrief,
        task: &TaskBrief,
        work: &Work,
        instructions: &str,
        context: &str,
        problem: Option<&str>,
    ) -> Result<Vec<ChatMessage>, Error> {
        let system = self.fill("system.j2", &context! { instructions })?;
        let user = match work {
            Work::Plan { rules, .. } => {
                let roles: Value = rules.roles.iter().map(|role| Value::from(role.as_str())).collect();
                let values = context! { goal => &*run.goal, context, roles, tasks_max => rules.tasks_max, problem };
                self.fill("plan.j2", &values)?
            }
            Work::Text => {
                let criteria: Value =
                    task.success_criteria.iter().map(|it| Value::from(it.criterion.as_str())).collect();
                let name = match task.kind {
                    crewline_types::TaskKind::Synthesis => "synthesis.j2",
                    crewline_types::TaskKind::Root
                    | crewline_types::TaskKind::Composite
                    | crewline_types::TaskKind::Atomic => "task.j2",
                };
                let values = context! {
                    goal => &*run.goal, title => &*task.title, description => &*task.description, criteria, context,
                    problem
                };
                self.fill(name, &values)?
            }
        };
        Ok(vec![ChatMessage::new(Speaker::System, system), ChatMessage::new(Speaker::User, user)])
    }

    /// The messages that ask for a summary of `context`.
    pub fn summary(&self, instructions: &str, context: &str, words_max: u32) -> Result<Vec<ChatMessage>, Error> {
        let system = self.fill("system.j2", &context! { instructions })?;
        let user = self.fill("summary.j2", &context! { context, words_max })?;
        Ok(vec![ChatMessage::new(Speaker::System, system), ChatMessage::new(Speaker::User, user)])
    }

    /// What a model is told of its tools: `listed` (name, description, schema) for one that calls them in words, else none.
    pub fn tools(&self, listed: &[(&str, &str, String)]) -> Result<String, Error> {
        let listed: Value = listed
            .iter()
            .map(|(name, description, schema)| context! { name => *name, description => *description, schema })
            .collect();
        self.fill("tools.j2", &context! { listed })
    }

    /// What a model is told of a final answer that was not accepted; `found` is what its checks found.
    pub fn rejected(&self, found: &str) -> Result<String, Error> {
        let found = crewline_engine::context::fenced(found);
        self.fill("rejected.j2", &context! { found })
    }

    /// What a model is told of a try whose changes did not fit those of others; `found` is what it had changed.
    pub fn conflict(&self, found: &str) -> Result<String, Error> {
        let found = crewline_engine::context::fenced(found);
        self.fill("conflict.j2", &context! { found })
    }

    /// What a model is told of the specialist before it; `found` is what that one says, `kept` whether its files are there.
    pub fn handed_over(&self, found: &str, kept: bool) -> Result<String, Error> {
        let found = crewline_engine::context::fenced(found);
        self.fill("handed_over.j2", &context! { found, kept })
    }

    /// The messages that ask a judge whether `answer` meets `rubric`.
    pub fn judge(
        &self,
        task: &TaskBrief,
        instructions: &str,
        rubric: &str,
        answer: &str,
    ) -> Result<Vec<ChatMessage>, Error> {
        let system = self.fill("system.j2", &context! { instructions })?;
        let answer = crewline_engine::context::fenced(answer);
        let values = context! { title => &*task.title, description => &*task.description, rubric, answer };
        let user = self.fill("judge.j2", &values)?;
        Ok(vec![ChatMessage::new(Speaker::System, system), ChatMessage::new(Speaker::User, user)])
    }

    fn fill(&self, name: &str, values: &Value) -> Result<String, Error> {
        self.environment
            .get_template(name)
            .and_then(|template| template.render(values))
            .map_err(|error| broken(name, &error))
    }
}

fn broken(name: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    Error::Prompt { name: name.into(), message: format!("{line}{error}") }
}
