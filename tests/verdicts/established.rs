//! The short way of packets that go on with an answered flow: what is unusual about one of them is judged as if the
//! short way were not there.

use nameward_abi::{Flow, FlowKey, FlowState, Mode, Reason, TrustedServer, flags, maps};
use nameward_enforcer::kernel::BootNanos;

use crate::{
    lab::*,
    packets::{Flag, L3, tcp, tcp_with, udp},
};

/// Workload and server, in both families.
const PAIRS: [(&str, &str); 2] = [(OWN4, NAMED4), (OWN6, NAMED6)];
const PORT: u16 = 40_000;

fn key(protocol: u8, local: (&str, u16), remote: (&str, u16)) -> FlowKey {
    FlowKey {
        local: address(local.0),
        remote: address(remote.0),
        local_port: local.1.to_be_bytes(),
        remote_port: remote.1.to_be_bytes(),
        protocol,
        ..FlowKey::default()
    }
}

fn flow(admitted_by: Reason) -> Flow {
    Flow {
        last_seen: BootNanos::now().0,
        generation: 1,
        state: FlowState::Established as u8,
        admitted_by: admitted_by as u8,
        ..Flow::default()
    }
}

/// A lab in which both workloads have a flow to port 443 of both servers, by TCP and by UDP.
fn lab() -> Lab {
    let mut lab = Lab::new();
    for (own, named) in PAIRS {
        for protocol in [TCP, UDP] {
            lab.put_flow(maps::FLOWS, key(protocol, (own, PORT), (named, 443)), flow(Reason::Cidr));
        }
    }
    lab
}

/// Packets that go on with these flows, without any grant or rule.
fn going_on() -> Vec<Vec<u8>> {
    PAIRS
        .iter()
        .flat_map(|(own, named)| {
            let (from, to) = ((*own, PORT), (*named, 443));
            [tcp(from, to, Flag::Ack), tcp_with(from, to, Flag::Ack, b"data"), udp(from, to, b"data")]
        })
        .collect()
}

/// The frame with other octets at an offset from its IP header on.
fn with(frame: &[u8], at: usize, octets: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[L3 + at..L3 + at + octets.len()].copy_from_slice(octets);
    frame
}

#[test]
fn packets_of_answered_flows_are_counted_and_noted() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    for (own, named) in PAIRS {
        let (client, server) = ((own, PORT), (named, 443));
        let sent = tcp_with(client, server, Flag::Ack, b"data");
        let got = tcp_with(server, client, Flag::Ack, b"more data");
        lab.sends(&sent, PASS, Reason::Flow);
        lab.receives(&got, PASS, Reason::Flow);
        let wanted = key(TCP, client, server);
        let found = lab.flows().0.into_iter().find(|(key, _)| *key == wanted).unwrap().1;
        let octets = (sent.len() + got.len() - 2 * L3) as u64;
        assert_eq!((found.packets, found.bytes), (2, octets));
    }
    let counter = lab.counters()[Reason::Flow as usize];
    assert_eq!(counter.packets, 4);
    assert!(lab.events().is_empty(), "what goes on is not told");
}

// Q2, B1: whatever flow is there, questions go to the resolver.
#[test]
fn flows_to_dns_servers_do_not_pass_by_the_resolver() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.configure(|config| {
        config.dns.trusted[1] = TrustedServer {
            address: address(NAMED4),
            port: 5_353u16.to_be_bytes(),
            resolver_port: TRUSTED_PORT.to_be_bytes(),
            ..TrustedServer::default()
        };
    });
    for port in [53, 5_353] {
        lab.put_flow(maps::FLOWS, key(UDP, (OWN4, PORT), (NAMED4, port)), flow(Reason::Cidr));
        let question = udp((OWN4, PORT), (NAMED4, port), &crate::packets::query(1));
        lab.sends(&question, REDIRECT, Reason::Dns);
    }
}

// G7, B20, B40
#[test]
fn flows_do_not_excuse_forged_sources_and_foreign_gateways() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.configure(|config| (config.gateway_mac, config.on_link) = ([9; 6], [24, 64]));
    for frame in going_on() {
        lab.sends(&frame, DROP, Reason::ForeignMac);
    }
    lab.configure(|config| config.gateway_mac = [0; 6]);
    for frame in going_on() {
        lab.sends(&frame, PASS, Reason::Flow);
    }
    lab.configure(|config| config.own = [address("10.9.9.9"); 8]);
    for frame in going_on() {
        lab.sends(&frame, DROP, Reason::SpoofedSource);
    }
}

// G5
#[test]
fn flows_do_not_excuse_what_is_malformed() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    let (client4, server4) = ((OWN4, PORT), (NAMED4, 443));
    let (client6, server6) = ((OWN6, PORT), (NAMED6, 443));
    let tcp4 = tcp(client4, server4, Flag::Ack);
    let udp4 = udp(client4, server4, b"data");
    let tcp6 = tcp(client6, server6, Flag::Ack);
    let udp6 = udp(client6, server6, b"data");
    let malformed = [
        with(&tcp4, 0, &[0x55]),                             // version
        with(&tcp4, 0, &[0x44]),                             // header of 16 octets
        with(&tcp4, 2, &[0, 41]),                            // longer than the frame
        with(&tcp4, 2, &[0, 39]),                            // shorter than its headers
        with(&tcp4, 20 + 12, &[0x40]),                       // TCP header of 16 octets
        with(&tcp4, 20 + 12, &[0x60]),                       // of 24, in 20
        with(&udp4, 20 + 4, &[0, 7]),                        // UDP shorter than its header
        with(&udp4, 20 + 4, &[0, 13]),                       // longer than the packet
        with(&tcp6, 0, &[0x40]),                             // version
        with(&tcp6, 4, &[0, 21]),                            // longer than the frame
        with(&tcp6, 4, &[0, 19]),                            // shorter than its header
        with(&tcp6, 40 + 12, &[0x60]),                       // TCP header of 24 octets, in 20
        with(&udp6, 40 + 4, &[0, 13]),                       // UDP longer than the packet
        with(&tcp4, 6, &[0x20, 0])[..L3 + 20 + 19].to_vec(), // cut off
    ];
    for frame in &malformed {
        lab.sends(frame, DROP, Reason::Malformed);
    }
    for octets in 0..20 {
        lab.sends(&tcp4[..L3 + 20 + octets], DROP, Reason::Malformed);
        lab.sends(&tcp6[..L3 + 40 + octets], DROP, Reason::Malformed);
    }
    // A mapped address in IPv6 would be the key of an IPv4 flow.
    let disguised = tcp(("::ffff:10.0.0.2", PORT), ("::ffff:203.0.113.10", 443), Flag::Ack);
    lab.sends(&disguised, DROP, Reason::Malformed);
    // The frame's type counts, not the packet's version.
    let mut typed = tcp4.clone();
    typed[12..14].copy_from_slice(&[0x86, 0xdd]);
    lab.sends(&typed, DROP, Reason::Malformed);
}

// B22: later fragments follow their first one, also that of a flow.
#[test]
fn fragments_of_flows_are_noted() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    let whole = udp((OWN4, PORT), (NAMED4, 443), &[0; 64]);
    let first = with(&whole, 4, &[0, 77, 0x20, 0]);
    let later = with(&whole, 4, &[0, 77, 0, 9]);
    lab.sends(&later, DROP, Reason::Fragment);
    lab.sends(&first, PASS, Reason::Flow);
    lab.sends(&later, PASS, Reason::Flow);
}

// G4, R6, R9, R11: flows count as far as they are alive, and as what they were admitted under.
#[test]
fn flows_count_as_what_they_are() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.switch(0, Mode::NoPolicyYet, flags::REJECT, 1);
    for frame in going_on() {
        lab.sends(&frame, REDIRECT, Reason::NoPolicyYet);
    }
    lab.switch(0, Mode::Enforce, flags::REJECT, 1);
    for (admitted_by, told) in
        [(Reason::Reply, Reason::Reply), (Reason::Adopted, Reason::Adopted), (Reason::Name, Reason::Flow)]
    {
        lab.change_flows(|flow| flow.admitted_by = admitted_by as u8);
        for frame in going_on() {
            lab.sends(&frame, PASS, told);
        }
    }
    // What audit let through ends when it is enforced; these servers are allowed by name.
    lab.change_flows(|flow| flow.admitted_by = Reason::NoMatch as u8);
    lab.sends(&going_on()[0], PASS, Reason::Name);
}

// DHCP is housekeeping, whatever flow there is.
#[test]
fn answers_of_dhcp_servers_are_housekeeping() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    for (ports, own, server) in [([68, 67], OWN4, NAMED4), ([546, 547], OWN6, NAMED6)] {
        lab.put_flow(maps::FLOWS, key(UDP, (own, ports[0]), (server, ports[1])), flow(Reason::Cidr));
        lab.receives(&udp((server, ports[1]), (own, ports[0]), b"lease"), PASS, Reason::Housekeeping);
    }
}
