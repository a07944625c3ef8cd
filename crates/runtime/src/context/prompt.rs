//! The messages that an attempt of a task would send now.

use std::sync::Arc;

use crewline_models::Speaker;
use crewline_types::{ModelAlias, RunId, TaskId};
use serde::Serialize;

use crate::{Error, Handle, attempt::instructions};

use super::{Preview, PreviewRequest};

/// A prompt before it is sent.
#[derive(Debug, Clone, Serialize)]
pub struct RenderedPrompt {
    /// The run.
    pub run: RunId,
    /// The task.
    pub task: TaskId,
    /// Its name inside the plan.
    pub key: Arc<str>,
    /// The model that is asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelAlias>,
    /// Tokens of all messages and of the form an answer must have.
    pub tokens: u64,
    /// What counted the messages: `o200k`, `cl100k`, `estimate`, or `tokenizer:` and the hash of its file. The form is estimated
    /// in any case.
    pub tokenizer: Arc<str>,
    /// Whether the tokens of the messages are estimated, rather too many than too few.
    pub estimated: bool,
    /// What these tokens are.
    pub parts: Vec<PromptPart>,
    /// Keys of required tasks that have no result yet.
    pub missing: Vec<Arc<str>>,
    /// The messages: who speaks and what is said.
    pub messages: Vec<PromptMessage>,
}

/// One message.
#[derive(Debug, Clone, Serialize)]
pub struct PromptMessage {
    /// Who speaks: `system` or `user`.
    pub role: &'static str,
    /// What is said.
    pub text: String,
}

/// What of a prompt comes from where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromptPart {
    /// `system`, `template`, `goal`, `task`, `criteria`, `form`, or the source of a context item.
    pub source: Arc<str>,
    /// Tokens.
    pub tokens: u64,
}

impl Handle {
    /// Exactly what an attempt of a task would send now, if it were made of what is there now.
    pub async fn render_prompt(
        &self,
        run: RunId,
        task: TaskId,
        request: &PreviewRequest,
    ) -> Result<RenderedPrompt, Error> {
        let seen = self.see(run, task).await?;
        let preview = self.preview(run, task, request).await?;
        let deps = self.deps();
        let registry = deps.registry();
        let instructions = instructions(&registry, &seen.task.role);
        let messages = deps.prompts.render(&seen.run, &seen.brief, &seen.work, instructions, &preview.text, None)?;
        let tokens = self.tokens(&seen).await;
        tokens.prepare(messages.iter().map(|it| Arc::clone(&it.text))).await;
        let of = |text: &str| u64::from(tokens.count(text));
        let said =
            |speaker: Speaker| messages.iter().filter(move |it| it.speaker == speaker).map(|it| of(&it.text)).sum();
        let (system, user): (u64, u64) = (said(Speaker::System), said(Speaker::User));
        let brief = &seen.brief;
        let is_plan = matches!(seen.work, crate::assignment::Work::Plan { .. });
        let criteria: u64 = brief.success_criteria.iter().map(|it| of(&it.criterion)).sum();
        let words = if is_plan { 0 } else { of(&brief.title) + of(&brief.description) };
        let mut parts = vec![
            part("system", system),
            part("goal", of(&seen.run.goal)),
            part("task", words),
            part("criteria", if is_plan { 0 } else { criteria }),
        ];
        parts.extend(context_parts(&preview));
        parts.push(part("form", u64::from(seen.form_tokens())));
        let known: u64 = parts.iter().skip(1).map(|it| it.tokens).sum::<u64>() - u64::from(seen.form_tokens());
        parts.insert(1, part("template", user.saturating_sub(known)));
        parts.retain(|it| it.tokens > 0);
        Ok(RenderedPrompt {
            run,
            task,
            key: Arc::clone(&brief.key),
            model: seen.model.as_ref().map(|it| it.alias.clone()),
            tokens: system + user + u64::from(seen.form_tokens()),
            tokenizer: tokens.label(),
            estimated: tokens.name().is_none(),
            parts,
            missing: preview.missing,
            messages: messages
                .into_iter()
                .map(|it| PromptMessage { role: it.speaker.as_str(), text: it.text.to_string() })
                .collect(),
        })
    }
}

fn part(source: &str, tokens: u64) -> PromptPart {
    PromptPart { source: source.into(), tokens }
}

fn context_parts(preview: &Preview) -> impl Iterator<Item = PromptPart> {
    let items = preview.items.iter().filter(|it| it.tokens > 0);
    items.map(|it| PromptPart { source: Arc::clone(&it.source), tokens: it.tokens.into() })
}
