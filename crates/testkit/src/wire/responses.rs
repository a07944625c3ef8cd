//! OpenAI responses.

use serde_json::{Value, json};

use super::{ChatCompletions, End, Wire, Wired, list, named_event, parsed, text};

/// `POST /responses`.
#[derive(Debug)]
pub struct Responses;

impl Responses {
    fn response(answer: &Wired<'_>) -> Value {
        let mut output = vec![json!({"type": "reasoning", "id": "r", "summary": []})];
        if !answer.text.is_empty() {
            let part = json!({"type": "output_text", "text": answer.text, "annotations": []});
            output.push(json!({"type": "message", "role": "assistant", "content": [part]}));
        }
        for (id, name, arguments) in answer.calls {
            output.push(json!({
                "type": "function_call", "id": "fc", "call_id": id, "name": name, "arguments": arguments,
                "status": "completed",
            }));
        }
        let (status, reason) = match answer.end {
            End::Stop => ("completed", Value::Null),
            End::Length => ("incomplete", json!({"reason": "max_output_tokens"})),
            End::Filtered => ("incomplete", json!({"reason": "content_filter"})),
        };
        let usage = answer.usage.map(|[input, output, cached, reasoning]| {
            json!({
                "input_tokens": input, "input_tokens_details": {"cached_tokens": cached},
                "output_tokens": output, "output_tokens_details": {"reasoning_tokens": reasoning},
                "total_tokens": input + output,
            })
        });
        json!({
            "id": "resp", "object": "response", "model": "served", "status": status, "error": null,
            "incomplete_details": reason, "output": output, "usage": usage,
        })
    }
}

impl Wire for Responses {
    fn registry_type(&self) -> &'static str {
        "openai_responses"
    }

    fn base_path(&self) -> &'static str {
        "/v1"
    }

    fn chat_path(&self) -> &'static str {
        "/v1/responses"
    }

    fn key_header(&self) -> (&'static str, &'static str) {
        ("authorization", "Bearer ")
    }

    fn usage_details(&self) -> [bool; 2] {
        [true, true]
    }

    fn whole(&self, answer: &Wired<'_>) -> String {
        Self::response(answer).to_string()
    }

    fn start(&self) -> String {
        let response = json!({"id": "resp", "model": "served", "status": "in_progress", "output": [], "usage": null});
        named_event(&json!({"type": "response.created", "response": response}))
            + &named_event(&json!({
                "type": "response.output_item.added", "output_index": 0,
                "item": {"type": "message", "role": "assistant", "content": []},
            }))
    }

    fn piece(&self, text: &str) -> String {
        named_event(&json!({"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "delta": text}))
    }

    fn end(&self, answer: &Wired<'_>) -> String {
        let mut all =
            named_event(&json!({"type": "response.output_text.done", "output_index": 0, "text": answer.text}));
        for (index, (id, name, arguments)) in (1..).zip(answer.calls) {
            let index: u32 = index;
            let mut item = json!({"type": "function_call", "call_id": id, "name": name, "arguments": ""});
            all += &named_event(&json!({"type": "response.output_item.added", "output_index": index, "item": item}));
            let (left, right) = arguments.split_at(arguments.len() / 2);
            for half in [left, right] {
                let kind = "response.function_call_arguments.delta";
                all += &named_event(&json!({"type": kind, "output_index": index, "delta": half}));
            }
            item["arguments"] = json!(arguments);
            all += &named_event(&json!({"type": "response.output_item.done", "output_index": index, "item": item}));
        }
        let kind = if answer.end == End::Stop { "response.completed" } else { "response.incomplete" };
        all + &named_event(&json!({"type": kind, "response": Self::response(answer)}))
    }

    fn error(&self, message: &str, code: &str) -> String {
        ChatCompletions.error(message, code)
    }

    fn error_event(&self, message: &str) -> String {
        let error = json!({"code": "server_error", "message": message});
        named_event(&json!({"type": "response.failed", "response": {"status": "failed", "error": error}}))
    }

    fn hollow(&self) -> String {
        json!({"object": "response"}).to_string()
    }

    fn tokens_max<'a>(&self, body: &'a Value) -> &'a Value {
        &body["max_output_tokens"]
    }

    fn schema<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        body.pointer("/text/format/schema")
    }

    fn conversation(&self, body: &Value) -> Vec<String> {
        let items = list(&body["input"]).map(|item| match text(&item["type"]) {
            "function_call" => format!("call {} {}", text(&item["name"]), parsed(text(&item["arguments"]))),
            "function_call_output" => format!("result {} {}", text(&item["call_id"]), text(&item["output"])),
            _ => format!("{}: {}", text(&item["role"]), text(&item["content"])),
        });
        items.collect()
    }

    fn tools(&self, body: &Value) -> (Vec<(String, Value)>, Value) {
        let tools = list(&body["tools"]).map(|it| (text(&it["name"]).to_owned(), it["parameters"].clone()));
        (tools.collect(), body["tool_choice"].clone())
    }

    fn embeddings(&self, vectors: &[&[f32]], tokens: u64) -> Option<(&'static str, String)> {
        ChatCompletions.embeddings(vectors, tokens)
    }
}
