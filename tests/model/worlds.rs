//! Small random worlds, dense enough that rules, names and packets meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nameward_policy::{
    ClusterPeer, ClusterRanges, Effect, Isolation, Name, Pattern, Peer, PolicyKind, PolicyRef, PortSpec,
    Protocol, Rule, RuleMode,
};
use proptest::{collection::vec, prelude::*, sample::select};

/// The names of the world.
pub(crate) const NAMES: [&str; 8] =
    ["example", "a.example", "b.example", "x.a.example", "y.a.example", "z.x.a.example", "other", "a.other"];

/// A new connection.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) remote: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    select(&NAMES[..]).prop_map(|text| Name::parse(text).unwrap())
}

pub(crate) fn cluster() -> ClusterRanges {
    ClusterRanges {
        pods: vec!["10.0.0.64/26".parse().unwrap(), "2001:db8::40/122".parse().unwrap()],
        services: vec!["10.0.0.128/26".parse().unwrap()],
        nodes: vec!["10.0.0.1/32".parse().unwrap()],
        api_server: vec!["10.0.0.130/32".parse().unwrap()],
        own_node: vec!["10.0.0.1/32".parse().unwrap()],
    }
}

/// An address of the last octet's neighbourhood, bare or wrapped.
pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    (any::<u8>(), 0..8u8).prop_map(|(last, form)| {
        let v4 = Ipv4Addr::new(10, 0, 0, last);
        let [a, b, c, d] = v4.octets().map(u16::from);
        let (high, low) = (a << 8 | b, c << 8 | d);
        match form {
            0..=2 => v4.into(),
            3 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)).into(),
            4 => Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into(),
            5 => Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into(),
            6 => Ipv6Addr::new(0x2001, 0, 1, 2, 0, 0, !high, !low).into(),
            _ => Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into(),
        }
    })
}

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (select(vec![0u8, 8, 24, 25, 26, 27, 28, 30, 31, 32]), any::<u8>())
        .prop_map(|(bits, last)| IpNet::from(Ipv4Net::new(Ipv4Addr::new(10, 0, 0, last), bits).unwrap()));
    let v6 = (select(vec![0u8, 32, 64, 96, 120, 122, 124, 127, 128]), address()).prop_map(|(bits, at)| {
        let v6 = match at {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        IpNet::from(Ipv6Net::new(v6, bits).unwrap())
    });
    prop_oneof![3 => v4, 2 => v6]
}

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        4 => name().prop_map(Pattern::Exact),
        4 => name().prop_map(Pattern::Below),
        1 => Just(Pattern::Any),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let kinds = vec![ClusterPeer::Pods, ClusterPeer::Services, ClusterPeer::Nodes, ClusterPeer::ApiServer];
    prop_oneof![
        3 => vec(pattern(), 0..3).prop_map(Peer::Names),
        3 => (net(), vec(net(), 0..4)).prop_map(|(cidr, except)| Peer::Block { cidr, except }),
        1 => vec(select(kinds), 0..3).prop_map(Peer::Cluster),
    ]
}

const PORTS: [u16; 12] = [0, 1, 52, 53, 54, 80, 443, 853, 1023, 1024, 65_534, 65_535];

fn ports() -> impl Strategy<Value = PortSpec> {
    let protocols = vec![
        Protocol::Tcp,
        Protocol::Tcp,
        Protocol::Udp,
        Protocol::Sctp,
        Protocol::IcmpEcho,
        Protocol::Number(47),
        Protocol::Number(6),
        Protocol::Any,
    ];
    (select(protocols), select(&PORTS[..]), select(&PORTS[..])).prop_map(|(protocol, a, b)| {
        // Now and then a range that ends before it begins: it must hold nothing.
        PortSpec::range(protocol, a, if b < a && b % 3 == 0 { a } else { b })
    })
}

pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let title = select(vec!["first", "second", "third"]);
    let kind = select(vec![PolicyKind::EgressPolicy, PolicyKind::ClusterEgressPolicy]);
    let effect = select(vec![Effect::Allow, Effect::Allow, Effect::Deny]);
    let mode = select(vec![RuleMode::Enforce, RuleMode::Enforce, RuleMode::Enforce, RuleMode::Audit]);
    (title, kind, effect, mode, vec(peer(), 0..4), vec(ports(), 0..4)).prop_map(
        |(title, kind, effect, mode, peers, ports)| Rule {
            mode,
            peers,
            ports,
            ..Rule::new(PolicyRef::new(kind, "ci", title), title, effect)
        },
    )
}

pub(crate) fn isolation() -> impl Strategy<Value = Isolation> {
    select(vec![Isolation::Isolated, Isolation::Isolated, Isolation::NotIsolated, Isolation::Audit])
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let protocol = select(vec![6u8, 6, 6, 17, 17, 132, 1, 47, 255]);
    let port = prop_oneof![4 => select(&PORTS[..]), 1 => any::<u16>()];
    (address(), protocol, port).prop_map(|(remote, protocol, port)| {
        let port = if matches!(protocol, 6 | 17 | 132) { port } else { 0 };
        Packet { remote, protocol, port }
    })
}
