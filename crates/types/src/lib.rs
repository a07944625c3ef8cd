//! The words every room of the house shares: ids, money, time, tasks, models, events. No IO, no async.
//!
//! **Invariant:** nothing here reads a file, a socket or the environment; the one clock is [`time::SystemClock`].
//! **Invariant:** ids and scope are types: a task id can not be passed where a run id is wanted.

#[macro_use]
mod words;

pub mod act;
pub mod check;
pub mod error;
pub mod event;
pub mod id;
pub mod key;
pub mod memory;
pub mod model;
pub mod money;
pub mod route;
pub mod run;
pub mod share;
pub mod task;
pub mod text;
pub mod time;
pub mod traffic;

pub use act::{ApprovalKind, ApprovalState, Effect, ToolOutcome};
pub use check::Check;
pub use error::ErrorKind;
pub use event::{Event, EventBody};
pub use id::{ApprovalId, AttemptId, CallId, IdSource, KeyId, MemoryId, RunId, TaskId, ToolCallId};
pub use key::{KeyScope, KeyScopes};
pub use memory::{MemoryMarks, MemoryRecord, MemoryType, ProjectScope};
pub use model::{ModelAlias, ModelSpec, Price, Role};
pub use money::{MicroUsd, Usage};
pub use route::{Complexity, RouteRule, RouteWhen};
pub use run::{RunLimits, RunStatus, TaskCounts};
pub use share::Share;
pub use task::{Criterion, LinkKind, Priority, Task, TaskDetails, TaskKind, TaskStatus};
pub use text::{Text, TextHash};
pub use time::{Clock, SystemClock, Timestamp};
pub use traffic::{HostBytes, Traffic};
