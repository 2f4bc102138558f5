//! The cluster's API: asks the enforcers of all nodes, and puts their answers together.
//!
//! ```text
//!   asked --> query --> ask: all nodes at once, with a deadline --> merge: one page, in order, with its nodes
//!                  \-> find: the one node that has the endpoint
//!                   \-> events: a stream of each node --> one stream; positions: where it is taken up again
//! ```
//!
//! Routes and types are those of the crate `nameward-api`; the program has its name. Nothing but tests depends on this.
//!
//! [`access`](Access) asks the cluster who may see what. [`nodes`] says which nodes there are, [`node`](Node) speaks to one. Nothing of what nodes say is kept, but who has which
//! endpoint. A node that does not answer is named in the answer, and holds nobody up.

mod access;
mod ask;
mod connect;
mod events;
mod find;
mod merge;
mod node;
pub mod nodes;
mod options;
mod positions;
mod query;
mod routes;
pub mod wiring;

pub use self::{
    access::Access,
    connect::connect,
    node::{Node, NodePlace},
    nodes::Nodes,
    options::Options,
    routes::{Cluster, router},
};
