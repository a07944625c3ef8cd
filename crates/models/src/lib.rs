//! Models: the registry file, the providers that answer, and the local servers that crewline starts itself.
//!
//! Where is what: [`registry`] reads the file, [`request`], [`tools`] and [`schema`] are the one normalised request, `provider` is the
//! trait with its implementations in [`providers`], [`client::Models`] the door, [`runtimes`] what local servers have loaded, [`tokens`] counts as a model's tokenizer does, [`managed`] the local servers, [`mcp`] the servers of tools, [`detect`] what `crewline init`
//! finds, [`setup`] what `crewline setup` fetches.
//!
//! **Invariant:** a key goes to its provider's origin only, and never into an error, a log or a `Debug` text.
//! **Invariant:** every wait has a limit: connect, first token, idle, total, start of a server, place in a queue.
//! **Invariant:** offline, no byte leaves for a host that is not this machine or a private network.

pub mod client;
pub mod detect;
pub mod egress;
pub mod error;
mod gate;
pub mod guard;
pub mod import;
pub mod managed;
pub mod mcp;
mod metrics;
mod provider;
pub mod providers;
mod rate;
pub mod registry;
mod reload;
pub mod request;
pub mod requests;
pub mod runtimes;
pub mod schema;
pub mod setup;
pub mod tokens;
pub mod tools;
mod traffic;
pub mod web;

pub use client::{Models, Options};
pub use egress::Mode;
pub use error::{Error, ManagedFailure, Phase};
pub use gate::{QUEUE_LIMIT, QUEUE_MAX};
pub use guard::managed_guard_main;
pub use provider::ListedModel;
pub(crate) use provider::ModelProvider;
pub use rate::RateLimits;
pub use registry::{
    CommandNetwork, CommandUnconfined, Invalid, McpReach, McpServerConfig, ModelConfig, OnJudgeError, Policies,
    Problem, ProviderConfig, Registry, RoleCommands, RoleTools, SHIPPED_ROLES, Shadow, StepLimits, ToolEntry, ToolRule,
    ToolTest, ToolVerdict,
};
pub use reload::{Env, Reloaded, Reloader};
pub use request::{ChatMessage, ChatReply, ChatRequest, EmbedReply, Finish, Listener, Piece, Speaker};
pub use schema::OutputSchema;
pub use tools::{Tool, ToolCall, ToolChoice, ToolSet};
pub use traffic::Tally;
