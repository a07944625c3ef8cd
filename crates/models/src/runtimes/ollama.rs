//! Ollama: `/api/tags`, `/api/ps`, `/api/pull`, and `keep_alive` of an empty question.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{LoadOptions, LoadState, PullProgress, Runtime, RuntimeKind, RuntimeModel, RuntimeStatus};
use crate::Error;

#[derive(Deserialize)]
struct Tags {
    models: Vec<Tag>,
}

#[derive(Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    size: Option<u64>,
    /// Of one that is loaded.
    #[serde(default)]
    size_vram: Option<u64>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    context_length: Option<u32>,
}

pub(super) async fn status(runtime: &Runtime<'_>) -> Result<RuntimeStatus, Error> {
    let all: Tags = runtime.read("api/tags").await?;
    let mut loaded = runtime.read::<Tags>("api/ps").await?.models;
    let models = all.models.into_iter().map(|tag| {
        let at = loaded.iter().position(|it| it.name == tag.name);
        let state = if at.is_some() { LoadState::Loaded } else { LoadState::Unloaded };
        let mut model = RuntimeModel { size_bytes: tag.size, ..RuntimeModel::new(tag.name, state) };
        if let Some(loaded) = at.map(|at| loaded.swap_remove(at)) {
            model.memory_bytes = loaded.size;
            model.vram_bytes = loaded.size_vram;
            model.context_window = loaded.context_length;
            model.expires_at = loaded.expires_at;
        }
        model
    });
    Ok(RuntimeStatus { kind: RuntimeKind::Ollama, models: models.collect() })
}

pub(super) async fn load(runtime: &Runtime<'_>, model: &str, options: LoadOptions) -> Result<(), Error> {
    let mut body = json!({"model": model, "stream": false});
    if let Some(keep) = options.keep_alive {
        body["keep_alive"] = seconds(keep);
    }
    if let Some(window) = options.context_window {
        // Another window later would load it again.
        body["options"] = json!({"num_ctx": window});
    }
    runtime.post("api/generate", model, &body).await.map(drop)
}

pub(super) async fn unload(runtime: &Runtime<'_>, model: &str) -> Result<(), Error> {
    let body = json!({"model": model, "stream": false, "keep_alive": 0});
    runtime.post("api/generate", model, &body).await.map(drop)
}

fn seconds(time: Duration) -> serde_json::Value {
    format!("{}s", time.as_secs().max(1)).into()
}

pub(super) async fn pull(
    runtime: &Runtime<'_>,
    model: &str,
    hear: &(dyn Fn(PullProgress) + Send + Sync),
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Line {
        #[serde(default)]
        status: String,
        #[serde(default)]
        completed: Option<u64>,
        #[serde(default)]
        total: Option<u64>,
        #[serde(default)]
        error: Option<String>,
    }
    let mut is_done = false;
    let mut read = |line: &[u8]| {
        let line: Line = serde_json::from_slice(line)
            .map_err(|error| runtime.failed(format!("its answer has an unknown form: {error}")))?;
        if let Some(error) = line.error {
            return Err(runtime.failed(format!("`{model}` cannot be downloaded: {error}")));
        }
        is_done = line.status == "success";
        hear(PullProgress { status: line.status, completed: line.completed, total: line.total });
        Ok(())
    };
    runtime.post_lines("api/pull", model, &json!({"model": model}), &mut read).await?;
    if is_done { Ok(()) } else { Err(runtime.failed("the download ended before it was whole".to_owned())) }
}
