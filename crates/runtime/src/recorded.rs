//! Answers that lost attempts got and recorded: the next attempt uses them instead of buying them again.
//!
//! **Invariant:** only attempts that were lost right before this one count: what an attempt that failed was told is not
//! asked for again by using it again.
//! **Invariant:** an answer is used for the very same question only: same model, same input.

use crewline_models::{ChatReply, Finish};
use crewline_store::{Answer, Store};
use crewline_types::{AttemptId, ModelAlias, TextHash, Usage};

use crate::assignment::LOST;

/// The recorded answers that an attempt may use.
#[derive(Debug, Default)]
pub struct Answers(Vec<Answer>);

impl Answers {
    /// Reads them; a first attempt has none, and asks nothing of the database.
    pub async fn of_lost_attempts(store: &Store, attempt: AttemptId) -> Self {
        if attempt.number <= 1 {
            return Self::default();
        }
        match store.answers_before(attempt, LOST).await {
            Ok(answers) => Self(answers),
            Err(error) => {
                tracing::warn!(task_id = %attempt.task, error.code = error.code(), %error, "recorded answers not read");
                Self::default()
            }
        }
    }

    /// The place of the first answer of `model`.
    pub fn place(&self, model: &ModelAlias) -> Option<usize> {
        self.0.iter().position(|it| it.model == model.as_str())
    }

    /// The answer `model` gave to this input in a lost attempt. Its number may have been another one: models may be asked
    /// in another order now, or again after an error.
    pub fn find(&self, model: &ModelAlias, input: TextHash) -> Option<ChatReply> {
        let answer = self.0.iter().find(|it| it.model == model.as_str() && it.input_hash == input)?;
        Some(ChatReply {
            text: answer.reply.to_string(),
            tool_calls: Vec::new(),
            usage: Usage::default(),
            finish: Finish::Stop,
            model: answer.model.clone(),
            first_token: None,
            elapsed: std::time::Duration::ZERO,
            size: answer.reply.len(),
        })
    }
}
