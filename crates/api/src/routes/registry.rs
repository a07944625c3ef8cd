//! `/api/v1/registry`: taking a changed registry file over.

use axum::{Json, extract::State};

use crate::{App, Problem, dto::RegistryReloaded};

/// `POST /api/v1/registry/reload`: reads the file again; one that is not valid is refused, and the one before stays.
pub(crate) async fn reload(State(app): State<App>) -> Result<Json<RegistryReloaded>, Problem> {
    Ok(Json(app.handle.reload_registry().await?.into()))
}
