//! Ollama's own protocol.

use serde_json::{Value, json};

use super::{ChatCompletions, End, Wire, Wired, list, parsed, text};

/// `POST /api/chat` of Ollama.
#[derive(Debug)]
pub struct OllamaChat;

impl OllamaChat {
    fn last(answer: &Wired<'_>, content: &str) -> Value {
        let mut message = json!({"role": "assistant", "content": content});
        if !answer.calls.is_empty() {
            let calls = answer.calls.iter().map(
                |(id, name, arguments)| json!({"id": id, "function": {"name": name, "arguments": parsed(arguments)}}),
            );
            message["tool_calls"] = calls.collect();
        }
        let reason = if answer.end == End::Length { "length" } else { "stop" };
        let mut reply = json!({"model": "served", "message": message, "done": true, "done_reason": reason});
        if let Some([input, output, ..]) = answer.usage {
            reply["prompt_eval_count"] = input.into();
            reply["eval_count"] = output.into();
        }
        reply
    }
}

impl Wire for OllamaChat {
    fn registry_type(&self) -> &'static str {
        "ollama"
    }

    fn base_path(&self) -> &'static str {
        ""
    }

    fn chat_path(&self) -> &'static str {
        "/api/chat"
    }

    fn key_header(&self) -> (&'static str, &'static str) {
        ("authorization", "Bearer ")
    }

    fn stream_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn usage_details(&self) -> [bool; 2] {
        [false, false]
    }

    fn has_filter(&self) -> bool {
        false
    }

    fn whole(&self, answer: &Wired<'_>) -> String {
        Self::last(answer, answer.text).to_string()
    }

    fn start(&self) -> String {
        String::new()
    }

    fn piece(&self, text: &str) -> String {
        format!("{}\n", json!({"model": "served", "message": {"role": "assistant", "content": text}, "done": false}))
    }

    fn end(&self, answer: &Wired<'_>) -> String {
        format!("{}\n", Self::last(answer, ""))
    }

    fn error(&self, message: &str, _: &str) -> String {
        json!({"error": message}).to_string()
    }

    fn error_event(&self, message: &str) -> String {
        format!("{}\n", json!({"error": message}))
    }

    fn hollow(&self) -> String {
        json!({"model": "served"}).to_string()
    }

    fn tokens_max<'a>(&self, body: &'a Value) -> &'a Value {
        &body["options"]["num_predict"]
    }

    fn temperature<'a>(&self, body: &'a Value) -> &'a Value {
        &body["options"]["temperature"]
    }

    fn schema<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        body.get("format")
    }

    fn conversation(&self, body: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for message in list(&body["messages"]) {
            let (role, content) = (text(&message["role"]), text(&message["content"]));
            if role == "tool" {
                lines.push(format!("result {} {content}", text(&message["tool_name"])));
                continue;
            }
            if !content.is_empty() {
                lines.push(format!("{role}: {content}"));
            }
            for call in list(&message["tool_calls"]) {
                lines.push(format!("call {} {}", text(&call["function"]["name"]), call["function"]["arguments"]));
            }
        }
        lines
    }

    fn tools(&self, body: &Value) -> (Vec<(String, Value)>, Value) {
        let (tools, _) = ChatCompletions.tools(body);
        (tools, Value::Null)
    }

    fn embeddings(&self, vectors: &[&[f32]], tokens: u64) -> Option<(&'static str, String)> {
        Some(("/api/embed", json!({"model": "served", "embeddings": vectors, "prompt_eval_count": tokens}).to_string()))
    }
}
