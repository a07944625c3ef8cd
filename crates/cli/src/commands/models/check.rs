//! `crewline models check`: a trivial question to each model, one after the other, so that none slows the next.

use clap::Args;
use crewline_models::{ChatMessage, ChatRequest, Listener, ModelConfig, Models, Registry, Speaker};
use crewline_types::model::Locality;
use serde::Serialize;

use crate::{
    console::Console,
    error::Error,
    exit::Exit,
    view::{Align, Style, clean, duration, table},
};

/// Tokens of an answer at most: enough for a model that thinks before it speaks.
const OUTPUT_TOKENS_MAX: u32 = 256;

/// What `crewline models check` takes.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Names of the registry [default: all models]
    #[arg(value_name = "MODEL")]
    models: Vec<String>,
    /// Ask models of this machine and of private networks only
    #[arg(long)]
    pub(super) offline: bool,
}

/// How a model did.
#[derive(Debug, Serialize)]
struct Checked {
    model: String,
    provider: String,
    ok: bool,
    /// From sending to the first token.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_token_ms: Option<u128>,
    /// From sending to the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens: Option<u64>,
    /// The tokens are an estimate: the provider did not count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_second: Option<f64>,
    /// Bytes of the answer's text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text_bytes: Option<usize>,
    /// Bytes that came.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failed>,
}

#[derive(Debug, Serialize)]
struct Failed {
    code: &'static str,
    message: String,
    hint: Option<String>,
}

pub(super) async fn run(
    args: &CheckArgs,
    models: &Models,
    registry: &Registry,
    console: &Console,
) -> Result<Exit, Error> {
    let mut asked: Vec<&ModelConfig> = Vec::new();
    for alias in &args.models {
        match registry.config(alias) {
            Some(config) => asked.push(config),
            None => return Err(crewline_models::Error::UnknownModel { alias: alias.as_str().into() }.into()),
        }
    }
    if args.models.is_empty() {
        let all = registry.models().map(AsRef::as_ref);
        asked.extend(all.filter(|it| !args.offline || it.spec.locality != Locality::Remote));
    }
    let mut exit = Exit::Ok;
    let mut all = Vec::new();
    for config in asked {
        console.note(&format!("asking {}", clean(config.spec.alias.as_str())));
        let (checked, ended) = check(models, config).await;
        if exit == Exit::Ok {
            exit = ended;
        }
        all.push(checked);
    }
    console.list(&all, |style| listing(style, &all))?;
    for failed in all.iter().filter_map(|it| Some((it, it.error.as_ref()?))) {
        console.warn(&format!("{} [{}]", clean(&failed.1.message), failed.1.code));
        if let Some(hint) = &failed.1.hint {
            console.hint(hint);
        }
    }
    Ok(exit)
}

async fn check(models: &Models, config: &ModelConfig) -> (Checked, Exit) {
    let request = ChatRequest {
        messages: vec![ChatMessage::new(Speaker::User, "Say hello in one short sentence.")],
        output_tokens_max: OUTPUT_TOKENS_MAX,
        schema: None,
        temperature: None,
        tools: None,
    };
    let mut checked = Checked {
        model: config.spec.alias.to_string(),
        provider: config.spec.provider.to_string(),
        ok: false,
        first_token_ms: None,
        elapsed_ms: None,
        output_tokens: None,
        estimated: false,
        tokens_per_second: None,
        text_bytes: None,
        reply_bytes: None,
        error: None,
    };
    // Nobody listens; a stream tells when the first token came.
    match models.chat_stream(&config.spec.alias, &request, Listener(&|_| {})).await {
        Ok(reply) => {
            let writing = reply.elapsed.saturating_sub(reply.first_token.unwrap_or_default());
            let tokens = reply.usage.output_tokens;
            checked.ok = !reply.text.trim().is_empty();
            checked.first_token_ms = reply.first_token.map(|it| it.as_millis());
            checked.elapsed_ms = Some(reply.elapsed.as_millis());
            checked.output_tokens = Some(tokens);
            checked.estimated = reply.usage.estimated;
            // The first token is not part of the time of the others.
            checked.tokens_per_second = (tokens > 1 && !writing.is_zero())
                .then(|| ((tokens - 1) as f64 / writing.as_secs_f64() * 10.0).round() / 10.0);
            checked.text_bytes = Some(reply.text.len());
            checked.reply_bytes = Some(reply.size);
            if checked.ok {
                return (checked, Exit::Ok);
            }
            let message = format!("model `{}` gives an empty answer", config.spec.alias);
            checked.error = Some(Failed { code: "model.empty", message, hint: None });
            (checked, Exit::Failed)
        }
        Err(error) => {
            let exit = Exit::from(error.kind());
            checked.error = Some(Failed { code: error.code(), message: error.to_string(), hint: error.hint() });
            (checked, exit)
        }
    }
}

fn listing(style: Style, all: &[Checked]) -> String {
    let columns = [
        ("MODEL", Align::Left),
        ("PROVIDER", Align::Left),
        ("STATE", Align::Left),
        ("FIRST TOKEN", Align::Right),
        ("WHOLE", Align::Right),
        ("TOKENS/S", Align::Right),
        ("BYTES", Align::Right),
    ];
    let time = |ms: Option<u128>| {
        let ms = ms.and_then(|it| u64::try_from(it).ok());
        ms.map_or_else(|| "-".to_owned(), |it| duration(std::time::Duration::from_millis(it)))
    };
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|it| {
            vec![
                clean(&it.model).into_owned(),
                clean(&it.provider).into_owned(),
                if it.ok { style.green("ok") } else { style.red("failed") },
                time(it.first_token_ms),
                time(it.elapsed_ms),
                it.tokens_per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}")),
                it.text_bytes.map_or_else(|| "-".to_owned(), |size| size.to_string()),
            ]
        })
        .collect();
    table(style, &columns, &rows)
}
