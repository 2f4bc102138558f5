//! The DNS redirect: what reaches the resolver's link, and what comes back to the workload.

use std::net::Ipv4Addr;

use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
use nameward_abi::{Mode, Reason, flags, programs};

use crate::{
    lab::*,
    packets::{CLIENT_MAC, Flag, GATEWAY_MAC, L3, query, tcp, udp},
};

/// `dns_return` sets this on answers.
const ANSWER_MARK: u32 = 0x6e77_0001;

/// MACs, source, destination.
pub(crate) type Tuple = ([[u8; 6]; 2], (String, u16), (String, u16));

/// MACs, addresses and ports of a frame, whose checksums must be right.
#[track_caller]
pub(crate) fn tuple(frame: &[u8]) -> Tuple {
    let headers = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let (from, to) = match headers.net.as_ref().unwrap() {
        NetHeaders::Ipv4(ip, _) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            (Ipv4Addr::from(ip.source).to_string(), Ipv4Addr::from(ip.destination).to_string())
        }
        NetHeaders::Ipv6(ip, _) => (ip.source_addr().to_string(), ip.destination_addr().to_string()),
        NetHeaders::Arp(_) => panic!("ARP"),
    };
    let payload = headers.payload.slice();
    let (right, source, destination) = match (headers.net.as_ref().unwrap(), headers.transport.unwrap()) {
        (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(udp)) => {
            let sum = if udp.checksum == 0 { 0 } else { udp.calc_checksum_ipv4(ip, payload).unwrap() };
            (udp.checksum == sum, udp.source_port, udp.destination_port)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(udp)) => {
            let sum = udp.calc_checksum_ipv6(ip, payload).unwrap();
            (udp.checksum == sum, udp.source_port, udp.destination_port)
        }
        (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(tcp)) => {
            let sum = tcp.calc_checksum_ipv4(ip, payload).unwrap();
            (tcp.checksum == sum, tcp.source_port, tcp.destination_port)
        }
        (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(tcp)) => {
            let sum = tcp.calc_checksum_ipv6(ip, payload).unwrap();
            (tcp.checksum == sum, tcp.source_port, tcp.destination_port)
        }
        other => panic!("{other:?}"),
    };
    assert!(right, "checksum of {frame:02x?}");
    ([frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap()], (from, source), (to, destination))
}

fn named(address: &str, port: u16) -> (String, u16) {
    (address.to_owned(), port)
}

/// Brings an answer through `pod_ingress`, as `dns_return` sends it.
fn restored(lab: &mut Lab, frame: &[u8]) -> crate::lab::Run {
    lab.run(programs::POD_INGRESS, frame, ANSWER_MARK, 1)
}

// Q1, B4
#[test]
fn queries_go_to_the_resolver_and_answers_come_from_the_server() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, server, resolver, identity, port) in [
        (OWN4, UNKNOWN4, RESOLVER4, IDENTITY4, DEFAULT_PORT),
        (OWN4, TRUSTED4, RESOLVER4, IDENTITY4, TRUSTED_PORT),
        (OWN4, DENIED4, RESOLVER4, IDENTITY4, DEFAULT_PORT),
        (OWN6, UNKNOWN6, RESOLVER6, IDENTITY6, DEFAULT_PORT),
    ] {
        let asked = lab.sends(&udp((own, 40_000), (server, 53), &query(7)), REDIRECT, Reason::Dns);
        let expected = ([FAR_MAC, LINK_MAC], named(identity, 40_000), named(resolver, port));
        assert_eq!(tuple(&asked.frame), expected);
        assert_eq!(asked.frame[asked.frame.len() - 17..], query(7));

        let answer = udp((resolver, port), (identity, 40_000), &query(7));
        let back = restored(&mut lab, &answer);
        assert_eq!((back.action, back.mark), (PASS, 0));
        let expected = ([CLIENT_MAC, GATEWAY_MAC], named(server, 53), named(own, 40_000));
        assert_eq!(tuple(&back.frame), expected);
    }
}

#[test]
fn queries_over_tcp_keep_their_server() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, server, resolver, identity) in
        [(OWN4, UNKNOWN4, RESOLVER4, IDENTITY4), (OWN6, UNKNOWN6, RESOLVER6, IDENTITY6)]
    {
        let asked = lab.sends(&tcp((own, 40_000), (server, 53), Flag::Syn), REDIRECT, Reason::Dns);
        let expected = ([FAR_MAC, LINK_MAC], named(identity, 40_000), named(resolver, DEFAULT_PORT));
        assert_eq!(tuple(&asked.frame), expected);
        let answer = tcp((resolver, DEFAULT_PORT), (identity, 40_000), Flag::SynAck);
        let back = restored(&mut lab, &answer);
        assert_eq!(back.action, PASS);
        assert_eq!(tuple(&back.frame).1, named(server, 53));
        // The port is taken while that connection lives.
        let other = if own == OWN4 { NAMED4 } else { NAMED6 };
        lab.sends(&tcp((own, 40_000), (other, 53), Flag::Syn), REDIRECT, Reason::DnsElsewhere);
        lab.sends(&tcp((own, 40_000), (server, 53), Flag::Rst), REDIRECT, Reason::Dns);
        lab.sends(&tcp((own, 40_000), (other, 53), Flag::Syn), REDIRECT, Reason::Dns);
    }
}

/// One socket asks four servers; each answer finds its own by the message ID.
#[test]
fn answers_find_the_server_by_the_message_id() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let servers = ["198.18.0.1", "198.18.0.2", "198.18.0.3", "198.18.0.4"];
    for (id, server) in (1..).zip(servers) {
        lab.sends(&udp((OWN4, 40_000), (server, 53), &query(id)), REDIRECT, Reason::Dns);
    }
    for (id, server) in (1..).zip(servers) {
        let answer = udp((RESOLVER4, DEFAULT_PORT), (IDENTITY4, 40_000), &query(id));
        assert_eq!(tuple(&restored(&mut lab, &answer).frame).1, named(server, 53));
    }
}

/// A checksum that was not computed stays that way.
#[test]
fn udp_without_checksum_stays_without() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut frame = udp((OWN4, 40_000), (UNKNOWN4, 53), &query(7));
    frame[L3 + 26..L3 + 28].copy_from_slice(&[0, 0]);
    let asked = lab.sends(&frame, REDIRECT, Reason::Dns);
    assert_eq!(asked.frame[L3 + 26..L3 + 28], [0, 0]);
    assert_eq!(tuple(&asked.frame).2, named(RESOLVER4, DEFAULT_PORT));
}

// B39
#[test]
fn answers_nobody_asked_for_are_dropped() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&udp((OWN4, 40_000), (UNKNOWN4, 53), &query(7)), REDIRECT, Reason::Dns);
    let answer = |port, id| udp((RESOLVER4, DEFAULT_PORT), (IDENTITY4, port), &query(id));
    assert_eq!(restored(&mut lab, &answer(40_001, 7)).action, DROP);
    assert_eq!(restored(&mut lab, &answer(40_000, 8)).action, DROP);
    let elsewhere = udp((RESOLVER4, TRUSTED_PORT), (IDENTITY4, 40_000), &query(7));
    assert_eq!(restored(&mut lab, &elsewhere).action, DROP);
    // Without the mark it did not come from the resolver's link.
    lab.switch(0, Mode::Enforce, flags::INBOUND_NONE, 1);
    lab.receives(&answer(40_000, 7), DROP, Reason::Inbound);
    assert_eq!(restored(&mut lab, &answer(40_000, 7)).action, PASS);
}

#[test]
fn answers_leave_the_link_for_their_endpoint() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let answer = udp((RESOLVER4, DEFAULT_PORT), (IDENTITY4, 40_000), &query(7));
    assert_eq!(lab.run(programs::DNS_RETURN, &answer, 0, 1).action, DROP);
    lab.identify(IDENTITY4, 1);
    let sent = lab.run(programs::DNS_RETURN, &answer, 0, 1);
    assert_eq!((sent.action, sent.mark), (REDIRECT, ANSWER_MARK));
}

// B2, B4
#[test]
fn what_cannot_be_redirected_is_denied() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for nowhere in ["224.0.0.251", "255.255.255.255", "127.0.0.1"] {
        lab.sends(&udp((OWN4, 1), (nowhere, 53), &query(1)), REDIRECT, Reason::DnsElsewhere);
    }
    lab.sends(&udp((OWN4, 1), (UNKNOWN4, 53), b"short"), REDIRECT, Reason::DnsElsewhere);
    lab.configure(|config| config.dns.link_ifindex = 0);
    lab.sends(&udp((OWN4, 1), (UNKNOWN4, 53), &query(1)), REDIRECT, Reason::DnsElsewhere);
}

// F3: who asks a server directly, however often, keeps room for connections.
#[test]
fn questions_take_no_connection_s_place() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::sized(2);
    for port in 40_000..40_010 {
        for _ in 0..2 {
            lab.egress(&udp((OWN4, port), (DIRECT4, 53), &query(1)));
            lab.receives(&udp((DIRECT4, 53), (OWN4, port), &query(1)), PASS, Reason::Flow);
        }
    }
    assert_eq!(lab.flows().0.len(), 0);
}

#[test]
fn rules_for_port_53_alone_mean_direct_dns() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&udp((OWN4, 40_000), (DIRECT4, 53), &query(1)), PASS, Reason::Cidr);
    lab.receives(&udp((DIRECT4, 53), (OWN4, 40_000), &query(1)), PASS, Reason::Flow);
    // A rule for every port is no such rule.
    lab.cidr(UNKNOWN4, 32, ANY, 0, 0);
    lab.sends(&udp((OWN4, 40_000), (UNKNOWN4, 53), &query(1)), REDIRECT, Reason::Dns);
    lab.switch(0, Mode::Enforce, flags::DNS_DIRECT, 1);
    lab.sends(&udp((OWN4, 40_000), (UNKNOWN4, 53), &query(1)), PASS, Reason::Cidr);
}
