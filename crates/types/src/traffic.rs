//! Bytes that went to hosts, and bytes that came from them.

use std::{
    collections::{BTreeMap, btree_map},
    ops::AddAssign,
    sync::Arc,
};

/// What passed between us and one host: addresses and bodies of requests, bodies of answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostBytes {
    /// Bytes that went there.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
}

impl AddAssign for HostBytes {
    fn add_assign(&mut self, other: Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
    }
}

/// What passed between us and hosts, by the host's name without a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic(BTreeMap<Arc<str>, HostBytes>);

impl Traffic {
    /// Adds what passed between us and `host`.
    pub fn add(&mut self, host: &Arc<str>, bytes: HostBytes) {
        *self.0.entry(Arc::clone(host)).or_default() += bytes;
    }

    /// Whether no host was asked.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The hosts in the order of their names.
    pub fn iter(&self) -> btree_map::Iter<'_, Arc<str>, HostBytes> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Traffic {
    type Item = (&'a Arc<str>, &'a HostBytes);
    type IntoIter = btree_map::Iter<'a, Arc<str>, HostBytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl AddAssign<&Self> for Traffic {
    fn add_assign(&mut self, other: &Self) {
        for (host, bytes) in other {
            self.add(host, *bytes);
        }
    }
}

impl FromIterator<(Arc<str>, HostBytes)> for Traffic {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, HostBytes)>>(pairs: I) -> Self {
        let mut traffic = Self::default();
        for (host, bytes) in pairs {
            traffic.add(&host, bytes);
        }
        traffic
    }
}
