//! The seam for providers: one normalised request in, one reply or typed error out.
//!
//! A new provider is one file in `providers/`, one value of `type` in the registry, and one line in `client.rs`; the conformance
//! suite in `tests/conformance.rs` runs on it.
//!
//! **Invariant:** dropping the future of a call ends the call.

use futures::future::BoxFuture;

use crate::{ChatReply, ChatRequest, Error, ModelConfig};

/// Something that answers chat requests.
pub trait ModelProvider: Send + Sync {
    /// Asks `model`. The limits on time are those of `model`.
    fn chat<'a>(&'a self, model: &'a ModelConfig, request: &'a ChatRequest) -> BoxFuture<'a, Result<ChatReply, Error>>;

    /// The models it offers; a cheap way to see whether it is there and takes the key.
    fn list(&self) -> BoxFuture<'_, Result<Vec<ListedModel>, Error>>;

    /// Ends what it has started.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

/// A model a provider offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedModel {
    /// Its identifier.
    pub id: String,
    /// Its context window, when the provider says.
    pub context_window: Option<u32>,
}
