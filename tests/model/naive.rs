//! What SEMANTICS says of a new connection, read off the rules one by one. No classes, no tries, no indexes.

use std::net::{IpAddr, Ipv4Addr};

use nameward_policy::{
    ClusterRanges, Effect, Isolation, Name, Pattern, Peer, PortSpec, Reason, Rule, RuleMode,
};

use crate::worlds::Packet;

/// Rules as they stand in the policies.
pub(crate) struct World<'a> {
    pub(crate) isolation: Isolation,
    pub(crate) rules: &'a [Rule],
    pub(crate) cluster: &'a ClusterRanges,
}

/// A name that gave the packet's address.
pub(crate) struct Bound {
    pub(crate) name: Name,
    pub(crate) live: bool,
}

impl World<'_> {
    fn enforced_denies(&self) -> bool {
        self.rules.iter().any(|rule| rule.effect == Effect::Deny && rule.mode == RuleMode::Enforce)
    }

    /// Audit policies count for a workload that has no others (R6), unless a deny is enforced for it (R3).
    fn counting(&self, effect: Effect) -> impl Iterator<Item = &Rule> {
        let audit_counts = self.isolation == Isolation::Audit && !self.enforced_denies();
        self.rules
            .iter()
            .filter(move |rule| rule.effect == effect && (audit_counts || rule.mode == RuleMode::Enforce))
    }

    fn isolates(&self) -> bool {
        match self.isolation {
            Isolation::Isolated => true,
            Isolation::NotIsolated => false,
            Isolation::Audit => !self.enforced_denies(),
        }
    }

    /// What becomes of a new connection (R1, R2, R4, G2, G3, G5, B23).
    pub(crate) fn judge(&self, packet: &Packet, bound: &[Bound]) -> Reason {
        let on_port = |rule: &&Rule| opens(rule).any(|spec| spec.contains(packet.protocol, packet.port));
        let inner = embedded(packet.remote);
        let addresses = [Some(packet.remote), inner];
        let denies =
            |rule: &Rule| addresses.iter().flatten().any(|address| self.covers(rule, *address).is_some());
        if self.counting(Effect::Deny).filter(on_port).any(denies) {
            return Reason::DeniedCidr;
        }
        if !self.isolates() {
            return Reason::NotIsolated;
        }
        let any_live = bound.iter().any(|bound| bound.live);
        let names = || bound.iter().filter(|bound| bound.live || !any_live).map(|bound| &bound.name);
        let by_name = |rule: &&Rule| names().any(|name| self.may_ask(rule, name));
        let by_cidr = |rule: &Rule| self.covers(rule, packet.remote);
        let allows = || self.counting(Effect::Allow);
        if any_live && allows().filter(on_port).any(|rule| by_name(&rule)) {
            return Reason::Name;
        }
        match allows().filter(on_port).filter_map(by_cidr).max() {
            Some(Covered::Cluster) => return Reason::Cluster,
            Some(Covered::Block) => return Reason::Cidr,
            None => {}
        }
        if packet.port == 853 && matches!(packet.protocol, 6 | 17) {
            return Reason::DnsElsewhere;
        }
        if allows().filter(on_port).any(|rule| by_name(&rule)) {
            return Reason::Expired;
        }
        let open = |rule: &&Rule| opens(rule).next().is_some();
        let known = |rule: &Rule| by_cidr(rule).is_some() || any_live && by_name(&rule);
        match packet.protocol {
            _ if allows().filter(open).any(known) => Reason::Port,
            1 | 6 | 17 | 132 => Reason::NoMatch,
            _ => Reason::Protocol,
        }
    }

    /// Whether a rule names a name that no rule denies.
    fn may_ask(&self, rule: &Rule, name: &Name) -> bool {
        names(rule, name) && !self.denies_name(name)
    }

    pub(crate) fn denies_name(&self, name: &Name) -> bool {
        self.counting(Effect::Deny).any(|rule| names(rule, name))
    }

    /// Q2: some rule allows the name on some port, and none denies it.
    pub(crate) fn allows_name(&self, name: &Name) -> bool {
        let open = |rule: &&Rule| opens(rule).next().is_some();
        self.counting(Effect::Allow).filter(open).any(|rule| self.may_ask(rule, name))
    }

    fn covers(&self, rule: &Rule, address: IpAddr) -> Option<Covered> {
        let address = address.to_canonical();
        let covered = |peer: &Peer| match peer {
            Peer::Names(_) => None,
            Peer::Block { cidr, except } => {
                let holds = |net| holds(net, address);
                (holds(cidr) && !except.iter().any(holds)).then_some(Covered::Block)
            }
            Peer::Cluster(kinds) => {
                let mut nets = kinds.iter().flat_map(|kind| self.cluster.of(*kind));
                nets.any(|net| holds(net, address)).then_some(Covered::Cluster)
            }
        };
        rule.peers.iter().filter_map(covered).max()
    }
}

/// By what a rule covers an address; the cluster's word goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Covered {
    Block,
    Cluster,
}

/// The entries of a rule that hold any port at all (R4).
fn opens(rule: &Rule) -> impl Iterator<Item = &PortSpec> {
    rule.effective_ports().iter().filter(|spec| !spec.protocol.has_ports() || spec.first <= spec.last)
}

fn names(rule: &Rule, name: &Name) -> bool {
    let matches = |pattern: &Pattern| match pattern {
        Pattern::Exact(exact) => exact == name,
        Pattern::Below(base) => name.as_str().ends_with(&format!(".{base}")),
        Pattern::Any => true,
    };
    rule.peers.iter().any(|peer| matches!(peer, Peer::Names(patterns) if patterns.iter().any(matches)))
}

/// Blocks of v4-mapped addresses are IPv4; larger ones are IPv6 and hold no IPv4.
fn holds(net: &ipnet::IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (ipnet::IpNet::V6(v6), IpAddr::V4(v4)) if v6.prefix_len() >= 96 => v6.contains(&v4.to_ipv6_mapped()),
        (ipnet::IpNet::V6(v6), IpAddr::V6(_))
            if v6.prefix_len() >= 96 && v6.network().to_ipv4_mapped().is_some() =>
        {
            false
        }
        _ => net.contains(&address),
    }
}

/// The IPv4 address in NAT64, 6to4, Teredo and v4-compatible addresses.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address.to_canonical() else { return None };
    let bits = v6.to_bits();
    let v4 = if bits >> 96 == 0x0064_ff9b || bits >> 32 == 0 {
        bits as u32
    } else if bits >> 112 == 0x2002 {
        (bits >> 80) as u32
    } else if bits >> 96 == 0x2001_0000 {
        !(bits as u32)
    } else {
        return None;
    };
    Some(Ipv4Addr::from_bits(v4).into())
}
