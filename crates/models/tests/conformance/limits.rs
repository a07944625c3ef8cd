//! Limits: on time, on size, on calls at once; and replies that are none.

use std::time::Duration;

use crewline_models::{Error, Finish, Phase};
use crewline_testkit::{
    FaultServer,
    client::free_port,
    fault::{Step, chunk, chunked_head, response},
    wire::Wire,
};
use crewline_types::{ErrorKind, event::CallOutcome};

use crate::common::{JSON, LONG, Limits, Way, alias, ask, assert_timeout, models_of, question, stream, whole};

pub(crate) async fn a_hang_before_the_head(wire: &dyn Wire) {
    let limits = Limits { total: "120ms", ..LONG };
    assert_timeout(&ask(wire, Way::Whole, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    assert_timeout(&ask(wire, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::Total);
    let limits = Limits { first_token: "120ms", ..LONG };
    assert_timeout(&ask(wire, Way::Streamed, &limits, vec![Step::Hang]).await.unwrap_err(), Phase::FirstToken);
}

pub(crate) async fn a_stall_in_the_body(wire: &dyn Wire) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    let limits = Limits { total: "120ms", ..LONG };
    let steps = vec![Step::Send(half), Step::Hang];
    assert_timeout(&ask(wire, Way::Whole, &limits, steps).await.unwrap_err(), Phase::Total);

    // Neither comments nor an empty first event are tokens.
    let limits = Limits { first_token: "120ms", ..LONG };
    let steps = vec![chunked_head(wire.stream_type()), chunk(": busy\n\n"), chunk(wire.piece("")), Step::Hang];
    assert_timeout(&ask(wire, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::FirstToken);

    let limits = Limits { idle: "120ms", ..LONG };
    let steps = vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), Step::Hang];
    assert_timeout(&ask(wire, Way::Streamed, &limits, steps).await.unwrap_err(), Phase::Idle);
}

pub(crate) async fn a_reset_in_the_body(wire: &dyn Wire) {
    let half = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"choices\"".to_vec();
    for end in [Step::Reset, Step::Close] {
        let error = ask(wire, Way::Whole, &LONG, vec![Step::Send(half.clone()), end]).await.unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("model.interrupted", true), "{error}");
    }
    // Before the head as well.
    let error = ask(wire, Way::Whole, &LONG, vec![Step::Reset]).await.unwrap_err();
    assert_eq!((error.code(), error.may_be_billed()), ("model.interrupted", true), "{error}");
}

pub(crate) async fn replies_that_are_too_large(wire: &dyn Wire) {
    let line = chunk("x".repeat(200 << 10));
    let mut steps = vec![chunked_head(wire.stream_type()), chunk(&wire.piece("begun")[..8])];
    steps.extend(vec![line; 6]);
    steps.push(Step::Hang);
    let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1_048_576, .. }), "{error}");
    assert_eq!((error.outcome(), error.may_be_billed()), (CallOutcome::Invalid, true));

    let huge = whole(wire, &"x".repeat(9 << 20), None);
    let error = ask(wire, Way::Whole, &LONG, vec![response("200 OK", JSON, "", &huge)]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 2_097_152, .. }), "{error}");
    let mut steps = vec![chunked_head(JSON)];
    steps.extend(huge.as_bytes().chunks(1 << 20).map(chunk));
    steps.push(Step::Hang);
    let error = ask(wire, Way::Whole, &LONG, steps).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 2_097_152, .. }), "{error}");
    // Many small events count as well.
    let piece = wire.piece(&"y".repeat(100 << 10));
    let mut steps = vec![chunked_head(wire.stream_type())];
    steps.extend(vec![chunk(piece); 90]);
    steps.push(Step::Hang);
    let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert_eq!(error.code(), "model.too_large", "{error}");
}

pub(crate) async fn replies_that_are_none(wire: &dyn Wire) {
    let mut not_utf8 = whole(wire, "@@", None).into_bytes();
    let at = not_utf8.iter().position(|it| *it == b'@').unwrap();
    not_utf8[at] = 0xff;
    for body in [
        not_utf8,
        wire.hollow().into(),
        b"".to_vec(),
        b"null".to_vec(),
        b"{\"choices\": 7}".to_vec(),
        b"{".to_vec(),
        b"<html>hello".to_vec(),
    ] {
        for way in [Way::Whole, Way::Streamed] {
            let error = ask(wire, way, &LONG, vec![response("200 OK", JSON, "", &body)]).await.unwrap_err();
            let seen = (error.code(), error.outcome(), error.is_retryable());
            assert_eq!(seen, ("model.bad_reply", CallOutcome::Invalid, true), "{error}");
            assert!(error.may_be_billed(), "{error}");
        }
    }
    let mut event = wire.piece("@@").into_bytes();
    let at = event.iter().position(|it| *it == b'@').unwrap();
    event[at] = 0xff;
    let error = ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunk(event), Step::Hang])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
    let error = ask(wire, Way::Whole, &LONG, vec![response("200 OK", JSON, "", wire.error("overloaded", "some_code"))])
        .await
        .unwrap_err();
    assert_eq!(error.code(), "model.upstream", "{error}");
}

pub(crate) async fn content_types_that_are_wrong(wire: &dyn Wire) {
    // Streaming was asked for, but a whole answer came; the other way round; and both under a false name.
    let (whole, events) = (whole(wire, "fine", None), stream(wire, &["fi", "ne"], None));
    for (way, content_type, body) in [
        (Way::Streamed, JSON, &whole),
        (Way::Streamed, wire.stream_type(), &whole),
        (Way::Streamed, "text/plain", &whole),
        (Way::Whole, wire.stream_type(), &events),
        (Way::Whole, "text/plain", &events),
        (Way::Streamed, JSON, &events),
    ] {
        let reply = ask(wire, way, &LONG, vec![response("200 OK", content_type, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), ("fine", Finish::Stop));
    }
}

pub(crate) async fn nobody_listens(wire: &dyn Wire) {
    let port = free_port().unwrap();
    let error = models_of(wire, Way::Whole, port, &LONG, "").chat(&alias(), &question()).await.unwrap_err();
    assert_eq!((error.code(), error.kind(), error.is_retryable()), ("model.unreachable", ErrorKind::Unavailable, true));
    let hint = error.hint().unwrap();
    assert!(hint.contains(&format!("start the server at `http://127.0.0.1:{port}{}`", wire.base_path())), "{hint}");
}

pub(crate) async fn a_dropped_call_closes_its_connection(wire: &dyn Wire) {
    for steps in [vec![Step::Hang], vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), Step::Hang]] {
        let server = FaultServer::start(move |_| steps.clone()).await;
        let models = models_of(wire, Way::Streamed, server.port, &LONG, "");
        {
            let (alias, question) = (alias(), question());
            let call = models.chat(&alias, &question);
            tokio::select! {
                result = call => panic!("{result:?}"),
                () = server.wait_for_requests(1) => {}
            }
        }
        server.wait_for_close().await;
    }
}

pub(crate) async fn concurrency_is_bounded(wire: &dyn Wire) {
    let body = whole(wire, "ok", None);
    let server =
        FaultServer::start(move |_| vec![Step::Pause(Duration::from_millis(150)), response("200 OK", JSON, "", &body)])
            .await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, ", limits: {concurrency: 2}");
    let (alias, question) = (alias(), question());
    let calls = (0..8).map(|_| models.chat(&alias, &question));
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    // Two at once need two connections, and no third.
    assert_eq!(server.received().iter().map(|it| it.connection).max(), Some(1));
    // A cancelled call gives its place back.
    for _ in 0..4 {
        let _ = tokio::time::timeout(Duration::from_millis(1), models.chat(&alias, &question)).await;
    }
    models.chat(&alias, &question).await.unwrap();
}
