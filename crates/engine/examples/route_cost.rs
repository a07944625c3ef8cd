//! What one choice of models costs: `cargo run --release -p crewline-engine --example route_cost`.

#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use crewline_engine::route::{Health, Learned, Mode, NOBODY_KNOWS, Request, Tally, Traits, View, choose};
use crewline_types::{
    MicroUsd, ModelSpec, Price, Role, TaskKind,
    model::{Locality, Timeouts},
};

const ROUNDS: u32 = 20_000;

fn main() {
    let second = Duration::from_secs(1);
    let model = |place: u64| ModelSpec {
        alias: format!("model-{place:03}").as_str().into(),
        provider: "provider".into(),
        context_window: 32_768,
        output_tokens_max: 4_096,
        has_json_schema: true,
        price: Some(Price {
            input_per_million: MicroUsd(10_000 * (place + 1)),
            output_per_million: MicroUsd(40_000 * (place + 1)),
        }),
        locality: Locality::Remote,
        timeouts: Timeouts { connect: second, first_token: second, idle: second, total: second },
        concurrency_max: None,
    };
    let role = Role::from("writer");
    for models in [1, 3, 10, 100] {
        let chain: Vec<Arc<ModelSpec>> = (0..models).map(model).map(Arc::new).collect();
        let mut learned = Learned::default();
        for (place, model) in (0..).zip(&chain) {
            learned.add(&role, TaskKind::Atomic, &model.alias, Tally { accepted: place * 3, rejected: 100 });
        }
        let traits = Traits::default();
        let request =
            Request { role: &role, kind: TaskKind::Atomic, input_tokens: 900, mode: Mode::Online, traits: &traits };
        let view = View {
            chain: &chain,
            health: &|_| Health::Up,
            remaining: Some(MicroUsd(1_000_000)),
            learned: Some(&learned),
            rules: &[],
            is_loaded: NOBODY_KNOWS,
        };
        let started = Instant::now();
        for _ in 0..ROUNDS {
            black_box(choose(black_box(&request), black_box(&view)));
        }
        println!("{models:>4} models: {:>8.2} µs a choice", started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
    }
}
