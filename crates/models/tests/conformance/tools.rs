//! Calls of tools: how they are offered, asked for, answered and demanded.

use std::sync::Arc;

use crewline_models::{ChatMessage, ChatRequest, Finish, Tool, ToolCall, ToolChoice, ToolSet};
use crewline_testkit::{
    FaultServer,
    fault::{chunk, chunked_end, chunked_head, response},
    wire::{Wire, Wired},
};

use crate::common::{JSON, LONG, Way, alias, models_of, question, whole};

fn tools() -> Vec<Tool> {
    let parameters = serde_json::json!({"type": "object", "properties": {"path": {"type": "string"}}});
    ["read_file", "list_files"]
        .map(|name| Tool { name: name.into(), description: format!("It does {name}."), parameters: parameters.clone() })
        .into()
}

pub(crate) async fn tools_are_called(wire: &dyn Wire) {
    let calls = [("id-1", "read_file", r#"{"path":"a \"b\""}"#), ("id-2", "list_files", "{}")];
    let answer = Wired { calls: &calls, usage: Some([30, 7, 0, 0]), ..Wired::default() };
    let expected: Vec<ToolCall> = calls
        .iter()
        .map(|(id, name, arguments)| ToolCall {
            id: (*id).into(),
            name: (*name).into(),
            arguments: (*arguments).into(),
        })
        .collect();
    let request =
        ChatRequest { tools: Some(Arc::new(ToolSet { tools: tools(), choice: ToolChoice::Auto })), ..question() };
    for (way, steps) in [
        (Way::Whole, vec![response("200 OK", JSON, "", wire.whole(&answer))]),
        (Way::Streamed, vec![chunked_head(wire.stream_type()), chunk(wire.stream(&[], &answer)), chunked_end()]),
    ] {
        let server = FaultServer::start(move |_| steps.clone()).await;
        let models = models_of(wire, way, server.port, &LONG, "");
        let reply = models.chat(&alias(), &request).await.unwrap();
        let values = |calls: &[ToolCall]| -> Vec<(String, String, serde_json::Value)> {
            let value = |it: &ToolCall| serde_json::from_str(&it.arguments).unwrap();
            calls.iter().map(|it| (it.id.to_string(), it.name.to_string(), value(it))).collect()
        };
        assert_eq!(values(&reply.tool_calls), values(&expected));
        assert_eq!((reply.finish, reply.text.as_str()), (Finish::ToolCalls, ""));
        assert!(!reply.usage.estimated && reply.usage.output_tokens == 7);
        let (sent, _) = wire.tools(&server.received()[0].body);
        let known: Vec<_> = tools().into_iter().map(|it| (it.name, it.parameters)).collect();
        assert_eq!(sent, known);

        // What the tools gave back goes into the next question.
        let mut next = request.clone();
        next.messages.push(ChatMessage::called("", reply.tool_calls.clone()));
        for (call, result) in reply.tool_calls.iter().zip(["text of a", "a, b"]) {
            next.messages.push(ChatMessage::tool_result(call.clone(), result));
        }
        models.chat(&alias(), &next).await.unwrap();
        let lines = wire.conversation(&server.received()[1].body);
        let ids = if wire.registry_type() == "ollama" { ["read_file", "list_files"] } else { ["id-1", "id-2"] };
        assert_eq!(
            lines[2..],
            [
                r#"call read_file {"path":"a \"b\""}"#.to_owned(),
                "call list_files {}".to_owned(),
                format!("result {} text of a", ids[0]),
                format!("result {} a, b", ids[1]),
            ]
        );
    }
}

pub(crate) async fn tools_can_be_demanded(wire: &dyn Wire) {
    let body = whole(wire, "no", None);
    let server = FaultServer::start(move |_| vec![response("200 OK", JSON, "", &body)]).await;
    let models = models_of(wire, Way::Whole, server.port, &LONG, "");
    let choices = [ToolChoice::Auto, ToolChoice::None, ToolChoice::Required, ToolChoice::Named("list_files".into())];
    for choice in choices {
        let set = ToolSet { tools: tools(), choice };
        models.chat(&alias(), &ChatRequest { tools: Some(Arc::new(set)), ..question() }).await.unwrap();
    }
    let seen: Vec<_> = server.received().iter().map(|it| wire.tools(&it.body)).collect();
    match wire.registry_type() {
        // It has no word for a choice, so the tools themselves are chosen.
        "ollama" => assert_eq!(seen.iter().map(|it| it.0.len()).collect::<Vec<_>>(), [2, 0, 2, 1]),
        "anthropic" => {
            let kinds: Vec<_> = seen.iter().map(|it| it.1["type"].as_str().unwrap()).collect();
            assert_eq!((kinds, &seen[3].1["name"]), (vec!["auto", "none", "any", "tool"], &"list_files".into()));
        }
        _ => {
            let words: Vec<_> = seen[..3].iter().map(|it| it.1.as_str().unwrap()).collect();
            assert_eq!(words, ["auto", "none", "required"]);
            assert!(seen[3].1.to_string().contains("list_files"));
        }
    }
}
