//! The shape of the file against its own JSON Schema: all unknown keys, missing keys and wrong types at once.
//!
//! **Invariant:** what this returns deserialises into [`super::file::File`] when no problem was reported.

use serde_json::{Map, Value as Json};

use super::{
    Problem,
    file::Span,
    spans::{Entry, Node, Value},
};

/// Checks `root` against `schema` and returns what is usable of it.
pub(crate) fn check(text: &str, root: &Node, schema: &Json, problems: &mut Vec<Problem>) -> Option<Json> {
    let empty = Map::new();
    let defs = schema.get("$defs").and_then(Json::as_object).unwrap_or(&empty);
    Shape { text, defs, problems }.clean(root, schema, "", &root.span)
}

struct Shape<'a> {
    text: &'a str,
    defs: &'a Map<String, Json>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Shape<'a> {
    fn report(&mut self, span: &std::ops::Range<usize>, message: String, help: impl Into<String>) {
        self.problems.push(Problem::new(self.text, span.clone(), message, help));
    }

    fn resolve(&self, schema: &'a Json) -> &'a Json {
        let name = schema.get("$ref").and_then(Json::as_str).and_then(|it| it.strip_prefix("#/$defs/"));
        name.and_then(|name| self.defs.get(name)).unwrap_or(schema)
    }

    /// `None` when nothing usable is left; that is reported by then.
    fn clean(&mut self, node: &Node, schema: &'a Json, path: &str, key_span: &std::ops::Range<usize>) -> Option<Json> {
        let schema = self.resolve(schema);
        if let Some(options) = schema.get("anyOf").and_then(Json::as_array) {
            if matches!(node.value, Value::Null) && options.iter().any(|it| allows(it, "null")) {
                return Some(Json::Null);
            }
            let option = options.iter().find(|it| !allows(it, "null"))?;
            return self.clean(node, option, path, key_span);
        }
        if let Some(names) = names(schema) {
            return self.one_of(node, &names, path);
        }
        if schema.get("type").is_none() {
            return Some(node.to_json());
        }
        let fits = match &node.value {
            Value::Null => allows(schema, "null"),
            Value::Bool(_) => allows(schema, "boolean"),
            Value::Number(it) => allows(schema, "number") || (!it.is_f64() && allows(schema, "integer")),
            Value::Text(_) => allows(schema, "string"),
            Value::List(_) => allows(schema, "array"),
            Value::Map(_) => allows(schema, "object"),
        };
        if !fits {
            self.wrong_type(node, schema, path, key_span);
            return None;
        }
        match &node.value {
            Value::Map(entries) => self.map(node, entries, schema, path, key_span),
            Value::List(items) => {
                let item_schema = schema.get("items").unwrap_or(&Json::Null);
                let kept = items.iter().enumerate();
                Some(
                    kept.filter_map(|(at, it)| self.clean(it, item_schema, &format!("{path}[{at}]"), &it.span))
                        .collect(),
                )
            }
            Value::Number(number) => self.number(node, number, schema, path),
            Value::Text(_) if schema.get("exclusiveMinimum").is_some() && Span::read(&node.to_json()).is_none() => {
                self.report(&node.span, format!("`{path}` is not a duration above zero"), Span::FORMS);
                None
            }
            Value::Null | Value::Bool(_) | Value::Text(_) => Some(node.to_json()),
        }
    }

    fn one_of(&mut self, node: &Node, names: &[&str], path: &str) -> Option<Json> {
        let allowed = list(names.iter().copied());
        let Value::Text(text) = &node.value else {
            self.report(
                &node.span,
                format!("`{path}` must be text, not {}", node.kind()),
                format!("allowed: {allowed}"),
            );
            return None;
        };
        if names.contains(&text.as_str()) {
            return Some(text.as_str().into());
        }
        let help = suggestion(text, names.iter().copied(), &format!("allowed: {allowed}"));
        self.report(&node.span, format!("`{path}` has the unknown value `{}`", shorten(text)), help);
        None
    }

    fn map(
        &mut self,
        node: &Node,
        entries: &[Entry],
        schema: &'a Json,
        path: &str,
        key_span: &std::ops::Range<usize>,
    ) -> Option<Json> {
        let properties = schema.get("properties").and_then(Json::as_object);
        let values = schema.get("additionalProperties");
        let mut kept = Map::with_capacity(entries.len());
        let mut is_usable = true;
        for (place, entry) in entries.iter().enumerate() {
            let here = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
            if let Some(first) = entries[..place].iter().find(|it| it.key == entry.key) {
                let line = super::line_column(self.text, first.key_span.start).0;
                self.report(
                    &entry.key_span,
                    format!("`{here}` is there twice"),
                    format!("the first one is in line {line}; keep one"),
                );
                continue;
            }
            let values = values.filter(|it| matches!(it, Json::Object(_) | Json::Bool(true)));
            let Some(schema) = properties.and_then(|it| it.get(&entry.key)).or(values) else {
                let allowed: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
                let all = format!("allowed here: {}", list(allowed.iter().copied()));
                let help = suggestion(&entry.key, allowed.iter().copied(), &all);
                let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                self.report(&entry.key_span, format!("unknown key `{}`{place}", shorten(&entry.key)), help);
                continue;
            };
            if let Some(value) = self.clean(&entry.node, schema, &here, &entry.key_span) {
                kept.insert(entry.key.clone(), value);
            }
        }
        for name in schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str) {
            if kept.contains_key(name) {
                continue;
            }
            is_usable = false;
            // A value that was there but wrong is reported already.
            if node.entry(name).is_none() {
                let (what, span) = if path.is_empty() { ("the file", 0..0) } else { (path, key_span.clone()) };
                let about = properties
                    .and_then(|it| it.get(name))
                    .map(|it| self.resolve(it))
                    .and_then(|it| it.get("description").and_then(Json::as_str).and_then(|text| text.lines().next()));
                let own =
                    properties.and_then(|it| it.get(name)).and_then(|it| it.get("description")).and_then(Json::as_str);
                self.report(
                    &span,
                    if path.is_empty() { format!("{what} lacks `{name}`") } else { format!("`{what}` lacks `{name}`") },
                    format!("add `{name}:`; {}", own.or(about).unwrap_or("it is required")),
                );
            }
        }
        // The top stays usable, so that the rest is checked as well.
        (is_usable || path.is_empty()).then_some(Json::Object(kept))
    }

    fn number(&mut self, node: &Node, number: &serde_json::Number, schema: &Json, path: &str) -> Option<Json> {
        if let Some(floor) = schema.get("exclusiveMinimum").and_then(Json::as_f64)
            && number.as_f64().is_none_or(|it| it <= floor)
        {
            self.report(&node.span, format!("`{path}` must be above {floor}"), Span::FORMS);
            return None;
        }
        let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
        let uint32 = schema.get("format").and_then(Json::as_str) == Some("uint32");
        let (low, high) = (bound("minimum"), bound("maximum").or(uint32.then_some(f64::from(u32::MAX))));
        let value = number.as_f64()?;
        if low.is_some_and(|it| value < it) || high.is_some_and(|it| value > it) {
            let allowed = match (low, high) {
                (Some(low), Some(high)) if high < f64::from(u32::MAX) => format!("allowed: {low} to {high}"),
                (Some(low), _) => format!("allowed: {low} and above"),
                (None, _) => "the number is too large".to_owned(),
            };
            self.report(&node.span, format!("`{path}` is {number}, which is out of range"), allowed);
            return None;
        }
        Some(Json::Number(number.clone()))
    }

    fn wrong_type(&mut self, node: &Node, schema: &Json, path: &str, key_span: &std::ops::Range<usize>) {
        let wanted = ["object", "array", "string", "integer", "number", "boolean"]
            .into_iter()
            .filter(|kind| allows(schema, kind))
            .map(|kind| match kind {
                "object" => "a map",
                "array" => "a list",
                "string" => "text",
                "integer" => "a whole number",
                "number" => "a number",
                _ => "true or false",
            })
            .collect::<Vec<_>>()
            .join(" or ");
        let help = match &node.value {
            Value::Text(text) if text.parse::<f64>().is_ok() && allows(schema, "integer") => {
                "write the number without quotes".to_owned()
            }
            Value::Number(_) | Value::Bool(_) if allows(schema, "string") => "put it in quotes".to_owned(),
            Value::Text(_) if allows(schema, "array") => format!("write it as a list: `{}: [ … ]`", last(path)),
            Value::Null if allows(schema, "object") => format!("write its entries below `{}:`, indented", last(path)),
            _ => {
                schema.get("description").and_then(Json::as_str).unwrap_or("see `crewline registry schema`").to_owned()
            }
        };
        let span = if node.span.is_empty() { key_span } else { &node.span };
        let what = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
        self.report(span, format!("{what} must be {wanted}, not {}", node.kind()), help);
    }
}

fn allows(schema: &Json, kind: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(it)) => it == kind,
        Some(Json::Array(all)) => all.iter().any(|it| it == kind),
        _ => false,
    }
}

/// The values of an enumeration.
fn names(schema: &Json) -> Option<Vec<&str>> {
    if let Some(all) = schema.get("enum").and_then(Json::as_array) {
        return Some(all.iter().filter_map(Json::as_str).collect());
    }
    if let Some(one) = schema.get("const").and_then(Json::as_str) {
        return Some(vec![one]);
    }
    let options = schema.get("oneOf").and_then(Json::as_array)?;
    Some(options.iter().filter_map(names).flatten().collect())
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Names in backticks.
pub(crate) fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
}

/// `did you mean …?` when a known name is near, then `otherwise`.
pub(crate) fn suggestion<'a>(text: &str, known: impl Iterator<Item = &'a str>, otherwise: &str) -> String {
    let near = known.map(|it| (strsim::damerau_levenshtein(text, it), it)).min();
    match near {
        Some((distance, name)) if distance <= (name.len() / 3).max(1) => format!("did you mean `{name}`? {otherwise}"),
        _ => otherwise.to_owned(),
    }
}
