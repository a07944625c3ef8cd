//! Streams, and those that break off, fail inside, or tell usage that can not be.

use crewline_models::Finish;
use crewline_testkit::{
    FaultServer,
    fault::{Step, chunk, chunked_end, chunked_head, response},
    wire::{ChatCompletions, Wire, Wired},
};

use crate::common::{JSON, LONG, Way, alias, ask, models_of, question, stream, whole};

pub(crate) async fn streamed(wire: &dyn Wire) {
    let text = stream(wire, &["Grü", "ße ", "日本"], Some([9, 4, 0, 0]));
    // Every cut, also inside characters; each piece travels on its own.
    for size in [1, 2, 3, 7, 64, 4_096] {
        let mut steps = vec![chunked_head(wire.stream_type())];
        steps.extend(text.as_bytes().chunks(size).map(chunk));
        steps.push(chunked_end());
        let reply = ask(wire, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish, reply.model.as_str()), ("Grüße 日本", Finish::Stop, "served"));
        assert_eq!((reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.estimated), (9, 4, false));
        assert!(reply.first_token.is_some_and(|it| it <= reply.elapsed));
    }
}

pub(crate) async fn streamed_connections_are_used_again(wire: &dyn Wire) {
    let (head, text) = (wire.stream_type(), stream(wire, &["a"], None));
    let server = FaultServer::start(move |_| vec![chunked_head(head), chunk(&text), chunked_end()]).await;
    let models = models_of(wire, Way::Streamed, server.port, &LONG, "");
    for _ in 0..3 {
        models.chat(&alias(), &question()).await.unwrap();
    }
    assert!(server.received().iter().all(|it| it.connection == 0 && it.body["stream"] == true));
}

pub(crate) async fn a_stream_without_its_last_line(wire: &dyn Wire) {
    let text = stream(wire, &["all ", "there"], None).replace("data: [DONE]\n\n", "");
    let reply = ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunk(&text), chunked_end()])
        .await
        .unwrap();
    assert_eq!(reply.text, "all there");
    // The last event may even lack its empty line.
    let steps = vec![chunked_head(wire.stream_type()), chunk(text.trim_end()), chunked_end()];
    assert_eq!(ask(wire, Way::Streamed, &LONG, steps).await.unwrap().text, "all there");
}

pub(crate) async fn a_stream_that_breaks_off(wire: &dyn Wire) {
    let piece = wire.piece("half");
    for end in [vec![chunked_end()], vec![Step::Close], vec![Step::Reset]] {
        let mut steps = vec![chunked_head(wire.stream_type()), chunk(&piece)];
        steps.extend(end);
        let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
        let seen = (error.code(), error.is_retryable(), error.may_be_billed(), error.usage());
        assert_eq!(seen, ("model.interrupted", true, true, None), "{error}");
    }
    let error =
        ask(wire, Way::Streamed, &LONG, vec![chunked_head(wire.stream_type()), chunked_end()]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
}

pub(crate) async fn an_error_inside_a_stream(wire: &dyn Wire) {
    let mut events = vec![wire.error_event("the GPU is gone")];
    if wire.registry_type() != "ollama" {
        events.push("event: error\ndata: {\"message\": \"the GPU is gone\"}\n\n".to_owned());
    }
    for event in events {
        let steps = vec![chunked_head(wire.stream_type()), chunk(wire.piece("half")), chunk(event), Step::Hang];
        let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
        assert_eq!(error.code(), "model.upstream");
        assert!(error.to_string().contains("the GPU is gone"), "{error}");
        assert!(error.may_be_billed(), "half an answer was made: {error:?}");
    }
    // Before the first piece it is a refusal like one with a status.
    let event = wire.error_event("the GPU is gone");
    let steps = vec![chunked_head(wire.stream_type()), chunk(event), Step::Hang];
    let error = ask(wire, Way::Streamed, &LONG, steps).await.unwrap_err();
    assert!(error.code() == "model.upstream" && !error.may_be_billed(), "{error:?}");
}

pub(crate) async fn usage_of_an_answer_that_is_none(wire: &dyn Wire) {
    // The model ended its answer and the provider counted it, but it calls a tool that has no name.
    let answer = Wired { calls: &[("c1", "", "{}")], usage: Some([9, 4, 0, 0]), ..Wired::default() };
    let body = wire.whole(&answer);
    let error = ask(wire, Way::Whole, &LONG, vec![response("200 OK", JSON, "", &body)]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
    let usage = error.usage().expect("it was counted");
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.estimated), (9, 4, false), "{error:?}");
}

pub(crate) async fn usage_that_is_missing(wire: &dyn Wire) {
    for (way, steps) in [
        (Way::Whole, vec![response("200 OK", JSON, "", whole(wire, "Hallo du", None))]),
        (
            Way::Streamed,
            vec![chunked_head(wire.stream_type()), chunk(stream(wire, &["Hallo du"], None)), chunked_end()],
        ),
        (Way::Whole, vec![response("200 OK", JSON, "", whole(wire, "Hallo du", Some([0; 4])))]),
        // Only the question is counted.
        (Way::Whole, vec![response("200 OK", JSON, "", whole(wire, "Hallo du", Some([9, 0, 0, 0])))]),
        (
            Way::Streamed,
            vec![
                chunked_head(wire.stream_type()),
                chunk(stream(wire, &["Hallo du"], Some([9, 0, 0, 0]))),
                chunked_end(),
            ],
        ),
    ] {
        let usage = ask(wire, way, &LONG, steps).await.unwrap().usage;
        assert!(usage.estimated && usage.input_tokens >= 8 && usage.output_tokens >= 2, "{usage:?}");
    }
}

pub(crate) async fn usage_that_can_not_be(wire: &dyn Wire) {
    for figure in ["18446744073709551615", "-1", "1e300", "99999999999999999999999", "\"many\"", "[1]"] {
        let usage = Some([777_777, 5, 0, 0]);
        let body = whole(wire, "fine", usage).replace("777777", figure);
        let events = stream(wire, &["fine"], usage).replace("777777", figure);
        for (way, steps) in [
            (Way::Whole, vec![response("200 OK", JSON, "", body)]),
            (Way::Streamed, vec![chunked_head(wire.stream_type()), chunk(events), chunked_end()]),
        ] {
            let error = ask(wire, way, &LONG, steps).await.unwrap_err();
            assert_eq!(error.code(), "model.bad_reply", "{figure}: {error}");
        }
    }
}

#[tokio::test]
async fn streams_may_lack_their_last_line() {
    a_stream_without_its_last_line(&ChatCompletions).await;
}
