//! What passes between a manager and workers through the database: the report of a claimed attempt, and back.
//!
//! **Invariant:** a worker records texts, calls and their events with its report, in one transaction; a manager only reads
//! them. What is in the report is what the manager must decide on.

use std::{collections::HashMap, sync::Arc};

use crewline_engine::{context::Item, plan::Wish};
use crewline_store::{CallEnd, CallRow, Change, OfferState, OpenAttempt, OpenOffer, Store, WorkRow};
use crewline_types::{
    AttemptId, ErrorKind, LinkKind, MicroUsd, ModelAlias, Role, RunId, TaskId, Text, TextHash, Usage,
    event::{CallOutcome, ErrorNote},
};
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    assignment::{Failure, Output, Report},
    attempt::{JUDGE, end_calls},
    outage::Outage,
    progress::{EndedCall, Progress, Spent},
    purse::Cap,
};

/// What the plan gives to an offered attempt: its manager knows the tree, a worker reads what it names.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// The tasks it requires, with what follows from the tree.
    pub requires: Vec<TaskId>,
    /// The tasks it refers to.
    pub refers: Vec<TaskId>,
    /// What it is told of the tasks above and beside it.
    #[serde(with = "around")]
    pub around: Vec<Item>,
    /// Names what the tasks above it say.
    pub above: Option<TextHash>,
    /// The tasks with others below them that are done before it.
    #[serde(default)]
    pub done: Vec<TaskId>,
}

impl Told {
    /// As the offer's row keeps it.
    pub fn write(&self) -> String {
        // Words and numbers only: this can not fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it back.
    pub fn read(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What the links alone say.
    pub fn of_links(row: &WorkRow) -> Self {
        let to =
            |wanted: LinkKind| row.linked.iter().filter(|(kind, _)| *kind == wanted).map(|(_, made)| made.id).collect();
        Self { requires: to(LinkKind::Requires), refers: to(LinkKind::Refers), ..Self::default() }
    }
}

/// Items of the plan as an offer's row keeps them.
mod around {
    use std::sync::Arc;

    use crewline_engine::context::{Item, Tier};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Row {
        source: Arc<str>,
        kind: Arc<str>,
        title: Arc<str>,
        text: Arc<str>,
        score: f32,
    }

    pub fn serialize<S: Serializer>(items: &[Item], to: S) -> Result<S::Ok, S::Error> {
        let row = |item: &Item| Row {
            source: Arc::clone(&item.source),
            kind: Arc::clone(&item.kind),
            title: Arc::clone(&item.title),
            text: Arc::clone(&item.text.body),
            score: item.score,
        };
        items.iter().map(row).collect::<Vec<Row>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Item>, D::Error> {
        let rows: Vec<Row> = Vec::deserialize(from)?;
        let item = |Row { source, kind, title, text, score }| Item {
            tier: Tier::Siblings,
            source,
            kind,
            title,
            text: (&*text).into(),
            score,
        };
        Ok(rows.into_iter().map(item).collect())
    }
}

/// The report of a claimed attempt, as its offer's row keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Wire {
    is_started: bool,
    usage: Usage,
    cost: MicroUsd,
    unpriced: u64,
    has_answer: bool,
    result: WireResult,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum WireResult {
    Made {
        text: TextHash,
        model: ModelAlias,
        #[serde(default)]
        wishes: Vec<Wish>,
    },
    Models {
        error: ErrorNote,
        may_retry: bool,
    },
    Down(Outage),
    OverBudget {
        cap: Cap,
        message: String,
    },
    Awaiting {
        what: String,
    },
    HandedOver {
        to: Role,
        summary: String,
    },
    Busy,
    TimedOut,
    Lost,
}

/// Adds the end of a claimed attempt to `change`: its calls, the text it made and the report for its manager.
pub fn write_report(change: &mut Change, role: &Role, report: Report) -> Result<(), serde_json::Error> {
    let Report { attempt, progress, result } = report;
    let is_started = progress.is_started;
    let (spent, ended) = progress.close();
    let has_answer = ended.calls.iter().any(|it| it.end.outcome == CallOutcome::Ok);
    end_calls(change, attempt, role, ended);
    let result = match result {
        Ok(Output { text, model, wishes, plan: _ }) => {
            let hash = text.hash;
            change.texts.push(text);
            WireResult::Made { text: hash, model, wishes }
        }
        Err(Failure::Models { error, may_retry }) => WireResult::Models { error, may_retry },
        Err(Failure::Down(outage)) => WireResult::Down(outage),
        Err(Failure::OverBudget { cap, message }) => WireResult::OverBudget { cap, message },
        Err(Failure::Awaiting { what }) => WireResult::Awaiting { what },
        Err(Failure::HandedOver { to, summary }) => WireResult::HandedOver { to, summary },
        Err(Failure::Busy) => WireResult::Busy,
        Err(Failure::TimedOut) => WireResult::TimedOut,
        // Whoever refused the attempt's own changes will refuse this one, or was out of reach for a moment.
        Err(Failure::Lost | Failure::Stale | Failure::Store { .. }) => WireResult::Lost,
    };
    let Spent { usage, cost, unpriced } = spent;
    change.report = Some(serde_json::to_string(&Wire { is_started, usage, cost, unpriced, has_answer, result })?);
    Ok(())
}

/// A report as a manager reads it.
pub struct Read {
    /// Like that of a specialist in this process.
    pub report: Report,
    /// Whether a model answered.
    pub has_answer: bool,
}

/// The reports of the run that are not settled, as its manager expects them of specialists.
pub async fn read_reports(store: &Store, run: RunId) -> Result<Vec<Read>, Error> {
    let mut lost = Vec::new();
    let mut wires = Vec::new();
    for OpenOffer { id, state } in store.offer_reports(run).await? {
        match state {
            OfferState::Lost => lost.push(id),
            OfferState::Reported(text) => match serde_json::from_str::<Wire>(&text) {
                Ok(wire) => wires.push((id, wire)),
                Err(error) => {
                    tracing::error!(task_id = %id.task, attempt = id.number, %error, "a worker's report is unreadable");
                    lost.push(id);
                }
            },
            OfferState::Free | OfferState::Claimed { .. } => {}
        }
    }
    // An attempt that was aborted while its beginning was on its way can not know whether that was recorded.
    let unsure = wires.iter().filter(|(_, wire)| !wire.is_started).map(|(id, _)| *id);
    let asked: Vec<AttemptId> = lost.iter().copied().chain(unsure).collect();
    let known = known_of(store, &asked).await?;
    let hashes: Vec<TextHash> = wires.iter().filter_map(|(_, wire)| wire.result.text()).collect();
    let texts = if hashes.is_empty() { HashMap::new() } else { store.texts(&hashes).await? };
    let mut read: Vec<Read> = lost.iter().map(|id| lost_report(*id, known.get(id))).collect();
    for (id, wire) in wires {
        let mut one = wire.read(id, &texts);
        if let Some(known) = known.get(&id) {
            let found = lost_report(id, Some(known));
            one.has_answer |= found.has_answer;
            one.report.progress = found.report.progress;
        }
        read.push(one);
    }
    Ok(read)
}

async fn known_of(store: &Store, ids: &[AttemptId]) -> Result<HashMap<AttemptId, OpenAttempt>, Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    Ok(store.open_attempts(ids).await?.into_iter().map(|it| (it.id, it)).collect())
}

/// Reports of attempts that nobody will report any more, from what is recorded of them.
pub async fn read_lost(store: &Store, lost: &[AttemptId]) -> Result<Vec<Read>, Error> {
    let known = known_of(store, lost).await?;
    Ok(lost.iter().map(|id| lost_report(*id, known.get(id))).collect())
}

fn lost_report(attempt: AttemptId, known: Option<&OpenAttempt>) -> Read {
    let (is_started, calls) = known.map_or((false, [].as_slice()), |it| (it.is_started, &it.calls));
    Read {
        has_answer: calls.iter().any(|it| it.outcome == Some(CallOutcome::Ok)),
        report: Report { attempt, progress: progress_of_lost(is_started, calls), result: Err(Failure::Lost) },
    }
}

/// How far an attempt came that was lost: ended calls count as they are recorded, open ones that were answered, too. Others
/// count at their worst case.
pub fn progress_of_lost(is_started: bool, calls: &[CallRow]) -> Progress {
    let mut progress = Progress { is_started, ..Progress::default() };
    for call in calls {
        let is_open = call.outcome.is_none();
        let is_lost = is_open && call.reply.is_none();
        let otherwise = if is_lost { CallOutcome::Lost } else { CallOutcome::Ok };
        let end = CallEnd {
            id: call.id,
            outcome: call.outcome.unwrap_or(otherwise),
            usage: if is_lost { Usage { estimated: true, ..Usage::default() } } else { call.usage },
            cost: if is_lost { call.reserved } else { call.cost },
            elapsed: call.elapsed,
            reply: call.reply,
            error: is_lost.then(|| ErrorNote {
                code: "model.lost".into(),
                kind: ErrorKind::Unavailable,
                message: "the answer was lost with the process that waited for it".into(),
            }),
        };
        progress.spent.add(&end);
        if is_open {
            progress.ended.calls.push(EndedCall {
                end,
                by: (call.purpose == JUDGE).then(Role::judge),
                model: ModelAlias::from(call.model.as_str()),
                provider: call.provider.as_str().into(),
                reply: None,
                checks: Vec::new(),
                asked: Vec::new(),
            });
        }
    }
    progress
}

impl WireResult {
    fn text(&self) -> Option<TextHash> {
        match self {
            Self::Made { text, .. } => Some(*text),
            Self::Models { .. }
            | Self::Down(_)
            | Self::OverBudget { .. }
            | Self::Awaiting { .. }
            | Self::HandedOver { .. }
            | Self::Busy
            | Self::TimedOut
            | Self::Lost => None,
        }
    }
}

impl Wire {
    fn read(self, attempt: AttemptId, texts: &HashMap<TextHash, Arc<str>>) -> Read {
        let Self { is_started, usage, cost, unpriced, has_answer, result } = self;
        let result = match result {
            WireResult::Made { text, model, wishes } => match texts.get(&text) {
                Some(body) => {
                    let text = Text { hash: text, body: Arc::clone(body) };
                    Ok(Output { text, plan: None, model, wishes })
                }
                // It was recorded with the report; a database that lost it lost the result.
                None => Err(Failure::Lost),
            },
            WireResult::Models { error, may_retry } => Err(Failure::Models { error, may_retry }),
            WireResult::Down(outage) => Err(Failure::Down(outage)),
            WireResult::OverBudget { cap, message } => Err(Failure::OverBudget { cap, message }),
            WireResult::Awaiting { what } => Err(Failure::Awaiting { what }),
            WireResult::HandedOver { to, summary } => Err(Failure::HandedOver { to, summary }),
            WireResult::Busy => Err(Failure::Busy),
            WireResult::TimedOut => Err(Failure::TimedOut),
            WireResult::Lost => Err(Failure::Lost),
        };
        let spent = Spent { usage, cost, unpriced };
        Read {
            report: Report { attempt, progress: Progress { is_started, spent, ..Progress::default() }, result },
            has_answer,
        }
    }
}
