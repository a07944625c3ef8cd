//! The rows of a batch that neither guard nor are counted, and its events.

use std::collections::BTreeMap;

use crewline_types::{ApprovalId, Event, MemoryMarks, MemoryRecord, Role, RunId, TaskId, Text, TextHash, Timestamp};

use super::{Batch, Fate, Numbers, Seqs};
use crate::{
    Backend, Error, Fence,
    change::Change,
    choice::{INSERT_CHOICES, add_choice},
    graph,
    memory_edit::{MARK_MEMORIES, SUPERSEDE_MEMORIES, add_marks, add_superseded},
    rows::{
        EventOf, add_approval, add_attempt, add_attempt_end, add_call, add_call_answer, add_call_end, add_context,
        add_memory, add_offer, add_text, add_tool_call, add_tool_call_begun, add_tool_call_end, same_text,
    },
    sql::{Args, Part},
    statements as sql, traffic,
    tx::Tx,
};

impl<'a> Batch<'a> {
    /// Everything that neither guards nor is counted.
    pub(super) async fn insert_rows(&self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Error> {
        let number = |task: &TaskId| numbers.get(task).copied();
        let mut links = Vec::new();
        let (mut attempts, mut attempts_ended) = (Vec::new(), Vec::new());
        let (mut calls, mut calls_answered, mut calls_ended) = (Vec::new(), Vec::new(), Vec::new());
        let mut contexts = Vec::new();
        let mut texts = BTreeMap::<TextHash, (&Text, Timestamp)>::new();
        let mut memories = Vec::new();
        let (mut marked, mut superseded) = (Vec::new(), Vec::new());
        let mut indexes = BTreeMap::<RunId, TextHash>::new();
        let mut copied = Vec::new();
        for (_, change) in self.live() {
            // `find_numbers` has seen to it that every number is there.
            let at = change.at;
            let links_of = change.links.iter();
            links.extend(links_of.filter_map(|(from, to, kind)| Some((number(from)?, number(to)?, *kind))));
            attempts.extend(change.attempts.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            attempts_ended.extend(change.attempts_ended.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            calls.extend(change.calls.iter().filter_map(|it| Some((number(&it.id.attempt.task)?, it, at))));
            calls_answered
                .extend(change.calls_answered.iter().filter_map(|it| Some((number(&it.id.attempt.task)?, it))));
            calls_ended.extend(change.calls_ended.iter().filter_map(|it| Some((number(&it.id.attempt.task)?, it))));
            contexts.extend(change.contexts.iter().filter_map(|it| Some((number(&it.id.task)?, it, at))));
            copied.extend(change.copied.iter().filter_map(|(task, from)| Some((number(task)?, *from))));
            texts.extend(change.texts.iter().map(|text| (text.hash, (text, at))));
            memories.extend(change.memories.iter().map(|record| (record, same_text(change, record))));
            let is_marked = |record: &&MemoryRecord| record.marks != MemoryMarks::default();
            marked.extend(change.memories.iter().filter(is_marked).map(|it| (it.id, &*it.project, &it.marks)));
            superseded.extend(&change.superseded);
            indexes.extend(change.index.map(|hash| (change.run, hash)));
        }
        let live: Vec<&Change> = self.live().map(|(_, change)| change).collect();
        graph::write(tx, &live, numbers).await?;
        tx.write(&sql::INSERT_LINKS, &links, |args, (from, to, kind)| {
            args.int(*from);
            args.int(*to);
            args.word(kind.as_str());
        })
        .await?;
        let beginnings = [
            Part {
                bulk: &sql::INSERT_ATTEMPTS,
                rows: attempts.len(),
                add: &|args, row| add_attempt(args, &attempts[row]),
            },
            Part { bulk: &sql::INSERT_CALLS, rows: calls.len(), add: &|args, row| add_call(args, &calls[row]) },
            Part {
                bulk: &sql::INSERT_CONTEXTS,
                rows: contexts.len(),
                add: &|args, row| add_context(args, &contexts[row]),
            },
        ];
        tx.write_group(&sql::BEGINNINGS, &beginnings).await?;
        tx.write(&sql::ANSWER_CALLS, &calls_answered, add_call_answer).await?;
        // In the order of their hashes, so that two transactions never wait for each other.
        let texts: Vec<(&Text, Timestamp)> = texts.into_values().collect();
        let ends = [
            Part {
                bulk: &sql::END_ATTEMPTS,
                rows: attempts_ended.len(),
                add: &|args, row| add_attempt_end(args, &attempts_ended[row]),
            },
            Part {
                bulk: &sql::END_CALLS,
                rows: calls_ended.len(),
                add: &|args, row| add_call_end(args, &calls_ended[row]),
            },
            Part { bulk: &sql::INSERT_TEXTS, rows: texts.len(), add: &|args, row| add_text(args, &texts[row]) },
            Part {
                bulk: &sql::INSERT_MEMORIES,
                rows: memories.len(),
                add: &|args, row| add_memory(args, &memories[row]),
            },
        ];
        tx.write_group(&sql::ENDS, &ends).await?;
        tx.write(&MARK_MEMORIES, &marked, add_marks).await?;
        tx.write(&SUPERSEDE_MEMORIES, &superseded, |args, it| add_superseded(args, it)).await?;
        let indexes: Vec<(RunId, TextHash)> = indexes.into_iter().collect();
        tx.write(&sql::MARK_COPIED, &copied, |args, (task, from)| {
            args.int(*task);
            args.text(from.as_str());
        })
        .await?;
        let handed_over: Vec<(i64, &Role)> = self
            .live()
            .flat_map(|(_, change)| &change.handed_over)
            .filter_map(|(task, role)| Some((number(task)?, role)))
            .collect();
        tx.write(&sql::HAND_OVER, &handed_over, |args, (task, role)| {
            args.int(*task);
            args.word(role.as_str());
        })
        .await?;
        let choices: Vec<_> = self.live().flat_map(|(_, change)| &change.choices).collect();
        tx.write(&INSERT_CHOICES, &choices, |args, choice| add_choice(args, choice)).await?;
        tx.write(&sql::INDEX_RUNS, &indexes, |args, (run, hash)| {
            args.text(run.as_str());
            args.bytes(&hash.0);
        })
        .await?;
        let passed = traffic::rows(self.live().map(|(_, change)| (change.run, &change.traffic)));
        traffic::add(tx, &passed).await?;
        self.write_acts(tx, numbers).await?;
        self.write_offers(tx, numbers).await
    }

    /// Calls of tools that begin and end, and what a person is asked.
    async fn write_acts(&self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Error> {
        let number = |task: &TaskId| numbers.get(task).copied();
        let (mut new, mut begun) = (Vec::new(), Vec::new());
        let (mut ended, mut asked, mut withdrawn) = (Vec::new(), Vec::new(), Vec::new());
        for (_, change) in self.live() {
            let at = change.at;
            new.extend(change.tool_calls.iter().filter_map(|it| Some((number(&it.id.call.attempt.task)?, it, at))));
            begun.extend(
                change.tool_calls_begun.iter().filter_map(|(id, by)| Some((number(&id.call.attempt.task)?, *id, *by))),
            );
            ended.extend(change.tool_calls_ended.iter().filter_map(|it| Some((number(&it.id.call.attempt.task)?, it))));
            asked.extend(change.approvals.iter().map(|it| (change.run, it, at)));
            withdrawn.extend(&change.approvals_withdrawn);
        }
        tx.write(&sql::INSERT_TOOL_CALLS, &new, add_tool_call).await?;
        tx.write(&sql::BEGIN_TOOL_CALLS, &begun, add_tool_call_begun).await?;
        tx.write(&sql::END_TOOL_CALLS, &ended, add_tool_call_end).await?;
        tx.write(&sql::WITHDRAW_APPROVALS, &withdrawn, |args, id: &&ApprovalId| args.text(id.as_str())).await?;
        tx.write(&sql::INSERT_APPROVALS, &asked, add_approval).await?;
        Ok(())
    }

    /// Offers that are settled, made and reported.
    async fn write_offers(&self, tx: &mut Tx, numbers: &Numbers) -> Result<(), Error> {
        let number = |task: &TaskId| numbers.get(task).copied();
        let (mut settled, mut offers, mut reports) = (Vec::new(), Vec::new(), Vec::new());
        for (_, change) in self.live() {
            settled.extend(change.offers_settled.iter().filter_map(|it| Some((number(&it.task)?, it.number))));
            offers
                .extend(change.offers.iter().filter_map(|it| Some((number(&it.id.task)?, it, change.run, change.at))));
            if let (Fence::Claim { attempt, .. }, Some(report)) = (&change.fence, &change.report) {
                reports.extend(number(&attempt.task).map(|task| (task, attempt.number, report)));
            }
        }
        let add = |args: &mut Args, (task, attempt): &(i64, u32)| {
            args.int(*task);
            args.int((*attempt).into());
        };
        if tx.backend() == Backend::Postgres {
            tx.ask(&sql::LOCK_OFFERS, &settled, add, |_| Ok(())).await?;
        }
        tx.write(&sql::DELETE_OFFERS, &settled, add).await?;
        tx.write(&sql::INSERT_OFFERS, &offers, add_offer).await?;
        let add = |args: &mut Args, (task, attempt, report): &(i64, u32, &String)| {
            args.int(*task);
            args.int((*attempt).into());
            args.text(report);
        };
        tx.write(&sql::REPORT_CLAIMS, &reports, add).await?;
        Ok(())
    }

    /// The rows of all events, and the events of each change.
    pub(super) fn number_events(&self, mut seqs: Seqs) -> (Vec<EventOf<'a>>, Vec<Vec<Event>>) {
        let mut rows = Vec::new();
        let mut answers = Vec::with_capacity(self.changes.len());
        for (index, change) in self.changes.iter().enumerate() {
            let mut answer = Vec::new();
            if let (Fate::Live, Some(seq)) = (self.fates[index], seqs.get_mut(&change.run)) {
                answer.reserve(change.events.len());
                for event in &change.events {
                    *seq += 1;
                    rows.push(EventOf { run: change.run, seq: *seq, event });
                    answer.push(Event {
                        seq: seq.unsigned_abs(),
                        at: event.at,
                        run: change.run,
                        task: event.task,
                        attempt: event.attempt,
                        body: event.body.clone(),
                    });
                }
            }
            answers.push(answer);
        }
        (rows, answers)
    }
}
