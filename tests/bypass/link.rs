//! What NET_ADMIN and packet sockets do on the link itself.

use nameward_test_support::privileged;

use crate::{
    attempts::{assert_denied, attempt},
    frames::*,
    world::World,
};

/// An ARP answer that says who has an address.
fn arp(sender: [u8; 4], mac: [u8; 6]) -> Vec<u8> {
    let mut frame = ethernet(FAR_MAC, [8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mac);
    frame.extend(sender);
    frame.extend(FAR_MAC);
    frame.extend([10, 7, 1, 1]);
    frame.extend(token());
    frame
}

/// A neighbour advertisement for an address.
fn advertisement(from: &str, target: &str) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(target.parse::<std::net::Ipv6Addr>().unwrap().octets());
    message.extend([2, 1]);
    message.extend(OWN_MAC);
    let mut frame = six(from, "2001:db8:7:1::1", 58, &message);
    frame[L3 + 7] = 255;
    frame
}

// B40
#[test]
fn b40_speaking_for_others() {
    assert_denied(&[
        attempt("ARP for a neighbour", arp([10, 7, 1, 3], OWN_MAC), "spoofed-source"),
        attempt("ARP for a server", arp([203, 0, 113, 66], OWN_MAC), "spoofed-source"),
        attempt("ARP with another's MAC", arp([10, 7, 1, 2], [2, 0, 0, 0, 7, 3]), "spoofed-source"),
        attempt("ND for a neighbour", advertisement(OWN6, "2001:db8:7:1::3"), "spoofed-source"),
        attempt("ND of a neighbour", advertisement("2001:db8:7:1::3", OWN6), "spoofed-source"),
    ]);
}

// B27: addresses, routes, a MAC and a link of its own change nothing.
#[test]
fn b27_a_workload_that_administers_its_network() {
    if !privileged() {
        return;
    }
    let world = World::new();
    let own = &world.workloads[0];
    world.enforce(async |guard| {
        guard.start();
        own.address("eth0", &["10.7.1.77/24", "2001:db8:7:1::77/64"]).unwrap();
        let sent = world.send(&[
            tcp(("10.7.1.77", 1), (NAMED4, 443), "S"),
            tcp(("2001:db8:7:1::77", 1), (NAMED6, 443), "S"),
        ]);
        assert_eq!(sent, [false, false]);
        assert!(guard.count("spoofed-source") >= 2);
        // Another MAC: what is allowed is allowed, the rest is not.
        own.ip("link set eth0 address 02:00:00:00:07:99").unwrap();
        let (mut allowed, mut denied) =
            (tcp((OWN4, 1), (NAMED4, 443), "S"), tcp((OWN4, 1), (UNKNOWN4, 443), "S"));
        for frame in [&mut allowed, &mut denied] {
            frame[6..12].copy_from_slice(&[2, 0, 0, 0, 7, 0x99]);
        }
        assert_eq!(world.send(&[allowed, denied]), [true, false]);
        // Routes: the stack takes any way it is told to, and each ends at the guard.
        own.ip("route del default").unwrap();
        own.ip("route add 203.0.113.66 dev eth0").unwrap();
        own.ip("neigh replace 203.0.113.66 lladdr 02:00:00:00:07:01 dev eth0").unwrap();
        // A link over it: its frames are the same workload's.
        own.ip("link add link eth0 name m0 type macvlan mode bridge").unwrap();
        own.ip("link set m0 address 02:00:00:00:07:55 up").unwrap();
        let before = guard.count("no-match");
        let mut frame = tcp((OWN4, 2), (UNKNOWN4, 443), "S");
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 7, 0x55]);
        assert_eq!(world.send(&[frame]), [false]);
        assert_eq!(guard.count("no-match"), before + 1);
    });
}
