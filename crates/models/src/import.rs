//! A registry from the configuration of a LiteLLM proxy (`model_list`).
//!
//! **Invariant:** a key in clear is never copied: its place is taken by a reference, and a note says so.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Deserialize;
use serde_json::Value;

use crate::detect::{alias, quote};

/// The window to write when nobody says it.
const WINDOW_GUESS: u64 = 32_768;

/// A registry, and what people should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The registry's text.
    pub text: String,
    /// What could not be carried over, a line each.
    pub notes: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    model_list: Vec<Entry>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Entry {
    model_name: String,
    litellm_params: Params,
    #[serde(default)]
    model_info: Info,
}

#[derive(Deserialize)]
struct Params {
    model: String,
    #[serde(default)]
    api_base: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    timeout: Option<f64>,
    #[serde(default)]
    max_parallel_requests: Option<u64>,
    #[serde(default)]
    rpm: Option<u64>,
    #[serde(default)]
    tpm: Option<u64>,
    #[serde(default)]
    input_cost_per_token: Option<f64>,
    #[serde(default)]
    output_cost_per_token: Option<f64>,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
struct Info {
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    max_tokens: Option<u64>,
    #[serde(default)]
    max_input_tokens: Option<u64>,
    #[serde(default)]
    max_output_tokens: Option<u64>,
    #[serde(default)]
    input_cost_per_token: Option<f64>,
    #[serde(default)]
    output_cost_per_token: Option<f64>,
}

/// A provider as LiteLLM prefixes it: our type, where it is, the variable of its key.
struct Known {
    prefix: &'static str,
    kind: &'static str,
    base_url: &'static str,
    key: &'static str,
}

const fn known(prefix: &'static str, kind: &'static str, base_url: &'static str, key: &'static str) -> Known {
    Known { prefix, kind, base_url, key }
}

const COMPATIBLE: &str = "openai_compatible";
const KNOWN: [Known; 16] = [
    known("openai", COMPATIBLE, "https://api.openai.com/v1", "OPENAI_API_KEY"),
    known("anthropic", "anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    known("ollama", "ollama", "http://127.0.0.1:11434", ""),
    known("ollama_chat", "ollama", "http://127.0.0.1:11434", ""),
    known("openrouter", COMPATIBLE, "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    known("groq", COMPATIBLE, "https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    known("mistral", COMPATIBLE, "https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    known("deepseek", COMPATIBLE, "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    known("together_ai", COMPATIBLE, "https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    known("fireworks_ai", COMPATIBLE, "https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY"),
    known("xai", COMPATIBLE, "https://api.x.ai/v1", "XAI_API_KEY"),
    known("gemini", COMPATIBLE, "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    known("hosted_vllm", COMPATIBLE, "http://127.0.0.1:8000/v1", ""),
    known("vllm", COMPATIBLE, "http://127.0.0.1:8000/v1", ""),
    known("lm_studio", COMPATIBLE, "http://127.0.0.1:1234/v1", ""),
    known("llamafile", COMPATIBLE, "http://127.0.0.1:8080/v1", ""),
];

/// A model that is carried over.
struct Model {
    alias: String,
    text: String,
    /// Dollars for a million tokens of input and output together.
    price: Option<f64>,
}

/// Reads the configuration of a LiteLLM proxy.
pub fn litellm(text: &str) -> Result<Imported, String> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if config.model_list.is_empty() {
        return Err("it has no `model_list`".to_owned());
    }
    let mut notes: Vec<String> = config.others.keys().map(|it| format!("`{it}` is not carried over")).collect();
    let mut providers: BTreeMap<String, String> = BTreeMap::new();
    let mut aliases = BTreeSet::new();
    let mut models = Vec::new();
    for entry in &config.model_list {
        if let Some(model) = model(entry, &mut providers, &mut aliases, &mut notes) {
            models.push(model);
        }
    }
    if models.is_empty() {
        return Err(format!(
            "none of its {} models can be carried over: {}",
            config.model_list.len(),
            notes.join("; ")
        ));
    }
    let mut text = String::from(
        "# Carried over from a LiteLLM configuration; `crewline registry check` checks it.\nversion: 1\n\nproviders:\n",
    );
    text.extend(providers.into_values());
    text.push_str("\n# Prices are US dollars for a million tokens.\nmodels:\n");
    text.extend(models.iter().map(|it| it.text.as_str()));
    // Cheap to expensive; those without a price keep their order behind the others.
    models.sort_by(|a, b| a.price.unwrap_or(f64::MAX).total_cmp(&b.price.unwrap_or(f64::MAX)));
    let chain: Vec<String> = models.iter().map(|it| quote(&it.alias)).collect();
    let _ = write!(
        text,
        "\n# Cheap to expensive: the next one is asked when one fails.\nroles:\n  default: {{chain: [{}]}}\n",
        chain.join(", ")
    );
    Ok(Imported { text, notes })
}

fn model(
    entry: &Entry,
    providers: &mut BTreeMap<String, String>,
    aliases: &mut BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Option<Model> {
    let (params, info, name) = (&entry.litellm_params, &entry.model_info, &entry.model_name);
    let mut note = |text: String| notes.push(format!("model `{name}`: {text}"));
    if let Some(mode) = info.mode.as_deref().filter(|it| !matches!(*it, "chat" | "completion" | "responses")) {
        note(format!("left out, its mode is `{mode}`"));
        return None;
    }
    if name.contains('*') || params.model.contains('*') {
        note("left out, a pattern names no model".to_owned());
        return None;
    }
    let (prefix, id) = match params.model.split_once('/') {
        Some((prefix, id)) if KNOWN.iter().any(|it| it.prefix == prefix) => (prefix, id),
        _ if params.model.starts_with("claude") => ("anthropic", params.model.as_str()),
        Some((prefix, _)) if params.api_base.is_none() => {
            note(format!("left out, `{prefix}` speaks no protocol that crewline speaks"));
            return None;
        }
        Some(_) | None => ("openai", params.model.as_str()),
    };
    let known = KNOWN.iter().find(|it| it.prefix == prefix)?;
    let provider = provider(known, params, providers, &mut note);
    let alias = alias(name, aliases);
    let output = params.max_tokens.or(info.max_output_tokens).or(info.max_tokens);
    let window = info.max_input_tokens.map(|input| input + output.unwrap_or(0));
    let mut text = format!("  {}:\n    provider: {provider}\n    model: {}\n", quote(&alias), quote(id));
    if let Some(window) = window {
        let _ = writeln!(text, "    context_window: {window}");
    } else {
        note(format!("its context window is not told; {WINDOW_GUESS} is a guess"));
        let _ = writeln!(text, "    context_window: {WINDOW_GUESS}  # a guess: set what it really has");
    }
    if let Some(output) = output.filter(|it| *it < window.unwrap_or(WINDOW_GUESS)) {
        let _ = writeln!(text, "    output_tokens_max: {output}");
    }
    let price = params.input_cost_per_token.or(info.input_cost_per_token);
    let price = price.zip(params.output_cost_per_token.or(info.output_cost_per_token)).map(|(a, b)| (a * 1e6, b * 1e6));
    if let Some((input, output)) = price {
        // Costs per token are written with more digits than they have.
        let (input, output) = ((input * 1e6).round() / 1e6, (output * 1e6).round() / 1e6);
        let _ = writeln!(text, "    price: {{input_per_million: {input}, output_per_million: {output}}}");
    } else {
        note("its price is not told: `--max-cost` refuses it".to_owned());
    }
    if let Some(timeout) = params.timeout.filter(|it| *it > 0.0) {
        let _ = writeln!(text, "    timeouts: {{total: {timeout}}}");
    }
    let limits = [("concurrency", params.max_parallel_requests), ("rpm", params.rpm), ("tpm", params.tpm)];
    let is_limit = |limit: &u64| *limit > 0 && u32::try_from(*limit).is_ok();
    let limits: Vec<String> = limits
        .iter()
        .filter_map(|(name, limit)| limit.filter(is_limit).map(|limit| format!("{name}: {limit}")))
        .collect();
    if !limits.is_empty() {
        let _ = writeln!(text, "    limits: {{{}}}", limits.join(", "));
    }
    if let Some(temperature) = params.temperature.filter(|it| (0.0..=2.0).contains(it)) {
        let _ = writeln!(text, "    temperature: {temperature}");
    }
    for name in params.others.keys() {
        note(format!("`{name}` is not carried over"));
    }
    Some(Model { alias, text, price: price.map(|(input, output)| input + output) })
}

/// The provider of a model; one for each address and key.
fn provider(
    known: &Known,
    params: &Params,
    providers: &mut BTreeMap<String, String>,
    note: &mut dyn FnMut(String),
) -> String {
    let base_url = params.api_base.as_deref().unwrap_or(known.base_url).trim_end_matches('/');
    let base_url = if known.kind == "ollama" { base_url.trim_end_matches("/v1") } else { base_url };
    let key = match params.api_key.as_deref() {
        Some(key) => match key.strip_prefix("os.environ/") {
            Some(name) => Some(name.to_owned()),
            // Local servers are given words that mean nothing.
            None if known.key.is_empty() => None,
            None => {
                note(format!("its key stands in clear and is not carried over: put it into `{}`", known.key));
                Some(known.key.to_owned())
            }
        },
        None if known.key.is_empty() || params.api_base.is_some() => None,
        None => Some(known.key.to_owned()),
    };
    let mut text = format!("    type: {}\n    base_url: {}\n", known.kind, quote(base_url));
    if let Some(key) = key {
        let _ = writeln!(text, "    api_key: env:{key}");
    }
    let mut number = 1;
    loop {
        let name = if number == 1 { known.prefix.to_owned() } else { format!("{}-{number}", known.prefix) };
        let entry = format!("  {name}:\n{text}");
        if *providers.entry(name.clone()).or_insert_with(|| entry.clone()) == entry {
            return name;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    const CONFIG: &str = r#"
model_list:
  - model_name: gpt
    litellm_params: {model: openai/gpt-4.1, api_key: os.environ/MY_KEY, rpm: 60, tags: [a]}
    model_info: {max_input_tokens: 1000000, max_output_tokens: 32768, input_cost_per_token: 0.000002, output_cost_per_token: 0.000008}
  - model_name: gpt
    litellm_params: {model: gpt-4.1-mini, api_base: "http://10.0.0.5:4000/v1", api_key: sk-in-clear, temperature: 0.2, timeout: 30}
  - model_name: claude
    litellm_params: {model: claude-sonnet-4-5}
    model_info: {max_input_tokens: 200000, input_cost_per_token: 3e-06, output_cost_per_token: 1.5e-05}
  - model_name: local
    litellm_params: {model: ollama_chat/qwen3:8b, api_base: "http://gpu.lan:11434"}
    model_info: {max_input_tokens: 32768, input_cost_per_token: 0, output_cost_per_token: 0}
  - model_name: azure
    litellm_params: {model: azure/my-deployment}
  - model_name: vectors
    litellm_params: {model: openai/text-embedding-3-small}
    model_info: {mode: embedding}
litellm_settings: {num_retries: 3}
"#;

    #[test]
    fn a_proxy_is_carried_over() {
        let imported = litellm(CONFIG).unwrap();
        let registry = Registry::parse(&imported.text, "new", &|_| Some("key".into()))
            .unwrap_or_else(|error| panic!("{error}\n{}", imported.text));
        let chain: Vec<_> = registry.chain(&"x".into()).iter().map(|it| it.alias.to_string()).collect();
        assert_eq!(chain, ["local", "gpt", "claude", "gpt-2"]);
        let gpt = registry.config("gpt").unwrap();
        assert_eq!((gpt.spec.context_window, gpt.spec.output_tokens_max), (1_032_768, 32_768));
        assert_eq!(gpt.rates.requests.map(std::num::NonZeroU32::get), Some(60));
        assert_eq!(gpt.spec.price.unwrap().output_per_million.0, 8_000_000);
        assert_eq!(registry.config("local").unwrap().provider.base_url, "http://gpu.lan:11434");
        assert!(!imported.text.contains("sk-in-clear") && !imported.notes.join(" ").contains("sk-in-clear"));
        let notes = imported.notes.join("\n");
        for part in ["`litellm_settings`", "`azure` speaks no protocol", "mode is `embedding`", "`tags`", "in clear"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        assert!(litellm("a: [").is_err());
        assert_eq!(litellm("a: 1").unwrap_err(), "it has no `model_list`");
        let error = litellm("model_list: [{model_name: a, litellm_params: {model: azure/b}}]").unwrap_err();
        assert!(error.starts_with("none of its 1 models"), "{error}");
    }
}
