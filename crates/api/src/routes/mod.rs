//! The routes, one file a subject.

pub(crate) mod approvals;
pub(crate) mod changes;
pub(crate) mod context;
pub(crate) mod events;
pub(crate) mod graph;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod registry;
pub(crate) mod runs;
pub(crate) mod tasks;
