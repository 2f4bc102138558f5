//! Flows: what has been admitted and goes on, independent of the grant it began under.

use crate::{Address, Port};

/// Key of `FLOWS` and `FLEETING`: the 5-tuple as the endpoint sees it.
///
/// Cgroup endpoints have no stable 5-tuple (NAT): there `local` holds the socket cookie in its first eight bytes
/// (native order), `local_port` is zero, and for TCP `remote` and `remote_port` are zero, too.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The workload's address, or the socket cookie.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// The workload's port; the identifier of an ICMP echo.
    pub local_port: Port,
    /// The peer's port; zero for ICMP.
    pub remote_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

/// Value of `FLOWS` and `FLEETING`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Nanoseconds of CLOCK_BOOTTIME of the last packet in either direction.
    pub last_seen: u64,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions, layer 3.
    pub bytes: u64,
    /// Key into `ADMITTED` for what a name admitted, else 0.
    pub admitted_id: u32,
    /// Rule generation that last judged this flow.
    pub generation: u32,
    /// A [`FlowState`].
    pub state: u8,
    /// The [`crate::Reason`] it was admitted under: name, cidr, cluster, reply, adopted, not-isolated.
    pub admitted_by: u8,
    /// FINs seen: bit 0 sent, bit 1 received.
    pub fins: u8,
    /// Not zero: the workload acknowledges an answer, and none has passed us. Answers take another way.
    pub unseen: u8,
    /// Zero.
    pub _pad: [u8; 4],
}

/// Life of a flow. Idle times are SEMANTICS G4.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowState {
    /// Packets in one direction only: a SYN, a first datagram, an echo request. In `FLEETING`.
    Opening = 0,
    /// Answered. TCP and UDP are in `FLOWS`, ICMP stays in `FLEETING`.
    Established = 1,
    /// A FIN or RST was seen. In `FLEETING`.
    Closing = 2,
}

/// Idle times in nanoseconds, SEMANTICS G4.
pub mod idle {
    const SECOND: u64 = 1_000_000_000;
    /// TCP established.
    pub const TCP_ESTABLISHED: u64 = 24 * 3600 * SECOND;
    /// TCP closing, or not answered yet.
    pub const TCP_CLOSING: u64 = 60 * SECOND;
    /// UDP after a reply.
    pub const UDP_ANSWERED: u64 = 180 * SECOND;
    /// UDP without a reply.
    pub const UDP_OPENING: u64 = 30 * SECOND;
    /// ICMP echo.
    pub const ICMP: u64 = 30 * SECOND;
    /// A neighbour that was heard on the link.
    pub const NEIGHBOUR: u64 = 24 * 3600 * SECOND;
    /// Fragments of one datagram.
    pub const FRAGMENTS: u64 = 30 * SECOND;
}

/// Key of `FRAGMENTS`: one fragmented datagram (RFC 791 section 3.2, RFC 8200 section 4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, network order; IPv4 uses the last two bytes.
    pub identification: [u8; 4],
    /// IP protocol number of the first fragment's payload.
    pub protocol: u8,
    /// Zero.
    pub _pad: [u8; 3],
}

crate::plain_data!(FlowKey = 40, Flow = 40, FragmentKey = 40);
