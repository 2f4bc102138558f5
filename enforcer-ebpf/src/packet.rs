//! A parsed summary of one packet. Everything that follows looks at this, never at the bytes again.
//!
//! Lengths that contradict each other are `malformed`; what hides the transport header is `extension-header`.
//! Walks are bounded. IPv4 checksums are not verified: the next stack does.

use nameward_abi::{Address, Port, Reason};

use crate::skb::{OFFSET_LIMIT, Skb, read};

pub const ICMP: u8 = 1;
pub const IGMP: u8 = 2;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
/// The port of DNS.
pub const DNS: Port = 53u16.to_be_bytes();
pub const ICMP6: u8 = 58;
pub const SCTP: u8 = 132;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Length of an Ethernet header.
pub const ETHERNET: u32 = 14;
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Extension headers walked at most, and their longest sum in octets.
const EXTENSION_HEADERS: u32 = 4;
const EXTENSION_OCTETS: u32 = 512;

/// Later fragments begin behind the longest transport header without options: those that could overwrite the ports
/// or flags of an allowed first one are refused (RFC 3128).
const EARLIEST_FRAGMENT: u32 = 24;

/// Whether a packet is part of a fragmented datagram. Not an enum, so that [`Packet::forget`] may touch it.
pub mod fragment {
    pub const NONE: u8 = 0;
    pub const FIRST: u8 = 1;
    pub const LATER: u8 = 2;
}

/// What decisions need to know of a packet.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    /// Zero without ports; the identifier in an ICMP echo.
    pub source_port: Port,
    /// Zero without ports.
    pub destination_port: Port,
    /// Of a fragmented datagram.
    pub identification: [u8; 4],
    /// Octets from the IP header on, as that header says.
    pub length: u32,
    /// Octets from the transport header on.
    pub payload: u32,
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of the transport header.
    pub l4: u32,
    /// Filled in by `decide`: the name set that admitted the packet, or 0.
    pub admitted_id: u32,
    pub ethertype: [u8; 2],
    /// 4, 6, or 0 when it is not IP.
    pub family: u8,
    /// Of the transport header; ICMP is 1, ICMPv6 is 58.
    pub protocol: u8,
    /// One of [`fragment`].
    pub fragment: u8,
    pub tcp_flags: u8,
    pub icmp_type: u8,
    pub hop_limit: u8,
    /// The packet has a hop-by-hop header, which only housekeeping may.
    pub hop_by_hop: u8,
    /// Of ICMP.
    pub icmp_code: u8,
    /// Filled in by `decide`: the packet begins something, so that it is worth an event though it passes.
    pub begins: bool,
    /// Filled in by `decide`: the packet belongs to a flow that was told of when it began.
    pub continues: bool,
    /// Zero, which the verifier must not know; see [`Packet::forget`].
    pub zero: u32,
}

impl Packet {
    pub const fn new() -> Self {
        Self {
            source: [0; 16],
            destination: [0; 16],
            source_port: [0; 2],
            destination_port: [0; 2],
            identification: [0; 4],
            length: 0,
            payload: 0,
            l3: 0,
            l4: 0,
            admitted_id: 0,
            ethertype: [0; 2],
            family: 0,
            protocol: 0,
            fragment: fragment::NONE,
            tcp_flags: 0,
            icmp_type: 0,
            hop_limit: 0,
            hop_by_hop: 0,
            icmp_code: 0,
            begins: false,
            continues: false,
            zero: 0,
        }
    }

    /// Makes the verifier forget which constants the fields may hold. It would judge every combination of family,
    /// protocol and fragment on its own, which is more than it has patience for.
    #[inline(always)]
    pub fn forget(&mut self) {
        let zero = u64::from(self.zero) | u64::from(self.zero) << 32;
        let words = (&raw mut *self).cast::<u64>();
        let mut index = 0;
        while index < size_of::<Self>() / 8 {
            // SAFETY: inside `self`, which is aligned to words and has no padding; the value stays.
            unsafe { *words.add(index) ^= zero };
            index += 1;
        }
    }

    /// An ICMP echo request or answer.
    #[inline(always)]
    pub fn is_echo(&self) -> bool {
        (self.protocol == ICMP && (self.icmp_type == 8 || self.icmp_type == 0))
            || (self.protocol == ICMP6 && (self.icmp_type == 128 || self.icmp_type == 129))
    }

    /// An ICMP echo request.
    #[inline(always)]
    pub fn is_echo_request(&self) -> bool {
        (self.protocol == ICMP && self.icmp_type == 8) || (self.protocol == ICMP6 && self.icmp_type == 128)
    }

    /// An ICMP message about another packet.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        (self.protocol == ICMP && matches!(self.icmp_type, 3 | 11 | 12))
            || (self.protocol == ICMP6 && matches!(self.icmp_type, 1..=4))
    }

    /// Administratively prohibited, as our own answers say.
    #[inline(always)]
    pub fn is_prohibition(&self) -> bool {
        (self.protocol == ICMP && self.icmp_type == 3 && self.icmp_code == 13)
            || (self.protocol == ICMP6 && self.icmp_type == 1 && self.icmp_code == 1)
    }

    /// An ICMP message that is no echo: it has no identifier, and so belongs to no flow.
    #[inline(always)]
    pub fn is_plain_icmp(&self) -> bool {
        (self.protocol == ICMP || self.protocol == ICMP6) && !self.is_echo()
    }

    /// A SYN that opens a connection, at some stacks also with a FIN.
    #[inline(always)]
    pub fn is_bare_syn(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (SYN | ACK | RST) == SYN
    }

    /// A SYN that comes for a listener, or the listener's answer to one.
    #[inline(always)]
    pub fn is_to_listener(&self, egress: bool) -> bool {
        let answer = if egress { ACK } else { 0 };
        self.tcp_flags & (SYN | ACK | RST) == SYN | answer
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv4 {
    pub version_length: u8,
    _service: u8,
    pub total_length: [u8; 2],
    identification: [u8; 2],
    pub fragment: [u8; 2],
    ttl: u8,
    pub protocol: u8,
    _checksum: [u8; 2],
    pub source: u32,
    pub destination: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
pub struct Ipv6 {
    pub version: u8,
    _class_flow: [u8; 3],
    pub payload_length: [u8; 2],
    pub next_header: u8,
    hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
}

impl Ipv6 {
    #[inline(always)]
    pub fn source(&self) -> Address {
        address_of(self.source)
    }

    #[inline(always)]
    pub fn destination(&self) -> Address {
        address_of(self.destination)
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Tcp {
    source: [u8; 2],
    destination: [u8; 2],
    _sequence: u32,
    _acknowledged: u32,
    offset: u8,
    flags: u8,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Udp {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    _checksum: [u8; 2],
}

/// Parses an IP packet at `packet.l3`, `available` octets long at most. `Some` = why it cannot be judged.
#[inline(always)]
pub fn parse_ip(skb: Skb, packet: &mut Packet, available: u32) -> Option<Reason> {
    Reason::from_number(nameward_parse(skb, packet, available) as u8)
}

/// See [`parse_ip`]; a number that is no reason when there is none. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_parse(skb: Skb, packet: *mut Packet, available: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let Some(packet) = (unsafe { packet.as_mut() }) else { return Reason::Malformed as u64 };
    parse(skb, packet, available).map_or(u64::from(u8::MAX), |reason| reason as u64)
}

#[inline(always)]
fn parse(skb: Skb, packet: &mut Packet, available: u32) -> Option<Reason> {
    let Some(first) = read::<u8>(skb, packet.l3) else { return Some(Reason::Malformed) };
    let refused = match first >> 4 {
        4 => parse_ipv4(skb, packet, available),
        6 => parse_ipv6(skb, packet, available),
        _ => Some(Reason::Malformed),
    };
    if refused.is_some() || packet.fragment == fragment::LATER {
        return refused;
    }
    parse_transport(skb, packet)
}

#[inline(always)]
fn parse_ipv4(skb: Skb, packet: &mut Packet, available: u32) -> Option<Reason> {
    let Some(header) = read::<Ipv4>(skb, packet.l3) else { return Some(Reason::Malformed) };
    let header_length = u32::from(header.version_length & 15) * 4;
    packet.family = 4;
    packet.length = u32::from(u16::from_be_bytes(header.total_length));
    if header_length < 20 || packet.length < header_length || packet.length > available {
        return Some(Reason::Malformed);
    }
    packet.source = mapped_of(header.source);
    packet.destination = mapped_of(header.destination);
    packet.hop_limit = header.ttl;
    packet.protocol = header.protocol;
    packet.l4 = packet.l3 + header_length;
    packet.payload = packet.length - header_length;
    let bits = u16::from_be_bytes(header.fragment);
    packet.identification = [0, 0, header.identification[0], header.identification[1]];
    packet.fragment = match (bits & 0x1fff, bits & 0x2000) {
        (0, 0) => fragment::NONE,
        (0, _) => fragment::FIRST,
        (at, _) if u32::from(at) * 8 < EARLIEST_FRAGMENT => return Some(Reason::Fragment),
        _ => fragment::LATER,
    };
    if header_length > 20 { options_of_ipv4(skb, packet.l3 + 20, header_length - 20) } else { None }
}

/// Options are refused: they name other destinations than the header (source routes) or record the way. Router alert
/// alone (RFC 2113) is what IGMP needs.
#[inline(always)]
fn options_of_ipv4(skb: Skb, start: u32, length: u32) -> Option<Reason> {
    match read::<[u8; 2]>(skb, start) {
        Some([148, 4]) if length == 4 => None,
        _ => Some(Reason::Malformed),
    }
}

#[inline(always)]
fn parse_ipv6(skb: Skb, packet: &mut Packet, available: u32) -> Option<Reason> {
    let Some(header) = read::<Ipv6>(skb, packet.l3) else { return Some(Reason::Malformed) };
    packet.family = 6;
    packet.payload = u32::from(u16::from_be_bytes(header.payload_length));
    packet.length = packet.payload + 40;
    packet.source = header.source();
    packet.destination = header.destination();
    packet.hop_limit = header.hop_limit;
    packet.protocol = header.next_header;
    packet.l4 = packet.l3 + 40;
    // v4-mapped addresses never appear on the wire (RFC 4291 section 2.5.5.2), and would read as IPv4 here.
    if packet.length > available || is_mapped(&packet.source) || is_mapped(&packet.destination) {
        return Some(Reason::Malformed);
    }
    match packet.protocol {
        TCP | UDP | ICMP6 => None,
        _ => walk_extensions(skb, packet),
    }
}

/// Walks to the transport header: hop-by-hop only in front, each kind but destination options once, no routing
/// headers (they name other destinations), no authentication.
#[inline(never)]
fn walk_extensions(skb: Skb, packet: &mut Packet) -> Option<Reason> {
    let mut position = 0;
    let mut walked = 0;
    let mut left = packet.payload;
    let mut fragmented = false;
    while position < EXTENSION_HEADERS {
        let next = packet.protocol;
        match next {
            HOP_BY_HOP if position == 0 => packet.hop_by_hop = 1,
            DESTINATION_OPTIONS => {}
            FRAGMENT if !fragmented => fragmented = true,
            HOP_BY_HOP | FRAGMENT | ROUTING | AUTHENTICATION | MOBILITY | HOST_IDENTITY | SHIM6 | 253
            | 254 => {
                return Some(Reason::ExtensionHeader);
            }
            _ => return None,
        }
        let Some(header) = read::<[u8; 8]>(skb, packet.l4) else { return Some(Reason::Malformed) };
        let octets = if next == FRAGMENT { 8 } else { (u32::from(header[1]) + 1) * 8 };
        walked += octets;
        if octets > left {
            return Some(Reason::Malformed);
        }
        if walked > EXTENSION_OCTETS {
            return Some(Reason::ExtensionHeader);
        }
        left -= octets;
        packet.payload = left;
        packet.l4 = packet.l3 + 40 + walked;
        packet.protocol = header[0];
        if next == FRAGMENT {
            packet.identification = [header[4], header[5], header[6], header[7]];
            let offset = u16::from_be_bytes([header[2], header[3]]);
            packet.fragment = match (offset & 0xfff8, offset & 1) {
                (0, 0) => fragment::NONE, // an atomic fragment, RFC 6946
                (0, _) => fragment::FIRST,
                (at, _) if u32::from(at) < EARLIEST_FRAGMENT => return Some(Reason::Fragment),
                _ => return later_fragment(packet),
            };
        }
        position += 1;
        packet.forget();
        left ^= packet.zero;
        walked ^= packet.zero;
    }
    match packet.protocol {
        TCP | UDP | ICMP6 | SCTP => None,
        _ => Some(Reason::ExtensionHeader),
    }
}

#[inline(always)]
fn later_fragment(packet: &mut Packet) -> Option<Reason> {
    packet.fragment = fragment::LATER;
    None
}

#[inline(always)]
fn parse_transport(skb: Skb, packet: &mut Packet) -> Option<Reason> {
    if packet.l4 >= OFFSET_LIMIT - 64 {
        return Some(Reason::ExtensionHeader);
    }
    match packet.protocol {
        TCP => {
            let header = read::<Tcp>(skb, packet.l4).filter(|_| packet.payload >= 20);
            let Some(header) = header else { return Some(Reason::Malformed) };
            let length = u32::from(header.offset >> 4) * 4;
            if length < 20 || length > packet.payload {
                return Some(Reason::Malformed);
            }
            packet.source_port = header.source;
            packet.destination_port = header.destination;
            packet.tcp_flags = header.flags;
        }
        UDP => {
            let header = read::<Udp>(skb, packet.l4).filter(|_| packet.payload >= 8);
            let Some(header) = header else { return Some(Reason::Malformed) };
            let length = u32::from(u16::from_be_bytes(header.length));
            if length < 8 || (length > packet.payload && packet.fragment == fragment::NONE) {
                return Some(Reason::Malformed);
            }
            packet.source_port = header.source;
            packet.destination_port = header.destination;
        }
        SCTP => {
            let header = read::<[[u8; 2]; 6]>(skb, packet.l4).filter(|_| packet.payload >= 12);
            let Some(header) = header else { return Some(Reason::Malformed) };
            packet.source_port = header[0];
            packet.destination_port = header[1];
        }
        ICMP | ICMP6 => {
            // ICMP in IPv6 and ICMPv6 in IPv4 mean nothing.
            let header = read::<[u8; 8]>(skb, packet.l4).filter(|_| packet.payload >= 8);
            let Some(header) = header else { return Some(Reason::Malformed) };
            if (packet.protocol == ICMP) != (packet.family == 4) {
                return Some(Reason::Protocol);
            }
            packet.icmp_type = header[0];
            packet.icmp_code = header[1];
            if packet.is_echo() {
                packet.source_port = [header[4], header[5]];
            }
        }
        _ => {}
    }
    None
}

#[inline(always)]
pub fn is_mapped(address: &Address) -> bool {
    let words = words(address);
    words[0] == 0 && words[1] as u32 == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// An address on the stack. Kernels before 6.2 take keys of maps from there, not from memory that a global function
/// was handed; and the compiler would leave the copy out.
#[inline(always)]
pub fn on_stack(address: &Address) -> Address {
    let mut copy = [0u64; 2];
    // SAFETY: a value of our own; volatile, so that it is written.
    unsafe { core::ptr::write_volatile(&raw mut copy, words(address)) };
    address_of(copy)
}

/// An address as two words, cheap to compare.
///
/// Addresses stand in structures that are aligned to words (`nameward_abi`, [`Packet`]). The compiler does not see it
/// through a reference, and would put each word together from eight octets.
#[inline(always)]
pub fn words(address: &Address) -> [u64; 2] {
    // SAFETY: sixteen octets are two u64; aligned, see above: the verifier refuses the stack's that are not.
    unsafe { *core::ptr::from_ref(address).cast::<[u64; 2]>() }
}

/// `nameward_abi::mapped` in two writes: an octet that is written by itself stalls who reads the word around it.
#[inline(always)]
pub fn mapped_of(v4: u32) -> Address {
    // The order of octets is that of x86 and of bpfel.
    address_of([0, u64::from(u32::from_ne_bytes([0, 0, 0xff, 0xff])) | u64::from(v4) << 32])
}

/// The address that two words are; see [`words`].
#[inline(always)]
const fn address_of(words: [u64; 2]) -> Address {
    // SAFETY: as many octets, and any octets are an address.
    unsafe { core::mem::transmute::<[u64; 2], Address>(words) }
}
