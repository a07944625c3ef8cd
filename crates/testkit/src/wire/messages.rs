//! Anthropic messages.

use serde_json::{Value, json};

use super::{End, Wire, Wired, list, named_event, parsed, text};

/// `POST /messages`.
#[derive(Debug)]
pub struct Messages;

impl Messages {
    fn reason(answer: &Wired<'_>) -> &'static str {
        match answer.end {
            End::Stop if !answer.calls.is_empty() => "tool_use",
            End::Stop => "end_turn",
            End::Length => "max_tokens",
            End::Filtered => "refusal",
        }
    }
}

impl Wire for Messages {
    fn registry_type(&self) -> &'static str {
        "anthropic"
    }

    fn base_path(&self) -> &'static str {
        "/v1"
    }

    fn chat_path(&self) -> &'static str {
        "/v1/messages"
    }

    fn key_header(&self) -> (&'static str, &'static str) {
        ("x-api-key", "")
    }

    fn usage_details(&self) -> [bool; 2] {
        [true, false]
    }

    fn whole(&self, answer: &Wired<'_>) -> String {
        let mut content = Vec::new();
        if !answer.text.is_empty() {
            content.push(json!({"type": "text", "text": answer.text}));
        }
        for (id, name, arguments) in answer.calls {
            content.push(json!({"type": "tool_use", "id": id, "name": name, "input": parsed(arguments)}));
        }
        let mut reply = json!({
            "id": "msg", "type": "message", "role": "assistant", "model": "served", "content": content,
            "stop_reason": Self::reason(answer), "stop_sequence": null,
        });
        if let Some([input, output, cached, _]) = answer.usage {
            reply["usage"] =
                json!({"input_tokens": input - cached, "cache_read_input_tokens": cached, "output_tokens": output});
        }
        reply.to_string()
    }

    fn start(&self) -> String {
        let message =
            json!({"type": "message", "role": "assistant", "model": "served", "content": [], "stop_reason": null});
        named_event(&json!({"type": "message_start", "message": message}))
            + &named_event(&json!({
                "type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""},
            }))
            + &named_event(&json!({"type": "ping"}))
    }

    fn piece(&self, text: &str) -> String {
        let delta = json!({"type": "text_delta", "text": text});
        named_event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
    }

    fn end(&self, answer: &Wired<'_>) -> String {
        let mut all = named_event(&json!({"type": "content_block_stop", "index": 0}));
        for (index, (id, name, arguments)) in (1..).zip(answer.calls) {
            let index: u32 = index;
            let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
            all += &named_event(&json!({"type": "content_block_start", "index": index, "content_block": block}));
            let (left, right) = arguments.split_at(arguments.len() / 2);
            for half in ["", left, right] {
                let delta = json!({"type": "input_json_delta", "partial_json": half});
                all += &named_event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
            }
            all += &named_event(&json!({"type": "content_block_stop", "index": index}));
        }
        let mut last = json!({"type": "message_delta", "delta": {"stop_reason": Self::reason(answer)}});
        if let Some([input, output, cached, _]) = answer.usage {
            last["usage"] =
                json!({"input_tokens": input - cached, "cache_read_input_tokens": cached, "output_tokens": output});
        }
        all + &named_event(&last) + &named_event(&json!({"type": "message_stop"}))
    }

    fn error(&self, message: &str, code: &str) -> String {
        json!({"type": "error", "error": {"type": code, "message": message}}).to_string()
    }

    fn error_event(&self, message: &str) -> String {
        format!("event: error\ndata: {}\n\n", self.error(message, "api_error"))
    }

    fn hollow(&self) -> String {
        json!({"type": "message"}).to_string()
    }

    fn tokens_max<'a>(&self, body: &'a Value) -> &'a Value {
        &body["max_tokens"]
    }

    fn schema<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        body.pointer("/tools/0/input_schema").filter(|_| body["tool_choice"]["type"] == "tool")
    }

    fn conversation(&self, body: &Value) -> Vec<String> {
        let mut lines: Vec<String> = body["system"].as_str().map(|it| format!("system: {it}")).into_iter().collect();
        for message in list(&body["messages"]) {
            if let Some(content) = message["content"].as_str() {
                lines.push(format!("{}: {content}", text(&message["role"])));
            }
            lines.extend(list(&message["content"]).map(|block| match text(&block["type"]) {
                "tool_use" => format!("call {} {}", text(&block["name"]), block["input"]),
                "tool_result" => format!("result {} {}", text(&block["tool_use_id"]), text(&block["content"])),
                _ => format!("{}: {}", text(&message["role"]), text(&block["text"])),
            }));
        }
        lines
    }

    fn tools(&self, body: &Value) -> (Vec<(String, Value)>, Value) {
        let tools = list(&body["tools"]).map(|it| (text(&it["name"]).to_owned(), it["input_schema"].clone()));
        (tools.collect(), body["tool_choice"].clone())
    }

    fn embeddings(&self, _: &[&[f32]], _: u64) -> Option<(&'static str, String)> {
        None
    }
}
