//! `GET /api/v1/runs/{id}/events`: what happened and what happens, as server-sent events.
//!
//! **Invariant:** `id:` is the event's `seq`; a client that comes back with `Last-Event-ID` misses nothing and sees
//! nothing twice. The stream ends after `run_finished`.

use std::time::Duration;

use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::HeaderMap,
    response::sse::{Event as Sse, KeepAlive, Sse as Stream},
};
use crewline_runtime::Watch;
use crewline_types::ErrorKind;
use futures::stream;
use serde::Deserialize;

use crate::{App, Problem, routes::runs::find};

/// A comment this often keeps proxies from closing a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where to begin, for clients that can not set a header.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventsQuery {
    after: Option<u64>,
}

pub(crate) async fn stream(
    State(app): State<App>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<EventsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Stream<impl stream::Stream<Item = Result<Sse, axum::Error>>>, Problem> {
    let run = find(&app, id).await?;
    let Query(query) = query?;
    let after = match last_event_id(&headers)? {
        Some(seq) => seq,
        None => query.after.unwrap_or(0),
    };
    let events = stream::unfold(Some(app.handle.watch(run, after)), next);
    Ok(Stream::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The next event of the stream; an error is sent as an event named `error` and ends it.
async fn next(watch: Option<Watch>) -> Option<(Result<Sse, axum::Error>, Option<Watch>)> {
    let mut watch = watch?;
    match watch.next().await? {
        Ok(event) => {
            let sse = Sse::default().id(event.seq.to_string()).event(event.body.kind()).json_data(&event);
            Some((sse, Some(watch)))
        }
        Err(error) => Some((Sse::default().event("error").json_data(Problem::from(error)), None)),
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
        Some(seq) => Ok(Some(seq)),
        None => Err(Problem::new(
            ErrorKind::Invalid,
            "api.invalid_last_event_id",
            "`Last-Event-ID` is not the `seq` of an event",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_comes_back_where_it_was() {
        let mut headers = HeaderMap::new();
        assert_eq!(last_event_id(&headers).unwrap(), None);
        headers.insert("last-event-id", "17".parse().unwrap());
        assert_eq!(last_event_id(&headers).unwrap(), Some(17));
        headers.insert("last-event-id", "yesterday".parse().unwrap());
        assert_eq!(last_event_id(&headers).unwrap_err().code.as_ref(), "api.invalid_last_event_id");
    }
}
