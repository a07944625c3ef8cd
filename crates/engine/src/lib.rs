//! The decisions of a crew: which plan is valid, what runs next, which model is asked, what it may cost, what it
//! reads, what it may do.
//!
//! **Invariant:** pure: no IO, no clock, no randomness, no async. The same input gives the same output, byte for byte.
//! **Invariant:** hostile input (a model's answer, a plan file, a memory) gives an error or a bounded result, never a panic.
//! **Invariant:** nothing is cached and nothing is global; state lives in [`schedule::Dag`] and [`wallet::Wallet`].

pub mod act;
#[cfg(test)]
mod cases;
pub mod citations;
pub mod context;
pub mod criteria;
mod error;
pub mod forecast;
pub mod graph;
pub mod lease;
pub mod plan;
pub mod replay;
pub mod route;
pub mod schedule;
pub mod wallet;

pub use error::Error;
