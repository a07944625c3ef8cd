//! LM Studio's REST interface v1: `/api/v1/models`, `/api/v1/models/load` and `/api/v1/models/unload`.

use serde::Deserialize;
use serde_json::json;

use super::{LoadOptions, LoadState, Runtime, RuntimeKind, RuntimeModel, RuntimeStatus};
use crate::Error;

#[derive(Deserialize)]
struct List {
    models: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    #[serde(default)]
    size_bytes: Option<u64>,
    #[serde(default)]
    max_context_length: Option<u32>,
    #[serde(default)]
    loaded_instances: Vec<Instance>,
}

#[derive(Deserialize)]
struct Instance {
    id: String,
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    context_length: Option<u32>,
}

pub(super) async fn is_it(runtime: &Runtime<'_>) -> Result<bool, Error> {
    let (status, body) = runtime.get("api/v1/models").await?;
    Ok(status.is_success() && serde_json::from_slice::<List>(&body).is_ok())
}

pub(super) async fn status(runtime: &Runtime<'_>) -> Result<RuntimeStatus, Error> {
    let list: List = runtime.read("api/v1/models").await?;
    let models = list.models.into_iter().map(|it| {
        let loaded = it.loaded_instances.first();
        let window = loaded.and_then(|it| it.config.as_ref()).and_then(|it| it.context_length);
        RuntimeModel {
            size_bytes: it.size_bytes,
            context_window: window.or(it.max_context_length),
            ..RuntimeModel::new(it.key, if loaded.is_some() { LoadState::Loaded } else { LoadState::Unloaded })
        }
    });
    Ok(RuntimeStatus { kind: RuntimeKind::LmStudio, models: models.collect() })
}

pub(super) async fn load(runtime: &Runtime<'_>, model: &str, options: LoadOptions) -> Result<(), Error> {
    let list: List = runtime.read("api/v1/models").await?;
    // Loading what is loaded would make a second instance.
    if list.models.iter().any(|it| it.key == model && !it.loaded_instances.is_empty()) {
        return Ok(());
    }
    let mut body = json!({"model": model});
    if let Some(window) = options.context_window {
        body["context_length"] = window.into();
    }
    runtime.post("api/v1/models/load", model, &body).await.map(drop)
}

pub(super) async fn unload(runtime: &Runtime<'_>, model: &str) -> Result<(), Error> {
    let list: List = runtime.read("api/v1/models").await?;
    let own = list.models.into_iter().filter(|it| it.key == model);
    for instance in own.flat_map(|it| it.loaded_instances) {
        runtime.post("api/v1/models/unload", model, &json!({"instance_id": instance.id})).await?;
    }
    Ok(())
}
