//! What the store promises, on SQLite always and on PostgreSQL when `CREWLINE_TEST_POSTGRES` names a server.
//!
//! **Invariant:** every test has a database of its own, which is gone afterwards, also when the test fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test's helpers are tests, too")]

#[macro_use]
mod common;

mod acts;
mod api_keys;
mod budget;
mod choices;
mod graph;
mod launches;
mod leases;
mod lineage;
mod memories;
mod operate;
mod proxy;
mod queue;
mod reference;
mod runs;
mod server;
mod shadows;
mod traffic;
mod values;
