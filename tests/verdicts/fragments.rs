//! Fragments pass after their allowed first one.

use nameward_abi::{Mode, Reason};

use crate::{
    lab::*,
    packets::{L3, raw6, udp},
};

/// The two fragments of an IPv4 datagram to `to`, port 443.
fn fragments4(to: &str, id: u8) -> [Vec<u8>; 2] {
    let mut first = udp((OWN4, 1), (to, 443), &[7; 16]);
    first[L3 + 5] = id;
    let mut second = first.clone();
    first[L3 + 6] = 0x20;
    second[L3 + 6..L3 + 8].copy_from_slice(&[0, 3]);
    [first, second]
}

fn fragments6(to: &str, id: u8) -> [Vec<u8>; 2] {
    let datagram = udp((OWN6, 1), (to, 443), &[7; 16])[L3 + 40..].to_vec();
    let first = [vec![17, 0, 0, 1, 0, 0, 0, id], datagram].concat();
    let second = [vec![17, 0, 0, 24, 0, 0, 0, id], vec![7; 16]].concat();
    [raw6(OWN6, to, 44, 64, &first), raw6(OWN6, to, 44, 64, &second)]
}

// B22
#[test]
fn later_fragments_follow_their_allowed_first_one() {
    if !privileged() {
        return;
    }
    for (build, named, unknown) in
        [(fragments4 as fn(&str, u8) -> [Vec<u8>; 2], NAMED4, UNKNOWN4), (fragments6, NAMED6, UNKNOWN6)]
    {
        let mut lab = Lab::new();
        let [first, second] = build(named, 1);
        lab.sends(&second, DROP, Reason::Fragment);
        lab.sends(&first, PASS, Reason::Name);
        lab.sends(&second, PASS, Reason::Flow);
        // Another datagram, another destination.
        lab.sends(&build(named, 2)[1], DROP, Reason::Fragment);
        let [first, second] = build(unknown, 3);
        assert_ne!(lab.egress(&first).action, PASS);
        lab.sends(&second, DROP, Reason::Fragment);
    }
}

// B22
#[test]
fn tiny_first_fragments_are_malformed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let [first, _] = fragments4(NAMED4, 1);
    let mut tiny = first[..L3 + 24].to_vec();
    tiny[L3 + 3] = 24;
    lab.sends(&tiny, DROP, Reason::Malformed);
}

#[test]
fn atomic_fragments_are_whole_packets() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let datagram = udp((OWN6, 1), (NAMED6, 443), b"data")[L3 + 40..].to_vec();
    let data = [vec![17, 0, 0, 0, 0, 0, 0, 9], datagram].concat();
    lab.sends(&raw6(OWN6, NAMED6, 44, 64, &data), PASS, Reason::Name);
    let twice = [vec![44, 0, 0, 0, 0, 0, 0, 9], data].concat();
    lab.sends(&raw6(OWN6, NAMED6, 44, 64, &twice), DROP, Reason::ExtensionHeader);
}

// B5
#[test]
fn fragmented_queries_are_denied() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut query = udp((OWN4, 1), (UNKNOWN4, 53), &[7; 16]);
    query[L3 + 6] = 0x20;
    lab.sends(&query, DROP, Reason::Fragment);
}

#[test]
fn fragments_of_answers_reach_the_workload() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut first = udp((NAMED4, 443), (OWN4, 1), &[7; 16]);
    first[L3 + 6] = 0x20;
    let mut second = first.clone();
    second[L3 + 6..L3 + 8].copy_from_slice(&[0, 3]);
    lab.receives(&second, DROP, Reason::Fragment);
    lab.sends(&udp((OWN4, 1), (NAMED4, 443), b"q"), PASS, Reason::Name);
    lab.receives(&first, PASS, Reason::Flow);
    lab.receives(&second, PASS, Reason::Flow);
}

// B22: ports and flags of the first fragment cannot be overwritten.
#[test]
fn fragments_over_the_transport_header_are_denied() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (build, named) in [(fragments4 as fn(&str, u8) -> [Vec<u8>; 2], NAMED4), (fragments6, NAMED6)] {
        let [first, second] = build(named, 1);
        let at = if named == NAMED4 { L3 + 7 } else { L3 + 43 };
        for (units, passes) in [(1, false), (2, false), (3, true)] {
            lab.sends(&first, PASS, if units == 1 { Reason::Name } else { Reason::Flow });
            let mut later = second.clone();
            later[at] = if named == NAMED4 { units } else { units << 3 };
            if passes {
                lab.sends(&later, PASS, Reason::Flow);
            } else {
                lab.sends(&later, DROP, Reason::Fragment);
            }
        }
    }
}

// R6
#[test]
fn audit_tells_of_a_fragmented_datagram_once() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::Audit, 0, 1);
    let [first, second] = fragments4(UNKNOWN4, 1);
    lab.sends(&first, PASS, Reason::NoMatch);
    lab.sends(&second, PASS, Reason::Flow);
    assert_eq!(lab.events().len(), 1);
}
