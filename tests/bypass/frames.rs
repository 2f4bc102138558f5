//! Frames of the adversary. Each ends with a token of its own, by which the far side knows it whatever it is.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader};

pub(crate) const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 7, 2];
pub(crate) const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 7, 1];
pub(crate) const OWN4: &str = "10.7.1.2";
pub(crate) const OWN6: &str = "2001:db8:7:1::2";
/// Granted through `app.example.com`, for TCP 443.
pub(crate) const NAMED4: &str = "203.0.113.10";
pub(crate) const NAMED6: &str = "2001:db8:1::10";
/// Nobody ever resolved it.
pub(crate) const UNKNOWN4: &str = "203.0.113.66";
pub(crate) const UNKNOWN6: &str = "2001:db8:1::66";
/// Where an IP header begins.
pub(crate) const L3: usize = 14;

static TOKENS: AtomicU64 = AtomicU64::new(0x6e77_7400_0000_0000);

/// Eight octets that no other frame has.
pub(crate) fn token() -> [u8; 8] {
    TOKENS.fetch_add(1, Ordering::Relaxed).to_be_bytes()
}

fn ip(from: &str, to: &str) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(OWN_MAC, FAR_MAC);
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    }
}

pub(crate) fn udp(from: (&str, u16), to: (&str, u16)) -> Vec<u8> {
    udp_with(from, to, &token())
}

pub(crate) fn udp_with(from: (&str, u16), to: (&str, u16), data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from.0, to.0).udp(from.1, to.1).write(&mut frame, data).unwrap();
    frame
}

/// A segment with these flags (`S`, `A`, `F`, `R`).
pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flags: &str) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, 1_000, 64_240);
    (header.syn, header.ack) = (flags.contains('S'), flags.contains('A'));
    (header.fin, header.rst) = (flags.contains('F'), flags.contains('R'));
    header.acknowledgment_number = if header.ack { 7_000 } else { 0 };
    let mut frame = Vec::new();
    ip(from.0, to.0).tcp_header(header).write(&mut frame, &token()).unwrap();
    frame
}

/// An echo request of either family.
pub(crate) fn echo(from: &str, to: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = ip(from, to);
    if from.contains(':') {
        ip.icmpv6_echo_request(7, 1).write(&mut frame, &token()).unwrap();
    } else {
        ip.icmpv4_echo_request(7, 1).write(&mut frame, &token()).unwrap();
    }
    frame
}

/// An IP packet of any protocol.
pub(crate) fn protocol(from: &str, to: &str, number: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to).write(&mut frame, IpNumber(number), &[data, &token()].concat()).unwrap();
    frame
}

/// An IPv6 packet written by hand; the token comes after `data`.
pub(crate) fn six(from: &str, to: &str, next_header: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(FAR_MAC, [0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(data.len() + 8).unwrap().to_be_bytes());
    frame.extend([next_header, 64]);
    for address in [from, to] {
        frame.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    [frame, data.to_vec(), token().to_vec()].concat()
}

/// An ICMP error of `from` about a packet that `peer` is said to have sent to it.
pub(crate) fn icmp_error(from: &str, to: &str, quoted: &[u8]) -> Vec<u8> {
    let mut message = if from.contains(':') { vec![1, 4] } else { vec![3, 3] };
    message.extend([0; 6]);
    message.extend(&quoted[L3..]);
    protocol(from, to, if from.contains(':') { 58 } else { 1 }, &message)
}

/// An Ethernet header.
pub(crate) fn ethernet(to: [u8; 6], ethertype: [u8; 2]) -> Vec<u8> {
    [&to[..], &OWN_MAC, &ethertype].concat()
}

/// A frame that is not IP.
pub(crate) fn other(ethertype: u16, data: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(FAR_MAC, ethertype.to_be_bytes());
    frame.extend(data);
    frame.extend([0; 40]);
    frame.extend(token());
    frame
}

/// Puts octets into an IPv4 header's sum of words anew, after a change of it.
pub(crate) fn sum_again(frame: &mut [u8]) {
    let length = usize::from(frame[L3] & 0xf) * 4;
    frame[L3 + 10..L3 + 12].fill(0);
    let mut sum: u32 =
        frame[L3..L3 + length].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[L3 + 10..L3 + 12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
