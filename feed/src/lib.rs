//! The contract between resolver and enforcer: messages and service ([`proto`]), conversions to types without
//! protobuf in them ([`Identity`], [`addresses`]), and the hand-over of DNS sockets ([`sockets`]).
//!
//! The resolver serves, enforcers call; both sides of a node meet in one folder of unix sockets ([`folder`]), those of
//! different nodes over TCP, where each proves who it is ([`tls`]). Sockets cannot be handed over TCP.
//! The CNI plugin asks the enforcer by lines of JSON ([`cni`]).
//! What the rules in an `Endpoint` mean is not known here: they travel as bytes.
//!
//! Used by `nameward-resolver`, `nameward-enforcer`, `nameward-cni`, and `nameward` for what the plugin is called.

pub mod cni;
mod convert;
pub mod folder;
pub mod sockets;
pub mod tls;

pub use convert::{Identity, MalformedAddress, addresses, from_addresses, ip_from_bytes, ip_to_bytes};

/// The generated messages, client and server.
#[allow(missing_docs, clippy::all, clippy::allow_attributes_without_reason, reason = "generated")]
pub mod proto {
    tonic::include_proto!("nameward.feed.v1");
}

/// Version of the contract. A side that hears a version at most one away goes on, with what both know.
pub const VERSION: u32 = 4;

/// The first version whose resolvers forget single names.
pub const FORGET: u32 = 4;

/// How often each side says that it is there, in milliseconds.
pub const HEARTBEAT_MILLIS: u64 = 500;

/// Silence after which the other side counts as gone, in milliseconds.
pub const DEAD_AFTER_MILLIS: u64 = 2_000;

/// Whether two versions of the contract understand each other.
pub const fn compatible(ours: u32, theirs: u32) -> bool {
    theirs != 0 && ours.abs_diff(theirs) <= 1
}
