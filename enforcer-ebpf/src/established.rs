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

use nameward_abi::{Address, Config, Direction, Flow, FlowKey, FlowState, Mode, Reason, flags};

use crate::{
    decide,
    endpoint::{Endpoint, is_own},
    events, flows,
    maps::FLOWS,
    packet::{ETHERNET, FIN, Ipv4, Ipv6, RST, SYN, TCP, UDP, is_mapped, mapped_of},
    skb::{Linear, Skb, linear},
};

/// Octets of headers.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Where clients of DHCP listen: theirs is housekeeping.
const DHCP_CLIENTS: [u16; 2] = [68u16.to_be(), 546u16.to_be()];

/// What the short way reads of a packet.
struct Seen {
    source: Address,
    destination: Address,
    /// Source and destination, in network order.
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
    if egress && !may_leave(endpoint.config()?, frame, &seen) {
        return None;
    }
    let [source, destination] = seen.ports;
    let (local, remote) = if egress { (source, destination) } else { (destination, source) };
    if seen.protocol == UDP && DHCP_CLIENTS.contains(&local) {
        return None;
    }
    let mut key = FlowKey::default();
    (key.local, key.remote) =
        if egress { (seen.source, seen.destination) } else { (seen.destination, seen.source) };
    flows::set_tail(&mut key, local.to_ne_bytes(), remote.to_ne_bytes(), seen.protocol);
    // SAFETY: a live value; see `flows` for races.
    let flow = unsafe { &mut *FLOWS.get_ptr_mut(&key)? };
    if !is_usual(endpoint, flow, seen.protocol) || egress && flows::lapses(endpoint.now, flow) {
        return None;
    }
    flows::count(endpoint.now, flow, seen.length);
    if !egress {
        flow.unseen = 0;
    }
    let reason = if egress { decide::told_as(flow.admitted_by) } else { Reason::Flow };
    events::count(reason as u32, seen.length);
    Some(())
}

/// Whether nothing has to be judged anew for a packet of this flow, nor the flow kept elsewhere.
#[inline(always)]
fn is_usual(endpoint: &Endpoint, flow: &Flow, protocol: u8) -> bool {
    flow.state == FlowState::Established as u8
        && decide::is_admitted(endpoint, flow)
        && flows::is_live(endpoint.now, protocol, flow)
}

/// Whether a packet from the workload has an own source, is not for a DNS server, and goes by the gateway, if one is known.
#[inline(always)]
fn may_leave(config: &Config, frame: Linear, seen: &Seen) -> bool {
    let gateway = config.gateway_mac;
    (gateway == [0; 6] || gateway == frame.read::<[u8; 6]>(0))
        && !decide::is_dns_server(config, &seen.destination, seen.ports[1])
        && is_own(config, &seen.source)
}

#[inline(always)]
fn read4(skb: Skb, available: u32) -> Option<Seen> {
    const START: usize = ETHERNET as usize;
    let header: Ipv4 = linear(skb, START + IPV4)?.read(START);
    let length = u32::from(u16::from_be_bytes(header.total_length));
    let is_whole = u16::from_be_bytes(header.fragment) & 0x3fff == 0;
    if header.version_length != 0x45 || !is_whole || length > available {
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
    let payload = u32::from(u16::from_be_bytes(header.payload_length));
    let length = payload + IPV6 as u32;
    let (source, destination) = (header.source(), header.destination());
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
