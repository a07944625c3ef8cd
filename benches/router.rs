//! What the router and the providers cost: choosing, asking over loopback HTTP, going on after a failure; and the floor beside
//! it, which posts the same bytes with a client of the same settings and reads the answer as JSON.
//!
//! Each is a process of its own, so that the upstream's time is not in it; connections stand and the code is warm before the clock
//! starts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crewline_engine::route::{
    self, Health, Learned, Mode, NOBODY_KNOWS, Request, Tally, Traits, View,
    breaker::{Breaker, Pass, Rules},
};
use crewline_models::{ChatMessage, ChatRequest, Models, Options, Registry, Speaker};
use crewline_testkit::{Script, StubReply, StubRequest, StubServer};
use crewline_types::{Clock as _, ModelAlias, Role, SystemClock, TaskKind};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    measure::Figure,
    memory::{answers, cpu, say},
};

/// Calls whose CPU is measured.
const CALLS: usize = 20_000;
/// Under way at once.
const AT_ONCE: usize = 64;
/// Calls before the clock starts.
const WARM: usize = 2_000;
/// Calls a second, and for so many seconds, where their latency is measured.
const RATE: usize = 1_000;
const SECONDS: usize = 10;
/// Models of the registry in which one is chosen.
const MODELS: usize = 100;

pub fn figures(runs: usize) -> Vec<Figure> {
    let words = |what: &str, url: String, count: usize| {
        ["router".to_owned(), what.to_owned(), url, count.to_string()].map(String::from)
    };
    let one = |what: &str, failing: bool, count: usize| {
        let server = upstream(failing);
        answers(&words(what, server.url(), count)).into_iter().map(|(_, value)| value).next().expect("a number")
    };
    let pairs = |floor: &str, ours: &str, failing: bool, count: usize| -> (Vec<f64>, Vec<f64>) {
        (0..runs).map(|_| (one(floor, false, count), one(ours, failing, count))).unzip()
    };
    let (floor, clean) = pairs("floor", "calls", false, CALLS);
    let (_, failing) = pairs("floor", "calls", true, CALLS);
    let (floor_p99, p99) = pairs("floor-p99", "calls-p99", false, RATE * SECONDS);
    let added = p99.iter().zip(&floor_p99).map(|(ours, floor)| ours - floor).collect();
    let chosen = (0..runs).map(|_| one("choose", false, 20_000)).collect();
    vec![
        Figure::new("router and provider: CPU per call", "µs", "≤ 100 µs", clean).over(floor.clone()),
        Figure::new("the same, the first model answers 30 % with 500", "µs", "≤ 150 µs", failing).over(floor),
        Figure::new("latency p99 at 1,000 calls a second", "ms", "", p99).over(floor_p99),
        Figure::new("of which more than the floor's", "ms", "≤ 1 ms", added),
        Figure::new("choosing among 100 models", "µs", "≤ 20 µs", chosen),
    ]
}

/// A server whose model `cheap` fails three of ten calls, when it is to.
fn upstream(failing: bool) -> StubServer {
    let calls = AtomicU64::new(0);
    let decide = move |request: &StubRequest| {
        if failing && request.model == "cheap" && calls.fetch_add(1, Ordering::Relaxed) % 10 < 3 {
            return StubReply::status(500);
        }
        StubReply::text("A short result.")
    };
    StubServer::start(Script::new(decide).counting_only())
}

pub fn run(what: &str, url: &str, count: usize) {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an executor");
    executor.block_on(async {
        match what {
            "floor" => busy(&Floor::new(url), count).await,
            "floor-p99" => steady(&Floor::new(url), count).await,
            "calls" => busy(&Crew::new(url), count).await,
            "calls-p99" => steady(&Crew::new(url), count).await,
            _ => choose(count),
        }
    });
}

/// Whoever makes a call.
trait Caller {
    /// Asks until somebody answers.
    async fn call(&self) -> String;
}

/// CPU of a call, many at once.
async fn busy(caller: &impl Caller, count: usize) {
    let round = async |count: usize| {
        let calls = stream::iter(0..count).map(|_| caller.call()).buffer_unordered(AT_ONCE);
        calls.map(|answer| usize::from(answer == "A short result.")).fold(0, async |sum, one| sum + one).await
    };
    assert_eq!(round(WARM).await, WARM);
    let before = cpu();
    assert_eq!(round(count).await, count, "no call is lost");
    say("cpu", cpu().saturating_sub(before).as_secs_f64() * 1e6 / count as f64);
}

/// The latency that 99 of 100 calls do not exceed, each begun at its time whatever became of those before.
async fn steady(caller: &impl Caller, count: usize) {
    let begun = Instant::now();
    let pause = Duration::from_secs(1) / u32::try_from(RATE).expect("few");
    let calls = (0..WARM + count).map(|number| async move {
        let due = begun + pause * u32::try_from(number).expect("few");
        tokio::time::sleep_until(due.into()).await;
        let begun = Instant::now();
        caller.call().await;
        (number >= WARM).then(|| begun.elapsed())
    });
    // As many as may be under way; more wait for their time.
    let mut taken: Vec<Duration> = stream::iter(calls).buffer_unordered(RATE).filter_map(async |it| it).collect().await;
    taken.sort_unstable();
    say("p99", taken[taken.len() * 99 / 100].as_secs_f64() * 1e3);
}

fn prompt() -> String {
    "Write one sentence about your part of the goal. ".repeat(20)
}

/// Posts the same, and reads the same.
struct Floor {
    client: reqwest::Client,
    url: String,
}

impl Floor {
    fn new(url: &str) -> Self {
        // Another one may be installed already; any will do for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(4_096)
            .timeout(Duration::from_mins(5))
            .build();
        Self { client: client.expect("a client"), url: format!("{url}/chat/completions") }
    }
}

impl Caller for Floor {
    async fn call(&self) -> String {
        let messages =
            json!([{"role": "system", "content": "You are a writer."}, {"role": "user", "content": prompt()}]);
        let body = json!({"model": "cheap", "messages": messages, "max_tokens": 1_000});
        let answer = self.client.post(&self.url).json(&body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        answer["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
    }
}

/// Chooses, asks, and goes on to the next model when one fails.
struct Crew {
    models: Models,
    registry: Arc<Registry>,
    breakers: Mutex<HashMap<ModelAlias, Breaker>>,
    learned: Mutex<Learned>,
    role: Role,
}

impl Crew {
    fn new(url: &str) -> Self {
        let text = format!(
            "version: 1\nproviders:\n  stub: {{type: openai_compatible, base_url: \"{url}\"}}\nmodels:\n  \
             cheap: {{provider: stub, model: cheap, context_window: 32768, price: {{input_per_million: 1, output_per_million: 2}}}}\n  \
             strong: {{provider: stub, model: strong, context_window: 32768, price: {{input_per_million: 5, output_per_million: 15}}}}\n\
             roles:\n  default: {{chain: [cheap, strong]}}\n"
        );
        let registry = Arc::new(Registry::parse(&text, "bench", &|_| None).expect("a registry"));
        let models = Models::new(Arc::clone(&registry), Options::default()).expect("models");
        Self { models, registry, breakers: Mutex::default(), learned: Mutex::default(), role: "writer".into() }
    }

    fn breaker<R>(&self, model: &ModelAlias, work: impl FnOnce(&mut Breaker) -> R) -> R {
        let mut all = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        work(all.entry(model.clone()).or_insert_with(|| Breaker::new(Rules::default())))
    }

    fn learned<R>(&self, work: impl FnOnce(&mut Learned) -> R) -> R {
        work(&mut self.learned.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Caller for Crew {
    async fn call(&self) -> String {
        let messages =
            vec![ChatMessage::new(Speaker::System, "You are a writer."), ChatMessage::new(Speaker::User, prompt())];
        let request = ChatRequest { messages, output_tokens_max: 1_000, schema: None, temperature: None, tools: None };
        let input_tokens = u32::try_from(request.input_tokens()).expect("few");
        let traits = Traits::default();
        let asked =
            Request { role: &self.role, kind: TaskKind::Atomic, input_tokens, mode: Mode::Online, traits: &traits };
        let now = SystemClock.now();
        let is_up = |alias: &ModelAlias| match self.breaker(alias, |it| it.look(now)) {
            Pass::Yes | Pass::Probe => Health::Up,
            Pass::Not { .. } => Health::Down { reason: "it failed" },
        };
        let decision = self.learned(|learned| {
            let view = View {
                chain: self.registry.chain(&self.role),
                health: &is_up,
                remaining: None,
                learned: Some(learned),
                rules: &[],
                is_loaded: NOBODY_KNOWS,
            };
            route::choose(&asked, &view)
        });
        for rung in &decision.rungs {
            let alias = &rung.model.alias;
            let now = SystemClock.now();
            self.breaker(alias, |it| it.admit(now));
            match self.models.chat(alias, &request).await {
                Ok(reply) => {
                    self.breaker(alias, Breaker::succeeded);
                    let tally = Tally { accepted: 1, rejected: 0 };
                    self.learned(|learned| learned.add(&self.role, TaskKind::Atomic, alias, tally));
                    return reply.text;
                }
                Err(error) => self.breaker(alias, |it| it.failed(now, error.retry_after())),
            }
        }
        String::new()
    }
}

/// Time of a decision, with an experience of every model.
fn choose(count: usize) {
    let model = |n: usize| {
        let (input, output) = (n + 1, 2 * n + 1);
        format!(
            "  m{n}: {{provider: p, model: m, context_window: 32768, price: {{input_per_million: {input}, output_per_million: {output}}}}}\n"
        )
    };
    let all: String = (0..MODELS).map(model).collect();
    let chain: Vec<String> = (0..MODELS).map(|n| format!("m{n}")).collect();
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n{all}roles:\n  default: {{chain: [{}]}}\n",
        chain.join(", ")
    );
    let registry = Registry::parse(&text, "bench", &|_| None).expect("a registry");
    let role = Role::from("writer");
    let mut learned = Learned::default();
    for (n, model) in (1..).zip(registry.chain(&role)) {
        learned.add(&role, TaskKind::Atomic, &model.alias, Tally { accepted: 10 * n, rejected: 300 / n });
    }
    let traits = Traits::default();
    let request =
        Request { role: &role, kind: TaskKind::Atomic, input_tokens: 300, mode: Mode::Online, traits: &traits };
    let view = View {
        chain: registry.chain(&role),
        health: &|_| Health::Up,
        remaining: None,
        learned: Some(&learned),
        rules: &[],
        is_loaded: NOBODY_KNOWS,
    };
    let before = cpu();
    for _ in 0..count {
        assert_eq!(std::hint::black_box(route::choose(&request, &view)).rungs.len(), MODELS);
    }
    say("choose", cpu().saturating_sub(before).as_secs_f64() * 1e6 / count as f64);
}
