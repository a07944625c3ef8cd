//! Graphs as text: Graphviz and Mermaid.
//!
//! **Invariant:** a name or title can not leave its label, whatever it holds.

use std::{borrow::Cow, fmt::Write as _};

use crate::view::{clean, fit};

/// Columns of a title at most.
const TITLE_COLUMNS_MAX: usize = 48;

/// A task of a graph.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    /// Its id.
    pub(crate) name: &'a str,
    /// One line.
    pub(crate) title: &'a str,
    /// One more line.
    pub(crate) note: Option<String>,
    /// The places of the tasks it needs.
    pub(crate) needs: &'a [u32],
    /// On the critical path.
    pub(crate) is_marked: bool,
}

impl Node<'_> {
    fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let title = (self.title != self.name).then(|| fit(&clean(self.title), TITLE_COLUMNS_MAX).into_owned().into());
        [Some(clean(self.name)), title, self.note.as_deref().map(Cow::Borrowed)].into_iter().flatten()
    }
}

/// Whether the way from `need` to `node` is marked.
fn is_marked(nodes: &[Node<'_>], node: &Node<'_>, need: u32) -> bool {
    node.is_marked && nodes[need as usize].is_marked
}

/// For Graphviz.
pub(crate) fn dot(nodes: &[Node<'_>]) -> String {
    let mut text = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n");
    for (place, node) in nodes.iter().enumerate() {
        let lines: Vec<String> = node.lines().map(|it| it.replace('\\', "\\\\").replace('"', "\\\"")).collect();
        let mark = if node.is_marked { ", color=red, penwidth=2" } else { "" };
        _ = writeln!(text, "  n{place} [label=\"{}\"{mark}];", lines.join("\\n"));
    }
    for (place, node) in nodes.iter().enumerate() {
        for need in node.needs {
            let mark = if is_marked(nodes, node, *need) { " [color=red, penwidth=2]" } else { "" };
            _ = writeln!(text, "  n{need} -> n{place}{mark};");
        }
    }
    text.push_str("}\n");
    text
}

/// For Mermaid.
pub(crate) fn mermaid(nodes: &[Node<'_>]) -> String {
    let mut text = String::from("flowchart LR\n");
    for (place, node) in nodes.iter().enumerate() {
        let lines: Vec<String> = node.lines().map(|it| mermaid_text(&it)).collect();
        let mark = if node.is_marked { ":::critical" } else { "" };
        _ = writeln!(text, "  n{place}[\"{}\"]{mark}", lines.join("<br/>"));
    }
    for (place, node) in nodes.iter().enumerate() {
        for need in node.needs {
            let arrow = if is_marked(nodes, node, *need) { "==>" } else { "-->" };
            _ = writeln!(text, "  n{need} {arrow} n{place}");
        }
    }
    text.push_str("  classDef critical stroke:#d00,stroke-width:3px\n");
    text
}

/// What Mermaid reads as more than text becomes its number.
fn mermaid_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for it in text.chars() {
        match it {
            '"' | '#' | '<' | '>' | '&' | '`' | ';' | '\\' => _ = write!(shown, "#{};", u32::from(it)),
            _ => shown.push(it),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_drawn_for_both() {
        let hostile = "a\"]; <b>\\ `x`\n#1";
        let nodes = [
            Node { name: "t1", title: "One", note: Some("2 s".into()), needs: &[], is_marked: true },
            Node { name: "t2", title: hostile, note: None, needs: &[0], is_marked: true },
            Node { name: "t3", title: "t3", note: None, needs: &[0], is_marked: false },
        ];
        let text = dot(&nodes);
        for line in [
            "  n0 [label=\"t1\\nOne\\n2 s\", color=red, penwidth=2];",
            "  n1 [label=\"t2\\na\\\"]; <b>\\\\ `x` #1\", color=red, penwidth=2];",
            "  n2 [label=\"t3\"];",
            "  n0 -> n1 [color=red, penwidth=2];",
            "  n0 -> n2;",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        let text = mermaid(&nodes);
        for line in [
            "  n0[\"t1<br/>One<br/>2 s\"]:::critical",
            "  n1[\"t2<br/>a#34;]#59; #60;b#62;#92; #96;x#96; #35;1\"]:::critical",
            "  n2[\"t3\"]",
            "  n0 ==> n1",
            "  n0 --> n2",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
