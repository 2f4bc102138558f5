//! What a link needs to work: ARP, neighbour discovery, and housekeeping that never leaves the link.
//!
//! The workload may speak for its own addresses only (B40), and to nobody beyond the link (B24).

use nameward_abi::{Address, Direction, Reason, idle, mapped};

use crate::{
    endpoint::Endpoint,
    maps::NEIGHBOURS,
    packet::{ETHERNET, ICMP6, IGMP, Packet, UDP, on_stack, words},
    skb::{Skb, read},
};

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// A header, a target, and room for two options of eight octets.
const LARGEST_DISCOVERY: u32 = 40;

#[derive(Clone, Copy)]
#[repr(C)]
struct Arp {
    kind: [u8; 8],
    sender_mac: [u8; 6],
    sender: [u8; 4],
}

/// ARP from the workload: it names itself, or nobody (a probe, RFC 5227).
#[inline(always)]
pub fn judge_arp(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    let Some(arp) = read::<Arp>(skb, ETHERNET) else { return Reason::Malformed };
    let Some(source_mac) = read::<[u8; 6]>(skb, 6) else { return Reason::Malformed };
    if arp.kind[..6] != [0, 1, 8, 0, 6, 4] {
        return Reason::Malformed;
    }
    packet.source = mapped(arp.sender);
    let named = arp.sender == [0; 4] || endpoint.owns_rarely(&packet.source);
    if named && arp.sender_mac == source_mac { Reason::Neighbour } else { Reason::SpoofedSource }
}

/// Link-scope traffic, in either direction. `None` = something else.
#[inline(always)]
pub fn judge(skb: Skb, endpoint: &Endpoint, packet: &Packet, direction: Direction) -> Option<Reason> {
    if packet.protocol != ICMP6 && packet.protocol != IGMP && packet.protocol != UDP {
        return None;
    }
    Reason::from_number(nameward_neighbours(skb, endpoint, packet, direction as u32) as u8)
}

/// See [`judge`]; a number that is no reason when there is none. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_neighbours(
    skb: Skb,
    endpoint: *const Endpoint,
    packet: *const Packet,
    direction: u32,
) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(endpoint), Some(packet)) = (unsafe { (endpoint.as_ref(), packet.as_ref()) }) else {
        return Reason::Malformed as u64;
    };
    let egress = direction == Direction::Egress as u32;
    judge_link(skb, endpoint, packet, egress).map_or(u64::from(u8::MAX), |reason| reason as u64)
}

#[inline(always)]
fn judge_link(skb: Skb, endpoint: &Endpoint, packet: &Packet, egress: bool) -> Option<Reason> {
    match packet.protocol {
        ICMP6 => judge_icmp6(skb, endpoint, packet, egress),
        // 224.0.0.0/24 and the group of IGMPv3 reports are never forwarded.
        IGMP if packet.family == 4 && packet.destination[12..15] == [224, 0, 0] => Some(Reason::Housekeeping),
        IGMP if !egress => Some(Reason::Housekeeping),
        UDP if is_dhcp(endpoint, packet, egress) => Some(Reason::Housekeeping),
        _ => None,
    }
}

#[inline(always)]
fn is_dhcp(endpoint: &Endpoint, packet: &Packet, egress: bool) -> bool {
    let ports = (u16::from_be_bytes(packet.source_port), u16::from_be_bytes(packet.destination_port));
    match ports {
        (68, 67) => {
            egress
                && words(&packet.destination) == words(&mapped([255; 4]))
                && (words(&packet.source) == words(&mapped([0; 4])) || endpoint.owns_rarely(&packet.source))
        }
        (67, 68) => !egress,
        (546, 547) => {
            egress
                && packet.destination == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]
                && link_local(&packet.source)
        }
        (547, 546) => !egress,
        _ => false,
    }
}

#[inline(always)]
fn judge_icmp6(skb: Skb, endpoint: &Endpoint, packet: &Packet, egress: bool) -> Option<Reason> {
    let to_link = packet.destination[0] == 0xff && packet.destination[1] & 15 <= 2;
    match packet.icmp_type {
        130..=132 | 143 if to_link || !egress => Some(Reason::Housekeeping),
        ROUTER_SOLICITATION if egress && to_link && packet.hop_limit == 255 => Some(Reason::Housekeeping),
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT if egress => {
            Some(judge_own_discovery(skb, endpoint, packet, to_link))
        }
        133..=137 if !egress && packet.hop_limit == 255 => {
            remember(skb, endpoint, packet);
            Some(Reason::Neighbour)
        }
        _ => None,
    }
}

/// Notes who is on the link: who solicits, and whom an advertisement is about. No router lets a hop limit of 255 pass.
#[inline(always)]
fn remember(skb: Skb, endpoint: &Endpoint, packet: &Packet) {
    let neighbour = match packet.icmp_type {
        NEIGHBOUR_SOLICITATION => Some(packet.source),
        NEIGHBOUR_ADVERTISEMENT => read::<[u8; 16]>(skb, packet.l4 + 8),
        _ => None,
    };
    if let Some(address) = neighbour.filter(|address| !link_local(address) && words(address) != [0, 0]) {
        let _ = NEIGHBOURS.insert(address, endpoint.now, 0);
    }
}

/// Whether an address has shown that it is on the link.
#[inline(always)]
fn is_on_link(endpoint: &Endpoint, address: &Address) -> bool {
    // SAFETY: a word that is written as a whole.
    let seen = unsafe { NEIGHBOURS.get(on_stack(address)) };
    seen.is_some_and(|seen| seen.saturating_add(idle::NEIGHBOUR) > endpoint.now)
}

/// Solicitations come from an own address or none; advertisements are about an own address.
#[inline(always)]
fn judge_own_discovery(skb: Skb, endpoint: &Endpoint, packet: &Packet, to_link: bool) -> Reason {
    let Some(target) = read::<[u8; 16]>(skb, packet.l4 + 8) else { return Reason::Malformed };
    let Some(mac) = read::<[u8; 6]>(skb, 6) else { return Reason::Malformed };
    if packet.hop_limit != 255
        || packet.payload < 24
        || packet.payload > LARGEST_DISCOVERY
        || packet.hop_by_hop != 0
    {
        return Reason::Malformed;
    }
    let speaks_for = if packet.icmp_type == NEIGHBOUR_ADVERTISEMENT { &target } else { &packet.source };
    let unspecified = packet.icmp_type == NEIGHBOUR_SOLICITATION && words(speaks_for) == [0, 0];
    if !unspecified && !endpoint.owns_rarely(speaks_for) && !is_of_mac(speaks_for, mac) {
        return Reason::SpoofedSource;
    }
    if !unspecified && !endpoint.owns_rarely(&packet.source) && !is_of_mac(&packet.source, mac) {
        return Reason::SpoofedSource;
    }
    if to_link || link_local(&packet.destination) {
        return Reason::Neighbour;
    }
    // Answers and probes go to global addresses as well, which a router would forward: only to those that were
    // heard on the link, and with no room for more than a link-layer address.
    let probes = packet.icmp_type == NEIGHBOUR_ADVERTISEMENT || words(&packet.destination) == words(&target);
    if probes && packet.payload <= 32 && is_on_link(endpoint, &packet.destination) {
        Reason::Neighbour
    } else {
        Reason::Protocol
    }
}

#[inline(always)]
fn link_local(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

/// The link-local address made of a MAC (RFC 4291 appendix A).
#[inline(always)]
fn is_of_mac(address: &[u8; 16], mac: [u8; 6]) -> bool {
    let eui = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
    words(address) == [u64::from_ne_bytes([0xfe, 0x80, 0, 0, 0, 0, 0, 0]), u64::from_ne_bytes(eui)]
}
