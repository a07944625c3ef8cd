//! How the tokens of what a model is told are counted: by its own tokenizer, or estimated.
//!
//! **Invariant:** what takes long is counted on a thread that may block.
//! **Invariant:** a count never fails: a tokenizer that can not be used gives way to the estimate, and says so.

use std::sync::Arc;

use crewline_engine::context::{self, Bundle, Counter, Item, estimate_tokens};
use crewline_models::{
    ChatMessage, Registry,
    tokens::{self, Tokenizer},
};
use crewline_types::ModelSpec;

/// Bytes that are counted at once; more would hold up who else waits for the thread.
const AT_ONCE: usize = 8 << 10;

/// Counts as one family of models does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tokens(tokens::Counter);

impl Tokens {
    /// The estimate, which is rather too high than too low.
    pub fn estimate() -> Self {
        Self(tokens::Counter::estimate())
    }

    /// As `model` counts.
    pub async fn of(registry: &Registry, model: &ModelSpec) -> Self {
        match registry.config(model.alias.as_str()).map(|it| &it.tokenizer) {
            None | Some(Tokenizer::Estimate) => Self::estimate(),
            Some(tokenizer) => match load(tokenizer.clone()).await {
                Ok(tokens) => tokens,
                Err(error) => {
                    tracing::warn!(model = %model.alias, %tokenizer, %error, "tokenizer can not be used, tokens are estimated");
                    Self::estimate()
                }
            },
        }
    }

    /// The one that a snapshot names; none when neither crewline nor a model of the registry has it any more.
    pub async fn named(registry: &Registry, name: Option<&str>) -> Option<Self> {
        let Some(name) = name else { return Some(Self::estimate()) };
        if let Some(tokenizer) = Tokenizer::named(name) {
            return load(tokenizer).await.ok();
        }
        for model in registry.models().filter(|it| matches!(it.tokenizer, Tokenizer::File(_))) {
            if let Ok(tokens) = load(model.tokenizer.clone()).await
                && &**tokens.0.name() == name
            {
                return Some(tokens);
            }
        }
        None
    }

    /// Names it, as a snapshot keeps it; none for the estimate.
    pub fn name(&self) -> Option<&Arc<str>> {
        self.0.is_exact().then(|| self.0.name())
    }

    /// Names it for people.
    pub fn label(&self) -> Arc<str> {
        Arc::clone(self.0.name())
    }

    /// Tokens of `text`.
    pub fn count(&self, text: &str) -> u32 {
        self.0.count(text).unwrap_or_else(|| estimate_tokens(text))
    }

    /// Counts the long ones of `texts` where that holds up nobody; counting them again costs next to nothing.
    pub async fn prepare(&self, texts: impl IntoIterator<Item = Arc<str>>) {
        if !self.0.is_exact() {
            return;
        }
        let long: Vec<Arc<str>> = texts.into_iter().filter(|it| it.len() > AT_ONCE).collect();
        if !long.is_empty() {
            let count_all = move |tokens: &Self| {
                for text in &long {
                    tokens.count(text);
                }
            };
            self.apart(count_all).await;
        }
    }

    /// Tokens of `messages`, each with `more` for the form around it and its calls.
    pub async fn of_messages(&self, messages: &[ChatMessage], more: u32) -> u32 {
        self.prepare(messages.iter().map(|it| Arc::clone(&it.text))).await;
        let of = |it: &ChatMessage| {
            let calls = it.tool_calls.iter().map(|call| self.count(&call.arguments).saturating_add(more));
            calls.fold(self.count(&it.text).saturating_add(more), u32::saturating_add)
        };
        messages.iter().map(of).fold(0, u32::saturating_add)
    }

    /// Makes a bundle with `make`, apart when that takes long.
    pub async fn bundle(&self, make: impl FnOnce(&Self) -> Bundle + Send + 'static) -> Bundle {
        if self.0.is_exact() { self.apart(make).await } else { make(self) }
    }

    /// The bundle of `items` for a budget.
    pub fn assemble(&self, items: &[Item], is_excluded: &dyn Fn(&Item) -> bool, tokens_max: u32) -> Bundle {
        if !self.0.is_exact() {
            return context::assemble_without(items, is_excluded, tokens_max);
        }
        self.with(|counter| context::fit(items, is_excluded, tokens_max, counter))
    }

    /// The bundle as this counts it; one that was estimated may be larger or smaller in truth.
    pub fn recount(&self, bundle: Bundle) -> Bundle {
        if !self.0.is_exact() {
            let counter = Counter { count: &estimate_tokens, adds_up: true };
            return context::counted(bundle, counter);
        }
        self.with(|counter| context::counted(bundle, counter))
    }

    fn with<T>(&self, act: impl FnOnce(Counter<'_>) -> T) -> T {
        act(Counter { count: &|text| self.count(text), adds_up: self.0.adds_up() })
    }

    async fn apart<T: Default + Send + 'static>(&self, work: impl FnOnce(&Self) -> T + Send + 'static) -> T {
        let tokens = self.clone();
        // It is not made only when the process ends meanwhile.
        tokio::task::spawn_blocking(move || work(&tokens)).await.unwrap_or_default()
    }
}

async fn load(tokenizer: Tokenizer) -> Result<Tokens, String> {
    let loaded = tokio::task::spawn_blocking(move || tokenizer.load()).await;
    loaded.map_err(|error| error.to_string())?.map(Tokens)
}

#[cfg(test)]
mod tests {
    use crewline_engine::context::{Tier, render};

    use super::*;

    fn tokens(name: &str) -> Tokens {
        Tokens(Tokenizer::named(name).unwrap().load().unwrap())
    }

    /// A text that breaks what counts, cuts and fences.
    fn hostile(random: &mut fastrand::Rng, len: usize) -> String {
        const PIECES: [&str; 24] = [
            "word ",
            "a",
            " ",
            "\n",
            "\n\n",
            "\r\n",
            "`",
            "```\n",
            "7",
            "!?",
            "/",
            "aB3dE5",
            "k q j x ",
            "\u{a0}",
            "\u{2028}",
            "\0",
            "é",
            "e\u{301}",
            "中",
            "Ж",
            "ไ",
            "😀",
            "'S",
            "We decided on it because 12 of `them` failed. ",
        ];
        let mut text = String::new();
        while text.len() < len {
            let piece = PIECES[random.usize(..PIECES.len())];
            let times = if random.u8(..8) == 0 { random.usize(..400) } else { random.usize(..6) };
            text.extend(std::iter::repeat_n(piece, times));
            if random.u8(..16) == 0 {
                text.push(random.char(..));
            }
        }
        text
    }

    fn items(random: &mut fastrand::Rng, budget: u32) -> Vec<Item> {
        let tiers =
            [Tier::Index, Tier::Pinned, Tier::Requires, Tier::Refers, Tier::Siblings, Tier::Retrieved, Tier::Manual];
        let count = random.usize(..12);
        let item = |index: usize, random: &mut fastrand::Rng| {
            let len = random.usize(..=(budget as usize).min(40_000));
            Item {
                tier: tiers[random.usize(..tiers.len())],
                source: format!("task:{index}").into(),
                kind: "result".into(),
                title: hostile(random, 12).into(),
                text: hostile(random, len).into(),
                score: random.f32(),
            }
        };
        (0..count).map(|index| item(index, random)).collect()
    }

    #[test]
    fn no_hostile_text_exceeds_a_budget_in_the_models_own_tokens() {
        for (name, first) in [("o200k", 0), ("cl100k", 1_000)] {
            let tokens = tokens(name);
            for seed in first..first + 150 {
                let mut random = fastrand::Rng::with_seed(seed);
                let budget = match seed % 10 {
                    0 => random.u32(20_000..=100_000),
                    1..4 => random.u32(600..6_000),
                    _ => random.u32(16..600),
                };
                let mut items = items(&mut random, budget);
                let bundle = tokens.assemble(&items, &|_| false, budget);
                let text = render(&bundle);
                // Counted as a whole: that parts add up is nothing to rely on here.
                let counted = tokens.count(&text);
                assert!(counted <= budget, "{name}, seed {seed}: {counted} > {budget}");
                assert_eq!(bundle.tokens, counted, "{name}, seed {seed}");
                assert_eq!(bundle.provenance.iter().map(|it| it.tokens).sum::<u32>(), counted, "{name}, seed {seed}");
                random.shuffle(&mut items);
                assert_eq!(tokens.assemble(&items, &|_| false, budget), bundle, "{name}, seed {seed}");
            }
        }
    }

    #[tokio::test]
    async fn a_tokenizer_is_found_by_the_name_that_a_snapshot_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("words.json");
        let words = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}"#;
        std::fs::write(&file, words).unwrap();
        let text = "version: 1\nproviders: {p: {type: ollama}}\nmodels:\n  \
                    a: {provider: p, model: a, context_window: 1000, tokenizer: words.json}\n  \
                    b: {provider: p, model: gpt-4o, context_window: 1000}\n  c: {provider: p, model: c, context_window: 1000}\n\
                    roles: {default: {chain: [a, b, c]}}\n";
        let path = folder.path().join("crewline.yaml");
        std::fs::write(&path, text).unwrap();
        let registry = Registry::load(&path, &|_| None).unwrap();
        for (model, sentence) in [("a", 3), ("b", 9), ("c", estimate_tokens("HTTPServer getUserById snake_case_name"))]
        {
            let counts = Tokens::of(&registry, registry.model(model).unwrap()).await;
            let named = Tokens::named(&registry, counts.name().map(|it| &**it)).await.unwrap();
            assert_eq!(named.label(), counts.label());
            assert_eq!(named.count("HTTPServer getUserById snake_case_name"), sentence, "{model}");
        }
        assert!(Tokens::named(&registry, Some("tokenizer:00000000000000000000000000000000")).await.is_none());
        // A file that is gone, or no tokenizer any more, gives way to the estimate.
        std::fs::write(&file, "{}").unwrap();
        let counts = Tokens::of(&registry, registry.model("a").unwrap()).await;
        assert_eq!((counts.name(), counts.label()), (None, "estimate".into()));
    }
}
