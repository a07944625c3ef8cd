//! OpenAI chat completions.

use serde_json::{Value, json};

use super::{End, Wire, Wired, event, list, parsed, text};

/// `POST /chat/completions`.
#[derive(Debug)]
pub struct ChatCompletions;

impl ChatCompletions {
    fn usage([input, output, cached, reasoning]: [u64; 4]) -> Value {
        json!({
            "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
        })
    }

    fn calls(answer: &Wired<'_>) -> Value {
        let calls = (0..).zip(answer.calls).map(|(index, (id, name, arguments)): (u32, _)| {
            json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        });
        if answer.calls.is_empty() { Value::Null } else { calls.collect() }
    }

    fn reason(answer: &Wired<'_>) -> &'static str {
        match answer.end {
            End::Stop if !answer.calls.is_empty() => "tool_calls",
            End::Stop => "stop",
            End::Length => "length",
            End::Filtered => "content_filter",
        }
    }
}

impl Wire for ChatCompletions {
    fn registry_type(&self) -> &'static str {
        "openai_compatible"
    }

    fn base_path(&self) -> &'static str {
        "/v1"
    }

    fn chat_path(&self) -> &'static str {
        "/v1/chat/completions"
    }

    fn key_header(&self) -> (&'static str, &'static str) {
        ("authorization", "Bearer ")
    }

    fn usage_details(&self) -> [bool; 2] {
        [true, true]
    }

    fn whole(&self, answer: &Wired<'_>) -> String {
        let content = if answer.calls.is_empty() { json!(answer.text) } else { Value::Null };
        let mut reply = json!({
            "id": "x", "object": "chat.completion", "model": "served",
            "choices": [{
                "index": 0, "finish_reason": Self::reason(answer),
                "message": {"role": "assistant", "content": content, "tool_calls": Self::calls(answer)},
            }],
        });
        if let Some(usage) = answer.usage {
            reply["usage"] = Self::usage(usage);
        }
        reply.to_string()
    }

    fn start(&self) -> String {
        event(&json!({"model": "served", "choices": [{"delta": {"role": "assistant", "content": null}}]}))
    }

    fn piece(&self, text: &str) -> String {
        event(&json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}))
    }

    fn end(&self, answer: &Wired<'_>) -> String {
        let mut all = String::new();
        for call in list(&Self::calls(answer)) {
            // Its name first, then its arguments in two halves.
            let arguments = text(&call["function"]["arguments"]);
            let (left, right) = arguments.split_at(arguments.len() / 2);
            let mut head = call.clone();
            head["function"]["arguments"] = json!("");
            all += &event(&json!({"choices": [{"delta": {"tool_calls": [head]}}]}));
            for half in [left, right] {
                let half = json!({"index": call["index"], "function": {"arguments": half}});
                all += &event(&json!({"choices": [{"delta": {"tool_calls": [half]}}]}));
            }
        }
        all += &event(&json!({"choices": [{"delta": {}, "finish_reason": Self::reason(answer)}], "usage": null}));
        if let Some(usage) = answer.usage {
            all += &event(&json!({"choices": [], "usage": Self::usage(usage)}));
        }
        all + "data: [DONE]\n\n"
    }

    fn error(&self, message: &str, code: &str) -> String {
        json!({"error": {"message": message, "type": "some_error", "param": null, "code": code}}).to_string()
    }

    fn error_event(&self, message: &str) -> String {
        format!("data: {}\n\n", self.error(message, "server_error"))
    }

    fn hollow(&self) -> String {
        json!({"object": "chat.completion", "choices": []}).to_string()
    }

    fn tokens_max<'a>(&self, body: &'a Value) -> &'a Value {
        &body["max_tokens"]
    }

    fn schema<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        body.pointer("/response_format/json_schema/schema")
    }

    fn conversation(&self, body: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for message in list(&body["messages"]) {
            let (role, content) = (text(&message["role"]), text(&message["content"]));
            if role == "tool" {
                lines.push(format!("result {} {content}", text(&message["tool_call_id"])));
                continue;
            }
            if !content.is_empty() {
                lines.push(format!("{role}: {content}"));
            }
            for call in list(&message["tool_calls"]) {
                let function = &call["function"];
                lines.push(format!("call {} {}", text(&function["name"]), parsed(text(&function["arguments"]))));
            }
        }
        lines
    }

    fn tools(&self, body: &Value) -> (Vec<(String, Value)>, Value) {
        let tools = list(&body["tools"]).map(|it| &it["function"]);
        (
            tools.map(|it| (text(&it["name"]).to_owned(), it["parameters"].clone())).collect(),
            body["tool_choice"].clone(),
        )
    }

    fn embeddings(&self, vectors: &[&[f32]], tokens: u64) -> Option<(&'static str, String)> {
        let one = |(index, vector)| json!({"object": "embedding", "index": index, "embedding": vector});
        // The order is told by the index, not by the place.
        let data: Vec<Value> = vectors.iter().enumerate().rev().map(one).collect();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        Some(("/v1/embeddings", json!({"object": "list", "data": data, "usage": usage}).to_string()))
    }
}
