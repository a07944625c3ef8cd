//! What a specialist may do: which calls its model asked for, which of them are allowed, and when it must stop.
//!
//! **Invariant:** what a call may do is decided from the role's rules alone; nothing a model, a tool or a memory says
//! changes them.
//! **Invariant:** a call that comes out as allowed names a tool that was offered, has arguments that passed its check, and is
//! allowed by a rule or by being on the short list of tools that only look.

pub mod action;
mod pin;
mod policy;
mod step;

pub use pin::{Standing, standing};
pub use policy::{Because, Condition, Decision, Entry, Policy, Rule, Test, Verdict, is_harmless};
pub use step::{
    ASK_PERSON, Call, Fate, GIVE_UP, HAND_OFF, History, Limit, Limits, Look, Offered, Planned, Protocol, Rules, Said,
    Spent, Step, StopCode, canonical, decide, digest,
};
