//! Provenance as a snapshot keeps it: there is one for every attempt, so what is said of most items is left out.
//!
//! Most items are whole and of the kind that is usual in their tier: these take five words, source, title, tier, tokens, text.
//! All others take nine.

use std::{
    borrow::Cow,
    sync::{Arc, LazyLock},
};

use crewline_types::TextHash;
use serde::{Deserialize, Serialize};

use super::{BESIDE, Form, Provenance, Tier};

static INDEX: LazyLock<Arc<str>> = LazyLock::new(|| "index".into());
static SIBLINGS: LazyLock<Arc<str>> = LazyLock::new(|| BESIDE.into());
static TASK_OUTPUT: LazyLock<Arc<str>> = LazyLock::new(|| "task_output".into());
const SCORE: f32 = 1.0;
const REASON: &str = "fits";

/// The kind that most items of a tier have.
fn usual(tier: Tier) -> &'static Arc<str> {
    match tier {
        Tier::Index => &INDEX,
        Tier::Siblings => &SIBLINGS,
        Tier::Pinned | Tier::Requires | Tier::Refers | Tier::Retrieved | Tier::Manual => &TASK_OUTPUT,
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Usual(&'a str, &'a str, Tier, u32, TextHash),
    Whole(&'a str, &'a str, Tier, u32, TextHash, &'a str, f32, Form, &'a str),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Read {
    Usual(Arc<str>, Arc<str>, Tier, u32, TextHash),
    Whole(Arc<str>, Arc<str>, Tier, u32, TextHash, Arc<str>, f32, Form, String),
    /// As release 0.1 wrote them.
    Named(Provenance),
}

/// The text that a snapshot keeps.
pub fn write(items: &[Provenance]) -> String {
    let lines: Vec<Line<'_>> = items.iter().map(line).collect();
    // Plain texts and numbers always serialise.
    serde_json::to_string(&lines).unwrap_or_default()
}

fn line(item: &Provenance) -> Line<'_> {
    let Provenance { source, kind, title, tier, score, tokens, form, reason, text } = item;
    if kind == usual(*tier) && score.to_bits() == SCORE.to_bits() && *form == Form::Whole && reason == REASON {
        Line::Usual(source, title, *tier, *tokens, *text)
    } else {
        Line::Whole(source, title, *tier, *tokens, *text, kind, *score, *form, reason)
    }
}

/// The inverse of [`write`].
pub fn read(kept: &str) -> Result<Vec<Provenance>, serde_json::Error> {
    let lines: Vec<Read> = serde_json::from_str(kept)?;
    let item = |line| match line {
        Read::Usual(source, title, tier, tokens, text) => Provenance {
            source,
            kind: Arc::clone(usual(tier)),
            title,
            tier,
            score: SCORE,
            tokens,
            form: Form::Whole,
            reason: Cow::Borrowed(REASON),
            text,
        },
        Read::Whole(source, title, tier, tokens, text, kind, score, form, reason) => {
            Provenance { source, kind, title, tier, score, tokens, form, reason: reason.into(), text }
        }
        Read::Named(item) => item,
    };
    Ok(lines.into_iter().map(item).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "task_output";

    fn item(kind: &str, form: Form, reason: &'static str, score: f32) -> Provenance {
        Provenance {
            source: "task:lkfckp87".into(),
            kind: kind.into(),
            title: "A \"title\"".into(),
            tier: Tier::Requires,
            score,
            tokens: 51,
            form,
            reason: reason.into(),
            text: TextHash::of("text"),
        }
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let items = [
            item(KIND, Form::Whole, REASON, 1.0),
            item(KIND, Form::Whole, REASON, 0.5),
            item(KIND, Form::LeftOut, "no budget left", 1.0),
            item("memory", Form::Trimmed, "only a part fits", 0.25),
            Provenance { tier: Tier::Siblings, ..item("ancestor", Form::Whole, REASON, 1.0) },
            Provenance { tier: Tier::Siblings, ..item("siblings", Form::Whole, REASON, 1.0) },
            Provenance { tier: Tier::Index, ..item("index", Form::Whole, REASON, 1.0) },
        ];
        assert_eq!(read(&write(&items)).unwrap(), items);
        for usual in [0, 5, 6] {
            assert_eq!(write(&items[usual..=usual]).matches(',').count(), 4, "the usual one is short");
        }
    }

    #[test]
    fn what_release_0_1_kept_is_read() {
        let items = [item(KIND, Form::Whole, REASON, 1.0), item("memory", Form::Summary, "shortened", 0.5)];
        assert_eq!(read(&serde_json::to_string(&items).unwrap()).unwrap(), items);
        assert!(read("{}").is_err());
    }
}
