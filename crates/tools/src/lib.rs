//! Tools: what a specialist may do besides answering, and the limits that hold whatever a model asks for.
//!
//! A [`Toolbox`] holds the tools of one attempt. Whoever runs the attempt decides by policy whether a call is made at all; the
//! toolbox checks its arguments, asks the tool whether it may be made so ([`Review`]), makes it within its limits, and gives back
//! one [`Observation`].
//!
//! **Invariant:** a call never fails: whatever goes wrong is an observation, which the model reads.
//! **Invariant:** arguments reach a tool only when they follow its schema.
//! **Invariant:** what a tool gives back is data. Nothing in it is ever an instruction or a setting.

mod command;
mod confine;
mod error;
pub mod files;
pub mod git;
mod http;
mod kit;
mod metrics;
mod observation;
mod output;
mod spec;
mod toolbox;
mod workspace;

pub use command::{CommandLimits, CommandPlace, CommandPolicy, CommandRule, RunCommand, Runner, Unconfined};
pub use confine::{CONFINE_COMMAND, Confinement, Network, confine_main};
pub use error::Error;
pub use http::{Fetch, Fetched, Hosts, HttpFetch, NotFetched};
pub use kit::{Kit, Rules};
pub use observation::{Observation, Outcome, Trust};
pub use output::{Handle, OUTPUT_BYTES_MAX, OutputStore};
pub use spec::{Effect, ToolSpec};
pub use toolbox::{Approval, Limits, Review, Tool, ToolCall, Toolbox, specs};
pub use workspace::{
    BadPath, Conflict, ConflictReason, Entry, FileError, FilePath, GitError, Journal, Kind, Merge, Merged, Tree,
    TreeLimits, View, Visit, Workspace, Written,
};
