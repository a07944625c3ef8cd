//! Random plans: acyclic graphs of every shape, from a seed.
//!
//! **Invariant:** the same generator gives the same plan.
//! **Invariant:** a task is known by the mark in its description, which appears in no other prompt.

use serde_json::{Value, json};

/// Tasks a planning model may give without being cut.
const BY_MODEL_MAX: usize = 8;
/// The roles of plan files.
const ROLES: [&str; 4] = ["researcher", "writer", "coder", "tester"];

/// A plan and how its upstream behaves.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Names it among all plans.
    pub tag: String,
    /// Its tasks; each needs earlier ones only.
    pub tasks: Vec<Item>,
    /// A model gives it when asked; otherwise it is a file.
    pub is_by_model: bool,
    /// Attempts in flight at once.
    pub concurrency: u32,
    /// The mean time of an answer, in milliseconds.
    pub latency_ms: u64,
    /// Calls of a hundred that fail the first time.
    pub faults_percent: u8,
    /// The longest answer, in bytes.
    pub answer_bytes_max: usize,
}

/// A task of a plan.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name.
    pub key: String,
    /// The places of those it needs.
    pub needs: Vec<usize>,
    /// Who does it.
    pub role: &'static str,
}

impl Plan {
    /// A plan of any shape.
    pub fn random(rng: &mut fastrand::Rng, tag: String) -> Self {
        let is_by_model = rng.u8(..10) < 3;
        let count = if is_by_model { rng.usize(3..=BY_MODEL_MAX) } else { rng.usize(5..=60) };
        // A narrow window makes chains, a wide one fans.
        let window = *rng.choice(&[1, 2, 4, 10, 60]).unwrap_or(&4);
        let needs_max = *rng.choice(&[1, 2, 3, 6]).unwrap_or(&2);
        let tasks = (0..count).map(|index| item(rng, index, window, needs_max)).collect();
        Self {
            tag,
            tasks,
            is_by_model,
            concurrency: *rng.choice(&[1, 2, 4, 16, 64]).unwrap_or(&4),
            latency_ms: *rng.choice(&[0, 2, 10, 40, 100]).unwrap_or(&10),
            faults_percent: *rng.choice(&[0, 0, 5, 15]).unwrap_or(&0),
            answer_bytes_max: *rng.choice(&[80, 400, 1_500]).unwrap_or(&400),
        }
    }

    /// The goal, by which prompts of this plan are known.
    pub fn goal(&self) -> String {
        format!("plan:{}; Describe a machine that survives everything", self.tag)
    }

    /// The plan as a file has it.
    pub fn document(&self) -> Value {
        let tasks: Vec<Value> = self
            .tasks
            .iter()
            .map(|item| {
                let needs: Vec<&str> = item.needs.iter().map(|at| self.tasks[*at].key.as_str()).collect();
                json!({
                    "id": item.key, "title": format!("Part {}", item.key), "role": item.role, "depends_on": needs,
                    "description": format!("Write about one part. {}", mark(&self.tag, &item.key)),
                })
            })
            .collect();
        json!({"goal": self.goal(), "tasks": tasks})
    }

    /// How long a run without disturbance takes at most, roughly, in milliseconds.
    pub fn expected_ms(&self) -> u64 {
        let rounds = (self.tasks.len() as u64).div_ceil(u64::from(self.concurrency)).max(4);
        150 + rounds * (self.latency_ms + 10)
    }
}

fn item(rng: &mut fastrand::Rng, index: usize, window: usize, needs_max: usize) -> Item {
    let first = index.saturating_sub(window);
    let count = rng.usize(0..=needs_max.min(index - first));
    let needs = rng.choose_multiple(first..index, count);
    Item { key: format!("k{index}"), needs, role: ROLES[rng.usize(..ROLES.len())] }
}

/// The mark of a task.
pub fn mark(tag: &str, key: &str) -> String {
    format!("chaos:{tag}:{key};")
}

/// The text between `start` and the next `;`.
fn between<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let rest = &text[text.find(start)? + start.len()..];
    rest.split_once(';').map(|(found, _)| found)
}

/// The tag of the plan a prompt is about.
pub fn tag_in(text: &str) -> Option<&str> {
    between(text, "plan:")
}

/// The key of the task a prompt or a description is about.
pub fn key_in(text: &str) -> Option<&str> {
    between(text, "chaos:")?.split_once(':').map(|(_, key)| key)
}
