//! The upstream and what it remembers: every answer is another text, so that it is known from which call a result came.
//!
//! **Invariant:** what is served is written down before it is sent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crewline_testkit::{Script, StubReply, StubRequest, StubServer};

use crate::plan::{self, Plan};

/// The name of planning calls among the tasks.
pub const PLANNING: &str = "(planning)";
/// The name of the last task, which a planning model does not give.
pub const SYNTHESIS: &str = "(synthesis)";

/// How long an answer is that is lost on its way.
const LOST_BYTES: usize = 400;

/// An answer that was served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its place among all answers of all plans.
    pub number: u64,
    /// The task.
    pub key: String,
    /// The answer.
    pub text: Arc<str>,
    /// What it costs, in micro-dollars.
    pub cost: u64,
    /// The answers that its prompt contained.
    pub saw: Vec<u64>,
}

/// What happened to one plan.
#[derive(Debug, Clone)]
struct Page {
    plan: Arc<Plan>,
    served: Vec<Served>,
    asked: u64,
    /// What failures of the upstream cost that had begun to answer, in micro-dollars.
    billed: u64,
    failed: HashMap<String, u32>,
}

/// Everything that was served.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    number: u64,
    pages: HashMap<String, Page>,
    strangers: u64,
}

impl Ledger {
    /// Starts an upstream that writes here.
    pub fn serve(&self) -> StubServer {
        let ledger = self.clone();
        StubServer::start(Script::new(move |request| ledger.decide(request)).counting_only())
    }

    /// Opens the page of a plan.
    pub fn open(&self, plan: &Arc<Plan>) {
        let page = Page { plan: Arc::clone(plan), served: Vec::new(), asked: 0, billed: 0, failed: HashMap::new() };
        self.book().pages.insert(plan.tag.clone(), page);
    }

    /// Closes the page of a plan.
    pub fn close(&self, tag: &str) {
        self.book().pages.remove(tag);
    }

    /// Calls for this plan so far.
    pub fn asked(&self, tag: &str) -> u64 {
        self.book().pages.get(tag).map_or(0, |page| page.asked)
    }

    /// What was served for this plan, in order.
    pub fn served(&self, tag: &str) -> Vec<Served> {
        self.book().pages.get(tag).map(|page| page.served.clone()).unwrap_or_default()
    }

    /// What it bills for the answers of this plan that it failed to deliver.
    pub fn billed_failures(&self, tag: &str) -> u64 {
        self.book().pages.get(tag).map_or(0, |page| page.billed)
    }

    /// How often the upstream failed a task of this plan.
    pub fn failed(&self, tag: &str, key: &str) -> u32 {
        self.book().pages.get(tag).and_then(|page| page.failed.get(key).copied()).unwrap_or(0)
    }

    /// Requests that belong to no plan.
    pub fn strangers(&self) -> u64 {
        self.book().strangers
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self, request: &StubRequest) -> StubReply {
        let text = request.text();
        let mut book = self.book();
        let Some(tag) = plan::tag_in(&text).filter(|tag| book.pages.contains_key(*tag)).map(str::to_owned) else {
            book.strangers += 1;
            return StubReply::status(404);
        };
        let key = match plan::key_in(&text) {
            _ if request.has_schema() => PLANNING,
            Some(key) => key,
            None => SYNTHESIS,
        };
        let number = book.number;
        let Some(page) = book.pages.get_mut(&tag) else { return StubReply::status(404) };
        page.asked += 1;
        let plan = Arc::clone(&page.plan);
        let mut rng = fastrand::Rng::with_seed(number ^ 0x5eed);
        let delay = Duration::from_micros(rng.u64(0..=plan.latency_ms * 2_000));
        let failed = page.failed.entry(key.to_owned()).or_default();
        // Once for each task: more would end the run, and rightly so.
        if *failed == 0 && rng.u8(..100) < plan.faults_percent {
            *failed += 1;
            let (reply, bytes) = fault(&mut rng);
            if let Some(bytes) = bytes {
                page.billed += price(&request.model, request.input_tokens(), bytes);
            }
            return reply.after(delay);
        }
        let answer: Arc<str> = match key {
            PLANNING => plan.document().to_string().into(),
            key => answer(number, key, rng.usize(0..=plan.answer_bytes_max)).into(),
        };
        let served = Served {
            number,
            key: key.to_owned(),
            cost: price(&request.model, request.input_tokens(), answer.len()),
            text: Arc::clone(&answer),
            saw: answers_in(&text),
        };
        page.served.push(served);
        book.number += 1;
        StubReply::text(answer).after(delay)
    }
}

/// What providers do on a bad day, and how much of an answer they bill for it: all that they made before it was lost.
fn fault(rng: &mut fastrand::Rng) -> (StubReply, Option<usize>) {
    match rng.u8(..5) {
        0 => (StubReply::status(500), None),
        1 => (StubReply::status(503), None),
        2 => (StubReply::close(), Some(LOST_BYTES)),
        3 => (StubReply::malformed(), Some(LOST_BYTES)),
        _ => (StubReply::cut_stream("never to be kept", 3), Some(LOST_BYTES)),
    }
}

/// Micro-dollars, by the prices of [`StubServer::registry`] and the sizes its answers tell.
fn price(model: &str, input_tokens: u64, answer_bytes: usize) -> u64 {
    let (input, output) = if model == "strong" { (5, 15) } else { (1, 2) };
    input_tokens * input + answer_bytes.div_ceil(4) as u64 * output
}

fn answer(number: u64, key: &str, bytes: usize) -> String {
    let mut text = format!("answer-{number}- for {key}.");
    while text.len() < bytes {
        text.push_str(" It holds what it was told to hold.");
    }
    text
}

/// The numbers of the answers that a text contains.
pub fn answers_in(text: &str) -> Vec<u64> {
    let ends = text.split("answer-").skip(1);
    ends.filter_map(|rest| rest.split_once('-')?.0.parse().ok()).collect()
}
