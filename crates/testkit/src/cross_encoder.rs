//! A cross-encoder as small as one can be: an ONNX model and its tokenizer that real software loads, made of a list of
//! words and what each is worth.
//!
//! The score of a pair is the worth of the words in its second text: `input_ids` picks the worth of each, what
//! `token_type_ids` or `attention_mask` have at zero does not count, and the sum is `logits`, one row for each pair.
//! Words that are not in the list are worth nothing.
//!
//! Field numbers are those of [onnx.proto](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

use std::{fs, io, path::Path};

use prost::Message;
use serde_json::{Map, Value, json};

/// What a tokenizer has before all words: padding, unknown, beginning, end.
const SPECIAL: [&str; 4] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
/// Version 8 of the format, and 13 of the operators.
const FORMAT: i64 = 8;
const OPERATORS: i64 = 13;
/// Element and attribute types.
const FLOAT: i32 = 1;
const INT64: i32 = 7;
const INT_ATTRIBUTE: i32 = 2;

/// The shape of what the model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A row for each pair, as cross-encoders have it.
    Rows,
    /// One list, which is no cross-encoder's.
    List,
}

/// Writes `model.onnx` and `tokenizer.json` into `folder`, which is made.
pub fn write(folder: &Path, words: &[(&str, f32)], shape: Shape) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("model.onnx"), model(words, shape).encode_to_vec())?;
    fs::write(folder.join("tokenizer.json"), tokenizer(words).to_string())
}

/// Words by themselves, in lower case, as `[CLS] question [SEP] text [SEP]`.
fn tokenizer(words: &[(&str, f32)]) -> Value {
    let all = SPECIAL.iter().copied().chain(words.iter().map(|(word, _)| *word));
    let vocabulary: Map<String, Value> = all.zip(0..).map(|(word, id)| (word.to_owned(), json!(id))).collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(0..)
        .map(|(word, id)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    let special = |name: &str, side: u8| json!({"SpecialToken": {"id": name, "type_id": side}});
    let sequence = |name: &str, side: u8| json!({"Sequence": {"id": name, "type_id": side}});
    let ids = |name: &str, id: u8| json!({"id": name, "ids": [id], "tokens": [name]});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)],
            "pair": [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0), sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": {"[CLS]": ids("[CLS]", 2), "[SEP]": ids("[SEP]", 3)},
        },
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    })
}

fn model(words: &[(&str, f32)], shape: Shape) -> Model {
    let worths: Vec<f32> = SPECIAL.iter().map(|_| 0.0).chain(words.iter().map(|(_, worth)| *worth)).collect();
    let length = i64::try_from(worths.len()).unwrap_or(i64::MAX);
    let node = |kind: &str, inputs: &[&str], output: &str, attribute: Option<(&str, i64)>| Node {
        input: inputs.iter().map(|it| (*it).to_owned()).collect(),
        output: vec![output.to_owned()],
        kind: kind.to_owned(),
        attribute: attribute
            .into_iter()
            .map(|(name, value)| Attribute { name: name.to_owned(), value, kind: INT_ATTRIBUTE })
            .collect(),
    };
    let of = |name: &str, element: i32, dimensions: &[&str]| ValueInfo {
        name: name.to_owned(),
        kind: Some(Type { tensor: Some(TensorType { element, shape: Some(named(dimensions)) }) }),
    };
    let pieces = |name: &str| of(name, INT64, &["batch", "sequence"]);
    let (keep, result): (i64, &[&str]) = match shape {
        Shape::Rows => (1, &["batch", "one"]),
        Shape::List => (0, &["batch"]),
    };
    Model {
        format: FORMAT,
        graph: Some(Graph {
            node: vec![
                node("Gather", &["worths", "input_ids"], "worth", None),
                node("Cast", &["token_type_ids"], "of_text", Some(("to", FLOAT.into()))),
                node("Cast", &["attention_mask"], "attended", Some(("to", FLOAT.into()))),
                node("Mul", &["worth", "of_text"], "own", None),
                node("Mul", &["own", "attended"], "counted", None),
                node("ReduceSum", &["counted", "axes"], "logits", Some(("keepdims", keep))),
            ],
            name: "worths of words".to_owned(),
            initializer: vec![
                Tensor {
                    dimensions: vec![length],
                    kind: FLOAT,
                    floats: worths,
                    name: "worths".to_owned(),
                    ..Tensor::default()
                },
                Tensor {
                    dimensions: vec![1],
                    kind: INT64,
                    integers: vec![1],
                    name: "axes".to_owned(),
                    ..Tensor::default()
                },
            ],
            input: vec![pieces("input_ids"), pieces("attention_mask"), pieces("token_type_ids")],
            output: vec![of("logits", FLOAT, result)],
        }),
        operators: vec![Operators { domain: String::new(), version: OPERATORS }],
    }
}

fn named(dimensions: &[&str]) -> Dimensions {
    Dimensions { all: dimensions.iter().map(|name| Dimension { name: (*name).to_owned() }).collect() }
}

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    format: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    operators: Vec<Operators>,
}

#[derive(Clone, PartialEq, Message)]
struct Operators {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    kind: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    value: i64,
    #[prost(int32, tag = "20")]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    dimensions: Vec<i64>,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(float, repeated, tag = "4")]
    floats: Vec<f32>,
    #[prost(int64, repeated, tag = "7")]
    integers: Vec<i64>,
    #[prost(string, tag = "8")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    kind: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    element: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Dimensions>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimensions {
    #[prost(message, repeated, tag = "1")]
    all: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(string, tag = "2")]
    name: String,
}
