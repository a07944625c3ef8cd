//! What one call costs: CPU time of the calling thread, with the upstream on another. Run it by hand:
//! `cargo test --release -p crewline-models --test cost -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![cfg(target_os = "linux")]

use std::{sync::Arc, time::Instant};

use crewline_models::{ChatMessage, ChatRequest, Models, Options, Registry, Speaker};
use crewline_testkit::{
    FaultServer,
    fault::{chunk, chunked_end, chunked_head, response},
};

const CALLS: u32 = 5_000;
const AT_ONCE: u32 = 100;

/// Nanoseconds this thread has run.
fn cpu() -> u64 {
    std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn cpu_per_call() {
    for stream in [false, true] {
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let text = "word ".repeat(100);
                let usage = r#""usage":{"prompt_tokens":500,"completion_tokens":100}"#;
                let steps = if stream {
                    let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}},\"finish_reason\":\"stop\"}}],{usage}}}\n\n");
                    vec![chunked_head("text/event-stream"), chunk(event + "data: [DONE]\n\n"), chunked_end()]
                } else {
                    let body = format!(r#"{{"model":"m","choices":[{{"message":{{"content":"{text}"}},"finish_reason":"stop"}}],{usage}}}"#);
                    vec![response("200 OK", "application/json", "", body)]
                };
                let server = FaultServer::start(move |_| steps.clone()).await;
                tell.send(server.port).unwrap();
                std::future::pending::<()>().await;
            });
        });
        let port = told.recv().unwrap();
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: openai_compatible, base_url: \"http://127.0.0.1:{port}/v1\", stream: {stream}}}\n\
             models:\n  m: {{provider: p, model: m, context_window: 100000}}\nroles:\n  default: {{chain: [m]}}\n"
        );
        let parsing = Instant::now();
        let registry = Arc::new(Registry::parse(&text, "cost", &|_| None).unwrap());
        println!("registry: {:?}", parsing.elapsed());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let models = Models::new(registry, Options::default()).unwrap();
            let request = ChatRequest {
                messages: vec![
                    ChatMessage::new(Speaker::System, "Be brief."),
                    ChatMessage::new(Speaker::User, "word ".repeat(400)),
                ],
                output_tokens_max: 500,
                schema: None,
                temperature: Some(0.2),
                tools: None,
            };
            let alias = "m".into();
            let round = || futures::future::join_all((0..AT_ONCE).map(|_| models.chat(&alias, &request)));
            assert!(round().await.iter().all(Result::is_ok));
            let (wall, before) = (Instant::now(), cpu());
            for _ in 0..CALLS / AT_ONCE {
                assert!(round().await.iter().all(Result::is_ok));
            }
            let each = (cpu() - before) / u64::from(CALLS);
            println!("stream {stream}: {} ns of CPU, {:?} of wall time a call", each, wall.elapsed() / CALLS);
        });
    }
}
