//! Telling the sender: the denied packet is turned into its own answer and sent back to the workload's interface.
//!
//! A TCP segment becomes a RST by changing ports, sequence numbers and flags in place: options and data stay, which
//! receivers ignore, and the checksum is corrected by differences, so that it may be unfinished. Everything else
//! becomes an ICMP error that quotes the packet.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC},
    helpers::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_store_bytes,
    },
};
use nameward_abi::flags;

use crate::{
    endpoint::Endpoint,
    events,
    packet::{ACK, ETHERNET, FIN, Packet, RST, SYN, TCP, fragment},
    skb::{Skb, read},
};

/// Set on answers of ours on their way to `pod_ingress`.
pub const REJECT_MARK: u32 = 0x6e77_0002;

const IPV4: u32 = 20;
const IPV6: u32 = 40;
const ICMP_HEADER: u32 = 8;
/// What is quoted: the IP header and eight octets.
const QUOTED: u32 = 8;

/// Turns the packet around. -1 = it was not possible or not allowed.
#[inline(always)]
pub fn reject(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> i32 {
    nameward_reject(skb, endpoint, packet)
}

/// See [`reject`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_reject(skb: Skb, endpoint: *const Endpoint, packet: *const Packet) -> i32 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref()) } {
        (Some(endpoint), Some(packet)) => answer(skb, endpoint, packet),
        _ => -1,
    }
}

#[inline(always)]
fn answer(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> i32 {
    let possible = packet.fragment != fragment::LATER && packet.family != 0 && !packet.is_icmp_error();
    let Some(first) = read::<u8>(skb, 0) else { return -1 };
    let to_group = first & 1 != 0;
    // Nobody is told of what another's name stands on.
    let possible = possible && endpoint.owns_rarely(&packet.source);
    if !possible || to_group || endpoint.switch.has(flags::LAYER3) || !events::take_reject(endpoint) {
        return -1;
    }
    let Some(config) = endpoint.config() else { return -1 };
    let done = if packet.protocol == TCP {
        reset(skb, packet)
    } else if packet.family == 4 {
        prohibit4(skb, packet)
    } else {
        prohibit6(skb, packet)
    };
    if !done {
        return -1;
    }
    // SAFETY: the context's field is writable; the helper takes scalars only.
    unsafe {
        (*skb).mark = REJECT_MARK;
        bpf_redirect(config.ifindex, 0) as i32
    }
}

#[inline(always)]
fn store<T>(skb: Skb, offset: u32, value: &T) -> bool {
    // SAFETY: `value` is as long as said.
    unsafe { bpf_skb_store_bytes(skb, offset, (&raw const *value).cast(), size_of::<T>() as u32, 0) == 0 }
}

#[inline(always)]
fn swap_macs(skb: Skb) -> bool {
    let Some([destination, source]) = read::<[[u8; 6]; 2]>(skb, 0) else { return false };
    store(skb, 0, &[source, destination])
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Segment {
    sequence: [u8; 4],
    acknowledged: [u8; 4],
    offset_flags: [u8; 2],
    window: [u8; 2],
}

/// RFC 9293 section 3.10.7.1.
#[inline(never)]
fn reset(skb: Skb, packet: &Packet) -> bool {
    let Some(old) = read::<Segment>(skb, packet.l4 + 4) else { return false };
    if packet.tcp_flags & RST != 0 {
        return false;
    }
    let header = u32::from(old.offset_flags[0] >> 4) * 4;
    let occupied = packet.payload - header
        + u32::from(packet.tcp_flags & SYN != 0)
        + u32::from(packet.tcp_flags & FIN != 0);
    let mut new = Segment {
        sequence: [0; 4],
        acknowledged: [0; 4],
        offset_flags: [old.offset_flags[0], RST],
        window: [0; 2],
    };
    if packet.tcp_flags & ACK != 0 {
        new.sequence = old.acknowledged;
    } else {
        new.acknowledged = u32::from_be_bytes(old.sequence).wrapping_add(occupied).to_be_bytes();
        new.offset_flags[1] = RST | ACK;
    }
    // SAFETY: both are twelve octets on the stack.
    let difference = unsafe {
        bpf_csum_diff((&raw const old).cast_mut().cast(), 12, (&raw const new).cast_mut().cast(), 12, 0)
    };
    // SAFETY: scalars only. Swapped addresses and ports do not change a sum.
    if unsafe { bpf_l4_csum_replace(skb, packet.l4 + 16, 0, difference as u32 as u64, 0) } != 0 {
        return false;
    }
    store(skb, packet.l4 + 4, &new)
        && store(skb, packet.l4, &[packet.destination_port, packet.source_port])
        && swap_addresses(skb, packet)
        && swap_macs(skb)
}

#[inline(always)]
fn swap_addresses(skb: Skb, packet: &Packet) -> bool {
    if packet.family == 6 {
        return store(skb, packet.l3 + 8, &packet.destination) && store(skb, packet.l3 + 24, &packet.source);
    }
    store(skb, packet.l3 + 12, &tail(&packet.destination))
        && store(skb, packet.l3 + 16, &tail(&packet.source))
}

#[inline(always)]
fn tail(address: &[u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Error4 {
    ip: [u8; IPV4 as usize],
    icmp: [u8; ICMP_HEADER as usize],
}

/// ICMP destination unreachable, administratively prohibited (RFC 1812 section 5.2.7.1). Not for packets with
/// options, whose quotation has no fixed length.
#[inline(never)]
fn prohibit4(skb: Skb, packet: &Packet) -> bool {
    if packet.l3 != ETHERNET || packet.l4 - packet.l3 != IPV4 || packet.payload < QUOTED {
        return false;
    }
    let room = make_room(skb, ETHERNET + IPV4 + QUOTED, IPV4 + ICMP_HEADER);
    let Some(quoted) = sum_in_place::<28>(skb, ETHERNET + IPV4 + ICMP_HEADER).filter(|_| room) else {
        return false;
    };
    let length = IPV4 + ICMP_HEADER + IPV4 + QUOTED;
    let mut error = Error4 { ip: [0; 20], icmp: [0; 8] };
    error.ip[0] = 0x45;
    error.ip[3] = length as u8;
    error.ip[8] = 64;
    error.ip[9] = 1;
    error.ip[12..16].copy_from_slice(&tail(&packet.destination));
    error.ip[16..20].copy_from_slice(&tail(&packet.source));
    let sum = sum(error.ip.as_ptr(), IPV4, 0);
    error.ip[10..12].copy_from_slice(&sum.to_ne_bytes());
    error.icmp[0] = 3;
    error.icmp[1] = 13;
    let sum = self::sum(error.icmp.as_ptr(), ICMP_HEADER, quoted);
    error.icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
    store(skb, ETHERNET, &error) && swap_macs(skb)
}

#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Error6 {
    ip: [u8; IPV6 as usize],
    icmp: [u8; ICMP_HEADER as usize],
}

/// ICMPv6 destination unreachable, administratively prohibited (RFC 4443 section 3.1). Not for packets with
/// extension headers.
#[inline(never)]
fn prohibit6(skb: Skb, packet: &Packet) -> bool {
    if packet.l3 != ETHERNET || packet.l4 - packet.l3 != IPV6 || packet.payload < QUOTED {
        return false;
    }
    let room = make_room(skb, ETHERNET + IPV6 + QUOTED, IPV6 + ICMP_HEADER);
    let Some(quoted) = sum_in_place::<48>(skb, ETHERNET + IPV6 + ICMP_HEADER).filter(|_| room) else {
        return false;
    };
    let length = ICMP_HEADER + IPV6 + QUOTED;
    let mut error = Error6 { ip: [0; 40], icmp: [0; 8] };
    // The pseudo-header first, where the fields will stand: addresses, length, next header.
    error.ip[0..16].copy_from_slice(&packet.destination);
    error.ip[16..32].copy_from_slice(&packet.source);
    error.ip[35] = length as u8;
    error.ip[39] = 58;
    error.icmp[0] = 1;
    error.icmp[1] = 1;
    let sum = sum((&raw const error).cast(), 48, quoted);
    error.icmp[2..4].copy_from_slice(&sum.to_ne_bytes());
    error.ip = [0; 40];
    error.ip[0] = 0x60;
    error.ip[5] = length as u8;
    error.ip[6] = 58;
    error.ip[7] = 64;
    error.ip[8..24].copy_from_slice(&packet.destination);
    error.ip[24..40].copy_from_slice(&packet.source);
    store(skb, ETHERNET, &error) && swap_macs(skb)
}

#[inline(always)]
fn make_room(skb: *mut __sk_buff, keep: u32, room: u32) -> bool {
    // SAFETY: scalars only.
    unsafe {
        bpf_skb_change_tail(skb, keep, 0) == 0
            && bpf_skb_adjust_room(skb, room as i32, BPF_ADJ_ROOM_MAC, 0) == 0
    }
}

#[inline(always)]
fn partial(bytes: *const u8, length: u32, seed: u32) -> u32 {
    // SAFETY: the caller's buffer has `length` octets.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.cast_mut().cast(), length, seed) as u32 }
}

/// The partial sum of `LENGTH` octets of the packet itself, which must be linear there.
#[inline(always)]
fn sum_in_place<const LENGTH: u32>(skb: Skb, offset: u32) -> Option<u32> {
    // SAFETY: the verifier checks the access by the comparison.
    unsafe {
        let start = (*skb).data as usize + offset as usize;
        (start + LENGTH as usize <= (*skb).data_end as usize).then(|| partial(start as *const u8, LENGTH, 0))
    }
}

/// The Internet checksum (RFC 1071) of `length` octets on top of `seed`.
#[inline(always)]
fn sum(bytes: *const u8, length: u32, seed: u32) -> u16 {
    let sum = partial(bytes, length, seed);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
