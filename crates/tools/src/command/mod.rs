//! `run_command`: programs of this machine, by allow-list and in confinement.

mod policy;
mod runner;
mod tool;

pub use policy::{CommandLimits, CommandPolicy, CommandRule, Unconfined};
pub use runner::Runner;
pub(crate) use tool::spec;
pub use tool::{CommandPlace, RunCommand};
