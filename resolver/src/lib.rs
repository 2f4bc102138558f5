//! The DNS proxy: who asks, may it, answer, grant, then reply.
//!
//! [`server`] is a question's whole way; [`endpoints`] says who may ask and remembers for them, [`grants`] is the
//! question to the enforcer, [`upstream`] asks other servers, [`wire`] reads and writes messages. [`feed_server`]
//! connects a standalone resolver with its enforcers. There is no privilege and no policy of its own here: rules come
//! from `nameward-policy`.
//!
//! Used by `nameward-resolver` and, in one process with the enforcer, by `nameward run`.

mod answer;
mod cache;
mod check;
pub mod counters;
mod datagrams;
mod decide;
pub mod decisions;
pub mod endpoints;
mod fast_path;
pub mod feed_server;
mod granted;
pub mod grants;
mod limits;
pub mod options;
pub mod probe;
pub mod refused;
pub mod server;
pub mod upstream;
pub mod wire;
pub mod wiring;

pub use server::{Server, ServerConfig, Serving};
