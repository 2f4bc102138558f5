//! Whether two things may have something in common: rather said once too often than once too little.

use ipnet::IpNet;
use nameward_crds::{LabelSelector, Peer, Port, ProtocolName, Subject};
use nameward_policy::{AddressClass, Pattern, address};

/// Ranges of which no address is ever granted by a name (A3).
const NEVER_BY_NAME: &[&str] = &[
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "127.0.0.0/8",
    "fc00::/7",
    "fe80::/10",
];

/// Whether two subjects may have a workload in common.
pub(super) fn subjects(one: &Subject, other: &Subject) -> bool {
    !apart(&one.namespace_selector, &other.namespace_selector)
        && !apart(&one.pod_selector, &other.pod_selector)
}

/// Whether two selectors are sure to select nothing in common: they ask for different values of one label.
fn apart(one: &LabelSelector, other: &LabelSelector) -> bool {
    let different =
        |key: &String, value: &String| other.match_labels.get(key).is_some_and(|found| found != value);
    one.match_labels.iter().any(|(key, value)| different(key, value))
}

/// Whether two rules may have a destination in common.
pub(super) fn rules(one: (&[Peer], &[Port]), other: (&[Peer], &[Port])) -> bool {
    ports(one.1, other.1) && one.0.iter().any(|one| other.0.iter().any(|other| peers(one, other)))
}

/// Whether two lists of ports have one in common; an empty one is every port.
fn ports(one: &[Port], other: &[Port]) -> bool {
    let any = |port: &Port| port.protocol == ProtocolName::Name("Any".into());
    let range = |port: &Port| match port.port {
        Some(first) => (first, port.end_port.unwrap_or(first)),
        None => (0, i32::from(u16::MAX)),
    };
    let meet = |one: &Port, other: &Port| {
        let ((first, last), (other_first, other_last)) = (range(one), range(other));
        any(one)
            || any(other)
            || (one.protocol == other.protocol && first <= other_last && other_first <= last)
    };
    let all = one.is_empty() || other.is_empty();
    all || one.iter().any(|one| other.iter().any(|other| meet(one, other)))
}

/// Whether two peers may have a destination in common.
fn peers(one: &Peer, other: &Peer) -> bool {
    match (kind(one), kind(other)) {
        (Kind::Names(one), Kind::Names(other)) => {
            one.iter().any(|one| other.iter().any(|other| patterns(one, other)))
        }
        (Kind::Block(one), Kind::Block(other)) => one.contains(&other) || other.contains(&one),
        (Kind::Names(_), Kind::Block(net)) | (Kind::Block(net), Kind::Names(_)) => !never_by_name(&net),
        // Addresses of the cluster are not granted by names (A3).
        (Kind::Names(_), Kind::Cluster) | (Kind::Cluster, Kind::Names(_)) => false,
        (Kind::Cluster, _) | (_, Kind::Cluster) => true,
    }
}

enum Kind {
    Names(Vec<Pattern>),
    Block(IpNet),
    Cluster,
}

fn kind(peer: &Peer) -> Kind {
    if let Some(names) = &peer.domain_names {
        return Kind::Names(names.iter().filter_map(|name| Pattern::parse(name).ok()).collect());
    }
    match peer.ip_block.as_ref().and_then(|block| block.cidr.parse().ok()) {
        Some(net) => Kind::Block(net),
        None => Kind::Cluster,
    }
}

/// Whether a name may match both patterns.
pub(super) fn patterns(one: &Pattern, other: &Pattern) -> bool {
    match (one, other) {
        (Pattern::Any, _) | (_, Pattern::Any) => true,
        (Pattern::Exact(name), pattern) | (pattern, Pattern::Exact(name)) => pattern.matches(name),
        (Pattern::Below(one), Pattern::Below(other)) => {
            one == other || one.is_below(other) || other.is_below(one)
        }
    }
}

fn never_by_name(net: &IpNet) -> bool {
    let within = |text: &&str| text.parse::<IpNet>().is_ok_and(|range| range.contains(net));
    let single = net.prefix_len() == net.max_prefix_len();
    NEVER_BY_NAME.iter().any(within) || (single && address::judge(net.addr()) != AddressClass::Global)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::import::draft::{block, cluster, every_port, names, port};

    #[test]
    fn ports_have_one_in_common_or_not() {
        let tcp = |first: u16, last: Option<u16>| vec![port("TCP", Some(first), last)];
        assert!(ports(&tcp(1, Some(10)), &tcp(10, None)) && ports(&[], &tcp(1, None)));
        assert!(
            ports(&every_port(), &[port("ICMPEcho", None, None)])
                && ports(&tcp(9, None), &[port("TCP", None, None)])
        );
        assert!(
            !ports(&tcp(1, Some(10)), &tcp(11, None)) && !ports(&tcp(9, None), &[port("UDP", None, None)])
        );
    }

    #[test]
    fn peers_have_a_destination_in_common_or_not() {
        let name = |text: &str| names(vec![text.into()]);
        let net = |text: &str| block(text, Vec::new());
        let place = cluster(&[nameward_crds::ClusterPlace::Pods]);
        for (one, other, meet) in [
            (name("*.example.com"), name("a.b.example.com"), true),
            (name("*.example.com"), name("example.com"), false),
            (name("*.a.example.com"), name("*.example.com"), true),
            (name("a.example.com"), name("*"), true),
            (name("a.example.com"), net("0.0.0.0/0"), true),
            (name("a.example.com"), net("10.1.0.0/16"), false),
            (name("a.example.com"), place.clone(), false),
            (net("198.51.100.0/24"), net("198.51.100.7/32"), true),
            (net("198.51.100.0/24"), net("203.0.113.0/24"), false),
            (net("198.51.100.0/24"), place, true),
        ] {
            assert_eq!((peers(&one, &other), peers(&other, &one)), (meet, meet), "{one:?} {other:?}");
        }
    }
}
