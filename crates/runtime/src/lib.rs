//! The shell: actors that perform what the engine decides.
//!
//! One run goes: [`handle`] → `root` → `manager` → `router` → `specialist` → model, and back as one report; `journal`
//! makes every change durable before it is acted on; `memory` keeps what was learnt.
//!
//! **Invariant:** the row is the truth, a message is a hint: losing any message delays work, never loses it.
//! **Invariant:** questions point down (manager → router → specialist → memory); commands are one-way.

pub mod actor;
mod assignment;
mod attempt;
mod config;
mod documents;
mod error;
mod estimate;
mod handle;
mod health;
mod hub;
mod journal;
mod load;
mod lock;
mod manager;
mod memory;
pub mod metrics;
mod planning;
mod prompt;
mod report;
mod rooms;
mod root;
mod router;
mod settings;
mod specialist;
#[cfg(test)]
mod survival;

pub use config::{Config, Limits, MemoryConfig};
pub use crewline_engine::{
    plan::{Document, Problem},
    route::Mode,
};
pub use error::Error;
pub use estimate::{Estimate, estimate};
pub use handle::{Handle, Overrides, RunRequest, Watch};
pub use report::{AttemptReport, CallReport, ModelReport, Report, RunSummary, TaskReport};
