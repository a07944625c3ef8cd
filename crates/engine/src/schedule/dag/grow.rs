//! How the graph of a run grows: new tasks, and further needs of tasks that wait.
//!
//! **Invariant:** what is added closes no circle. A further need costs a look at all that waits for the task that gets it.

use std::{cmp::Reverse, collections::HashSet};

use super::{
    super::{NONE, cycle::refuse_bad, to_u32},
    Action, Cycle, Dag, Edge, Node, Slot, Stage,
};

impl Dag {
    /// Appends `nodes`; they may need any task, old or new. An error leaves the graph as it was.
    ///
    /// A graph that had ended with all tasks done or lost goes on with the new ones and ends once more; a drained one
    /// starts nothing. Call this before the event that would end the run, and its end is announced only once.
    #[expect(clippy::needless_pass_by_value, reason = "the nodes become part of the graph")]
    pub fn extend(&mut self, nodes: Vec<Node>) -> Result<Vec<Action>, Cycle> {
        let base = to_u32(self.slots.len());
        let needs: Vec<&[u32]> = nodes.iter().map(|it| it.needs.as_slice()).collect();
        refuse_bad(base, &needs)?;
        for node in &nodes {
            let stage = match node.stage {
                Stage::Waiting | Stage::Running => Stage::Waiting,
                Stage::Done | Stage::Failed | Stage::Blocked | Stage::Parked => node.stage,
            };
            match stage {
                Stage::Waiting | Stage::Running => self.open += 1,
                Stage::Parked => {
                    self.open += 1;
                    self.parked += 1;
                }
                Stage::Failed | Stage::Blocked => self.lost += 1,
                Stage::Done => {}
            }
            self.slots.push(Slot {
                rank: (node.urgency, node.priority),
                stage,
                attempt: node.attempts,
                lost_attempts: 0,
                open_needs: 0,
                is_held: false,
                is_planned: false,
                first: NONE,
                last: NONE,
            });
        }
        for (index, node) in (base..).zip(&nodes) {
            if self.slots[index as usize].stage != Stage::Done {
                self.link(index, &node.needs);
            }
        }
        let mut actions = Vec::new();
        if self.is_ended && !self.is_draining && self.open > 0 {
            self.is_ended = false;
        }
        if self.has_begun && !self.is_ended {
            self.block_doomed(&mut actions);
            self.advance(&mut actions);
        }
        self.assert_invariants();
        Ok(actions)
    }

    /// Makes a task that waits for another need `need`, too. None, and nothing changes, when it waits for no other any more, or
    /// when `need` itself waits for it.
    pub fn require(&mut self, node: u32, need: u32) -> Option<Vec<Action>> {
        let slot = self.slots.get(node as usize)?;
        let waits = matches!(slot.stage, Stage::Waiting | Stage::Parked) && slot.open_needs > 0;
        if !waits || need as usize >= self.slots.len() || self.leads_to(node, need) {
            return None;
        }
        let mut actions = Vec::new();
        match self.slots[need as usize].stage {
            Stage::Done => {}
            Stage::Waiting | Stage::Running | Stage::Parked => {
                self.edge(need, node);
                self.slots[node as usize].open_needs += 1;
            }
            Stage::Failed | Stage::Blocked => {
                self.edge(need, node);
                self.doomed.push((node, need));
                if self.has_begun && !self.is_ended {
                    self.block_doomed(&mut actions);
                    self.advance(&mut actions);
                }
            }
        }
        self.assert_invariants();
        Some(actions)
    }

    /// Whether `to` is `from`, or waits for it through others.
    fn leads_to(&self, from: u32, to: u32) -> bool {
        let mut seen = HashSet::from([from]);
        let mut found = vec![from];
        while let Some(node) = found.pop() {
            if node == to {
                return true;
            }
            let mut next = self.slots[node as usize].first;
            while let Some(edge) = self.edges.get(next as usize) {
                next = edge.next;
                if seen.insert(edge.to) {
                    found.push(edge.to);
                }
            }
        }
        false
    }

    /// Notes that `to` needs `need`.
    fn edge(&mut self, need: u32, to: u32) {
        let edge = to_u32(self.edges.len());
        let last = std::mem::replace(&mut self.slots[need as usize].last, edge);
        if last == NONE {
            self.slots[need as usize].first = edge;
        } else {
            self.edges[last as usize].next = edge;
        }
        self.edges.push(Edge { to, next: NONE });
    }

    fn link(&mut self, index: u32, needs: &[u32]) {
        let mut lost = None;
        let mut open_needs = 0;
        for &need in needs {
            match self.slots[need as usize].stage {
                Stage::Done => {}
                // Nothing comes of the edge, but a circle could.
                Stage::Failed | Stage::Blocked => {
                    lost = lost.or(Some(need));
                    self.edge(need, index);
                }
                Stage::Waiting | Stage::Running | Stage::Parked => {
                    open_needs += 1;
                    self.edge(need, index);
                }
            }
        }
        let slot = &mut self.slots[index as usize];
        slot.open_needs = open_needs;
        if let Some(need) = lost {
            self.doomed.push((index, need));
        } else if open_needs == 0 && slot.stage == Stage::Waiting {
            self.ready.push((slot.rank, Reverse(index)));
        }
    }
}
