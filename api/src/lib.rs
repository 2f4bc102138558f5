//! What can be seen of an enforcer: REST with its OpenAPI description, the stream of decisions, and a client for both.
//!
//! [`types`] are what is said; [`Source`] is who knows it, and the enforcer implements it; [`router`] are the routes;
//! [`serve`] opens sockets and bounds what strangers can cost; [`client`] asks. It decides nothing and keeps nothing.
//!
//! The enforcer, the user's command and `nameward-api-server` depend on it; it depends on `policy` and `tls` alone.

pub mod client;
pub mod explained;
pub mod filter;
pub mod openapi;
pub mod page;
mod problem;
mod routes;
pub mod serve;
mod source;
mod stream;
pub mod suggest;
pub mod table;
pub mod types;

pub use problem::Problem;
pub use routes::{Site, router};
pub use source::{Changes, Flush, Followed, Source, SourceError};
pub use stream::{GATHER, KEEP_ALIVE, LastSeen, event_stream};

/// What the routes of a cluster share with those of a node.
pub mod shared {
    pub use crate::routes::{
        answer::Wanted,
        decisions::{DecisionsQuery, accepts_events},
        finish,
        health::{alive, readiness},
    };
}
