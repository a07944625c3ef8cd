//! The routes, one file a subject.

pub(crate) mod approvals;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod registry;
pub(crate) mod runs;
