//! What the tests and benchmarks of the other crates share: a scripted model server and a runner for the binary.
//!
//! Where is what: [`stub`] the server ([`StubServer`]), [`script`] what it answers, [`request`] what it was asked,
//! [`fit`] an answer for any JSON Schema, [`fault`] a server that misbehaves byte by byte ([`FaultServer`]),
//! [`wire`] how the servers of each provider type write, [`qdrant`] a vector store that can be ill ([`QdrantServer`]), [`tool_server`] a server of tools ([`ToolServer`]),
//! [`cross_encoder`] a reranking model as small as one can be,
//! [`app`] the binary in a directory of its own ([`TestApp`]), [`client`] requests to a server it runs.
//!
//! **Invariant:** a development dependency only: no crate that is shipped uses it.
//! **Invariant:** the same requests get the same answers, byte for byte.

pub mod app;
pub mod client;
pub mod cross_encoder;
pub mod fault;
pub mod fit;
mod http;
pub mod qdrant;
pub mod request;
pub mod script;
pub mod stub;
pub mod tool_server;
pub mod wire;

pub use app::{Finished, Running, TestApp};
pub use fault::FaultServer;
pub use qdrant::{Illness, QdrantServer};
pub use request::{StubMessage, StubRequest};
pub use script::{Gate, Script, StubReply};
pub use stub::StubServer;
pub use tool_server::{ToolServer, serve_tools_on_stdio};
