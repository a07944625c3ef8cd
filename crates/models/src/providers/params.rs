//! What the bodies of all protocols have in common: the fields of `params`, and text that stands in JSON.
//!
//! **Invariant:** a field of `params` replaces ours of the same name; null leaves it out.

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{ModelConfig, OutputSchema, Tool};

/// Writes the model's own fields that belong here.
pub(super) fn write<M: SerializeMap>(
    map: &mut M,
    model: &ModelConfig,
    belongs: impl Fn(&str) -> bool,
) -> Result<(), M::Error> {
    for (name, value) in &model.params {
        if !value.is_null() && belongs(name) {
            map.serialize_entry(name, value)?;
        }
    }
    Ok(())
}

/// A function a model may call, in the words of OpenAI; others take the same inside.
#[derive(Serialize)]
pub(super) struct Function<'a> {
    name: &'a str,
    description: &'a str,
    parameters: &'a serde_json::Value,
}

impl<'a> From<&'a Tool> for Function<'a> {
    fn from(tool: &'a Tool) -> Self {
        Self { name: &tool.name, description: &tool.description, parameters: &tool.parameters }
    }
}

/// A schema under its name, not strict: strict providers refuse most schemas.
#[derive(Serialize)]
pub(super) struct NamedSchema<'a> {
    name: &'a str,
    schema: &'a serde_json::Value,
    strict: bool,
}

impl<'a> From<&'a OutputSchema> for NamedSchema<'a> {
    fn from(schema: &'a OutputSchema) -> Self {
        Self { name: &schema.name, schema: &schema.schema, strict: false }
    }
}

/// Arguments of a call as a JSON object: what is none is wrapped, so that the provider takes it back.
pub(super) struct Arguments<'a>(pub(super) &'a str);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serde_json::from_str::<serde_json::Value>(self.0) {
            Ok(value) if value.is_object() => value.serialize(serializer),
            Ok(_) | Err(_) => serde_json::json!({"arguments": self.0}).serialize(serializer),
        }
    }
}
