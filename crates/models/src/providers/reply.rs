//! What the replies of all protocols have in common: texts and complaints in their many forms.
//!
//! **Invariant:** a field of a form we do not expect is ignored where the answer does not depend on it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A text: a string, null, or a list of parts.
#[derive(Debug, Default)]
pub(super) struct Content<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("text, null, or a list of parts")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
                let mut text = String::new();
                while let Some(part) = parts.next_element::<Content<'de>>()? {
                    text.push_str(&part.0);
                }
                Ok(Cow::Owned(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut part: A) -> Result<Self::Value, A::Error> {
                let mut text = Cow::Borrowed("");
                while let Some(key) = part.next_key::<Cow<'de, str>>()? {
                    if key == "text" {
                        text = part.next_value::<Content<'de>>()?.0;
                    } else {
                        part.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(text)
            }
        }

        deserializer.deserialize_any(ContentVisitor).map(Self)
    }
}

/// An error as providers write it: an object with a message, or a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Complaint<'a> {
    pub(super) message: Cow<'a, str>,
    /// `code` and `type` together.
    pub(super) code: String,
    /// A numeric `code` is a status.
    pub(super) status: Option<u16>,
}

impl<'a> Complaint<'a> {
    /// A message with its code.
    pub(super) fn new(message: impl Into<Cow<'a, str>>, code: &str) -> Self {
        Self { message: message.into(), code: code.to_owned(), status: None }
    }

    /// The same without the bytes it was read from.
    pub(crate) fn into_owned(self) -> Complaint<'static> {
        Complaint { message: Cow::Owned(self.message.into_owned()), code: self.code, status: self.status }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Complaint<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Code {
            Number(u16),
            Text(String),
            Other(IgnoredAny),
        }

        struct ComplaintVisitor;

        impl<'de> Visitor<'de> for ComplaintVisitor {
            type Value = Complaint<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an error object or text")
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Complaint::default())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Complaint { status: u16::try_from(value).ok(), ..Complaint::default() })
            }

            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Complaint::default())
            }

            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Complaint::default())
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Complaint::default())
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Complaint { message: Cow::Borrowed(text), ..Complaint::default() })
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Complaint { message: Cow::Owned(text.to_owned()), ..Complaint::default() })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut first = None;
                while let Some(next) = list.next_element::<Complaint<'de>>()? {
                    first = first.or(Some(next));
                }
                Ok(first.unwrap_or_default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut complaint = Complaint::default();
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    match key.as_ref() {
                        "message" | "msg" | "detail" | "error" => {
                            let inner = map.next_value::<Complaint<'de>>()?;
                            if complaint.message.is_empty() {
                                complaint.message = inner.message;
                            }
                            complaint.status = complaint.status.or(inner.status);
                            complaint.code.push_str(&inner.code);
                        }
                        "code" | "type" | "status" => match map.next_value::<Code>()? {
                            Code::Number(status) => complaint.status = Some(status),
                            Code::Text(code) => {
                                complaint.code.push_str(&code);
                                complaint.code.push(' ');
                            }
                            Code::Other(_) => {}
                        },
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(complaint)
            }
        }

        deserializer.deserialize_any(ComplaintVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(json: &str) -> String {
        serde_json::from_str::<Content<'_>>(json).unwrap().0.into_owned()
    }

    #[test]
    fn content_has_three_forms() {
        assert_eq!(content("null"), "");
        assert_eq!(content(r#""a\nb""#), "a\nb");
        assert_eq!(content(r#"[{"type":"text","text":"a"},{"type":"image","x":[1]},"b"]"#), "ab");
        assert!(serde_json::from_str::<Content<'_>>("7").is_err());
    }

    #[test]
    fn complaints_have_many_forms() {
        let read = |json: &str| {
            let it: Complaint<'_> = serde_json::from_str(json).unwrap();
            (it.message.into_owned(), it.code.trim().to_owned(), it.status)
        };
        assert_eq!(read(r#""plain""#), ("plain".into(), String::new(), None));
        assert_eq!(read(r#"{"message":"m","type":"t","code":"c","param":null}"#), ("m".into(), "t c".into(), None));
        assert_eq!(read(r#"{"error":{"message":"m","code":429}}"#), ("m".into(), String::new(), Some(429)));
        assert_eq!(read(r#"{"detail":[{"msg":"m","loc":["body"]}]}"#), ("m".into(), String::new(), None));
        assert_eq!(read(r#"{"message":null,"code":null}"#), (String::new(), String::new(), None));
    }
}
