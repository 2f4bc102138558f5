//! One workload's rules, names and kernel state, kept in step. Everything here happens under the endpoint's lock.
//!
//! Knows no resolver, no other endpoint, and asks no clock: time is an argument.

mod adopted;
mod by_name;
mod drift;
mod endpoint;
mod flush;
pub(crate) mod journal;
mod staged;
mod upkeep;
mod writing;

pub use adopted::AdoptedConnection;
pub(crate) use drift::Look;
pub(crate) use endpoint::chain_text;
pub use endpoint::{Endpoint, EndpointError};
pub use flush::FlushedName;
