//! Frames for tests. `from` and `to` are addresses of one family.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader};

use crate::lab::address;

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Where a frame's IP header begins.
pub(crate) const L3: usize = 14;

/// Flags of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

fn ip(from: &str, to: &str) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(CLIENT_MAC, GATEWAY_MAC);
    match (from.parse().unwrap(), to.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    }
}

pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flag: Flag) -> Vec<u8> {
    tcp_with(from, to, flag, &[])
}

pub(crate) fn tcp_with(from: (&str, u16), to: (&str, u16), flag: Flag, data: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, 1_000, 64_240);
    header.syn = matches!(flag, Flag::Syn | Flag::SynAck);
    header.ack = matches!(flag, Flag::SynAck | Flag::Ack | Flag::Fin);
    header.fin = flag == Flag::Fin;
    header.rst = flag == Flag::Rst;
    if header.ack {
        header.acknowledgment_number = 7_000;
    }
    let mut frame = Vec::new();
    ip(from.0, to.0).tcp_header(header).write(&mut frame, data).unwrap();
    frame
}

pub(crate) fn udp(from: (&str, u16), to: (&str, u16), data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from.0, to.0).udp(from.1, to.1).write(&mut frame, data).unwrap();
    frame
}

/// An ICMP echo of either family.
pub(crate) fn echo(from: &str, to: &str, id: u16, request: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let ip = ip(from, to);
    match (from.contains(':'), request) {
        (false, true) => ip.icmpv4_echo_request(id, 1).write(&mut frame, b"ping"),
        (false, false) => ip.icmpv4_echo_reply(id, 1).write(&mut frame, b"ping"),
        (true, true) => ip.icmpv6_echo_request(id, 1).write(&mut frame, b"ping"),
        (true, false) => ip.icmpv6_echo_reply(id, 1).write(&mut frame, b"ping"),
    }
    .unwrap();
    frame
}

/// An IP packet of any protocol.
pub(crate) fn raw(from: &str, to: &str, protocol: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(from, to).write(&mut frame, IpNumber(protocol), data).unwrap();
    frame
}

/// An IPv6 packet written by hand: what follows the header is `data`.
pub(crate) fn raw6(from: &str, to: &str, next_header: u8, hop_limit: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = ethernet([0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    frame.extend([next_header, hop_limit]);
    frame.extend(address(from));
    frame.extend(address(to));
    frame.extend(data);
    frame
}

/// An Ethernet header.
pub(crate) fn ethernet(ethertype: [u8; 2]) -> Vec<u8> {
    [&GATEWAY_MAC[..], &CLIENT_MAC, &ethertype].concat()
}

/// An ICMP error about `quoted`, the IP packet of a frame.
pub(crate) fn icmp_error(from: &str, to: &str, quoted: &[u8], octets: usize) -> Vec<u8> {
    let quoted = &quoted[L3..];
    let mut message = if from.contains(':') { vec![1, 4] } else { vec![3, 3] };
    message.extend([0; 6]);
    message.extend(&quoted[..octets.min(quoted.len())]);
    raw(from, to, if from.contains(':') { 58 } else { 1 }, &message)
}

/// A DNS header with an ID, and nothing asked.
pub(crate) fn query(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
    message
}
