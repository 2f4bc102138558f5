//! Flows: what goes on after it was admitted, and what does not.

use std::time::Duration;

use nameward_abi::{FlowState, Mode, Reason, flags, idle, programs};
use nameward_enforcer::kernel::BootNanos;
use nameward_test_support::wait_until;

use crate::{
    lab::*,
    packets::{Flag, L3, echo, icmp_error, raw, tcp, tcp_with, udp},
};

const CLIENT: (&str, u16) = (OWN4, 40_000);
const SERVER: (&str, u16) = (NAMED4, 443);

fn connect(lab: &mut Lab) {
    lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), PASS, Reason::Name);
    lab.receives(&tcp(SERVER, CLIENT, Flag::SynAck), PASS, Reason::Flow);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
}

// G3, promise 3
#[test]
fn expiry_stops_new_connections_and_no_live_one() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.grant(NAMED4, NAME_ID, 1);
    lab.sends(&tcp_with(CLIENT, SERVER, Flag::Ack, b"more"), PASS, Reason::Flow);
    lab.receives(&tcp_with(SERVER, CLIENT, Flag::Ack, b"more"), PASS, Reason::Flow);
    // B34: the same ports again are a new connection.
    lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), REDIRECT, Reason::Expired);
    lab.sends(&tcp((OWN4, 40_001), SERVER, Flag::Syn), REDIRECT, Reason::Expired);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
}

// R9, promise 3
#[test]
fn a_new_generation_asks_what_the_flow_was_admitted_under() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.grant(NAMED4, NAME_ID, 1);
    // An edit elsewhere, after the grant has expired.
    lab.switch(0, Mode::Enforce, flags::REJECT, 2);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    assert_eq!(lab.flows().0[0].1.generation, 2);
    // The rule that admitted it goes.
    lab.admit(NAME_ID, [0, 0]);
    lab.switch(0, Mode::Enforce, flags::REJECT, 3);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), REDIRECT, Reason::NoMatch);
    // A deny cuts, too.
    lab.admit(NAME_ID, [WEB, 0]);
    lab.cidr(NAMED4, 32, 0, ANY, 0);
    lab.switch(0, Mode::Enforce, flags::REJECT, 4);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), REDIRECT, Reason::DeniedCidr);
}

#[test]
fn flows_of_blocks_outlive_edits_that_keep_the_block() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let server = (BLOCK6, 443);
    lab.sends(&tcp((OWN6, 1), server, Flag::Syn), PASS, Reason::Cidr);
    lab.receives(&tcp(server, (OWN6, 1), Flag::SynAck), PASS, Reason::Flow);
    lab.switch(0, Mode::Enforce, flags::REJECT, 2);
    lab.sends(&tcp((OWN6, 1), server, Flag::Ack), PASS, Reason::Flow);
    lab.cidr("2001:db8:20::", 48, 0, 0, 0);
    lab.switch(0, Mode::Enforce, flags::REJECT, 3);
    lab.sends(&tcp((OWN6, 1), server, Flag::Ack), REDIRECT, Reason::NoMatch);
}

// G4
#[test]
fn answers_establish_and_ends_free() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), PASS, Reason::Name);
    let (established, fleeting) = lab.flows();
    assert_eq!((established.len(), fleeting.len()), (0, 1));
    assert_eq!(fleeting[0].1.admitted_id, NAME_ID);
    lab.receives(&tcp(SERVER, CLIENT, Flag::SynAck), PASS, Reason::Flow);
    let (established, fleeting) = lab.flows();
    assert_eq!((established.len(), fleeting.len()), (1, 0));
    assert_eq!((established[0].1.packets, established[0].1.bytes), (2, 80));
    lab.sends(&tcp(CLIENT, SERVER, Flag::Fin), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 1, "half closed is still established");
    lab.receives(&tcp(SERVER, CLIENT, Flag::Fin), PASS, Reason::Flow);
    let (established, fleeting) = lab.flows();
    assert_eq!((established.len(), fleeting.len()), (0, 1));
    assert_eq!(fleeting[0].1.state, FlowState::Closing as u8);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 0, "the last ACK establishes nothing");
}

#[test]
fn a_reset_frees_the_place_at_once() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.receives(&tcp(SERVER, CLIENT, Flag::Rst), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 0);
}

// G4
#[test]
fn idle_flows_are_absent() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let past = |idle: u64| move |flow: &mut nameward_abi::Flow| flow.last_seen -= idle;
    connect(&mut lab);
    lab.grant(NAMED4, NAME_ID, 1);
    lab.change_flows(past(idle::TCP_CLOSING + 1));
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    lab.grant(NAMED4, NAME_ID, BootNanos::now().0 + HOUR);
    let (asked, answered) = (udp(CLIENT, SERVER, b"q"), udp(SERVER, CLIENT, b"a"));
    lab.sends(&asked, PASS, Reason::Name);
    lab.change_flows(past(idle::UDP_OPENING + 1));
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 1);
    lab.receives(&answered, DROP, Reason::Inbound);
    lab.sends(&asked, PASS, Reason::Name);
    lab.receives(&answered, PASS, Reason::Flow);
    lab.grant(NAMED4, NAME_ID, 1);
    lab.change_flows(past(idle::UDP_OPENING + 1));
    lab.sends(&asked, PASS, Reason::Flow);
    lab.change_flows(past(idle::UDP_ANSWERED + 1));
    lab.sends(&asked, REDIRECT, Reason::Expired);
}

// G5, F3
#[test]
fn a_full_table_denies_what_is_new() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::sized(2);
    for port in [1, 2] {
        lab.sends(&tcp((OWN4, port), SERVER, Flag::Syn), PASS, Reason::Name);
        lab.receives(&tcp(SERVER, (OWN4, port), Flag::SynAck), PASS, Reason::Flow);
    }
    lab.sends(&tcp((OWN4, 3), SERVER, Flag::Syn), PASS, Reason::Name);
    lab.receives(&tcp(SERVER, (OWN4, 3), Flag::SynAck), DROP, Reason::FlowsFull);
    lab.sends(&tcp((OWN4, 4), SERVER, Flag::Syn), REDIRECT, Reason::FlowsFull);
    lab.sends(&tcp((OWN4, 1), SERVER, Flag::Ack), PASS, Reason::Flow);
}

// G9, B35, B38
#[test]
fn inbound_connections_may_be_answered_as_far_as_set() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (outside, service) = ((UNKNOWN4, 5_000), (OWN4, 80));
    lab.sends(&tcp(service, outside, Flag::SynAck), REDIRECT, Reason::NoMatch);
    lab.receives(&tcp(outside, service, Flag::Ack), DROP, Reason::Inbound);
    lab.receives(&tcp(outside, service, Flag::Syn), PASS, Reason::Flow);
    lab.sends(&tcp(service, outside, Flag::SynAck), PASS, Reason::Reply);
    lab.receives(&tcp(outside, service, Flag::Ack), PASS, Reason::Flow);
    lab.sends(&tcp_with(service, outside, Flag::Ack, b"page"), PASS, Reason::Reply);
    assert_eq!(lab.counters()[Reason::Reply as usize].bytes, 84);
    // Closed later: the next answer is the last.
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 2);
    lab.sends(&tcp(service, outside, Flag::Ack), REDIRECT, Reason::NoMatch);
    lab.receives(&tcp((UNKNOWN4, 5_001), service, Flag::Syn), DROP, Reason::Inbound);
    lab.receives(&udp((UNKNOWN4, 5_001), service, b"x"), DROP, Reason::Inbound);
    lab.receives(&echo(UNKNOWN4, OWN4, 1, true), DROP, Reason::Inbound);
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_CLUSTER, 3);
    lab.receives(&tcp((UNKNOWN4, 5_002), service, Flag::Syn), DROP, Reason::Inbound);
    lab.receives(&tcp((CLUSTER4, 5_002), service, Flag::Syn), PASS, Reason::Flow);
    lab.sends(&tcp(service, (CLUSTER4, 5_002), Flag::SynAck), PASS, Reason::Reply);
}

// A5
#[test]
fn use_is_noted_at_the_grant() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    assert_eq!(lab.grant_of(NAMED4).last_used, 0);
    connect(&mut lab);
    let first = lab.grant_of(NAMED4).last_used;
    assert!(first != 0);
    // The programs' clock ticks every few milliseconds.
    wait_until("a later use is noted", Duration::from_secs(5), || {
        lab.change_flows(|flow| flow.last_seen -= 2_000_000_000);
        lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
        (lab.grant_of(NAMED4).last_used > first).then_some(())
    });
}

// B24
#[test]
fn icmp_errors_are_about_known_flows_and_go_to_their_peer() {
    if !privileged() {
        return;
    }
    for (own, named) in [(OWN4, NAMED4), (OWN6, NAMED6)] {
        let mut lab = Lab::new();
        let (client, server) = ((own, 40_000), (named, 443));
        let sent = udp(client, server, b"question");
        let got = udp(server, client, b"an answer");
        let router = if own == OWN4 { "198.18.9.9" } else { "2001:db8:99::9" };
        lab.receives(&icmp_error(router, own, &sent, 64), DROP, Reason::IcmpError);
        lab.sends(&icmp_error(own, named, &got, 64), DROP, Reason::IcmpError);
        lab.sends(&sent, PASS, Reason::Name);
        lab.receives(&icmp_error(router, own, &sent, 64), PASS, Reason::Related);
        lab.sends(&icmp_error(own, named, &got, 64), PASS, Reason::Related);
        // An own live flow quoted towards somebody else.
        lab.sends(&icmp_error(own, router, &got, 64), DROP, Reason::IcmpError);
        // Somebody else's flow, and a quotation that is too long to be one.
        let other = udp(server, (own, 40_001), b"an answer");
        lab.sends(&icmp_error(own, named, &other, 64), DROP, Reason::IcmpError);
        let long = udp(server, client, &[0; 1_400]);
        lab.sends(&icmp_error(own, named, &long, 1_400), DROP, Reason::IcmpError);
        lab.sends(&icmp_error(own, named, &got, 24), DROP, Reason::IcmpError);
    }
}

#[test]
fn echoes_are_answered() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, block) in [(OWN4, BLOCK4), (OWN6, BLOCK6)] {
        lab.receives(&echo(block, own, 77, false), DROP, Reason::Inbound);
        lab.sends(&echo(own, block, 77, true), PASS, Reason::Cidr);
        lab.receives(&echo(block, own, 77, false), PASS, Reason::Flow);
        lab.receives(&echo(block, own, 78, false), DROP, Reason::Inbound);
        lab.sends(&echo(own, block, 79, false), REDIRECT, Reason::Protocol);
    }
    assert!(lab.flows().0.is_empty(), "ICMP never takes a place among the established");
}

// R6
#[test]
fn audit_tells_once_of_a_connection_and_lets_its_answers_in() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let audit = flags::REJECT | flags::INBOUND_NONE;
    lab.switch(0, Mode::Audit, audit, 1);
    let server = (UNKNOWN4, 443);
    lab.sends(&tcp(CLIENT, server, Flag::Syn), PASS, Reason::NoMatch);
    lab.receives(&tcp(server, CLIENT, Flag::SynAck), PASS, Reason::Flow);
    lab.change_flows(|flow| flow.last_seen -= 2_000_000_000);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), PASS, Reason::NoMatch);
    assert_eq!(lab.events().len(), 1);
    // When it is enforced, what audit let through ends.
    lab.switch(0, Mode::Enforce, audit, 1);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), REDIRECT, Reason::NoMatch);
}

// G3, B34: some stacks take a SYN with a FIN for a new connection.
#[test]
fn a_syn_with_a_fin_is_new() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.grant(NAMED4, NAME_ID, 1);
    let mut frame = tcp(CLIENT, SERVER, Flag::Syn);
    frame[L3 + 33] |= 1;
    lab.sends(&frame, REDIRECT, Reason::Expired);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
}

// R9: in both directions.
#[test]
fn what_is_no_longer_allowed_gets_no_answers() {
    if !privileged() {
        return;
    }
    for (own, named) in [(OWN4, NAMED4), (OWN6, NAMED6)] {
        let mut lab = Lab::new();
        let (client, server) = ((own, 40_000), (named, 443));
        lab.sends(&udp(client, server, b"q"), PASS, Reason::Name);
        lab.receives(&udp(server, client, b"a"), PASS, Reason::Flow);
        // An edit elsewhere, after the grant has expired.
        lab.grant(named, NAME_ID, 1);
        lab.switch(0, Mode::Enforce, flags::REJECT, 2);
        lab.receives(&udp(server, client, b"a"), PASS, Reason::Flow);
        lab.admit(NAME_ID, [0, 0]);
        lab.switch(0, Mode::Enforce, flags::REJECT, 3);
        lab.receives(&udp(server, client, b"a"), DROP, Reason::Inbound);
        lab.sends(&udp(client, server, b"q"), REDIRECT, Reason::NoMatch);
        // It is no stranger's datagram that opens something, either.
        lab.receives(&udp(server, client, b"a"), DROP, Reason::Inbound);
    }
}

// B24: only echoes have identifiers; nothing else follows a flow of identifier 0.
#[test]
fn icmp_without_identifier_belongs_to_no_flow() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, block, protocol, kind) in [(OWN4, BLOCK4, 1, 5), (OWN6, BLOCK6, 58, 137)] {
        lab.sends(&echo(own, block, 0, true), PASS, Reason::Cidr);
        lab.receives(&echo(block, own, 0, false), PASS, Reason::Flow);
        let redirect = [kind, 0, 0, 0, 0, 0, 0, 0];
        lab.sends(&raw(own, block, protocol, &redirect), REDIRECT, Reason::Protocol);
        lab.receives(&raw(block, own, protocol, &redirect), DROP, Reason::Inbound);
    }
}

// G4: alive one second before its end, gone one second after it.
#[test]
fn idle_times_are_those_promised() {
    if !privileged() {
        return;
    }
    const SECOND: u64 = 1_000_000_000;
    type Step = fn(&mut Lab);
    let opening_tcp: Step = |lab| drop(lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), PASS, Reason::Name));
    let closing_tcp: Step = |lab| {
        connect(lab);
        lab.sends(&tcp(CLIENT, SERVER, Flag::Fin), PASS, Reason::Flow);
        lab.receives(&tcp(SERVER, CLIENT, Flag::Fin), PASS, Reason::Flow);
    };
    let one_way: Step = |lab| drop(lab.sends(&udp(CLIENT, SERVER, b"q"), PASS, Reason::Name));
    let answered: Step = |lab| {
        lab.sends(&udp(CLIENT, SERVER, b"q"), PASS, Reason::Name);
        lab.receives(&udp(SERVER, CLIENT, b"a"), PASS, Reason::Flow);
    };
    let pinged: Step = |lab| drop(lab.sends(&echo(OWN4, BLOCK4, 7, true), PASS, Reason::Cidr));
    let (segment, datagram) = (tcp(SERVER, CLIENT, Flag::Ack), udp(SERVER, CLIENT, b"a"));
    let cases: [(Step, Vec<u8>, u64); 6] = [
        (connect, segment.clone(), 24 * 3_600),
        (opening_tcp, segment.clone(), 60),
        (closing_tcp, segment, 60),
        (answered, datagram.clone(), 180),
        (one_way, datagram, 30),
        (pinged, echo(BLOCK4, OWN4, 7, false), 30),
    ];
    for (begin, answer, seconds) in cases {
        for (age, alive) in [((seconds - 1) * SECOND, true), ((seconds + 1) * SECOND, false)] {
            let mut lab = Lab::new();
            lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 1);
            begin(&mut lab);
            // A machine that has just started has no such past.
            if BootNanos::now().0 <= age {
                continue;
            }
            lab.change_flows(|flow| flow.last_seen -= age);
            if alive {
                lab.receives(&answer, PASS, Reason::Flow);
            } else {
                lab.receives(&answer, DROP, Reason::Inbound);
            }
        }
    }
}

// F3, promise 4: room does not depend on user space.
#[test]
fn idle_flows_make_room_by_themselves() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::sized(2);
    let open = |lab: &mut Lab, port| {
        lab.egress(&udp((OWN4, port), SERVER, b"q"));
        lab.run(programs::POD_INGRESS, &udp(SERVER, (OWN4, port), b"a"), 0, 1).action
    };
    assert_eq!([open(&mut lab, 1), open(&mut lab, 2)], [PASS; 2]);
    lab.change_flows(|flow| flow.last_seen -= idle::UDP_ANSWERED + 1);
    // The packet that finds the table full is denied, and makes room for the next.
    assert_eq!([open(&mut lab, 3), open(&mut lab, 4)], [DROP, PASS]);
    assert_eq!(lab.flows().0.len(), 1);
}

// Promise 3, promise 6: nobody's flood takes a live flow's place.
#[test]
fn floods_evict_nothing_that_is_established() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    connect(&mut lab);
    lab.sends(&udp(CLIENT, SERVER, b"q"), PASS, Reason::Name);
    lab.receives(&udp(SERVER, CLIENT, b"a"), PASS, Reason::Flow);
    for port in 1..20_000u16 {
        assert_eq!(lab.egress(&tcp((OWN4, port), SERVER, Flag::Syn)).action, PASS);
        let outside = tcp((UNKNOWN4, port), (OWN4, 80), Flag::Syn);
        assert_eq!(lab.run(programs::POD_INGRESS, &outside, 0, 1).action, PASS);
    }
    lab.grant(NAMED4, NAME_ID, 1);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    lab.sends(&udp(CLIENT, SERVER, b"q"), PASS, Reason::Flow);
}

// Promise 3: many short connections, none denied wrongly, the idle one stays.
#[test]
fn short_connections_leave_room_for_each_other() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::sized(64);
    connect(&mut lab);
    for port in 1..10_000u16 {
        let client = (OWN4, port);
        lab.egress(&tcp(client, SERVER, Flag::Syn));
        for (sent, flag) in [
            (false, Flag::SynAck),
            (true, Flag::Ack),
            (true, Flag::Fin),
            (false, Flag::Fin),
            (true, Flag::Ack),
        ] {
            let run = if sent {
                lab.egress(&tcp(client, SERVER, flag))
            } else {
                lab.run(programs::POD_INGRESS, &tcp(SERVER, client, flag), 0, 1)
            };
            assert_eq!(run.action, PASS, "{port} {flag:?}");
        }
    }
    assert_eq!(lab.flows().0.len(), 1);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
}

/// Both sides begin at once (RFC 9293, figure 8), and somebody forges a reset.
#[test]
fn simultaneous_opens_and_forged_resets_cut_nothing() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 1);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), PASS, Reason::Name);
    lab.receives(&tcp(SERVER, CLIENT, Flag::Syn), PASS, Reason::Flow);
    lab.sends(&tcp(CLIENT, SERVER, Flag::SynAck), PASS, Reason::Flow);
    lab.receives(&tcp(SERVER, CLIENT, Flag::Ack), PASS, Reason::Flow);
    lab.grant(NAMED4, NAME_ID, 1);
    lab.receives(&tcp(SERVER, CLIENT, Flag::Rst), PASS, Reason::Flow);
    // The stack took no notice: the connection goes on, and has its place again.
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    lab.receives(&tcp(SERVER, CLIENT, Flag::Ack), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 1);
}

// G9: rules do not open what `inbound` closes, and an ICMP error is no way around an edit.
#[test]
fn icmp_errors_end_with_what_they_quote() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&udp(CLIENT, SERVER, b"q"), PASS, Reason::Name);
    let error = icmp_error(OWN4, NAMED4, &udp(SERVER, CLIENT, b"an answer"), 64);
    lab.sends(&error, PASS, Reason::Related);
    lab.admit(NAME_ID, [0, 0]);
    lab.switch(0, Mode::Enforce, flags::REJECT, 2);
    lab.sends(&error, DROP, Reason::IcmpError);
}

// Asymmetric paths: where answers pass us by, the workload's own acknowledgement shows them (promise 3).
#[test]
fn connections_whose_answers_take_another_way_are_established_all_the_same() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&tcp(CLIENT, SERVER, Flag::Syn), PASS, Reason::Name);
    assert_eq!(lab.flows().0.len(), 0);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    let (established, fleeting) = lab.flows();
    assert_eq!((established.len(), fleeting.len(), established[0].1.unseen), (1, 0, 1));
    lab.grant(NAMED4, NAME_ID, 1);
    lab.change_flows(|flow| flow.last_seen -= 3_600_000_000_000.min(BootNanos::now().0 / 2));
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    // One that comes our way is noticed.
    lab.receives(&tcp(SERVER, CLIENT, Flag::Ack), PASS, Reason::Flow);
    assert_eq!(lab.flows().0[0].1.unseen, 0);
    // A reset is no acknowledgement.
    lab.grant(NAMED4, NAME_ID, BootNanos::now().0 + HOUR);
    lab.sends(&tcp((OWN4, 2), SERVER, Flag::Syn), PASS, Reason::Name);
    lab.sends(&tcp((OWN4, 2), SERVER, Flag::Rst), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 1);
}

// R2, R11: what was adopted asks for no rule, and stops at a deny.
#[test]
fn adopted_connections_end_with_a_deny_only() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let server = (UNKNOWN4, 9);
    let key = nameward_abi::FlowKey {
        local: address(OWN4),
        remote: address(UNKNOWN4),
        local_port: 40_000u16.to_be_bytes(),
        remote_port: 9u16.to_be_bytes(),
        protocol: TCP,
        ..nameward_abi::FlowKey::default()
    };
    let flow = nameward_abi::Flow {
        last_seen: BootNanos::now().0,
        state: FlowState::Established as u8,
        admitted_by: Reason::Adopted as u8,
        ..nameward_abi::Flow::default()
    };
    lab.put_flow(nameward_abi::maps::FLOWS, key, flow);
    lab.receives(&tcp(server, CLIENT, Flag::Ack), PASS, Reason::Flow);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), PASS, Reason::Adopted);
    lab.switch(0, Mode::Enforce, flags::REJECT, 2);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), PASS, Reason::Adopted);
    lab.cidr(UNKNOWN4, 32, 0, ANY, 0);
    lab.switch(0, Mode::Enforce, flags::REJECT, 3);
    lab.receives(&tcp(server, CLIENT, Flag::Ack), DROP, Reason::Inbound);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), REDIRECT, Reason::DeniedCidr);
}

// Promise 3: at ten thousand connections a second an answer may be two thousand connections late.
#[test]
fn short_connections_push_out_nobody_who_waits_for_an_answer() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 1);
    let slow: Vec<(&str, u16)> = (50_000..50_100).map(|port| (OWN4, port)).collect();
    for client in &slow {
        lab.sends(&tcp(*client, SERVER, Flag::Syn), PASS, Reason::Name);
    }
    for port in 1..2_000 {
        let client = (OWN4, port);
        lab.egress(&tcp(client, SERVER, Flag::Syn));
        lab.run(programs::POD_INGRESS, &tcp(SERVER, client, Flag::SynAck), 0, 1);
        lab.egress(&tcp(client, SERVER, Flag::Fin));
        lab.run(programs::POD_INGRESS, &tcp(SERVER, client, Flag::Fin), 0, 1);
    }
    for client in slow {
        lab.receives(&tcp(SERVER, client, Flag::SynAck), PASS, Reason::Flow);
    }
    assert_eq!(lab.flows().0.len(), 100);
}

// R1, R9: a workload that nothing isolates has flows, too, and a deny that comes later ends them.
#[test]
fn a_new_deny_ends_what_nothing_isolated() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::NotIsolated, flags::REJECT, 1);
    let server = (UNKNOWN4, 9);
    lab.sends(&tcp(CLIENT, server, Flag::Syn), PASS, Reason::NotIsolated);
    lab.receives(&tcp(server, CLIENT, Flag::SynAck), PASS, Reason::Flow);
    lab.switch(0, Mode::NotIsolated, flags::REJECT, 2);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), PASS, Reason::Flow);
    lab.cidr(UNKNOWN4, 32, 0, ANY, 0);
    lab.switch(0, Mode::NotIsolated, flags::REJECT, 3);
    lab.sends(&tcp(CLIENT, server, Flag::Ack), REDIRECT, Reason::DeniedCidr);
    lab.sends(&tcp((OWN4, 2), server, Flag::Syn), REDIRECT, Reason::DeniedCidr);
}
