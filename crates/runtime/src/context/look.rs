//! The bundle that a task would be given now.

use std::sync::Arc;

use crewline_engine::context::{self, Bundle, Item, Provenance, Tier};
use crewline_store::BUNDLE;
use crewline_types::{ModelAlias, RunId, TaskId, TaskKind, TextHash};
use serde::Serialize;

use crate::{
    Error, Handle,
    attempt::instructions,
    curated::{Approval, Approved, Curated, approved, task_items},
    recall::{Question, recall},
    tokens::Tokens,
};

use super::{ContextItem, Seen};

/// The largest budget that may be asked for, in tokens.
const BUDGET_MAX: u32 = 10_000_000;
/// Most memories that may be asked for.
const RECALL_MAX: usize = 1_000;

/// What a look at a bundle may differ in from what an attempt would do.
#[derive(Debug, Clone, Default)]
pub struct PreviewRequest {
    /// Tokens; what the window of the first model leaves when not given.
    pub budget: Option<u32>,
    /// Memories at most.
    pub recall_top: Option<usize>,
    /// Items that are added by hand, as a person names them.
    pub manual: Vec<String>,
}

impl PreviewRequest {
    fn is_plain(&self) -> bool {
        self.budget.is_none() && self.recall_top.is_none() && self.manual.is_empty()
    }
}

/// A bundle before it is sent.
#[derive(Debug, Clone, Serialize)]
pub struct Preview {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// The model whose window gives the budget; none when a budget was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelAlias>,
    /// Tokens the bundle may have.
    pub budget: u32,
    /// Tokens it has.
    pub tokens: u32,
    /// What counted them: `o200k`, `cl100k`, `estimate`, or `tokenizer:` and the hash of its file.
    pub tokenizer: Arc<str>,
    /// Whether these tokens are estimated, rather too many than too few.
    pub estimated: bool,
    /// Names the bundle: the hash of its text.
    pub bundle: TextHash,
    /// Whether it is the one that was approved.
    pub approved: bool,
    /// Keys of required tasks that have no result yet.
    pub missing: Vec<Arc<str>>,
    /// What was considered, in order, and why it is in or out.
    pub items: Vec<Provenance>,
    /// The bundle as it would be sent.
    pub text: String,
}

impl Handle {
    /// The bundle that an attempt of a task would be given now.
    pub async fn preview(&self, run: RunId, task: TaskId, request: &PreviewRequest) -> Result<Preview, Error> {
        let seen = self.see(run, task).await?;
        let approval = if request.is_plain() { Approval::Holds } else { Approval::Aside };
        Ok(self.assembled(&seen, request, approval).await?.0)
    }

    /// Approves the bundle that [`Self::preview`] shows: attempts are given it, byte for byte, from now on.
    pub async fn approve_context(
        &self,
        run: RunId,
        task: TaskId,
        request: &PreviewRequest,
        agent: &str,
    ) -> Result<Preview, Error> {
        let seen = self.see(run, task).await?;
        if !seen.missing.is_empty() {
            let missing = seen.missing.iter().map(ToString::to_string).collect();
            return Err(Error::ContextIncomplete { task: seen.brief.key.to_string(), missing });
        }
        let (preview, bundle) = self.assembled(&seen, request, Approval::Aside).await?;
        let tokenizer = (!preview.estimated).then(|| Arc::clone(&preview.tokenizer));
        let approved = Approved { budget: preview.budget, bundle, tokenizer };
        let body = serde_json::to_string(&approved)
            .map_err(|error| Error::Approved { task: task.to_string(), message: error.to_string() })?;
        self.decide(task, BUNDLE, crewline_store::Choice::Approved, ("the approved bundle", Some(body)), agent).await?;
        Ok(Preview { approved: true, ..preview })
    }

    async fn assembled(
        &self,
        seen: &Seen,
        request: &PreviewRequest,
        approval: Approval,
    ) -> Result<(Preview, Bundle), Error> {
        let deps = self.deps();
        let choices = self.store().choices(seen.task.id).await?;
        let mut curated = Curated::of(self.store(), &choices, seen.sources.clone(), approval).await?;
        let is_approved = curated.is_approved();
        if !is_approved {
            let manual = self.manual(seen, &request.manual).await?;
            curated.add(manual);
            let text = match seen.task.kind {
                TaskKind::Root => seen.run.goal.to_string(),
                TaskKind::Composite | TaskKind::Atomic | TaskKind::Synthesis => {
                    format!("{} {}", seen.brief.title, seen.brief.description)
                }
            };
            let limit = request.recall_top.unwrap_or(deps.limits.recall_top).min(RECALL_MAX);
            let question = Question { scope: &seen.run.scope, task: seen.task.id, text, limit };
            let found = recall(&deps, question, curated.items()).await;
            curated.add(found);
        }
        let approved = if is_approved { approved(&choices)? } else { None };
        let tokens = match &approved {
            // As it was counted when it was approved, if that is still possible.
            Some(approved) => Tokens::named(&deps.registry(), approved.tokenizer.as_deref()).await,
            None => None,
        };
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => self.tokens(seen).await,
        };
        let budget = match (request.budget, &approved) {
            (Some(budget), _) => budget.min(BUDGET_MAX),
            (None, Some(approved)) => approved.budget,
            (None, None) => self.budget(seen, &tokens).await?,
        };
        let bundle = tokens.bundle(move |tokens| curated.bundle(budget, tokens)).await;
        let text = context::render(&bundle);
        let preview = Preview {
            run: seen.task.run,
            task: seen.task.id,
            key: Arc::clone(&seen.task.key),
            model: seen.model.as_ref().filter(|_| request.budget.is_none() && !is_approved).map(|it| it.alias.clone()),
            budget,
            tokens: bundle.tokens,
            tokenizer: tokens.label(),
            estimated: tokens.name().is_none(),
            bundle: TextHash::of(&text),
            approved: is_approved,
            missing: seen.missing.clone(),
            items: bundle.provenance.clone(),
            text,
        };
        Ok((preview, bundle))
    }

    /// What counts for the model that is asked first.
    pub(super) async fn tokens(&self, seen: &Seen) -> Tokens {
        match &seen.model {
            Some(model) => Tokens::of(&self.deps().registry(), model).await,
            None => Tokens::estimate(),
        }
    }

    /// Tokens that the first model's window leaves for the bundle.
    async fn budget(&self, seen: &Seen, tokens: &Tokens) -> Result<u32, Error> {
        let deps = self.deps();
        let Some(model) = &seen.model else {
            return Err(Error::NotFound { what: "model", id: format!("of role {}", seen.task.role) });
        };
        let fixed = deps
            .prompts
            .fixed_tokens(&seen.run, &seen.brief, instructions(&deps.registry(), &seen.task.role), None, tokens)
            .await
            .saturating_add(seen.form_tokens());
        Ok(model.input_tokens_max().saturating_sub(fixed))
    }

    async fn manual(&self, seen: &Seen, named: &[String]) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        for text in named {
            match self.context_item(seen.task.run, text).await? {
                ContextItem::Task { id, .. } => items.extend(task_items(self.store(), &[id], Tier::Manual).await?),
                // What the plan says is considered in any case.
                ContextItem::Plan { .. } => {}
                ContextItem::Memory { id, title, text } => items.push(Item {
                    tier: Tier::Manual,
                    source: format!("memory:{id}").into(),
                    kind: "memory".into(),
                    title: title.into(),
                    text: (&*text).into(),
                    score: 1.0,
                }),
            }
        }
        Ok(items)
    }
}

impl Seen {
    /// Tokens of the form an answer must have.
    pub(super) fn form_tokens(&self) -> u32 {
        match &self.work {
            crate::assignment::Work::Plan { schema, .. } => {
                u32::try_from(crewline_models::request::form_tokens(Some(schema), None)).unwrap_or(u32::MAX)
            }
            crate::assignment::Work::Text => 0,
        }
    }
}
