//! A model of one provider on a server of the test, and a question to it.

use std::{sync::Arc, time::Duration};

use crewline_models::{ChatMessage, ChatReply, ChatRequest, Error, Models, Options, Phase, Registry, Speaker};
use crewline_testkit::{
    FaultServer,
    fault::Step,
    wire::{Wire, Wired},
};
use crewline_types::{ModelAlias, event::CallOutcome};

#[derive(Clone, Copy)]
pub(crate) enum Way {
    Whole,
    Streamed,
}

pub(crate) const JSON: &str = "application/json";
pub(crate) const KEY: &str = "sk-topsecret";

/// The limits of the tests: those that must pass are short, the others long.
pub(crate) struct Limits {
    pub(crate) first_token: &'static str,
    pub(crate) idle: &'static str,
    pub(crate) total: &'static str,
}

pub(crate) const LONG: Limits = Limits { first_token: "30s", idle: "30s", total: "30s" };

pub(crate) fn models_of(wire: &dyn Wire, way: Way, port: u16, limits: &Limits, extra: &str) -> Models {
    let text = format!(
        "version: 1\nproviders:\n  p: {{type: {}, base_url: \"http://127.0.0.1:{port}{}\", api_key: \"env:KEY\", stream: {}}}\n\
         models:\n  m: {{provider: p, model: asked, context_window: 1000, output_tokens_max: 100, \
         timeouts: {{connect: 5s, first_token: {}, idle: {}, total: {}}}{extra}}}\nroles:\n  default: {{chain: [m]}}\n",
        wire.registry_type(),
        wire.base_path(),
        matches!(way, Way::Streamed),
        limits.first_token,
        limits.idle,
        limits.total,
    );
    let registry = Registry::parse(&text, "test", &|_| Some(KEY.to_owned())).unwrap();
    Models::new(Arc::new(registry), Options::default()).unwrap()
}

pub(crate) fn question() -> ChatRequest {
    ChatRequest {
        messages: vec![
            ChatMessage::new(Speaker::System, "Be \"brief\".\n"),
            ChatMessage::new(Speaker::User, "Grüße 日本?"),
        ],
        output_tokens_max: 50,
        schema: None,
        temperature: None,
        tools: None,
    }
}

/// A whole answer; `usage` is input, output, cached, reasoning.
pub(crate) fn whole(wire: &dyn Wire, text: &str, usage: Option<[u64; 4]>) -> String {
    wire.whole(&Wired { text, usage, ..Wired::default() })
}

/// A whole stream.
pub(crate) fn stream(wire: &dyn Wire, pieces: &[&str], usage: Option<[u64; 4]>) -> String {
    let text = pieces.concat();
    wire.stream(pieces, &Wired { text: &text, usage, ..Wired::default() })
}

pub(crate) fn alias() -> ModelAlias {
    "m".into()
}

/// Asks once a server that does `steps`.
pub(crate) async fn ask(wire: &dyn Wire, way: Way, limits: &Limits, steps: Vec<Step>) -> Result<ChatReply, Error> {
    let server = FaultServer::start(move |_| steps.clone()).await;
    let models = models_of(wire, way, server.port, limits, "");
    let result =
        tokio::time::timeout(Duration::from_secs(20), models.chat(&alias(), &question())).await.expect("no limit held");
    if let Err(error) = &result {
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(!shown.contains(KEY), "{shown}");
    }
    result
}

/// A limit of 120 ms passed in this phase.
pub(crate) fn assert_timeout(error: &Error, expected: Phase) {
    let Error::Timeout { phase, limit, .. } = error else { panic!("{error}") };
    assert_eq!((*phase, *limit), (expected, Duration::from_millis(120)));
    assert!(error.is_retryable() && error.outcome() == CallOutcome::Timeout && error.hint().is_some());
}
