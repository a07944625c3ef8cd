//! What a crew remembers and how it is found again: embeddings, exact hybrid search, Qdrant.
//!
//! [`Embedded`] holds one in-memory index per project (BM25 and vectors) and answers at once; [`Qdrant`] keeps the
//! vectors elsewhere; [`Hybrid`] puts a dense source and the local BM25 together, so both rank alike. [`Embedder`]
//! makes vectors on a thread of its own, and [`Reranker`] reads the best of an answer again, on another. The database holds the texts, from which every index can be rebuilt.
//!
//! **Invariant:** every question takes a [`ProjectScope`](crewline_types::ProjectScope); an answer never holds a
//! record of another project.
//! **Invariant:** the same records and the same query give the same ranking, whichever store holds the vectors.
//! **Invariant:** without an embedding model everything still works, on words alone.

mod address;
mod bm25;
mod chunk;
#[cfg(test)]
mod conformance;
mod dense;
mod diversity;
mod embedded;
mod embedder;
mod error;
mod fuse;
mod host;
mod hybrid;
mod junk;
mod metrics;
mod onnx;
mod opening;
mod planes;
mod postings;
mod project;
mod qdrant;
mod rank;
mod ranking;
mod recall;
mod reranker;
mod segment;
mod stem;
mod store;
mod tasks;
mod text;
mod top;
mod weights;

pub use chunk::{chunk, estimate_tokens};
pub use dense::Vectors;
pub use embedded::Embedded;
pub use embedder::{Embedder, Purpose};
pub use error::Error;
pub use hybrid::{Answer, Found, Hybrid, Reading};
pub use junk::{Courtesies, Rules};
pub use metrics::describe;
pub use opening::Opening;
pub use qdrant::{Qdrant, QdrantOptions};
pub use recall::{Hit, Why};
pub use reranker::Reranker;
pub use segment::Segment;
pub use store::{Filter, Point, Query, VectorStore};
pub use weights::Weights;
