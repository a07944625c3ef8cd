//! What the plan gives to a task's context; memory is added by the attempt itself.

use std::sync::Arc;

use crewline_engine::context::{Item, Tier};
use crewline_types::Text;

/// INDEX.md.
pub fn index(text: Text) -> Item {
    Item { tier: Tier::Index, source: "index".into(), kind: "index".into(), title: "INDEX.md".into(), text, score: 1.0 }
}

/// The result of a task that this one requires or refers to; `source` is `task:<id>`.
pub fn output(tier: Tier, source: Arc<str>, title: Arc<str>, text: Text) -> Item {
    Item { tier, source, kind: "task_output".into(), title, text, score: 1.0 }
}
