//! The layout that kernel programs and user space share: map keys and values, the configuration of an
//! endpoint, events, and the names of programs and maps.
//!
//! Addresses and ports are byte arrays in network order, IPv4 as v4-mapped IPv6, so that byte order cannot be
//! mixed up. Padding is explicit and always zero, because hash keys are compared byte by byte; alignment is, too,
//! because the kernel programs copy words and not octets. There is no
//! logic here beyond constructors. A change of layout changes [`LAYOUT`], the name of the folder of pins: a new
//! layout lives beside the old one and never reinterprets it.
//!
//! Used by `enforcer-ebpf` and `enforcer` only.
#![cfg_attr(not(test), no_std)]

mod config;
mod dns;
mod event;
mod flow;
mod grant;
mod reason;

pub use config::*;
pub use dns::*;
pub use event::*;
pub use flow::*;
pub use grant::*;
pub use reason::*;

/// Folder under `<bpffs>/nameward/`; see the head of this crate.
pub const LAYOUT: &str = "v1";

/// An IPv6 address in network order, or an IPv4 address as `::ffff:a.b.c.d`.
pub type Address = [u8; 16];
/// A port in network order.
pub type Port = [u8; 2];

/// The v4-mapped form of an IPv4 address.
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Names of the kernel programs, as `aya` finds them in the object.
pub mod programs {
    /// Packets that leave the workload: at the host side of its interface, direction ingress.
    pub const POD_EGRESS: &str = "pod_egress";
    /// Packets that reach the workload: at the host side of its interface, direction egress.
    pub const POD_INGRESS: &str = "pod_ingress";
    /// Packets that reach the workload, at its own side of the pair, direction ingress: where a CNI delivers past the
    /// host's side (`bpf_redirect_peer`).
    pub const POD_ARRIVAL: &str = "pod_arrival";
    /// Passes everything on: holds the links of an interface until the programs that judge have been verified.
    pub const PLACEHOLDER: &str = "placeholder";
    /// Answers of the resolver coming out of `nameward0` (direction ingress): sent to the endpoint's interface.
    pub const DNS_RETURN: &str = "dns_return";
    /// Packets sent by sockets of a cgroup.
    pub const CGROUP_EGRESS: &str = "cgroup_egress";
    /// Packets received by sockets of a cgroup.
    pub const CGROUP_INGRESS: &str = "cgroup_ingress";
    /// Sockets of a cgroup that have got a port.
    pub const POST_BIND4: &str = "post_bind4";
    /// See [`POST_BIND4`].
    pub const POST_BIND6: &str = "post_bind6";
    /// Sockets of a cgroup that ask for an address and port.
    pub const BIND4: &str = "bind4";
    /// See [`BIND4`].
    pub const BIND6: &str = "bind6";
    /// Socket address hooks of a cgroup.
    pub const CONNECT4: &str = "connect4";
    /// See [`CONNECT4`].
    pub const CONNECT6: &str = "connect6";
    /// See [`CONNECT4`].
    pub const SENDMSG4: &str = "sendmsg4";
    /// See [`CONNECT4`].
    pub const SENDMSG6: &str = "sendmsg6";
    /// See [`CONNECT4`].
    pub const RECVMSG4: &str = "recvmsg4";
    /// See [`CONNECT4`].
    pub const RECVMSG6: &str = "recvmsg6";
    /// See [`CONNECT4`].
    pub const GETPEERNAME4: &str = "getpeername4";
    /// See [`CONNECT4`].
    pub const GETPEERNAME6: &str = "getpeername6";
    /// See [`CONNECT4`].
    pub const GETSOCKNAME4: &str = "getsockname4";
    /// See [`CONNECT4`].
    pub const GETSOCKNAME6: &str = "getsockname6";
}

/// Names of the maps. Those of an endpoint are pinned in its folder, the shared ones in the layout's folder.
pub mod maps {
    /// hash, no prealloc: [`Address`](super::Address) -> [`Allow`](super::Allow)
    pub const ALLOW: &str = "ALLOW";
    /// hash, no prealloc: u32 -> [`Admitted`](super::Admitted)
    pub const ADMITTED: &str = "ADMITTED";
    /// LPM trie: [`Address`](super::Address) -> [`CidrRule`](super::CidrRule)
    pub const CIDRS: &str = "CIDRS";
    /// LPM trie: [`PortKey`](super::PortKey) -> [`PortRule`](super::PortRule)
    pub const PORTS: &str = "PORTS";
    /// hash, no prealloc: [`FlowKey`](super::FlowKey) -> [`Flow`](super::Flow)
    pub const FLOWS: &str = "FLOWS";
    /// LRU hash: [`FlowKey`](super::FlowKey) -> [`Flow`](super::Flow)
    pub const FLEETING: &str = "FLEETING";
    /// LRU hash: [`FragmentKey`](super::FragmentKey) -> u64, when the first fragment passed (boot ns)
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// LRU hash: [`Address`](super::Address) -> u64, when a global address was last heard on the link (boot ns)
    pub const NEIGHBOURS: &str = "NEIGHBOURS";
    /// LRU hash: [`DnsFlowKey`](super::DnsFlowKey) -> [`DnsFlow`](super::DnsFlow)
    pub const DNS_FLOWS: &str = "DNS_FLOWS";
    /// socket storage: u32, present at sockets of the endpoint's cgroup that have a port
    pub const OWN_SOCKETS: &str = "OWN_SOCKETS";
    /// array of one: [`Config`](super::Config)
    pub const CONFIG: &str = "CONFIG";
    /// per-CPU array by [`Reason`](super::Reason) as u8: [`Counter`](super::Counter)
    pub const STATS: &str = "STATS";
    /// LRU hash: [`FoldKey`](super::FoldKey) -> [`Fold`](super::Fold)
    pub const FOLDS: &str = "FOLDS";
    /// array of one: [`EventBudget`](super::EventBudget), the token bucket in front of `EVENTS`
    pub const EVENT_BUDGET: &str = "EVENT_BUDGET";
    /// shared ring buffer of [`Event`](super::Event)
    pub const EVENTS: &str = "EVENTS";
    /// shared array of one u64: boot ns of the last heartbeat
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// shared array of one u64: nanoseconds by which CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC
    pub const SUSPENDED: &str = "SUSPENDED";
    /// shared hash: identity [`Address`](super::Address) -> [`Identity`](super::Identity)
    pub const IDENTITIES: &str = "IDENTITIES";

    /// Maps that all endpoints share; pinned one level above the endpoints' folders.
    pub const SHARED: [&str; 4] = [EVENTS, HEARTBEAT, SUSPENDED, IDENTITIES];
}

/// Declares a type as plain data for aya's typed maps: no padding that is not a field, any bytes are valid.
macro_rules! plain_data {
    ($($name:ident = $size:literal),* $(,)?) => {
        $(
            #[cfg(feature = "user")]
            #[allow(unsafe_code, reason = "aya's marker for plain data; sizes and padding are checked below")]
            // SAFETY: repr(C), only integers and arrays of integers, padding explicit, size asserted.
            unsafe impl aya::Pod for $name {}
            const _: () = assert!(core::mem::size_of::<$name>() == $size);
        )*
    };
}
pub(crate) use plain_data;
