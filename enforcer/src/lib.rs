//! The enforcer: endpoints, the kernel state behind them, and what became of their packets.
//!
//! [`kernel`] loads, attaches, pins and adopts programs; [`grants`] turns names and rules into map contents;
//! [`endpoints`] joins the two for one workload; [`enforcer`] is the handle that others hold; [`decisions`]
//! tells what happened; [`dns_link`] brings DNS of interface endpoints to the resolver; [`config`],
//! [`feed_client`] and [`wiring`] make the standalone process; [`policies`] and [`pods`] what it does on a node of a
//! Kubernetes cluster, [`certificates`] how it proves to resolvers elsewhere which node it is. It answers no DNS.
//!
//! Used by `nameward-enforcer` and, in one process with the resolver, by `nameward run`.

pub mod api;
pub mod audit;
pub mod certificates;
pub mod config;
mod connections;
mod coverage;
pub mod decisions;
pub mod dns_link;
pub mod endpoints;
mod enforcer;
pub mod feed_client;
mod gateway;
mod grant;
mod grants;
pub mod guardian;
pub mod heartbeat;
pub mod kernel;
pub mod loopback_dns;
mod netns;
pub mod options;
mod own_addresses;
pub mod pods;
pub mod policies;
pub mod status;
pub mod wiring;
mod workload;

pub use enforcer::{EndpointConfig, Enforcer, EnforcerError, EnforcerOptions};
pub use grant::{GrantRequest, Granted, Refused};
pub use workload::end_sockets;
