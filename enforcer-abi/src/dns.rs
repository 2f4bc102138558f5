//! The DNS redirect: which server a workload meant, and where answers go.

use crate::{Address, Port};

/// Servers that have a resolver port of their own.
pub const TRUSTED_SERVERS: usize = 8;
/// Servers remembered for one socket or source port.
pub const SERVERS_PER_FLOW: usize = 4;

/// Where queries of an endpoint go: two addresses, and a port for each server the workload may mean.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsRedirect {
    /// The resolver's address for IPv4 queries, v4-mapped. For cgroups `127.0.0.1`.
    pub resolver4: Address,
    /// The resolver's address for IPv6 queries. For cgroups `::1`.
    pub resolver6: Address,
    /// The endpoint's IPv4 identity address (source of redirected queries). Interfaces only.
    pub identity4: Address,
    /// The endpoint's IPv6 identity address. Interfaces only.
    pub identity6: Address,
    /// Servers with a port of their own; unused ones are all zero.
    pub trusted: [TrustedServer; TRUSTED_SERVERS],
    /// Our end of the DNS link, `nameward0`. Interfaces only; 0 = queries are denied.
    pub link_ifindex: u32,
    /// Port for every other server.
    pub default_port: Port,
    /// MAC of `nameward0`.
    pub link_mac: [u8; 6],
    /// MAC of its far end in our own namespace.
    pub far_mac: [u8; 6],
    /// Zero.
    pub _pad: [u8; 6],
}

/// A DNS server that the workload may name, and the resolver's port that stands for it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrustedServer {
    /// The server's address; all zero = unused.
    pub address: Address,
    /// Its port, usually 53.
    pub port: Port,
    /// The resolver's port that stands for it.
    pub resolver_port: Port,
    /// Zero.
    pub _pad: [u8; 4],
}

/// Key of `DNS_FLOWS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DnsFlowKey {
    /// Interfaces: the workload's source port in the first two bytes, network order. Cgroups: the socket cookie,
    /// native order.
    pub socket: [u8; 8],
    /// 17 or 6.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub _pad: [u8; 6],
}

/// Value of `DNS_FLOWS`: the last servers that one socket asked, newest at `next - 1`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsFlow {
    /// A ring.
    pub servers: [AskedServer; SERVERS_PER_FLOW],
    /// Nanoseconds of CLOCK_BOOTTIME of the last query.
    pub last_seen: u64,
    /// Position of the next write. Cgroups: the upper half is the position of the server asked last.
    pub next: u32,
    /// TCP: not zero while the connection lives. Cgroups, UDP: answers that wait to be read, by position of their
    /// servers, two bits each, above their number in the lowest four.
    pub live: u32,
}

/// A server as the workload addressed it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedServer {
    /// The server's address.
    pub server: Address,
    /// The workload's own address in that query. Cgroups: the last eight message IDs sent to this server.
    pub client: Address,
    /// The server's port.
    pub server_port: Port,
    /// The resolver's port that stood for it.
    pub resolver_port: Port,
    /// DNS message ID of the query (UDP). Cgroups: the number of queries in the first byte.
    pub id: [u8; 2],
    /// Destination MAC of the query: the answer's source. Interfaces only.
    pub server_mac: [u8; 6],
    /// Source MAC of the query: the answer's destination. Interfaces only.
    pub client_mac: [u8; 6],
    /// Zero.
    pub _pad: [u8; 6],
}

/// Value of `IDENTITIES`: the endpoint behind an identity address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Interface its answers are sent to.
    pub ifindex: u32,
    /// Not zero: the program sits on the workload's side of the pair, answers are received there instead.
    pub receive: u32,
}

crate::plain_data!(
    DnsRedirect = 280,
    TrustedServer = 24,
    DnsFlowKey = 16,
    DnsFlow = 240,
    AskedServer = 56,
    Identity = 8
);
