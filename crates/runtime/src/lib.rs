//! The shell: actors that perform what the engine decides.
//!
//! One run goes: [`handle`] → `root` → `manager` → `router` → `specialist` → model, and back as one report; `journal`
//! makes every change durable before it is acted on; `memory` keeps what was learnt.
//!
//! **Invariant:** the row is the truth, a message is a hint: losing any message delays work, never loses it.
//! **Invariant:** questions point down (manager → router → specialist → memory); commands are one-way.

pub mod actor;
mod again;
mod approvals;
mod assignment;
mod attempt;
#[cfg(test)]
mod bounds;
mod brief;
mod changes;
mod chapters;
mod choices;
mod config;
mod context;
mod control;
mod create_task;
mod crew;
mod curated;
#[cfg(test)]
mod detour;
mod diff;
mod documents;
mod error;
mod estimate;
mod experience;
mod explain;
mod find;
mod forecast;
mod graph;
mod handle;
mod health;
mod hierarchy;
mod hub;
mod index;
mod journal;
mod keys;
#[cfg(test)]
mod late_decision;
mod later;
mod launch;
mod library;
mod load;
mod lock;
mod manager;
mod memory;
pub mod metrics;
mod offer;
mod opening;
#[cfg(test)]
mod order;
mod outage;
mod plan_question;
mod planning;
mod progress;
mod prompt;
mod purse;
mod recall;
mod recorded;
mod reload;
mod remember;
mod remote;
mod replay;
mod report;
mod residence;
mod retry;
mod rooms;
mod root;
mod router;
mod scribe;
mod settings;
mod shadow;
#[cfg(test)]
mod sharing;
mod sources;
mod specialist;
mod summariser;
mod summary_call;
#[cfg(test)]
mod summing;
#[cfg(test)]
mod survival;
mod tasks;
pub mod template;
mod tokens;
mod tools;
mod trace;
mod verifiers;
mod verify;
mod views;
mod warden;
mod watch;
mod web;
mod worker;
mod workshop;

pub use approvals::{AWAITING_APPROVAL, Asked, Decided, Decision};
pub use changes::{Artifact, Artifacts, RevertConflict, Reverted, TaskChange};
pub use config::{Config, Dispatch, Limits, MemoryConfig, ToolsConfig};
pub use context::{
    ContextChange, ContextDiff, ContextItem, Preview, PreviewRequest, PromptPart, RenderedPrompt, Snapshot,
};
pub use crew::{NodeSummary, Post};
pub use crewline_engine::context::{Form, Provenance, Tier};
pub use crewline_engine::{
    plan::{Document, Problem},
    route::Mode,
    schedule::Strategy,
};
pub use crewline_models::{Reloaded, registry::Difference};
pub use crewline_store::{Choice, ContextChoice, IndexVersion, LaunchKey, Origin, Wish};
pub use diff::{Diff, RunSide, Side, TaskDiff, Texts, Verdict};
pub use error::Error;
pub use estimate::{Estimate, estimate};
pub use explain::{Explained, Question, explain, explain_task};
pub use find::Found;
pub use forecast::{PlanForecast, Play, Range, TaskForecast, forecast};
pub use graph::{Graph, GraphEdge, GraphNode};
pub use handle::{Handle, Overrides};
pub use hierarchy::{Draft, Made, version_of, with_derivatives};
pub use index::IndexText;
pub use keys::{Admission, KeyState, KeyView, MadeKey, NewKey};
pub use launch::{Launched, RunRequest};
pub use library::{Drained, Kept, Library, Noted, Recalled};
pub use remember::{MEMORY_CHARS_MAX, RECALL_MAX, Remembered};
pub use remote::{Remote, RemoteTool};
pub use replay::{Edit, Mismatch, ReplayRequest, Replayed};
pub use report::{AttemptReport, CallReport, HostReport, ModelReport, Report, RunSummary, ShadowReport, TaskReport};
pub use retry::Retried;
pub use settings::Approve;
pub use tasks::{Changed, ChangedTask, DEPTH_MAX, Next, Place, TaskCommand, TaskFields, TaskView, document_of, unmet};
pub use tools::run_tools;
pub use trace::{CitationReport, Parameters, Trace, TracedAttempt, TracedCall};
pub use verifiers::{LaterReport, VerifierReport, verifiers};
pub use views::DeadView;
pub use watch::Watch;
pub use web::WebFetch;
pub use workshop::check_rules;
