//! What rules allow and deny: reasons, counters, events.

use nameward_abi::{Direction, Mode, Reason, Verdict, flags};
use nameward_enforcer::kernel::BootNanos;

use crate::{
    lab::*,
    packets::{Flag, echo, ethernet, raw, tcp, udp},
};

fn syn(to: &str, port: u16) -> Vec<u8> {
    let from = if to.contains(':') { OWN6 } else { OWN4 };
    tcp((from, 40_000), (to, port), Flag::Syn)
}

// G2, G5
#[test]
fn names_and_blocks_open_their_ports_only() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for named in [NAMED4, NAMED6] {
        lab.sends(&syn(named, 443), PASS, Reason::Name);
        lab.sends(&syn(named, 8_083), PASS, Reason::Name);
        lab.sends(&syn(named, 8_088), REDIRECT, Reason::Port);
        lab.sends(&syn(named, 80), REDIRECT, Reason::Port);
    }
    lab.sends(&udp((OWN4, 40_000), (NAMED4, 443), b"x"), PASS, Reason::Name);
    for block in [BLOCK4, BLOCK6] {
        lab.sends(&syn(block, 443), PASS, Reason::Cidr);
        lab.sends(&syn(block, 22), REDIRECT, Reason::Port);
    }
    lab.sends(&udp((OWN4, 40_000), (BLOCK4, 443), b"x"), REDIRECT, Reason::Port);
    lab.sends(&syn(CLUSTER4, 443), PASS, Reason::Cluster);
    for unknown in [UNKNOWN4, UNKNOWN6] {
        lab.sends(&syn(unknown, 443), REDIRECT, Reason::NoMatch);
    }
}

// R2, R4
#[test]
fn denies_win_and_reach_into_embedded_addresses() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&syn(DENIED4, 443), REDIRECT, Reason::DeniedCidr);
    lab.sends(&echo(OWN4, DENIED4, 1, true), REDIRECT, Reason::DeniedCidr);
    // B23: NAT64, 6to4 and Teredo addresses of 192.0.2.5, all of them in an allowed block.
    lab.cidr("2000::", 3, WEB, 0, 0);
    lab.cidr("64:ff9b::", 96, WEB, 0, 0);
    for embedded in ["64:ff9b::192.0.2.5", "2002:c000:205::1", "2001:0:1:2:3:4:3fff:fdfa"] {
        lab.sends(&syn(embedded, 443), REDIRECT, Reason::DeniedCidr);
    }
    lab.sends(&syn("2002:c000:305::1", 443), PASS, Reason::Cidr);
    // Allows match the literal address only.
    lab.sends(&syn("64:ff9b::198.51.100.9", 80), REDIRECT, Reason::Port);
}

// G3, F1
#[test]
fn grants_expire_by_the_heartbeat_or_by_the_clock() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let now = BootNanos::now().0;
    // The programs' clock ticks every few milliseconds.
    let end = now - 100_000_000;
    lab.grant(NAMED4, NAME_ID, end);
    lab.beat(now);
    lab.sends(&syn(NAMED4, 443), REDIRECT, Reason::Expired);
    // The beat stopped before the end: what was live stays live.
    lab.beat(end - 10);
    lab.sends(&syn(NAMED4, 443), PASS, Reason::Name);
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::CLOSED, 1);
    lab.sends(&syn(NAMED4, 443), REDIRECT, Reason::Expired);
}

// G10
#[test]
fn rule_sets_switch_with_one_word() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(1, Mode::Enforce, flags::REJECT, 2);
    lab.sends(&syn(NAMED4, 443), REDIRECT, Reason::NoMatch);
    lab.sends(&syn(BLOCK4, 443), REDIRECT, Reason::NoMatch);
    lab.sends(&syn(DENIED4, 443), REDIRECT, Reason::NoMatch);
    lab.switch(0, Mode::Enforce, flags::REJECT, 3);
    lab.sends(&syn(NAMED4, 443), PASS, Reason::Name);
}

// G5, G6, R6
#[test]
fn modes_change_what_is_done_and_not_the_reason() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::Enforce, 0, 1);
    lab.sends(&syn(UNKNOWN4, 443), DROP, Reason::NoMatch);
    lab.switch(0, Mode::Audit, flags::REJECT, 1);
    lab.events();
    lab.sends(&syn(UNKNOWN4, 444), PASS, Reason::NoMatch);
    let events = lab.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].verdict, Verdict::WouldDeny as u8);
    lab.switch(0, Mode::NoPolicyYet, 0, 0);
    lab.sends(&syn(NAMED4, 443), DROP, Reason::NoPolicyYet);
    lab.receives(&tcp((UNKNOWN4, 1), (OWN4, 80), Flag::Syn), DROP, Reason::NoPolicyYet);
    // R1: who is not isolated may do everything but what is denied.
    lab.switch(0, Mode::NotIsolated, 0, 1);
    lab.sends(&syn(UNKNOWN4, 445), PASS, Reason::NotIsolated);
    lab.sends(&raw(OWN4, UNKNOWN4, 47, b"gre"), PASS, Reason::NotIsolated);
    lab.sends(&syn(DENIED4, 443), DROP, Reason::DeniedCidr);
}

// B2, B25
#[test]
fn protocols_need_rules() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&echo(OWN4, BLOCK4, 9, true), PASS, Reason::Cidr);
    lab.sends(&echo(OWN6, BLOCK6, 9, true), PASS, Reason::Cidr);
    lab.sends(&echo(OWN4, NAMED4, 9, true), REDIRECT, Reason::Port);
    lab.sends(&raw(OWN4, BLOCK4, 50, b"sealed packet"), PASS, Reason::Cidr);
    lab.sends(&raw(OWN4, UNKNOWN4, 47, b"some bytes of gre"), REDIRECT, Reason::Protocol);
    lab.sends(&raw(OWN4, UNKNOWN4, 255, b"some raw bytes"), REDIRECT, Reason::Protocol);
    // ICMP messages that are neither echoes nor errors: a timestamp request, an ICMPv6 message in IPv4.
    lab.sends(&raw(OWN4, BLOCK4, 1, &[13, 0, 0, 0, 0, 0, 0, 0]), REDIRECT, Reason::Protocol);
    lab.sends(&raw(OWN4, BLOCK4, 58, &[128, 0, 0, 0, 0, 0, 0, 0]), REDIRECT, Reason::Protocol);
    lab.sends(&syn(UNKNOWN4, 853), REDIRECT, Reason::DnsElsewhere);
    lab.sends(&ethernet([0x88, 0xcc]), DROP, Reason::NotIp);
    lab.sends(&[ethernet([0x81, 0]), vec![0; 46]].concat(), DROP, Reason::NotIp);
}

// G7, B20
#[test]
fn sources_must_be_own_addresses() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (from, to) in [("10.0.0.3", NAMED4), ("0.0.0.0", NAMED4), ("2001:db8:1::3", NAMED6), ("::", NAMED6)] {
        lab.sends(&tcp((from, 40_000), (to, 443), Flag::Syn), DROP, Reason::SpoofedSource);
    }
    // Not even who is not isolated may forge.
    lab.switch(0, Mode::NotIsolated, 0, 1);
    lab.sends(&tcp(("10.0.0.3", 1), (NAMED4, 443), Flag::Syn), DROP, Reason::SpoofedSource);
}

// B40
#[test]
fn frames_of_bridge_ports_go_to_the_gateway() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.configure(|config| config.gateway_mac = crate::packets::GATEWAY_MAC);
    lab.sends(&syn(NAMED4, 443), PASS, Reason::Name);
    lab.configure(|config| config.gateway_mac = [2, 9, 9, 9, 9, 9]);
    lab.sends(&syn(NAMED4, 444), DROP, Reason::ForeignMac);
    // A frame for all reaches every neighbour, whatever the packet in it says.
    for named in [NAMED4, NAMED6] {
        let mut to_all = syn(named, 443);
        to_all[..6].copy_from_slice(&[0xff; 6]);
        lab.sends(&to_all, DROP, Reason::ForeignMac);
    }
    lab.cidr("224.0.0.0", 4, QUIC, 0, 0);
    let mut to_group = udp((OWN4, 1), ("224.0.0.9", 443), b"hello");
    to_group[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 9]);
    lab.sends(&to_group, PASS, Reason::Cidr);
}

// B40
#[test]
fn frames_that_stay_on_the_link_go_to_neighbours() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.configure(|config| (config.gateway_mac, config.on_link) = ([2, 9, 9, 9, 9, 9], [24, 64]));
    lab.cidr("10.0.0.0", 16, WEB | QUIC, 0, 0);
    lab.cidr("2001:db8::", 32, WEB, 0, 0);
    lab.sends(&syn("10.0.0.77", 443), PASS, Reason::Cidr);
    lab.sends(&syn("2001:db8:1::77", 443), PASS, Reason::Cidr);
    for beyond in ["10.0.1.77", "10.0.255.255", "2001:db8:1:1::77", NAMED4, NAMED6] {
        lab.sends(&syn(beyond, 443), DROP, Reason::ForeignMac);
    }
    let to_all = |to: &str| {
        let mut frame = udp((OWN4, 1), (to, 443), b"hello");
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame
    };
    lab.sends(&to_all("10.0.0.255"), PASS, Reason::Cidr);
    for for_one in ["10.0.0.77", "10.0.1.255"] {
        lab.sends(&to_all(for_one), DROP, Reason::ForeignMac);
    }
    // A family whose gateway is not known may go anywhere, the other one not.
    lab.configure(|config| config.on_link = [24, nameward_abi::UNCHECKED]);
    lab.sends(&syn(NAMED6, 443), PASS, Reason::Name);
    lab.sends(&syn(NAMED4, 443), DROP, Reason::ForeignMac);
    // Without a prefix nothing is on the link.
    lab.configure(|config| config.on_link = [0, 0]);
    lab.sends(&syn("10.0.0.77", 8_080), DROP, Reason::ForeignMac);
}

// G8
#[test]
fn events_tell_who_what_and_why_and_are_folded() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let frame = syn(UNKNOWN4, 443);
    for _ in 0..5 {
        lab.sends(&frame, REDIRECT, Reason::NoMatch);
    }
    let events = lab.events();
    assert_eq!(events.len(), 1, "{events:?}");
    let event = events[0];
    assert_eq!((event.endpoint_id, event.packets, event.bytes), (42, 1, 40));
    assert_eq!((event.local, event.remote), (address(OWN4), address(UNKNOWN4)));
    assert_eq!((event.local_port, event.remote_port), (40_000u16.to_be_bytes(), 443u16.to_be_bytes()));
    assert_eq!((event.protocol, event.reason), (TCP, Reason::NoMatch as u8));
    assert_eq!((event.verdict, event.direction), (Verdict::Deny as u8, Direction::Egress as u8));
    assert_eq!(event.generation, 1);
    assert_eq!(lab.counters()[Reason::NoMatch as usize].packets, 5);
    lab.sends(&syn(NAMED4, 443), PASS, Reason::Name);
    let events = lab.events();
    assert_eq!(events.len(), 1, "a connection that begins is told: {events:?}");
    assert_eq!((events[0].admitted_id, events[0].verdict), (NAME_ID, Verdict::Pass as u8));
}

// B30
#[test]
fn a_flood_of_denials_spends_its_own_tokens() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.configure(|config| (config.events_per_second, config.events_burst) = (1, 10));
    for port in 1..=100 {
        lab.egress(&syn(UNKNOWN4, port));
    }
    assert_eq!(lab.counters()[Reason::NoMatch as usize].packets, 99, "one of them is port 53");
    assert!((10..=12).contains(&lab.events().len()));
    assert!(lab.budget().lost >= 87);
}

// G8: what was folded is told when the second is over.
#[test]
fn folded_packets_are_told_together() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let frame = syn(UNKNOWN6, 443);
    for _ in 0..5 {
        lab.sends(&frame, REDIRECT, Reason::NoMatch);
    }
    assert_eq!(lab.events().len(), 1);
    lab.change_folds(|fold| fold.last_sent -= 1_000_000_000);
    lab.sends(&frame, REDIRECT, Reason::NoMatch);
    let events = lab.events();
    assert_eq!(events.iter().map(|event| (event.packets, event.bytes)).collect::<Vec<_>>(), [(5, 300)]);
    // Another reason, address, port or protocol is another event.
    for other in [syn(UNKNOWN6, 444), syn(UNKNOWN4, 443), syn(NAMED6, 22)] {
        lab.egress(&other);
    }
    lab.egress(&udp((OWN6, 40_000), (UNKNOWN6, 443), b"x"));
    assert_eq!(lab.events().len(), 4);
}

// F3: a full ring costs events, which are counted, and no verdict.
#[test]
fn a_full_ring_loses_events_and_nothing_else() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.configure(|config| (config.events_per_second, config.events_burst) = (u32::MAX, u32::MAX));
    let packets = 14_000u16;
    for port in 1_000..1_000 + packets {
        assert_ne!(lab.egress(&syn(UNKNOWN4, port)).action, PASS);
    }
    assert_eq!(lab.counters()[Reason::NoMatch as usize].packets, u64::from(packets));
    let (told, lost) = (lab.events().len() as u64, lab.budget().lost);
    assert!(lost > 0, "{told} told");
    assert_eq!(told + lost, u64::from(packets));
}

/// The bucket fills with time, up to its burst.
#[test]
fn tokens_come_back_with_time() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.configure(|config| (config.events_per_second, config.events_burst) = (10, 20));
    let told = |lab: &mut Lab, first: u16| {
        (first..first + 50).for_each(|port| drop(lab.egress(&syn(UNKNOWN4, port))));
        lab.events().len()
    };
    assert!((20..=21).contains(&told(&mut lab, 1_000)));
    assert!(told(&mut lab, 2_000) <= 1);
    lab.change_budget(|budget| budget.refilled_at -= 1_000_000_000);
    assert!((10..=12).contains(&told(&mut lab, 3_000)));
    // Longer ago than a machine that was just started has run.
    lab.change_budget(|budget| {
        budget.refilled_at = budget.refilled_at.saturating_sub(3_600_000_000_000).max(1)
    });
    assert!((20..=21).contains(&told(&mut lab, 4_000)));
}
