//! Addresses, ports, protocols, headers and fragments.

use crate::{
    attempts::{assert_denied, attempt},
    frames::*,
};

const OWN: (&str, u16) = (OWN4, 40_000);
const SIX: (&str, u16) = (OWN6, 40_000);

// B2: a third party's DoT and DoQ have a reason of their own; its DoH is an address like any other.
#[test]
fn b02_encrypted_dns_elsewhere() {
    assert_denied(&[
        attempt("DoT", tcp(OWN, (UNKNOWN4, 853), "S"), "dns-elsewhere"),
        attempt("DoQ", udp(SIX, (UNKNOWN6, 853)), "dns-elsewhere"),
        attempt("DoT at an allowed name's address", tcp(OWN, (NAMED4, 853), "S"), "dns-elsewhere"),
        attempt("DoH", tcp(OWN, (UNKNOWN4, 443), "S"), "no-match"),
    ]);
}

// B4: where no resolver is at hand, a server elsewhere is no way, either (with one: `netns` tests).
#[test]
fn b04_another_dns_server() {
    assert_denied(&[
        attempt("UDP", udp(OWN, ("8.8.8.8", 53)), "dns-elsewhere"),
        attempt("TCP", tcp(OWN, ("8.8.8.8", 53), "S"), "dns-elsewhere"),
        attempt("on the own subnet", udp(OWN, ("10.7.1.1", 53)), "dns-elsewhere"),
        attempt("IPv6", udp(SIX, (UNKNOWN6, 53)), "dns-elsewhere"),
        attempt("at an allowed name's address", udp(OWN, (NAMED4, 53)), "dns-elsewhere"),
    ]);
}

// B11
#[test]
fn b11_quic() {
    assert_denied(&[
        attempt("IPv4", udp(OWN, (NAMED4, 443)), "port"),
        attempt("IPv6", udp(SIX, (NAMED6, 443)), "port"),
        attempt("an unknown address", udp(OWN, (UNKNOWN4, 443)), "no-match"),
    ]);
}

// B20
#[test]
fn b20_forged_sources() {
    assert_denied(&[
        attempt("a neighbour", udp(("10.7.1.3", 1), (NAMED4, 443)), "spoofed-source"),
        attempt("a neighbour's connection", tcp(("10.7.1.3", 1), (NAMED4, 443), "A"), "spoofed-source"),
        attempt("somebody", udp(("192.0.2.7", 1), (UNKNOWN4, 443)), "spoofed-source"),
        attempt("nobody", tcp(("0.0.0.0", 1), (NAMED4, 443), "S"), "spoofed-source"),
        attempt("loopback", tcp(("127.0.0.1", 1), (NAMED4, 443), "S"), "spoofed-source"),
        attempt("the far side itself", tcp((NAMED4, 443), (NAMED4, 443), "S"), "spoofed-source"),
        attempt("an IPv6 neighbour", udp(("2001:db8:7:1::3", 1), (NAMED6, 443)), "spoofed-source"),
        attempt("no IPv6 address", tcp(("::", 1), (NAMED6, 443), "S"), "spoofed-source"),
        attempt("a link-local one", tcp(("fe80::77", 1), (NAMED6, 443), "S"), "spoofed-source"),
        attempt("a mapped one", tcp(("::ffff:10.7.1.2", 1), (NAMED6, 443), "S"), "malformed"),
    ]);
}

// B22
#[test]
fn b22_options_and_fragments() {
    let with_options = |options: &[u8]| {
        let mut frame = tcp(OWN, (NAMED4, 443), "S");
        frame.splice(L3 + 20..L3 + 20, options.iter().copied());
        frame[L3] += u8::try_from(options.len() / 4).unwrap();
        frame[L3 + 3] += u8::try_from(options.len()).unwrap();
        sum_again(&mut frame);
        frame
    };
    let fragment = |to: &str, flags_and_offset: u16, length: usize| {
        let mut frame = udp_with(OWN, (to, 443), &[&vec![7; length][..], &token()].concat());
        frame[L3 + 6..L3 + 8].copy_from_slice(&flags_and_offset.to_be_bytes());
        sum_again(&mut frame);
        frame
    };
    const MORE: u16 = 0x2000;
    // Eight octets of a TCP header: the token itself.
    let mut tiny = ethernet(FAR_MAC, [8, 0]);
    tiny.extend([0x45, 0, 0, 28, 0, 9, 0x20, 0, 64, 6, 0, 0, 10, 7, 1, 2, 203, 0, 113, 10]);
    tiny.extend(token());
    sum_again(&mut tiny);
    assert_denied(&[
        attempt("loose source route", with_options(&[131, 7, 4, 203, 0, 113, 66, 0]), "malformed"),
        attempt("record route", with_options(&[7, 7, 4, 0, 0, 0, 0, 0]), "malformed"),
        attempt("a tiny first fragment", tiny, "malformed"),
        attempt("the last fragment first", fragment(NAMED4, 3, 8), "fragment"),
        attempt("a middle fragment alone", fragment(NAMED4, MORE | 100, 8), "fragment"),
        attempt("a fragment over the header", fragment(NAMED4, 1, 8), "fragment"),
        attempt("to an unknown address", fragment(UNKNOWN4, 3, 8), "fragment"),
        attempt("its first fragment", fragment(UNKNOWN4, MORE, 24), "no-match"),
    ]);
}

// B23; jumbograms do not get through a bridge, the verdict tests have them.
#[test]
fn b23_ipv6_extension_headers() {
    let segment = |from: &str, to: &str| tcp((from, 1), (to, 443), "S")[L3 + 40..].to_vec();
    let through = |first: u8, headers: &[Vec<u8>]| {
        six(OWN6, NAMED6, first, &[headers.concat(), segment(OWN6, NAMED6)].concat())
    };
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    // RH0 with one address: the packet goes on to it.
    let mut route = vec![6, 2, 0, 1, 0, 0, 0, 0];
    route.extend(UNKNOWN6.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let five = [options(60), options(60), options(60), options(60), options(6)];
    let later = [vec![6, 0, 0, 24, 0, 0, 0, 9], vec![7; 24]].concat();
    assert_denied(&[
        attempt("routing header 0", through(43, &[route]), "extension-header"),
        attempt("hop-by-hop options", through(0, &[options(6)]), "extension-header"),
        attempt("hop-by-hop options later", through(60, &[options(0), options(6)]), "extension-header"),
        attempt("an authentication header", through(51, &[options(6)]), "extension-header"),
        attempt("mobility", through(135, &[options(6)]), "extension-header"),
        attempt("five headers", through(60, &five), "extension-header"),
        attempt("a later fragment alone", six(OWN6, NAMED6, 44, &later), "fragment"),
    ]);
}

// B23: addresses with an IPv4 address inside are not that address.
#[test]
fn b23_embedded_addresses() {
    assert_denied(&[
        attempt("v4-mapped", tcp(SIX, ("::ffff:203.0.113.10", 443), "S"), "malformed"),
        attempt("NAT64", tcp(SIX, ("64:ff9b::203.0.113.10", 443), "S"), "no-match"),
        attempt("6to4", tcp(SIX, ("2002:cb00:710a::1", 443), "S"), "no-match"),
        attempt("Teredo", tcp(SIX, ("2001::34ff:8ef5", 443), "S"), "no-match"),
    ]);
}

// B24
#[test]
fn b24_icmp() {
    let heard = udp((NAMED4, 443), OWN);
    let heard6 = udp((NAMED6, 443), SIX);
    let router = six(OWN6, "ff02::1", 58, &[134, 0, 0, 0, 64, 0, 0, 30, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_denied(&[
        attempt("echo to an allowed name's address", echo(OWN4, NAMED4), "port"),
        attempt("echo to an unknown address", echo(OWN6, UNKNOWN6), "no-match"),
        attempt("an error about no flow", icmp_error(OWN4, NAMED4, &heard), "icmp-error"),
        attempt("an IPv6 error about no flow", icmp_error(OWN6, NAMED6, &heard6), "icmp-error"),
        attempt("an error to a third party", icmp_error(OWN4, UNKNOWN4, &heard), "icmp-error"),
        attempt("a router's advertisement", router, "protocol"),
    ]);
}

// B25
#[test]
fn b25_other_protocols() {
    let mut tagged = tcp(OWN, (NAMED4, 443), "S");
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    let mut twice = tcp(OWN, (NAMED4, 443), "S");
    twice.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0, 0, 5]);
    assert_denied(&[
        attempt("an EtherType of its own", other(0x88b5, b"data"), "not-ip"),
        attempt("MPLS", other(0x8847, &[0, 1, 1, 64]), "not-ip"),
        attempt("PPPoE", other(0x8864, &[0x11, 0, 0, 1]), "not-ip"),
        attempt("an 802.3 length", other(40, &[0xaa, 0xaa, 3]), "not-ip"),
        attempt("a VLAN tag", tagged, "not-ip"),
        attempt("two tags", twice, "not-ip"),
        attempt("GRE", protocol(OWN4, NAMED4, 47, &[0, 0, 8, 0]), "port"),
        attempt("IPIP", protocol(OWN4, NAMED4, 4, &udp(OWN, (UNKNOWN4, 9))[L3..]), "port"),
        attempt("IPv6 in IPv4", protocol(OWN4, NAMED4, 41, &[0x60; 40]), "port"),
        attempt("SCTP", protocol(OWN4, NAMED4, 132, &[0; 12]), "port"),
        attempt("ESP", protocol(OWN6, NAMED6, 50, &[0; 16]), "port"),
        attempt("protocol 255", protocol(OWN4, UNKNOWN4, 255, &[]), "protocol"),
        attempt("VXLAN", udp(OWN, (UNKNOWN4, 4_789)), "no-match"),
    ]);
}
