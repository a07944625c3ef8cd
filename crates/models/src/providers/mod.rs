//! The providers: one file each, and what they share.

mod body;
mod http;
pub mod openai_compatible;
mod reply;
mod sse;

pub(crate) use http::client as http_client;
pub(crate) use openai_compatible::parse_list;
