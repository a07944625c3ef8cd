//! llama.cpp's server in router mode: `/models`, `/models/load` and `/models/unload`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{LOAD_LIMIT, LoadState, Runtime, RuntimeKind, RuntimeModel, RuntimeStatus};
use crate::Error;

/// Between two looks at a model that is loading.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct List {
    data: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    /// Only a router says it.
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    value: String,
    #[serde(default)]
    failed: bool,
}

impl Status {
    fn state(&self) -> LoadState {
        match self.value.as_str() {
            "loaded" | "sleeping" => LoadState::Loaded,
            "loading" | "downloading" => LoadState::Loading,
            "unloaded" => LoadState::Unloaded,
            _ => LoadState::Unknown,
        }
    }
}

pub(super) async fn is_it(runtime: &Runtime<'_>) -> Result<bool, Error> {
    let (status, body) = runtime.get("models").await?;
    Ok(status.is_success() && serde_json::from_slice::<List>(&body).is_ok_and(|it| !it.data.is_empty()))
}

pub(super) async fn status(runtime: &Runtime<'_>) -> Result<RuntimeStatus, Error> {
    let list: List = runtime.read("models").await?;
    let models = list.data.into_iter().map(|it| RuntimeModel::new(it.id, it.status.state()));
    Ok(RuntimeStatus { kind: RuntimeKind::LlamaCpp, models: models.collect() })
}

pub(super) async fn load(runtime: &Runtime<'_>, model: &str) -> Result<(), Error> {
    runtime.post("models/load", model, &json!({"model": model})).await?;
    // It answers at once; the model comes later.
    let end = Instant::now() + LOAD_LIMIT;
    loop {
        let list: List = runtime.read("models").await?;
        let status = list.data.into_iter().find(|it| it.id == model).map(|it| it.status);
        match status {
            Some(status) if status.state() == LoadState::Loaded => return Ok(()),
            Some(status) if status.failed => return Err(runtime.failed(format!("`{model}` cannot be loaded"))),
            Some(_) | None if Instant::now() >= end => {
                return Err(runtime.failed(format!("`{model}` was not loaded within {LOAD_LIMIT:?}")));
            }
            Some(_) | None => sleep(LOOK).await,
        }
    }
}

pub(super) async fn unload(runtime: &Runtime<'_>, model: &str) -> Result<(), Error> {
    runtime.post("models/unload", model, &json!({"model": model})).await.map(drop)
}
