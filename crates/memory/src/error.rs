//! How memory can fail.
//!
//! **Invariant:** a variant carries data; sentences and next steps are made here and nowhere else.

use std::{path::PathBuf, time::Duration};

use crewline_types::{ErrorKind, MemoryId};

/// A failure of memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vector store does not answer.
    #[error("`{url}` does not answer: {reason}")]
    Unavailable {
        /// The server.
        url: String,
        /// What its client said.
        reason: String,
    },
    /// The vector store has no collection for the embedding model.
    #[error("`{url}` has no collection `{collection}`")]
    NoCollection {
        /// The server.
        url: String,
        /// What is missing.
        collection: String,
    },
    /// The vector store was too slow.
    #[error("`{url}` did not answer `{operation}` within {limit:?}")]
    Timeout {
        /// The server.
        url: String,
        /// What was asked.
        operation: &'static str,
        /// How long we waited.
        limit: Duration,
    },
    /// The vector store refused our key.
    #[error("`{url}` refused the key: {reason}")]
    Refused {
        /// The server.
        url: String,
        /// What it said.
        reason: String,
    },
    /// The vector store refused the request.
    #[error("`{url}` rejected `{operation}`: {reason}")]
    Rejected {
        /// The server.
        url: String,
        /// What was asked.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// The address of the vector store is not one.
    #[error("`{url}` is not an address of a vector store: {reason}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A collection was made for another model.
    #[error("`{collection}` has {found}, the embedding model needs {wanted}")]
    Mismatch {
        /// The collection, or the project of the embedded store.
        collection: String,
        /// What it was made with, as `512 dimensions`.
        found: String,
        /// What we need.
        wanted: String,
    },
    /// A record was offered to the index of another project.
    #[error("memory `{id}` belongs to project `{found}`, not to `{wanted}`")]
    Foreign {
        /// The record.
        id: MemoryId,
        /// Its project.
        found: String,
        /// The project of the call.
        wanted: String,
    },
    /// A vector holds something that is not a number, or nothing but zeros.
    #[error("the vector of memory `{id}` has no direction")]
    Vector {
        /// The record.
        id: MemoryId,
    },
    /// A file of weights is not one.
    #[error("the weights of memory can not be used: {reason}")]
    Weights {
        /// What is wrong with it.
        reason: String,
    },
    /// A file of rules is not one.
    #[error("the rules of memory can not be used: {reason}")]
    Rules {
        /// What is wrong with it.
        reason: String,
    },
    /// ONNX Runtime can not be loaded.
    #[error("`{}` can not be loaded: {reason}", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// The embedding model can not be loaded.
    #[error("the embedding model in `{}` can not be loaded: {reason}", path.display())]
    Model {
        /// The model's folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The embedding model failed on a text.
    #[error("the embedding model failed: {reason}")]
    Embedding {
        /// What it said.
        reason: String,
    },
    /// The folder of a reranker holds none, or one that can not be loaded.
    #[error("the reranker in `{}` can not be used: {reason}", path.display())]
    Reranker {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The reranker failed on a text.
    #[error("the reranker failed: {reason}")]
    Reranking {
        /// What it said.
        reason: String,
    },
    /// The reranker has not read all in time.
    #[error("the reranker has read {read} of {wanted} memories within {limit:?}")]
    Late {
        /// Memories it has read.
        read: usize,
        /// Memories it was to read.
        wanted: usize,
        /// How long we waited.
        limit: Duration,
    },
    /// The queue of the embedder, or of the reranker, is full.
    #[error("{waiting} requests wait for a model of memory already")]
    Busy {
        /// Texts in the queue of the embedder, questions in that of the reranker.
        waiting: usize,
    },
    /// The embedder or the reranker ended before it answered.
    #[error("a model of memory has stopped")]
    Stopped,
    /// Somebody else opens the project, and takes long.
    #[error("the memory of `{project}` is being opened for more than {limit:?}")]
    Opening {
        /// The project.
        project: String,
        /// How long we waited.
        limit: Duration,
    },
    /// A file can not be read.
    #[error("`{}` can not be read", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. }
            | Self::NoCollection { .. }
            | Self::Library { .. }
            | Self::Model { .. }
            | Self::Stopped => ErrorKind::Unavailable,
            Self::Timeout { .. } | Self::Late { .. } | Self::Opening { .. } => ErrorKind::Timeout,
            Self::Refused { .. } => ErrorKind::Auth,
            Self::Address { .. }
            | Self::Mismatch { .. }
            | Self::Foreign { .. }
            | Self::Vector { .. }
            | Self::Weights { .. }
            | Self::Rules { .. }
            | Self::Reranker { .. } => ErrorKind::Invalid,
            Self::Rejected { .. } | Self::Embedding { .. } | Self::Reranking { .. } | Self::Io { .. } => {
                ErrorKind::Internal
            }
            Self::Busy { .. } => ErrorKind::Busy,
        }
    }

    /// The stable code; `docs/errors.md` has a section for each.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "memory.unavailable",
            Self::NoCollection { .. } => "memory.no_collection",
            Self::Timeout { .. } => "memory.timeout",
            Self::Refused { .. } => "memory.refused",
            Self::Rejected { .. } => "memory.rejected",
            Self::Address { .. } => "memory.address",
            Self::Mismatch { .. } => "memory.mismatch",
            Self::Foreign { .. } => "memory.foreign_project",
            Self::Vector { .. } => "memory.vector",
            Self::Weights { .. } => "memory.weights",
            Self::Rules { .. } => "memory.rules",
            Self::Library { .. } => "memory.runtime_library",
            Self::Model { .. } => "memory.model_files",
            Self::Embedding { .. } => "memory.embedding",
            Self::Reranker { .. } => "memory.reranker",
            Self::Reranking { .. } => "memory.reranking",
            Self::Late { .. } => "memory.rerank_late",
            Self::Busy { .. } => "memory.busy",
            Self::Stopped => "memory.stopped",
            Self::Opening { .. } => "memory.opening",
            Self::Io { .. } => "memory.io",
        }
    }

    /// Whether the same call may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::NoCollection { .. }
            | Self::Timeout { .. }
            | Self::Late { .. }
            | Self::Busy { .. }
            | Self::Opening { .. }
            | Self::Stopped => true,
            Self::Refused { .. }
            | Self::Rejected { .. }
            | Self::Address { .. }
            | Self::Mismatch { .. }
            | Self::Foreign { .. }
            | Self::Vector { .. }
            | Self::Weights { .. }
            | Self::Rules { .. }
            | Self::Library { .. }
            | Self::Model { .. }
            | Self::Embedding { .. }
            | Self::Reranker { .. }
            | Self::Reranking { .. }
            | Self::Io { .. } => false,
        }
    }

    /// The next step, for people.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } => {
                Some("start Qdrant and check its gRPC address (port 6334); until then the crew recalls by words alone")
            }
            Self::NoCollection { .. } => {
                Some("a run, `crewline serve` or `crewline memory reindex` makes it and fills it from the database")
            }
            Self::Refused { .. } => Some("set the key of the Qdrant server in the configuration"),
            Self::Address { .. } => Some("use the form `http://host:6334`"),
            Self::Mismatch { .. } => Some(
                "delete that collection and run `crewline memory migrate`, which fills a new one from the database; or configure the embedding model it was made with",
            ),
            Self::Weights { .. } => Some("correct the file, or delete it to use the shipped weights"),
            Self::Rules { .. } => Some("correct the file, or delete it to use the shipped rules"),
            Self::Reranker { .. } => Some(
                "put `model.onnx` and `tokenizer.json` of a cross-encoder into that folder; `--reranker none` goes on without",
            ),
            Self::Late { .. } => Some("use a smaller reranker, or let it read fewer with `CREWLINE_RERANKER__READ`"),
            Self::Library { .. } | Self::Model { .. } => {
                Some("run `crewline setup --local` to fetch the embedding model and its runtime again")
            }
            Self::Rejected { .. }
            | Self::Foreign { .. }
            | Self::Vector { .. }
            | Self::Embedding { .. }
            | Self::Reranking { .. }
            | Self::Busy { .. }
            | Self::Opening { .. }
            | Self::Stopped
            | Self::Io { .. } => None,
        }
    }
}
