//! The DNS proxy: who asks, may it, answer, grant, then reply.
mod cache;
mod check;
pub mod counters;
pub mod decisions;
pub mod endpoints;
pub mod feed_server;
pub mod grants;
mod limits;
mod granted;
mod fast_path;
pub mod options;
pub mod upstream;
pub mod wire;
