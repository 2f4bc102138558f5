//! Flows: what goes on after it was admitted, and what does not.

use nameward_abi::{FlowState, Mode, Reason, flags, idle};
use nameward_enforcer::kernel::BootNanos;

use crate::{
    lab::*,
    packets::{Flag, echo, icmp_error, tcp, tcp_with, udp},
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
    lab.change_flows(|flow| flow.last_seen -= 2_000_000_000);
    lab.sends(&tcp(CLIENT, SERVER, Flag::Ack), PASS, Reason::Flow);
    assert!(lab.grant_of(NAMED4).last_used > first);
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
