//! The program on the workload's side of its link, where a CNI delivers past the host's.

use nameward_abi::{Mode, Reason, flags, programs};

use crate::{
    lab::*,
    packets::{Flag, L3, echo, icmp_error, query, tcp, udp},
};

const ANSWER_MARK: u32 = 0x6e77_0001;

/// Enforcing, with the program on the workload's side.
fn lab() -> Lab {
    let mut lab = Lab::new();
    lab.load(programs::POD_ARRIVAL);
    lab.configure(|config| config.arrivals = 1);
    lab
}

#[track_caller]
fn arrives(lab: &mut Lab, frame: &[u8], action: i32, reason: Reason) {
    lab.check(programs::POD_ARRIVAL, frame, action, reason);
}

// DESIGN 4: each packet is judged and counted once
#[test]
fn the_hosts_side_judges_nothing_then() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    let total = |lab: &mut Lab| lab.counters().iter().map(|counter| counter.packets).sum::<u64>();
    let outside = tcp((UNKNOWN4, 5_000), (OWN4, 80), Flag::Syn);
    let before = total(&mut lab);
    assert_eq!(lab.run(programs::POD_INGRESS, &outside, 0, 1).action, PASS);
    assert_eq!(total(&mut lab), before);
    assert!(lab.flows().1.is_empty(), "nothing is learned there");
    arrives(&mut lab, &outside, PASS, Reason::Flow);
    lab.sends(&tcp((OWN4, 80), (UNKNOWN4, 5_000), Flag::SynAck), PASS, Reason::Reply);
}

// G9
#[test]
fn inbound_is_judged_there() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.switch(0, Mode::Enforce, flags::INBOUND_NONE, 1);
    arrives(&mut lab, &tcp((UNKNOWN4, 5_000), (OWN4, 80), Flag::Syn), DROP, Reason::Inbound);
    arrives(&mut lab, &udp((UNKNOWN4, 5_000), (OWN4, 80), b"x"), DROP, Reason::Inbound);
    arrives(&mut lab, &echo(UNKNOWN4, OWN4, 1, true), DROP, Reason::Inbound);
    let (client, server) = ((OWN4, 40_000), (NAMED4, 443));
    lab.sends(&udp(client, server, b"q"), PASS, Reason::Name);
    arrives(&mut lab, &udp(server, client, b"a"), PASS, Reason::Flow);
    assert_eq!(lab.flows().0.len(), 1);
    lab.switch(0, Mode::NoPolicyYet, 0, 0);
    arrives(&mut lab, &udp(server, client, b"a"), DROP, Reason::NoPolicyYet);
}

// Q1, B39: marks do not cross namespaces, so answers are known by what was asked
#[test]
fn answers_of_the_resolver_arrive() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.switch(0, Mode::Enforce, flags::INBOUND_NONE, 1);
    for (own, server, resolver, identity) in
        [(OWN4, UNKNOWN4, RESOLVER4, IDENTITY4), (OWN6, UNKNOWN6, RESOLVER6, IDENTITY6)]
    {
        lab.sends(&udp((own, 40_000), (server, 53), &query(7)), REDIRECT, Reason::Dns);
        let answer = udp((resolver, DEFAULT_PORT), (identity, 40_000), &query(7));
        let restored = lab.run(programs::POD_INGRESS, &answer, ANSWER_MARK, 1);
        assert_eq!(restored.action, PASS);
        arrives(&mut lab, &restored.frame, PASS, Reason::Dns);
        let answer = |from: &str, port, id| udp((from, 53), (own, port), &query(id));
        arrives(&mut lab, &answer(server, 40_000, 8), DROP, Reason::Inbound);
        arrives(&mut lab, &answer(server, 40_001, 7), DROP, Reason::Inbound);
        let other = if own == OWN4 { NAMED4 } else { NAMED6 };
        arrives(&mut lab, &answer(other, 40_000, 7), DROP, Reason::Inbound);
        lab.sends(&tcp((own, 40_002), (server, 53), Flag::Syn), REDIRECT, Reason::Dns);
        let answer = tcp((resolver, DEFAULT_PORT), (identity, 40_002), Flag::SynAck);
        let restored = lab.run(programs::POD_INGRESS, &answer, ANSWER_MARK, 1);
        arrives(&mut lab, &restored.frame, PASS, Reason::Dns);
    }
}

// G6
#[test]
fn our_own_refusals_arrive_and_open_nothing() {
    if !privileged() {
        return;
    }
    let mut lab = lab();
    lab.switch(0, Mode::Enforce, flags::REJECT | flags::INBOUND_NONE, 1);
    for (own, unknown) in [(OWN4, UNKNOWN4), (OWN6, UNKNOWN6)] {
        for frame in [tcp((own, 1), (unknown, 443), Flag::Syn), udp((own, 1), (unknown, 443), &[7; 64])] {
            let refusal = lab.egress(&frame).frame;
            arrives(&mut lab, &refusal, PASS, Reason::Related);
        }
        // Other errors are about known flows.
        let error = icmp_error(unknown, own, &udp((own, 1), (unknown, 443), b"question"), 64);
        arrives(&mut lab, &error, DROP, Reason::IcmpError);
    }
    assert!(lab.flows().0.is_empty() && lab.flows().1.is_empty());
    let mut later = udp((UNKNOWN4, 443), (OWN4, 1), &[7; 16]);
    later[L3 + 6..L3 + 8].copy_from_slice(&[0, 3]);
    arrives(&mut lab, &later, DROP, Reason::Fragment);
}
