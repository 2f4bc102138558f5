//! The DNS proxy: who asks, may it, answer, grant, then reply.
mod cache;
mod check;
pub mod counters;
pub mod decisions;
pub mod grants;
mod limits;
mod granted;
mod fast_path;
pub mod upstream;
pub mod wire;
