//! JSON as small models write it: trailing commas, comments, quotes of every kind, Python words, an end that is missing.
//!
//! **Invariant:** valid JSON is read as what it says. Anything else gives a value or nothing, never a panic; the depth is
//! bounded, and the work of one value is linear in its text.
//! **Invariant:** an object that was cut off carries the key [`CUT`], so that nobody takes it for a whole one.

use serde_json::{Map, Number, Value};

/// Marks an object that the end of the text cut off. No text can hold it: JSON keys of models have no NUL.
pub(super) const CUT: &str = "\0cut";

const DEPTH_MAX: usize = 48;

/// A value and where it ended.
pub(super) struct Parsed {
    pub(super) value: Value,
    pub(super) end: usize,
}

/// Reads the object or list that begins at `start`.
pub(super) fn parse(text: &str, start: usize) -> Option<Parsed> {
    let mut parser = Parser { bytes: text.as_bytes(), text, at: start };
    let value = parser.value(0).ok()?;
    Some(Parsed { value, end: parser.at })
}

/// Why a value could not be read.
enum Stop {
    /// It is not JSON, not even in a wide sense.
    NotJson,
    /// The text ended within a scalar.
    Cut,
}

struct Parser<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn starts_with(&self, prefix: &str) -> bool {
        self.bytes.get(self.at..).is_some_and(|it| it.starts_with(prefix.as_bytes()))
    }

    /// Skips blanks and comments.
    fn skip(&mut self) {
        loop {
            while self.peek().is_some_and(|it| it.is_ascii_whitespace()) {
                self.at += 1;
            }
            let end = if self.starts_with("//") {
                "\n"
            } else if self.starts_with("/*") {
                "*/"
            } else {
                return;
            };
            let rest = &self.text[self.at..];
            self.at += rest.find(end).map_or(rest.len(), |it| it + end.len());
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Stop> {
        self.skip();
        match self.peek() {
            None => Err(Stop::Cut),
            Some(b'{') if depth < DEPTH_MAX => self.object(depth),
            Some(b'[') if depth < DEPTH_MAX => self.list(depth),
            Some(quote @ (b'"' | b'\'')) => self.string(quote).map(Value::String),
            Some(b'-' | b'+' | b'.' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut map = Map::new();
        loop {
            self.skip();
            match self.peek() {
                None => return Ok(cut(map)),
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                Some(b',') => self.at += 1,
                // The closing brace is missing, and the list around goes on.
                Some(b']') if depth > 0 && !map.is_empty() => return Ok(Value::Object(map)),
                Some(_) => {
                    let key = match self.key() {
                        Ok(key) => key,
                        Err(Stop::Cut) => return Ok(cut(map)),
                        Err(Stop::NotJson) => return Err(Stop::NotJson),
                    };
                    self.skip();
                    match self.peek() {
                        None => return Ok(cut(map)),
                        Some(b':' | b'=') => self.at += 1,
                        Some(_) => return Err(Stop::NotJson),
                    }
                    match self.value(depth + 1) {
                        Ok(value) => map.insert(key, value),
                        Err(Stop::Cut) => return Ok(cut(map)),
                        Err(Stop::NotJson) => return Err(Stop::NotJson),
                    };
                }
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Stop> {
        self.at += 1;
        let mut list = Vec::new();
        loop {
            self.skip();
            match self.peek() {
                None => return Ok(Value::Array(list)),
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(list));
                }
                Some(b',') => self.at += 1,
                // The closing bracket is missing, and the object around goes on.
                Some(b'}') if depth > 0 => return Ok(Value::Array(list)),
                Some(_) => match self.value(depth + 1) {
                    Ok(value) => list.push(value),
                    Err(Stop::Cut) => return Ok(Value::Array(list)),
                    Err(Stop::NotJson) => return Err(Stop::NotJson),
                },
            }
        }
    }

    fn key(&mut self) -> Result<String, Stop> {
        if let Some(quote @ (b'"' | b'\'')) = self.peek() {
            return self.string(quote);
        }
        let is_name = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-' | b'$');
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take_while(|it| is_name(it)).count();
        if len == rest.len() {
            return Err(Stop::Cut);
        }
        if len == 0 {
            return Err(Stop::NotJson);
        }
        let key = self.text[self.at..self.at + len].to_owned();
        self.at += len;
        Ok(key)
    }

    fn string(&mut self, quote: u8) -> Result<String, Stop> {
        self.at += 1;
        let mut out = String::new();
        let mut from = self.at;
        loop {
            let Some(byte) = self.peek() else { return Err(Stop::Cut) };
            if byte == b'\\' {
                out.push_str(&self.text[from..self.at]);
                self.at += 1;
                self.escape(&mut out)?;
                from = self.at;
            } else if byte == quote && self.closes() {
                out.push_str(&self.text[from..self.at]);
                self.at += 1;
                return Ok(out);
            } else {
                // Line breaks within a string are taken as they are.
                self.at += 1;
            }
        }
    }

    /// A quote ends a string when what follows could follow a string; otherwise it is one that should have been escaped.
    fn closes(&self) -> bool {
        let rest = &self.bytes[self.at + 1..];
        let gap = rest.iter().take_while(|it| it.is_ascii_whitespace()).count();
        match rest.get(gap) {
            None | Some(b',' | b':' | b'}' | b']' | b'/' | b'=') => true,
            // A comma is missing at the end of a line.
            Some(b'"' | b'\'' | b'{' | b'[') => rest[..gap].contains(&b'\n'),
            Some(_) => false,
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), Stop> {
        let Some(letter) = self.text[self.at..].chars().next() else { return Err(Stop::Cut) };
        self.at += letter.len_utf8();
        out.push(match letter {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => self.unicode()?,
            other => other,
        });
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, Stop> {
        let Some(high) = self.hex() else {
            return if self.bytes.len() - self.at < 4 { Err(Stop::Cut) } else { Ok(char::REPLACEMENT_CHARACTER) };
        };
        if (0xD800..0xDC00).contains(&high) && self.starts_with("\\u") {
            let before = self.at;
            self.at += 2;
            if let Some(low) = self.hex().filter(|it| (0xDC00..0xE000).contains(it)) {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = before;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4).filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()))?;
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    fn number(&mut self) -> Result<Value, Stop> {
        let is_part = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'+' | b'.' | b'_');
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take_while(|it| is_part(it)).count();
        if len == rest.len() {
            // The rest of the number may be missing.
            self.at += len;
            return Err(Stop::Cut);
        }
        let word = &self.text[self.at..self.at + len];
        self.at += len;
        if let Ok(number) = serde_json::from_str::<Number>(word) {
            return Ok(Value::Number(number));
        }
        let number = word.trim_start_matches('+').parse().ok().and_then(Number::from_f64);
        // `2h`, `30min`: what it says, as a text.
        Ok(number.map_or_else(|| Value::String(word.to_owned()), Value::Number))
    }

    fn word(&mut self) -> Result<Value, Stop> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take_while(|it| it.is_ascii_alphabetic()).count();
        let value = match &self.text[self.at..self.at + len] {
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            "null" | "None" | "NULL" | "undefined" | "nil" | "NaN" => Value::Null,
            _ if len > 0 && len == rest.len() => return Err(Stop::Cut),
            _ => return Err(Stop::NotJson),
        };
        self.at += len;
        Ok(value)
    }
}

fn cut(mut map: Map<String, Value>) -> Value {
    map.insert(CUT.to_owned(), Value::Bool(true));
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Option<Value> {
        parse(text, 0).map(|it| it.value)
    }

    #[test]
    fn what_models_write_is_read() {
        for (text, expected) in [
            (r#"{"a": [1, 2,], "b": {"c": null,},}"#, json!({"a": [1, 2], "b": {"c": null}})),
            ("{a: 'it', 'b': True, c: None}", json!({"a": "it", "b": true, "c": null})),
            ("{\"a\": 1, // one\n \"b\": /* two */ 2}", json!({"a": 1, "b": 2})),
            ("{\"a\": \"say \"hello\" now\", \"b\": 'don't'}", json!({"a": "say \"hello\" now", "b": "don't"})),
            ("{\"a\": \"two\nlines\"\n \"b\": 2h}", json!({"a": "two\nlines", "b": "2h"})),
            (r#"{"a": "\u00e4\ud83d\ude00\q\ud800"}"#, json!({"a": "ä😀q\u{fffd}"})),
            (r#"{"a": [{"b": 1], "c": 2}"#, json!({"a": [{"b": 1}], "c": 2})),
            ("[+1, .5, -2e3]", json!([1.0, 0.5, -2e3])),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for text in ["{a}", "[words]", "{\"a\": b}", "{]"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_cut_off_is_marked() {
        for (text, expected) in [
            (r#"{"a": [{"b": 1}, {"b": 2"#, json!({"a": [{"b": 1}, {CUT: true}], CUT: true})),
            (r#"{"a": [{"b": 1}, {"b": "x"#, json!({"a": [{"b": 1}, {CUT: true}], CUT: true})),
            (r#"{"a": ["x", "y"#, json!({"a": ["x"], CUT: true})),
            (r#"{"a": "x", "b"#, json!({"a": "x", CUT: true})),
            (r#"{"a": "x", "b": tr"#, json!({"a": "x", CUT: true})),
            (r#"{"a": "\u00"#, json!({CUT: true})),
        ] {
            assert_eq!(read(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(read(&"[".repeat(100_000)), None);
        assert_eq!(read(&r#"{"a":"#.repeat(100_000)), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let text = prop_oneof![".{0,12}", "[a-z\"',:{}\\[\\]/\n]{0,8}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<i32>().prop_map(|it| Value::from(f64::from(it) / 8.0)),
            text.clone().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(text.clone(), inner, 0..5)
                    .prop_map(|it| Value::Object(it.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(crate::cases::cases(2_000))]

        #[test]
        fn valid_json_is_read_as_it_is(value in any_json()) {
            let value = json!([value]);
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let parsed = parse(&text, 0);
                prop_assert_eq!(parsed.as_ref().map(|it| it.end), Some(text.len()), "{}", text);
                prop_assert_eq!(parsed.map(|it| it.value), Some(value.clone()), "{}", text);
            }
        }

        #[test]
        fn no_text_is_too_bad(text in ".{0,60}", json in any_json(), cut in 0_usize..60) {
            let _ = parse(&text, 0);
            let json = json.to_string();
            let cut = json.char_indices().map(|it| it.0).nth(cut).unwrap_or(json.len());
            let _ = parse(&json[..cut], 0);
            let _ = parse(&format!("{{{text}"), 0);
        }
    }
}
