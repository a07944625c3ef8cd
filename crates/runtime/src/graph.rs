//! A run's tasks and what they need of each other, as Mermaid, Graphviz or data.
//!
//! **Invariant:** no title can leave its label: whatever a model wrote is text in the drawing.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use crewline_types::{LinkKind, Role, RunId, TaskId, TaskKind, TaskStatus};
use serde::Serialize;

use crate::{Error, Handle};

/// Characters of a title in a drawing.
const TITLE_MAX: usize = 60;

/// The tasks of a run and their links.
#[derive(Debug, Clone, Serialize)]
pub struct Graph {
    /// The run.
    pub run: RunId,
    /// Its goal.
    pub goal: String,
    /// Its tasks but the root, by their place in the plan.
    pub nodes: Vec<GraphNode>,
    /// Their links.
    pub edges: Vec<GraphEdge>,
}

/// A task.
#[derive(Debug, Clone, Serialize)]
pub struct GraphNode {
    /// Its id.
    pub id: TaskId,
    /// Its name inside the plan.
    pub key: String,
    /// Its title.
    pub title: String,
    /// Who does it.
    pub role: Role,
    /// What it is in the tree.
    pub kind: TaskKind,
    /// Where it is in its life.
    pub status: TaskStatus,
}

/// A link: `from` requires, or refers to, `to`.
#[derive(Debug, Clone, Serialize)]
pub struct GraphEdge {
    /// The task that needs.
    pub from: TaskId,
    /// The task that is needed.
    pub to: TaskId,
    /// How.
    pub kind: LinkKind,
}

impl Handle {
    /// The tasks of `run` and their links.
    pub async fn graph(&self, run: RunId) -> Result<Graph, Error> {
        let not_found = || Error::NotFound { what: "run", id: run.to_string() };
        let row = self.store().run(run).await?.ok_or_else(not_found)?;
        let tasks = self.store().tasks(run).await?;
        let links = self.store().links(run).await?;
        let nodes = tasks.into_iter().filter(|task| task.kind != TaskKind::Root).map(|task| GraphNode {
            id: task.id,
            key: task.key.to_string(),
            title: task.title.to_string(),
            role: task.role,
            kind: task.kind,
            status: task.status,
        });
        let edges = links.into_iter().map(|(from, to, kind)| GraphEdge { from, to, kind });
        Ok(Graph { run, goal: row.goal.to_string(), nodes: nodes.collect(), edges: edges.collect() })
    }
}

impl Graph {
    /// As a Mermaid flow chart; work flows along the arrows.
    pub fn mermaid(&self) -> String {
        let places = self.places();
        let mut text = String::from("flowchart TD\n");
        for (place, node) in self.nodes.iter().enumerate() {
            let (key, title, role) = (
                Mermaid(&node.key, TITLE_MAX),
                Mermaid(&node.title, TITLE_MAX),
                Mermaid(node.role.as_str(), TITLE_MAX),
            );
            line(&mut text, format_args!("  n{place}[\"{key}: {title}<br/>{role}\"]:::{}", node.status));
        }
        for edge in &self.edges {
            let (Some(from), Some(to)) = (places.get(&edge.from), places.get(&edge.to)) else { continue };
            let arrow = if edge.kind == LinkKind::Requires { "-->" } else { "-.->" };
            line(&mut text, format_args!("  n{to} {arrow} n{from}"));
        }
        for (status, fill) in COLOURS {
            if self.nodes.iter().any(|node| node.status == status) {
                line(&mut text, format_args!("  classDef {status} fill:{fill},color:#000,stroke:#555"));
            }
        }
        text
    }

    /// As a Graphviz graph; work flows along the arrows.
    pub fn dot(&self) -> String {
        let places = self.places();
        let mut text = String::new();
        line(&mut text, format_args!("digraph \"{}\" {{", self.run));
        text.push_str("  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n");
        for (place, node) in self.nodes.iter().enumerate() {
            let fill = COLOURS.iter().find(|(status, _)| *status == node.status).map_or("#ffffff", |(_, fill)| fill);
            let (key, title, role) =
                (Dot(&node.key, TITLE_MAX), Dot(&node.title, TITLE_MAX), Dot(node.role.as_str(), TITLE_MAX));
            line(
                &mut text,
                format_args!(
                    "  n{place} [label=\"{key}: {title}\\n{role}\", tooltip=\"{} {}\", fillcolor=\"{fill}\"];",
                    node.id, node.status
                ),
            );
        }
        for edge in &self.edges {
            let (Some(from), Some(to)) = (places.get(&edge.from), places.get(&edge.to)) else { continue };
            let style = if edge.kind == LinkKind::Requires { "" } else { " [style=dashed]" };
            line(&mut text, format_args!("  n{to} -> n{from}{style};"));
        }
        text.push_str("}\n");
        text
    }

    fn places(&self) -> HashMap<TaskId, usize> {
        self.nodes.iter().enumerate().map(|(place, node)| (node.id, place)).collect()
    }
}

/// The colour of each status.
const COLOURS: [(TaskStatus, &str); 7] = [
    (TaskStatus::Pending, "#eeeeee"),
    (TaskStatus::InProgress, "#9fd3ff"),
    (TaskStatus::Blocked, "#ffc9a8"),
    (TaskStatus::AwaitingApproval, "#ffe58a"),
    (TaskStatus::Completed, "#b7e4b0"),
    (TaskStatus::Failed, "#f5a3a3"),
    (TaskStatus::Cancelled, "#cccccc"),
];

fn line(text: &mut String, words: fmt::Arguments<'_>) {
    // Writing into memory can not fail.
    let _ = writeln!(text, "{words}");
}

/// Text inside a Mermaid label: at most so many characters, each that means something written as its code.
struct Mermaid<'a>(&'a str, usize);

impl fmt::Display for Mermaid<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        each(self.0, self.1, |c| match c {
            ' ' | ',' | '.' | '-' | '/' | '_' | '(' | ')' | '?' | '!' | '\'' | '+' => out.write_char(c),
            c if c.is_ascii_alphanumeric() || !c.is_ascii() => out.write_char(c),
            c => write!(out, "#{};", u32::from(c)),
        })
    }
}

/// Text inside a Graphviz label.
struct Dot<'a>(&'a str, usize);

impl fmt::Display for Dot<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        each(self.0, self.1, |c| match c {
            '"' => out.write_str("\\\""),
            '\\' => out.write_str("\\\\"),
            // Entities are read in labels.
            '&' => out.write_str("&amp;"),
            c => out.write_char(c),
        })
    }
}

/// The characters of `text` as one line, cut after `max`.
fn each(text: &str, max: usize, mut write: impl FnMut(char) -> fmt::Result) -> fmt::Result {
    let mut characters = text.chars();
    for c in characters.by_ref().take(max) {
        write(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c })?;
    }
    if characters.next().is_some() { write('…') } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(title: &str) -> Graph {
        let node = |id: &str, key: &str, title: &str, status| GraphNode {
            id: id.parse().unwrap(),
            key: key.into(),
            title: title.into(),
            role: Role::from("writer"),
            kind: TaskKind::Atomic,
            status,
        };
        Graph {
            run: "aaaaaaaa".parse().unwrap(),
            goal: "g".into(),
            nodes: vec![
                node("bbbbbbbb", "t1", title, TaskStatus::Completed),
                node("cccccccc", "t2", "Second", TaskStatus::Pending),
            ],
            edges: vec![
                GraphEdge {
                    from: "cccccccc".parse().unwrap(),
                    to: "bbbbbbbb".parse().unwrap(),
                    kind: LinkKind::Requires,
                },
                GraphEdge {
                    from: "cccccccc".parse().unwrap(),
                    to: "bbbbbbbb".parse().unwrap(),
                    kind: LinkKind::Refers,
                },
            ],
        }
    }

    #[test]
    fn work_flows_along_the_arrows() {
        let graph = graph("First");
        assert_eq!(
            graph.mermaid(),
            "flowchart TD
  n0[\"t1: First<br/>writer\"]:::completed
  n1[\"t2: Second<br/>writer\"]:::pending
  n0 --> n1
  n0 -.-> n1
  classDef pending fill:#eeeeee,color:#000,stroke:#555
  classDef completed fill:#b7e4b0,color:#000,stroke:#555
"
        );
        let dot = graph.dot();
        assert!(dot.starts_with("digraph \"aaaaaaaa\" {\n"), "{dot}");
        assert!(dot.contains("  n0 -> n1;\n  n0 -> n1 [style=dashed];\n"), "{dot}");
        assert!(dot.contains("label=\"t1: First\\nwriter\""), "{dot}");
    }

    #[test]
    fn hostile_titles_stay_in_their_labels() {
        let graph = graph("a\"]; n0-->n1; click n0 \"x\\\n<script>&quot;%%{init}%%`");
        let mermaid = graph.mermaid();
        assert_eq!(mermaid.lines().count(), 7, "{mermaid}");
        assert_eq!(mermaid.lines().nth(1).unwrap().matches('"').count(), 2, "{mermaid}");
        assert!(!mermaid.contains("<script>") && !mermaid.contains("%%"), "{mermaid}");
        let dot = graph.dot();
        let label = dot.lines().find(|line| line.starts_with("  n0 [")).unwrap();
        assert_eq!(label.replace("\\\\", "").replace("\\\"", "").matches('"').count(), 6, "{label}");
    }

    #[test]
    fn long_titles_are_cut() {
        let text = graph(&"long ".repeat(100)).mermaid();
        assert!(text.contains('…') && text.len() < 500, "{text}");
    }
}
