//! The answers to denied packets, octet by octet.

use std::net::Ipv4Addr;

use etherparse::{Icmpv4Type, Icmpv6Type, NetHeaders, PacketHeaders, TransportHeader, icmpv4, icmpv6};
use nameward_abi::{Reason, programs};

use crate::{
    dns::tuple,
    lab::*,
    packets::{CLIENT_MAC, Flag, GATEWAY_MAC, L3, echo, tcp, tcp_with, udp},
};

/// Set on answers of ours.
const REJECT_MARK: u32 = 0x6e77_0002;

// G6
#[test]
fn tcp_gets_a_reset_that_its_stack_accepts() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, unknown) in [(OWN4, UNKNOWN4), (OWN6, UNKNOWN6)] {
        let (client, server) = ((own, 40_000), (unknown, 443));
        let run = lab.sends(&tcp(client, server, Flag::Syn), REDIRECT, Reason::NoMatch);
        assert_eq!(run.mark, REJECT_MARK);
        let (macs, from, to) = tuple(&run.frame);
        assert_eq!(macs, [CLIENT_MAC, GATEWAY_MAC]);
        assert_eq!((from, to), ((unknown.to_owned(), 443), (own.to_owned(), 40_000)));
        let header = transport(&run.frame);
        assert!(header.rst && header.ack && !header.syn);
        assert_eq!((header.sequence_number, header.acknowledgment_number), (0, 1_001));

        let run = lab.sends(&tcp_with(client, server, Flag::Ack, b"data"), REDIRECT, Reason::NoMatch);
        let header = transport(&run.frame);
        tuple(&run.frame);
        assert!(header.rst && !header.ack);
        assert_eq!(header.sequence_number, 7_000);
        // A reset is never answered by one.
        lab.sends(&tcp(client, server, Flag::Rst), DROP, Reason::NoMatch);
    }
}

fn transport(frame: &[u8]) -> etherparse::TcpHeader {
    match PacketHeaders::from_ethernet_slice(frame).unwrap().transport {
        Some(TransportHeader::Tcp(header)) => header,
        other => panic!("{other:?}"),
    }
}

// G6
#[test]
fn others_get_icmp_administratively_prohibited() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for frame in [udp((OWN4, 40_000), (UNKNOWN4, 443), &[9; 300]), echo(OWN4, UNKNOWN4, 5, true)] {
        let run = lab.egress(&frame);
        assert_eq!((run.action, run.mark), (REDIRECT, REJECT_MARK));
        assert_eq!(run.frame[..12], [CLIENT_MAC, GATEWAY_MAC].concat());
        let headers = PacketHeaders::from_ethernet_slice(&run.frame).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { panic!("{headers:?}") };
        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
        assert_eq!(
            (Ipv4Addr::from(ip.source).to_string(), Ipv4Addr::from(ip.destination).to_string()),
            (UNKNOWN4.into(), OWN4.into())
        );
        let Some(TransportHeader::Icmpv4(icmp)) = headers.transport else {
            panic!("{:?}", headers.transport)
        };
        assert_eq!(
            icmp.icmp_type,
            Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FilterProhibited)
        );
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(headers.payload.slice()));
        assert_eq!(headers.payload.slice(), &frame[L3..L3 + 28]);
    }
}

// G6
#[test]
fn others_get_icmp6_administratively_prohibited() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for frame in [udp((OWN6, 40_000), (UNKNOWN6, 443), &[9; 300]), echo(OWN6, UNKNOWN6, 5, true)] {
        let run = lab.egress(&frame);
        assert_eq!((run.action, run.mark), (REDIRECT, REJECT_MARK));
        let headers = PacketHeaders::from_ethernet_slice(&run.frame).unwrap();
        let Some(NetHeaders::Ipv6(ip, _)) = headers.net else { panic!("{headers:?}") };
        assert_eq!((ip.source, ip.destination), (address(UNKNOWN6), address(OWN6)));
        let Some(TransportHeader::Icmpv6(icmp)) = headers.transport else {
            panic!("{:?}", headers.transport)
        };
        assert_eq!(
            icmp.icmp_type,
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Prohibited)
        );
        let payload = headers.payload.slice();
        assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap());
        assert_eq!(payload, &frame[L3..L3 + 48]);
    }
}

#[test]
fn answers_of_ours_reach_the_workload_unjudged() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let reset = lab.egress(&tcp((OWN4, 40_000), (UNKNOWN4, 443), Flag::Syn));
    let before: u64 = lab.counters().iter().map(|counter| counter.packets).sum();
    let run = lab.run(programs::POD_INGRESS, &reset.frame, reset.mark, 1);
    assert_eq!((run.action, run.mark), (PASS, 0));
    let after: u64 = lab.counters().iter().map(|counter| counter.packets).sum();
    assert_eq!(before, after);
    // The same frame from anybody else is judged.
    lab.receives(&reset.frame, DROP, Reason::Inbound);
}

// B30
#[test]
fn answers_are_limited_and_never_go_to_groups() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut to_group = udp((OWN4, 1), ("224.0.0.251", 5_353), b"hello");
    to_group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 251]);
    lab.sends(&to_group, DROP, Reason::NoMatch);
    let mut lab = Lab::new();
    lab.configure(|config| config.rejects_per_second = 3);
    let frame = tcp((OWN4, 40_000), (UNKNOWN4, 443), Flag::Syn);
    let answered = (0..10).filter(|_| lab.egress(&frame).action == REDIRECT).count();
    assert!((3..=6).contains(&answered), "{answered}"); // a second may end meanwhile
}

/// What is refused before anybody looked at its source: ICMP in IPv6, ICMPv6 in IPv4.
// G6
#[test]
fn nobody_is_told_whose_address_is_forged() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let echo = [8, 0, 0, 0, 0, 1, 0, 1];
    for (own, forged, unknown, protocol) in
        [(OWN6, "2001:db8:1::3", UNKNOWN6, 1), (OWN4, "10.0.0.3", UNKNOWN4, 58)]
    {
        lab.sends(&crate::packets::raw(own, unknown, protocol, &echo), REDIRECT, Reason::Protocol);
        lab.sends(&crate::packets::raw(forged, unknown, protocol, &echo), DROP, Reason::Protocol);
        lab.sends(&tcp((forged, 1), (unknown, 443), Flag::Syn), DROP, Reason::SpoofedSource);
    }
}
