//! Well-formedness: truncation, lengths, options, extension headers.

use nameward_abi::Reason;

use crate::{
    lab::*,
    packets::{Flag, L3, echo, icmp_error, query, raw, raw6, tcp, udp},
};

/// A packet cut anywhere is malformed, however much of it is missing.
// G5
#[test]
fn truncated_packets_are_malformed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let packets = [
        tcp((OWN4, 1), (NAMED4, 443), Flag::Syn),
        tcp((OWN6, 1), (NAMED6, 443), Flag::Syn),
        udp((OWN4, 1), (NAMED4, 443), b"data"),
        udp((OWN6, 1), (NAMED6, 443), b"data"),
        echo(OWN4, BLOCK4, 1, true),
        echo(OWN6, BLOCK6, 1, true),
    ];
    for packet in packets {
        // The kernel builds no packet for a test that is shorter than its IP header.
        let header = if packet[L3] == 0x45 { 20 } else { 40 };
        for length in L3 + header..packet.len() {
            lab.sends(&packet[..length], DROP, Reason::Malformed);
            lab.receives(&packet[..length], DROP, Reason::Malformed);
        }
        assert_eq!(lab.egress(&packet).action, PASS);
    }
    assert!(lab.flows().0.is_empty());
}

/// The same for what has more than one header, and for what the link needs.
// G5
#[test]
fn nothing_that_is_cut_short_passes() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.port(24, 132, 443, WEB | ANY);
    let question = udp((OWN4, 1), (NAMED4, 443), b"question");
    assert_eq!(lab.egress(&question).action, PASS);
    let answer = udp((NAMED4, 443), (OWN4, 1), b"an answer");
    let discovery = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &address("2001:db8:1::1"), &[1, 1, 2, 0, 0, 0, 0, 2]];
    let segment = tcp((OWN6, 1), (NAMED6, 443), Flag::Syn)[L3 + 40..].to_vec();
    let packets = [
        raw(OWN4, NAMED4, 132, &[156, 64, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0]),
        raw6(OWN6, NAMED6, 60, 64, &[&[6, 0, 1, 4, 0, 0, 0, 0], &segment[..]].concat()),
        raw6(OWN6, NAMED6, 44, 64, &[&[6, 0, 0, 0, 0, 0, 0, 9], &segment[..]].concat()),
        raw6(OWN6, "ff02::1:ff00:1", 58, 255, &discovery.concat()),
        icmp_error(OWN4, NAMED4, &answer, 64),
        udp((OWN4, 40_000), (UNKNOWN4, 53), &query(7)),
    ];
    for packet in packets {
        let header = if packet[L3] == 0x45 { 20 } else { 40 };
        for length in L3 + header..packet.len() {
            lab.sends(&packet[..length], DROP, Reason::Malformed);
        }
        assert!([PASS, REDIRECT].contains(&lab.egress(&packet).action), "{packet:02x?}");
    }
}

/// A quotation that ends before the ports says nothing about a flow, whatever the lengths around it say.
// B24
#[test]
fn quotations_are_whole_or_about_nothing() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for (own, named, needed) in [(OWN4, NAMED4, 28), (OWN6, NAMED6, 48)] {
        let sent = udp((own, 40_000), (named, 443), b"question");
        assert_eq!(lab.egress(&sent).action, PASS);
        for octets in 0..needed {
            lab.receives(&icmp_error(named, own, &sent, octets), DROP, Reason::IcmpError);
        }
        lab.receives(&icmp_error(named, own, &sent, needed), PASS, Reason::Related);
        // A quoted fragment, and quoted options or extension headers, are not looked behind.
        let mut odd = sent.clone();
        if own == OWN4 {
            odd[L3 + 7] = 8;
        } else {
            odd[L3 + 6] = 60;
        }
        lab.receives(&icmp_error(named, own, &odd, 64), DROP, Reason::IcmpError);
    }
}

/// IPv6 where the frame says IPv4, and the other way round; the first is too short for its header as well.
#[test]
fn versions_are_those_of_the_frame() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut six = tcp((OWN6, 1), (NAMED6, 443), Flag::Syn);
    six[12..14].copy_from_slice(&[8, 0]);
    let mut four = udp((OWN4, 1), (NAMED4, 443), &[0; 32]);
    four[12..14].copy_from_slice(&[0x86, 0xdd]);
    for frame in [&six[..], &six[..L3 + 30], &four] {
        lab.sends(frame, DROP, Reason::Malformed);
    }
}

/// Padding of short frames is no contradiction.
#[test]
fn frames_may_be_longer_than_their_packets() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let mut packet = tcp((OWN4, 1), (NAMED4, 443), Flag::Syn);
    packet.extend([0; 6]);
    lab.sends(&packet, PASS, Reason::Name);
    assert_eq!(lab.counters()[Reason::Name as usize].bytes, 40);
}

#[test]
fn contradicting_lengths_are_malformed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let good = tcp((OWN4, 1), (NAMED4, 443), Flag::Syn);
    let datagram = udp((OWN4, 1), (NAMED4, 443), b"data");
    let with = |packet: &[u8], at: usize, value: u8| {
        let mut changed = packet.to_vec();
        changed[at] = value;
        changed
    };
    let cases = [
        with(&good, L3, 0x55),         // version 5
        with(&good, L3, 0x44),         // header of 16 octets
        with(&good, L3, 0x4f),         // header of 60 octets: longer than the packet
        with(&good, L3 + 3, 19),       // total length below the header's
        with(&good, L3 + 32, 0x40),    // TCP header of 16 octets
        with(&good, L3 + 32, 0xf0),    // TCP header of 60 octets
        with(&datagram, L3 + 25, 7),   // UDP length below its header's
        with(&datagram, L3 + 25, 200), // UDP length beyond the packet
    ];
    for case in cases {
        lab.sends(&case, DROP, Reason::Malformed);
    }
}

// B22
#[test]
fn options_of_ipv4_are_refused() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let good = tcp((OWN4, 1), (NAMED4, 443), Flag::Syn);
    let with_options = |options: &[u8]| {
        let mut packet = good.clone();
        packet.splice(L3 + 20..L3 + 20, options.iter().copied());
        packet[L3] = 0x45 + u8::try_from(options.len() / 4).unwrap();
        packet[L3 + 3] += u8::try_from(options.len()).unwrap();
        packet
    };
    lab.sends(&with_options(&[148, 4, 0, 0]), PASS, Reason::Name);
    let loose_route = [131, 7, 4, 198, 18, 0, 1, 0];
    lab.sends(&with_options(&loose_route), DROP, Reason::Malformed);
    lab.sends(&with_options(&[1, 1, 1, 1]), DROP, Reason::Malformed);
    lab.sends(&with_options(&[0; 40]), DROP, Reason::Malformed);
}

// B23
#[test]
fn extension_headers_are_walked_within_bounds() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let segment = tcp((OWN6, 1), (NAMED6, 443), Flag::Syn)[L3 + 40..].to_vec();
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let sends = |lab: &mut Lab, first: u8, headers: &[Vec<u8>], action, reason| {
        let data = [headers.concat(), segment.clone()].concat();
        lab.sends(&raw6(OWN6, NAMED6, first, 64, &data), action, reason);
    };
    sends(&mut lab, 60, &[options(6)], PASS, Reason::Name);
    sends(&mut lab, 60, &[options(60), options(6)], PASS, Reason::Name);
    let five = [options(60), options(60), options(60), options(60), options(6)];
    sends(&mut lab, 60, &five, DROP, Reason::ExtensionHeader);
    // Routing headers of every type, authentication, mobility, HIP, shim6, the experimental ones.
    for header in [43, 51, 135, 139, 140, 253, 254] {
        sends(&mut lab, header, &[options(6)], DROP, Reason::ExtensionHeader);
        sends(&mut lab, 60, &[options(header), options(6)], DROP, Reason::ExtensionHeader);
    }
    // Hop-by-hop options stand first, and only housekeeping has them.
    sends(&mut lab, 0, &[options(6)], DROP, Reason::ExtensionHeader);
    sends(&mut lab, 60, &[options(0), options(6)], DROP, Reason::ExtensionHeader);
    // Longer than the packet, longer than is walked.
    sends(&mut lab, 60, &[vec![6, 9, 0, 0, 0, 0, 0, 0]], DROP, Reason::Malformed);
    let long = [vec![6, 80], vec![0; 646]].concat();
    sends(&mut lab, 60, &[long], DROP, Reason::ExtensionHeader);
    // A jumbogram's length is zero.
    let mut jumbo = raw6(OWN6, NAMED6, 0, 64, &[6, 0, 0xc2, 4, 0, 1, 0, 0]);
    jumbo[L3 + 4..L3 + 6].copy_from_slice(&[0, 0]);
    lab.sends(&jumbo, DROP, Reason::Malformed);
}

/// Every sequence of up to three extension headers, against what the walk promises.
// B23
#[test]
fn every_order_of_extension_headers_is_known_or_denied() {
    if !privileged() {
        return;
    }
    const KINDS: [u8; 9] = [0, 43, 44, 51, 60, 135, 139, 140, 253];
    let mut lab = Lab::new();
    let segment = tcp((OWN6, 1), (NAMED6, 443), Flag::Syn)[L3 + 40..].to_vec();
    let mut orders: Vec<Vec<u8>> = vec![vec![]];
    for length in 0..3 {
        let longer: Vec<Vec<u8>> = orders
            .iter()
            .filter(|order| order.len() == length)
            .flat_map(|order| KINDS.map(|kind| [&order[..], &[kind]].concat()))
            .collect();
        orders.extend(longer);
    }
    assert_eq!(orders.len(), 1 + 9 + 81 + 729);
    for order in orders {
        let mut data = Vec::new();
        for (index, kind) in order.iter().enumerate() {
            let next = *order.get(index + 1).unwrap_or(&6);
            // An atomic fragment, or options that pad.
            data.extend(if *kind == 44 { [next, 0, 0, 0, 0, 0, 0, 9] } else { [next, 0, 1, 4, 0, 0, 0, 0] });
        }
        data.extend(&segment);
        let frame = raw6(OWN6, NAMED6, *order.first().unwrap_or(&6), 64, &data);
        let known = order.iter().all(|kind| matches!(kind, 44 | 60))
            && order.iter().filter(|kind| **kind == 44).count() <= 1;
        if known {
            assert_eq!(lab.egress(&frame).action, PASS, "{order:?}");
        } else {
            lab.sends(&frame, DROP, Reason::ExtensionHeader);
        }
    }
}

// B23
#[test]
fn mapped_addresses_are_never_ipv4() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let segment = tcp((OWN4, 1), (NAMED4, 443), Flag::Syn)[L3 + 20..].to_vec();
    let mapped = format!("::ffff:{NAMED4}");
    lab.sends(&raw6(OWN6, &mapped, 6, 64, &segment), DROP, Reason::Malformed);
    lab.sends(&raw6(&format!("::ffff:{OWN4}"), NAMED6, 6, 64, &segment), DROP, Reason::Malformed);
}

/// SCTP has its ports where TCP has them.
#[test]
fn sctp_needs_a_whole_header() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    lab.port(24, 132, 443, WEB | ANY);
    let header = [156, 64, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0];
    lab.sends(&raw(OWN4, NAMED4, 132, &header), PASS, Reason::Name);
    lab.sends(&raw(OWN4, NAMED4, 132, &header[..11]), DROP, Reason::Malformed);
}
