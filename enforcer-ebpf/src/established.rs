//! The short way of what nearly all packets are: the next one of a flow that was answered, under the rules that judged
//! it last.
//!
//! It says what `decide` and `flows` would say, or nothing: whatever is unusual about a packet, its flow or its endpoint
//! is left to the long way, which reads the packet again. So each condition here is one that the long way would find
//! to be so as well, and what this way lets pass it would let pass, for the same reason.
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "flows are looked for from where the key is: a copy would take the stack that is not there"
)]

use nameward_abi::{Config, Direction, Flow, FlowKey, FlowState, Mode, Reason, TRUSTED_SERVERS, flags};

use crate::{
    endpoint::{Endpoint, is_own},
    events,
    flows::{self, is_live, lapses},
    maps::FLOWS,
    packet::{ETHERNET, FIN, RST, SYN, TCP, UDP, is_mapped, mapped_of},
    skb::{Skb, linear},
};

/// Octets of headers.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
const DNS: u16 = 53u16.to_be();
/// Where clients of DHCP listen: theirs is housekeeping.
const DHCP_CLIENTS: [u16; 2] = [68u16.to_be(), 546u16.to_be()];

/// What the short way reads of a packet.
struct Seen {
    source: [u8; 16],
    destination: [u8; 16],
    /// Source and destination, as in the packet.
    ports: [u16; 2],
    protocol: u8,
    /// Octets from the IP header on.
    length: u32,
}

/// Judges a packet of an interface and counts it, if it is of the usual kind. `false` = nothing was done.
#[inline(always)]
pub fn passes(skb: Skb, endpoint: &Endpoint, direction: Direction) -> bool {
    nameward_established(skb, endpoint, direction as u32) != 0
}

/// See [`passes`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_established(skb: Skb, endpoint: *const Endpoint, direction: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let Some(endpoint) = (unsafe { endpoint.as_ref() }) else { return 0 };
    u64::from(follow(skb, endpoint, direction == Direction::Egress as u32).is_some())
}

#[inline(always)]
fn follow(skb: Skb, endpoint: &Endpoint, egress: bool) -> Option<()> {
    if endpoint.switch.has(flags::LAYER3) || matches!(endpoint.switch.mode(), Mode::NoPolicyYet) {
        return None;
    }
    // SAFETY: fields of the context. A tag is not among the packet's bytes: what is read is what it hides.
    let (length, tagged) = unsafe { ((*skb).len, (*skb).vlan_present) };
    if tagged != 0 {
        return None;
    }
    let frame = linear(skb, ETHERNET as usize)?;
    let available = length - ETHERNET;
    let seen = match u16::from_be(frame.read(12)) {
        0x0800 => read4(skb, available)?,
        0x86dd => read6(skb, available)?,
        _ => return None,
    };
    if egress && !may_leave(endpoint.config()?, frame.read(0), &seen) {
        return None;
    }
    let [local, remote] = if egress { seen.ports } else { [seen.ports[1], seen.ports[0]] };
    if seen.protocol == UDP && DHCP_CLIENTS.contains(&local) {
        return None;
    }
    let mut key = FlowKey::default();
    (key.local, key.remote) =
        if egress { (seen.source, seen.destination) } else { (seen.destination, seen.source) };
    flows::set_tail(&mut key, local.to_ne_bytes(), remote.to_ne_bytes(), seen.protocol);
    // SAFETY: a live value; see `flows` for races.
    let flow = unsafe { &mut *FLOWS.get_ptr_mut(&key)? };
    let reason = reason_of(endpoint, flow, seen.protocol, egress)?;
    flow.last_seen = endpoint.now;
    flow.packets += 1;
    flow.bytes += u64::from(seen.length);
    if !egress {
        flow.unseen = 0;
    }
    events::count(reason, seen.length);
    Some(())
}

/// Why a packet of a flow passes, where nothing has to be looked up or written for it but the flow itself.
#[inline(always)]
fn reason_of(endpoint: &Endpoint, flow: &Flow, protocol: u8, egress: bool) -> Option<u32> {
    let admitted_by = Reason::from_number(flow.admitted_by).filter(|reason| reason.allows())?;
    let usual = flow.state == FlowState::Established as u8
        && flow.generation == endpoint.switch.generation()
        && is_live(endpoint.now, protocol, flow)
        && !(egress && lapses(endpoint.now, flow));
    if !usual {
        return None;
    }
    let kept = egress && matches!(admitted_by, Reason::Reply | Reason::Adopted);
    Some(if kept { u32::from(flow.admitted_by) } else { Reason::Flow as u32 })
}

/// Whether a packet from the workload has an own source, is not for a DNS server, and goes by the gateway, if one is known.
#[inline(always)]
fn may_leave(config: &Config, to: [u16; 3], seen: &Seen) -> bool {
    let gateway = config.gateway_mac;
    // SAFETY: as many octets, and any octets are a MAC.
    let to = unsafe { core::mem::transmute::<[u16; 3], [u8; 6]>(to) };
    if gateway != [0; 6] && gateway != to {
        return false;
    }
    let port = seen.ports[1];
    if port == DNS {
        return false;
    }
    let mut index = 0;
    while index < TRUSTED_SERVERS {
        if u16::from_ne_bytes(config.dns.trusted[index].port) == port {
            return false;
        }
        index += 1;
    }
    is_own(config, &seen.source)
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4 {
    version_length: u8,
    _service: u8,
    total_length: u16,
    _identification: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    source: u32,
    destination: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6 {
    version: u8,
    _class_flow: [u8; 3],
    payload_length: u16,
    next_header: u8,
    _hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
}

#[inline(always)]
fn read4(skb: Skb, available: u32) -> Option<Seen> {
    const START: usize = ETHERNET as usize;
    let header: Ipv4 = linear(skb, START + IPV4)?.read(START);
    let length = u32::from(u16::from_be(header.total_length));
    if header.version_length != 0x45 || header.fragment & 0x3fffu16.to_be() != 0 || length > available {
        return None;
    }
    let (source, destination) = (mapped_of(header.source), mapped_of(header.destination));
    let ports = ports(skb, START + IPV4, header.protocol, length.saturating_sub(IPV4 as u32))?;
    Some(Seen { source, destination, ports, protocol: header.protocol, length })
}

#[inline(always)]
fn read6(skb: Skb, available: u32) -> Option<Seen> {
    const START: usize = ETHERNET as usize;
    let header: Ipv6 = linear(skb, START + IPV6)?.read(START);
    let payload = u32::from(u16::from_be(header.payload_length));
    let length = payload + IPV6 as u32;
    // SAFETY: two u64 are sixteen octets.
    let source = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(header.source) };
    // SAFETY: as above.
    let destination = unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(header.destination) };
    if header.version >> 4 != 6 || length > available || is_mapped(&source) || is_mapped(&destination) {
        return None;
    }
    let ports = ports(skb, START + IPV6, header.next_header, payload)?;
    Some(Seen { source, destination, ports, protocol: header.next_header, length })
}

/// The ports of a packet that neither begins nor ends anything, and whose lengths are as they should be.
#[inline(always)]
fn ports(skb: Skb, at: usize, protocol: u8, payload: u32) -> Option<[u16; 2]> {
    match protocol {
        TCP => {
            let frame = linear(skb, at + TCP_HEADER)?;
            let [offset, flags]: [u8; 2] = frame.read(at + 12);
            let length = u32::from(offset >> 4) * 4;
            let whole = length >= TCP_HEADER as u32 && length <= payload;
            (whole && flags & (SYN | FIN | RST) == 0).then(|| frame.read(at))
        }
        UDP => {
            let frame = linear(skb, at + UDP_HEADER)?;
            let length = u32::from(u16::from_be(frame.read(at + 4)));
            (length >= UDP_HEADER as u32 && length <= payload).then(|| frame.read(at))
        }
        _ => None,
    }
}
