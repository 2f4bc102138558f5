//! Which addresses a name may lead to (SEMANTICS A3), and the forms in which one address hides in another.
//!
//! Knows the special-purpose registries of IANA, not rules: exceptions are made in [`crate::DnsRules`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address in network order, IPv4 as `::ffff:a.b.c.d`: the form of the kernel's tables.
pub type Address = [u8; 16];

/// What an answer's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Globally reachable; documentation ranges count as such.
    Global,
    /// Not globally reachable: granted only where a rule says so.
    Private(AddressKind),
    /// Never granted through a name.
    Never(AddressKind),
}

/// The kind of an address that is not globally reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressKind {
    /// `127/8`, `::1`.
    Loopback,
    /// `169.254/16`, `fe80::/10`.
    LinkLocal,
    /// A cloud's metadata service outside the link-local range.
    Metadata,
    /// An address of the node itself.
    OwnNode,
    /// RFC 1918.
    Private,
    /// `100.64/10`, RFC 6598.
    SharedNat,
    /// `fc00::/7` and the old site-local range.
    UniqueLocal,
    /// `224/4`, `ff00::/8`.
    Multicast,
    /// `0/8`, `::`.
    Unspecified,
    /// `198.18/15`, `2001:2::/48`.
    Benchmarking,
    /// Reserved or discarded by a registry.
    Reserved,
}

impl AddressKind {
    /// For people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
            Self::OwnNode => "the node's own",
            Self::Private => "private",
            Self::SharedNat => "carrier NAT",
            Self::UniqueLocal => "unique-local",
            Self::Multicast => "multicast",
            Self::Unspecified => "unspecified",
            Self::Benchmarking => "benchmarking",
            Self::Reserved => "reserved",
        }
    }
}

/// Judges an address by itself and by every address it carries inside; the worst counts.
#[must_use]
pub fn judge(address: IpAddr) -> AddressClass {
    match address.to_canonical() {
        IpAddr::V4(v4) => judge_v4(v4),
        IpAddr::V6(v6) => embedded(v6).into_iter().flatten().map(judge_v4).fold(judge_v6(v6), worse),
    }
}

fn worse(one: AddressClass, other: AddressClass) -> AddressClass {
    match (one, other) {
        (AddressClass::Never(_), _)
        | (AddressClass::Private(_), AddressClass::Private(_) | AddressClass::Global) => one,
        (AddressClass::Global, _) | (AddressClass::Private(_), AddressClass::Never(_)) => other,
    }
}

fn judge_v4(address: Ipv4Addr) -> AddressClass {
    use AddressClass::{Global, Never, Private};
    match address.octets() {
        [0, ..] => Never(AddressKind::Unspecified),
        [127, ..] => Never(AddressKind::Loopback),
        [169, 254, ..] => Never(AddressKind::LinkLocal),
        // Alibaba's metadata service and Azure's wire server.
        [100, 100, 100, 200] | [168, 63, 129, 16] => Never(AddressKind::Metadata),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Private(AddressKind::Private),
        [100, 64..=127, ..] => Private(AddressKind::SharedNat),
        [198, 18..=19, ..] => Private(AddressKind::Benchmarking),
        [224..=239, ..] => Private(AddressKind::Multicast),
        [240..=255, ..] => Private(AddressKind::Reserved),
        // Of this range the registry calls only two anycast addresses globally reachable.
        [192, 0, 0, 9 | 10] => Global,
        [192, 0, 0, _] => Private(AddressKind::Reserved),
        _ => Global,
    }
}

fn judge_v6(address: Ipv6Addr) -> AddressClass {
    use AddressClass::{Global, Never, Private};
    match address.segments() {
        // Linux connects both to itself.
        [0, 0, 0, 0, 0, 0, 0, 0] => Never(AddressKind::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Never(AddressKind::Loopback),
        [0xfe80..=0xfebf, ..] => Never(AddressKind::LinkLocal),
        // The metadata services of AWS and Google Cloud.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => {
            Never(AddressKind::Metadata)
        }
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Private(AddressKind::UniqueLocal),
        [0xff00..=0xffff, ..] => Private(AddressKind::Multicast),
        [0x2001, 2, 0, ..] => Private(AddressKind::Benchmarking),
        // ORCHID (2001:10::/28), discard (100::/64 and 100:0:0:1::/64), segment routing (5f00::/16),
        // local-use NAT64 (64:ff9b:1::/48), the deprecated v4-compatible range and its neighbours (::/32).
        [0x2001, 0x10..=0x1f, ..]
        | [0x100, 0, 0, 0 | 1, ..]
        | [0x5f00, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0, 0, ..] => Private(AddressKind::Reserved),
        _ => Global,
    }
}

/// The IPv4 addresses inside an IPv6 address: v4-mapped, v4-compatible, NAT64, 6to4, ISATAP, Teredo (its client
/// and its server).
#[must_use]
pub fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 2] {
    let octets = address.octets();
    let v4 = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, ..] => [Some(v4(12)), None],
        [0x2002, ..] => [Some(v4(2)), None],
        [0x2001, 0, ..] => [Some(Ipv4Addr::from_bits(!v4(12).to_bits())), Some(v4(4))],
        [.., 0 | 0x200, 0x5efe, _, _] => [Some(v4(12)), None],
        _ => [None, None],
    }
}

/// The IPv4 address whose denies count for an IPv6 destination, too (B23): that of NAT64, 6to4, the client of
/// Teredo, and the v4-compatible form. The kernel looks at the same.
#[must_use]
pub fn embedded_destination(address: Address) -> Option<Address> {
    let [a, b, c, d, e, f, ..] = address;
    let [.., w, x, y, z] = address;
    match [a, b, c, d] {
        [0, 0x64, 0xff, 0x9b] => Some(mapped([w, x, y, z])),
        [0x20, 0x01, 0, 0] => Some(mapped([!w, !x, !y, !z])),
        [0x20, 0x02, _, _] => Some(mapped([c, d, e, f])),
        [0, 0, 0, 0] if address[4..12] == [0; 8] => Some(mapped([w, x, y, z])),
        _ => None,
    }
}

/// The v4-mapped form of an IPv4 address.
#[must_use]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// An address in the form of the kernel's tables.
#[must_use]
pub fn to_octets(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address behind octets of the kernel's tables; v4-mapped ones become IPv4.
#[must_use]
pub fn from_octets(octets: Address) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

/// Whether an address is in a block. v4-mapped addresses are IPv4; `::/0` has no IPv4 in it.
#[must_use]
pub fn covers(block: &IpNet, address: IpAddr) -> bool {
    block.contains(&address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> AddressClass {
        judge(text.parse().unwrap())
    }

    #[test]
    fn never_through_a_name() {
        // A3
        for text in [
            "127.0.0.1",
            "127.255.255.255",
            "::1",
            "::",
            "0.0.0.0",
            "0.255.255.255",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
        ] {
            assert!(matches!(judged(text), AddressClass::Never(_)), "{text}");
        }
    }

    #[test]
    fn not_globally_reachable() {
        // A3
        let private = "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 100.127.255.255 224.0.0.1 \
            239.255.255.255 255.255.255.255 240.0.0.1 198.18.0.1 198.19.255.255 192.0.0.1 fc00::1 fd12::1 fec0::1 \
            ff02::1 2001:2::1 100::1 2001:10::1 5f00::1 64:ff9b:1::808:808";
        for text in private.split_whitespace() {
            assert!(matches!(judged(text), AddressClass::Private(_)), "{text}");
        }
    }

    #[test]
    fn neighbours_of_special_ranges_are_global() {
        // A3, documentation ranges included
        let global = "8.8.8.8 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0 \
            100.63.255.255 100.128.0.0 198.17.255.255 198.20.0.0 223.255.255.255 126.255.255.255 128.0.0.0 \
            169.253.255.255 169.255.0.0 192.0.0.9 192.0.1.0 192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 \
            2606:4700::1111 2001:3::1 2001:4860:4860::8888 fbff::1";
        for text in global.split_whitespace() {
            assert_eq!(judged(text), AddressClass::Global, "{text}");
        }
    }

    #[test]
    fn wrapped_addresses_are_judged_by_what_they_carry() {
        // A3: v4-mapped, v4-compatible, NAT64, 6to4, ISATAP, Teredo client (inverted) and server
        let carriers = [
            "::ffff:{}",
            "::{}",
            "64:ff9b::{}",
            "64:ff9b:1::{}",
            "2002:{6to4}::1",
            "2001:db8::5efe:{}",
            "2001:0:808:808::{teredo}",
            "2001:0:{6to4}::f7f7:f7f7",
        ];
        for (inner, never) in [([10, 0, 0, 1], false), ([127, 0, 0, 1], true), ([169, 254, 169, 254], true)] {
            let inner = Ipv4Addr::from(inner);
            let hex = |bits: u32| format!("{:x}:{:x}", bits >> 16, bits & 0xffff);
            for carrier in carriers {
                let text = carrier
                    .replace("{6to4}", &hex(inner.to_bits()))
                    .replace("{teredo}", &hex(!inner.to_bits()))
                    .replace("{}", &inner.to_string());
                let class = judged(&text);
                assert_eq!(matches!(class, AddressClass::Never(_)), never, "{text}: {class:?}");
                assert_ne!(class, AddressClass::Global, "{text}");
            }
        }
        for global in ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:808:808::f7f7:f7f7"] {
            assert_eq!(judged(global), AddressClass::Global, "{global}");
        }
    }

    #[test]
    fn blocks_and_families() {
        let all_v6: IpNet = "::/0".parse().unwrap();
        let ten: IpNet = "10.0.0.0/8".parse().unwrap();
        let mapped_ten = "::ffff:10.1.1.1".parse().unwrap();
        assert!(!covers(&all_v6, mapped_ten) && covers(&ten, mapped_ten));
        assert_eq!(
            from_octets(to_octets("10.1.1.1".parse().unwrap())),
            "10.1.1.1".parse::<IpAddr>().unwrap()
        );
    }

    #[test]
    fn destinations_inside_destinations() {
        // B23
        let inner = |text: &str| embedded_destination(to_octets(text.parse().unwrap())).map(from_octets);
        let ten = Some("10.0.0.1".parse().unwrap());
        for text in ["64:ff9b::a00:1", "2002:a00:1::", "2001:0:808:808::f5ff:fffe", "::10.0.0.1"] {
            assert_eq!(inner(text), ten, "{text}");
        }
        assert_eq!((inner("10.0.0.1"), inner("2001:db8::a00:1")), (None, None));
    }
}
