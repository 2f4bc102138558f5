//! Link traffic: the workload speaks for itself, and to the link only.

use nameward_abi::{Mode, Reason};

use crate::{
    lab::*,
    packets::{CLIENT_MAC, ethernet, raw6, udp},
};

const LINK_LOCAL: &str = "fe80::0000:00ff:fe00:2"; // of CLIENT_MAC
const ALL_NODES: &str = "ff02::1";

fn arp(sender: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet([8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    frame
}

fn discovery(from: &str, to: &str, kind: u8, target: &str, hop_limit: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address(target));
    message.extend([if kind == 135 { 1 } else { 2 }, 1]);
    message.extend(CLIENT_MAC);
    raw6(from, to, 58, hop_limit, &message)
}

// B40
#[test]
fn arp_names_own_addresses() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.sends(&arp([10, 0, 0, 2], CLIENT_MAC), PASS, Reason::Neighbour);
    lab.sends(&arp([0; 4], CLIENT_MAC), PASS, Reason::Neighbour);
    lab.sends(&arp([10, 0, 0, 3], CLIENT_MAC), DROP, Reason::SpoofedSource);
    lab.sends(&arp([10, 0, 0, 2], [2, 9, 9, 9, 9, 9]), DROP, Reason::SpoofedSource);
    lab.sends(&arp([10, 0, 0, 2], CLIENT_MAC)[..30], DROP, Reason::Malformed);
    lab.receives(&arp([10, 0, 0, 1], CLIENT_MAC), PASS, Reason::Neighbour);
}

// B24, B40
#[test]
fn discovery_is_about_own_addresses_on_the_link() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::NoPolicyYet, 0, 0); // the link works before the rules are there
    let solicited = "ff02::1:ff00:1";
    lab.sends(&discovery(OWN6, solicited, 135, "2001:db8:1::1", 255), PASS, Reason::Neighbour);
    lab.sends(&discovery(LINK_LOCAL, solicited, 135, "fe80::1", 255), PASS, Reason::Neighbour);
    lab.sends(&discovery("::", solicited, 135, OWN6, 255), PASS, Reason::Neighbour);
    lab.sends(&discovery(LINK_LOCAL, ALL_NODES, 136, LINK_LOCAL, 255), PASS, Reason::Neighbour);
    lab.sends(&discovery(OWN6, ALL_NODES, 136, "2001:db8:1::1", 255), DROP, Reason::SpoofedSource);
    lab.sends(&discovery(OWN6, ALL_NODES, 136, "fe80::1", 255), DROP, Reason::SpoofedSource);
    lab.sends(&discovery("2001:db8:1::3", solicited, 135, "fe80::1", 255), DROP, Reason::SpoofedSource);
    lab.sends(&discovery(OWN6, solicited, 135, "fe80::1", 64), DROP, Reason::Malformed);
    let mut message = vec![136, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address(OWN6));
    message.extend([0; 64]); // data in the options
    lab.sends(&raw6(OWN6, ALL_NODES, 58, 255, &message), DROP, Reason::Malformed);
    // Answers and probes go to global addresses that were heard on the link. A router would forward them to others.
    let neighbour = "2001:db8:1::1";
    let (answer, probe) =
        (discovery(OWN6, neighbour, 136, OWN6, 255), discovery(OWN6, neighbour, 135, neighbour, 255));
    lab.sends(&answer, DROP, Reason::Protocol);
    lab.sends(&probe, DROP, Reason::Protocol);
    lab.receives(&discovery(neighbour, OWN6, 135, OWN6, 64), DROP, Reason::NoPolicyYet);
    lab.sends(&answer, DROP, Reason::Protocol);
    lab.receives(&discovery(neighbour, OWN6, 135, OWN6, 255), PASS, Reason::Neighbour);
    lab.sends(&answer, PASS, Reason::Neighbour);
    lab.sends(&probe, PASS, Reason::Neighbour);
    let other = "2001:db8:1::9";
    lab.sends(&discovery(OWN6, other, 135, other, 255), DROP, Reason::Protocol);
    lab.receives(&discovery("fe80::1", OWN6, 136, other, 255), PASS, Reason::Neighbour);
    lab.sends(&discovery(OWN6, other, 135, other, 255), PASS, Reason::Neighbour);
    lab.sends(&discovery(OWN6, UNKNOWN6, 136, OWN6, 255), DROP, Reason::Protocol);
    // Advertisements and redirects of a router are not the workload's to send.
    let advertisement = raw6(LINK_LOCAL, ALL_NODES, 58, 255, &[134, 0, 0, 0, 0, 0, 0, 0]);
    lab.sends(&advertisement, DROP, Reason::SpoofedSource);
    lab.receives(&advertisement, PASS, Reason::Neighbour);
}

// G5
#[test]
fn housekeeping_passes_without_a_word() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.switch(0, Mode::NoPolicyYet, 0, 0);
    let report = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    lab.sends(&raw6(LINK_LOCAL, "ff02::16", 0, 1, &report), PASS, Reason::Housekeeping);
    lab.sends(&raw6("::", "ff02::2", 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0]), PASS, Reason::Housekeeping);
    lab.sends(&udp(("0.0.0.0", 68), ("255.255.255.255", 67), b"discover"), PASS, Reason::Housekeeping);
    lab.sends(&udp((OWN4, 68), ("255.255.255.255", 67), b"rebind"), PASS, Reason::Housekeeping);
    lab.sends(&udp((LINK_LOCAL, 546), ("ff02::1:2", 547), b"solicit"), PASS, Reason::Housekeeping);
    assert!(lab.events().is_empty());
    // Beyond the link the same messages are nothing special.
    lab.sends(&udp(("0.0.0.0", 68), ("198.18.0.1", 67), b"discover"), DROP, Reason::SpoofedSource);
    lab.sends(&raw6(OWN6, UNKNOWN6, 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0]), DROP, Reason::NoPolicyYet);
}
