//! Forms that only some protocols have.

use std::sync::Arc;

use crewline_models::{ChatRequest, Finish, OutputSchema};
use crewline_testkit::{
    FaultServer,
    fault::{chunk, chunked_end, chunked_head, response},
    wire::{ChatCompletions, Messages, Wire, Wired},
};

use crate::common::{JSON, LONG, Way, alias, ask, models_of, question};

/// What only chat completions have.
#[tokio::test]
async fn forms_of_a_message() {
    for (message, finish, expected) in [
        (r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}"#, "stop", ("ab", Finish::Stop)),
        (r#"{"content":null,"reasoning_content":"thoughts"}"#, "stop", ("thoughts", Finish::Stop)),
        (r#"{"content":"","reasoning":"thoughts"}"#, "length", ("", Finish::Length)),
        (r#"{"content":"a","reasoning_content":"thoughts"}"#, "length", ("a", Finish::Length)),
        (r#"{"content":null,"refusal":"I will not"}"#, "stop", ("I will not", Finish::Filtered)),
        (r#"{"content":"a"}"#, "content_filter", ("a", Finish::Filtered)),
        (r#"{"content":"a"}"#, "something new", ("a", Finish::Other)),
    ] {
        let body = format!(r#"{{"choices":[{{"message":{message},"finish_reason":"{finish}"}}]}}"#);
        let reply = ask(&ChatCompletions, Way::Whole, &LONG, vec![response("200 OK", JSON, "", body)]).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
        let event = format!("data: {{\"choices\":[{{\"delta\":{message},\"finish_reason\":\"{finish}\"}}]}}\n\n");
        let steps = vec![chunked_head(ChatCompletions.stream_type()), chunk(event), chunked_end()];
        let reply = ask(&ChatCompletions, Way::Streamed, &LONG, steps).await.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish), expected, "{message}");
    }
}

/// Anthropic models answer a schema by a tool; what it is called with is the answer.
#[tokio::test]
async fn a_schema_as_a_tool() {
    let schema = OutputSchema { name: "plan".into(), schema: serde_json::json!({"type": "object"}) };
    let request = ChatRequest { schema: Some(Arc::new(schema)), ..question() };
    for arguments in [r#"{"a":[1,"ü"]}"#, "{}"] {
        let calls = [("id", "crewline_answer", arguments)];
        let answer = Wired { calls: &calls, ..Wired::default() };
        let steps = [
            vec![response("200 OK", JSON, "", Messages.whole(&answer))],
            vec![chunked_head(Messages.stream_type()), chunk(Messages.stream(&[], &answer)), chunked_end()],
        ];
        for steps in steps {
            let server = FaultServer::start(move |_| steps.clone()).await;
            let models = models_of(&Messages, Way::Whole, server.port, &LONG, "");
            let reply = models.chat(&alias(), &request).await.unwrap();
            assert_eq!((reply.text.as_str(), reply.finish), (arguments, Finish::Stop));
            assert_eq!(reply.tool_calls, []);
        }
    }
}

#[tokio::test]
async fn a_call_without_a_name_is_no_call() {
    let body = r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"1"}]},"finish_reason":"tool_calls"}]}"#;
    let error = ask(&ChatCompletions, Way::Whole, &LONG, vec![response("200 OK", JSON, "", body)]).await.unwrap_err();
    assert_eq!(error.code(), "model.bad_reply", "{error}");
}
