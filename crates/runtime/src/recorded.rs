//! What unfinished attempts left behind: answers, calls of tools, what a person was asked, the question they began with.
//! The next attempt goes on with it instead of buying and doing it again.
//!
//! **Invariant:** only attempts that were lost, or waited for a person, right before this one count: what an attempt that
//! failed was told is not asked for again by using it again.
//! **Invariant:** an answer is used for the same question only: same model and same input; what memory has learnt meanwhile
//! makes no other question of a task that nobody else has touched.
//! **Invariant:** what can not be read is not guessed: an attempt that can not know what was done does nothing.

use std::{collections::HashMap, sync::Arc};

use crewline_models::{ChatReply, Finish, ToolCall};
use crewline_store::{Answer, ApprovalFilter, ApprovalRow, Before, ContextRow, Store, ToolCallRow};
use crewline_types::{
    ApprovalId, CallId, ModelAlias, Text, TextHash, ToolCallId, ToolOutcome, Usage,
    event::{CallOutcome, ErrorNote},
};

use crate::{
    assignment::{Assignment, Failure, HANDED_OVER, UNFINISHED},
    attempt::REFUSED,
};

/// What the next attempt goes on with.
#[derive(Debug, Default)]
pub struct Recorded {
    answers: Vec<Answer>,
    tools: HashMap<ToolCallId, RecordedTool>,
    approvals: HashMap<ApprovalId, ApprovalRow>,
    begun_with: Option<(ContextRow, Text)>,
    /// What these attempts were told.
    contexts: Vec<ContextRow>,
    unfinished: Vec<u32>,
    earlier: Vec<(u32, Option<ErrorNote>)>,
}

/// A call of a tool that was asked for.
#[derive(Debug)]
pub struct RecordedTool {
    /// Its row.
    pub row: ToolCallRow,
    /// The arguments, as the model wrote them.
    pub arguments: Arc<str>,
    /// What the model was told of it.
    pub output: Option<Arc<str>>,
}

impl Recorded {
    /// Reads it; a first attempt has nothing, and asks nothing of the database.
    pub async fn of_unfinished_attempts(store: &Store, assignment: &Assignment) -> Result<Self, Failure> {
        if assignment.attempt.number <= 1 {
            return Ok(Self::default());
        }
        Self::read(store, assignment).await.map_err(|error| {
            tracing::warn!(
                task_id = %assignment.attempt.task, error.code = error.code(), %error, "what is recorded was not read"
            );
            // Tried again after a pause, with nothing begun.
            Failure::Lost
        })
    }

    async fn read(store: &Store, assignment: &Assignment) -> Result<Self, crewline_store::Error> {
        let attempt = assignment.attempt;
        let Before { unfinished: numbers, earlier } = store.unfinished_before(attempt, &UNFINISHED).await?;
        if numbers.is_empty() {
            return Ok(Self { earlier, ..Self::default() });
        }
        let answers = store.answers_before(attempt, &UNFINISHED).await?;
        let mut rows = store.tool_calls_of(attempt.task).await?;
        rows.retain(|row| numbers.contains(&row.id.call.attempt.number));
        let mut contexts = store.contexts(attempt.task).await?;
        contexts.retain(|it| numbers.contains(&it.id.number));
        let begun_with = contexts.iter().find(|it| it.prompt.is_some()).cloned();
        let mut hashes: Vec<TextHash> =
            rows.iter().flat_map(|row| [Some(row.arguments), row.output]).flatten().collect();
        hashes.extend(begun_with.as_ref().and_then(|it| it.prompt));
        let texts = if hashes.is_empty() { HashMap::new() } else { store.texts(&hashes).await? };
        let text = |hash: TextHash| texts.get(&hash).map(Arc::clone);
        let tools = rows.into_iter().filter_map(|row| {
            let (arguments, output) = (text(row.arguments)?, row.output.and_then(text));
            Some((row.id, RecordedTool { row, arguments, output }))
        });
        let tools = tools.collect();
        let begun_with = begun_with.and_then(|row| {
            let hash = row.prompt?;
            let body = text(hash)?;
            Some((row, Text { hash, body }))
        });
        let filter = ApprovalFilter { run: Some(assignment.run.run), is_pending: false };
        let asked = store.approvals(filter).await?;
        let approvals = asked.into_iter().filter(|it| it.task == Some(attempt.task)).map(|it| (it.id, it)).collect();
        let mut unfinished = numbers;
        unfinished.sort_unstable();
        Ok(Self { answers, tools, approvals, begun_with, contexts, unfinished, earlier })
    }

    /// Why the attempt before these made no result.
    pub fn failed(&self) -> Option<&ErrorNote> {
        self.earlier.first()?.1.as_ref()
    }

    /// What those said who handed the task to another role, the last one first.
    fn all_handed_over(&self) -> impl Iterator<Item = &ErrorNote> {
        self.earlier.iter().filter_map(|(_, note)| note.as_ref()).filter(|note| &*note.code == HANDED_OVER)
    }

    /// What the last of those said who handed the task to another role.
    pub fn handed_over(&self) -> Option<&ErrorNote> {
        self.all_handed_over().next()
    }

    /// How often the task was handed to another role.
    pub fn handoffs(&self) -> usize {
        self.all_handed_over().count()
    }

    /// The attempts whose view of the workspace this one may go on with: the unfinished ones, and those that handed the task
    /// over with what they and theirs had left unfinished.
    pub fn views(&self) -> Vec<u32> {
        let goes_on = |note: &ErrorNote| UNFINISHED.contains(&&*note.code) || &*note.code == HANDED_OVER;
        let mut views = self.unfinished.clone();
        let handed = self.earlier.iter().take_while(|(_, note)| note.as_ref().is_none_or(goes_on));
        views.extend(handed.map(|(number, _)| *number));
        views.sort_unstable();
        views
    }

    /// The question that the first of these attempts began with, and its snapshot.
    pub fn begun_with(&self) -> Option<&(ContextRow, Text)> {
        self.begun_with.as_ref()
    }

    /// What counted the contexts of these attempts, other than `now`: the registry may say another tokenizer since.
    pub fn tokenizers_before(&self, now: Option<&Arc<str>>) -> impl Iterator<Item = Option<&str>> {
        let mut all: Vec<Option<&str>> = self.contexts.iter().map(|it| it.tokenizer.as_deref()).collect();
        all.sort_unstable();
        all.dedup();
        let now = now.map(ToString::to_string);
        all.into_iter().filter(move |it| *it != now.as_deref())
    }

    /// A call of a tool that was asked for.
    pub fn tool(&self, id: ToolCallId) -> Option<&RecordedTool> {
        self.tools.get(&id)
    }

    /// How often a tool was called with success.
    pub fn made(&self, tool: &str) -> usize {
        let is_made = |it: &&RecordedTool| it.row.tool == tool && it.row.outcome == Some(ToolOutcome::Ok);
        self.tools.values().filter(is_made).count()
    }

    /// What a person was asked.
    pub fn approval(&self, id: ApprovalId) -> Option<&ApprovalRow> {
        self.approvals.get(&id)
    }

    /// The place of the first answer of `model`.
    pub fn place(&self, model: &ModelAlias) -> Option<usize> {
        self.answers.iter().position(|it| it.model == model.as_str())
    }

    /// The answer `model` gave to this input in an unfinished attempt, and the call it answers. Its number may have been
    /// another one: models may be asked in another order now, or again after an error.
    pub fn find(&self, model: &ModelAlias, input: TextHash) -> Option<(ChatReply, CallId)> {
        let answer = self.answers.iter().find(|it| it.model == model.as_str() && it.input_hash == input)?;
        Some(self.reply(answer))
    }

    /// The answer number `place`, from 0, that `model` gave in unfinished attempts that were given the same, memories aside;
    /// the call it answers, and what was told then.
    pub fn find_given(
        &self,
        model: &ModelAlias,
        purpose: &str,
        given: TextHash,
        place: usize,
    ) -> Option<(ChatReply, CallId, &ContextRow)> {
        let is_fit = |it: &&Answer| it.model == model.as_str() && it.purpose == purpose && it.given == Some(given);
        let mut answers: Vec<&Answer> = self.answers.iter().filter(is_fit).collect();
        answers.sort_by_key(|it| (it.call.attempt.number, it.call.number));
        let (reply, call) = self.reply(answers.get(place)?);
        let told = self.contexts.iter().find(|it| it.id == call.attempt)?;
        Some((reply, call, told))
    }

    fn reply(&self, answer: &Answer) -> (ChatReply, CallId) {
        let mut asked: Vec<&RecordedTool> = self.tools.values().filter(|it| it.row.id.call == answer.call).collect();
        asked.sort_by_key(|it| it.row.id.place);
        let tool_calls = asked.into_iter().map(|it| ToolCall {
            id: it.row.asked_as.as_str().into(),
            name: it.row.tool.as_str().into(),
            arguments: Arc::clone(&it.arguments),
        });
        let reply = ChatReply {
            text: answer.reply.to_string(),
            tool_calls: tool_calls.collect(),
            usage: Usage::default(),
            finish: if answer.error.as_deref() == Some(REFUSED) { Finish::Filtered } else { Finish::Stop },
            model: answer.model.clone(),
            first_token: None,
            // How sure it was is not recorded; one that was rejected is not asked for again by being sure.
            confidence: (answer.outcome == CallOutcome::Invalid).then_some(0.0),
            elapsed: std::time::Duration::ZERO,
            size: answer.reply.len(),
        };
        (reply, answer.call)
    }
}

#[cfg(test)]
mod tests {
    use crewline_types::{AttemptId, event::CallOutcome};

    use super::*;

    /// What a filter stopped was no answer, and is none when it is read again.
    #[test]
    fn a_stopped_answer_stays_one() {
        let model = ModelAlias::from("cheap");
        let input_hash = TextHash::of("question");
        let recorded = |error: Option<&str>| Recorded {
            answers: vec![Answer {
                call: CallId { attempt: AttemptId { task: "k3v9x0ab".parse().unwrap(), number: 1 }, number: 1 },
                purpose: "task".to_owned(),
                model: model.to_string(),
                input_hash,
                given: None,
                outcome: if error.is_some() { CallOutcome::Invalid } else { CallOutcome::Ok },
                error: error.map(Arc::from),
                reply: "half of".into(),
            }],
            ..Recorded::default()
        };
        for (error, finish) in
            [(None, Finish::Stop), (Some("task.rejected"), Finish::Stop), (Some(REFUSED), Finish::Filtered)]
        {
            let (reply, _) = recorded(error).find(&model, input_hash).unwrap();
            assert_eq!(reply.finish, finish, "{error:?}");
        }
    }
}
