//! Rules as policies say them (SEMANTICS R1-R8): peers x ports, allow or deny.
//!
//! Plain values. What they mean together is compiled in [`crate::RuleSet`].

use std::{fmt, sync::Arc, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Pattern, PatternWarning, Schedule};

/// What a rule speaks of beside addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP and ICMPv6 echo.
    IcmpEcho,
    /// An IP protocol number, every port of it.
    Number(u8),
    /// All of these.
    Any,
}

impl Protocol {
    /// The number in the kernel's table; ICMPv6 echo is kept as 1, too. `None` = every protocol.
    #[must_use]
    pub const fn number(self) -> Option<u8> {
        match self {
            Self::Tcp => Some(6),
            Self::Udp => Some(17),
            Self::Sctp => Some(132),
            Self::IcmpEcho => Some(1),
            Self::Number(number) => Some(number),
            Self::Any => None,
        }
    }

    /// Whether the protocol has ports that a rule may name.
    #[must_use]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::IcmpEcho => f.write_str("ICMPEcho"),
            Self::Number(number) => write!(f, "protocol {number}"),
            Self::Any => f.write_str("Any"),
        }
    }
}

/// A protocol and an inclusive range of ports. Protocols without ports ignore the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortSpec {
    /// The protocol.
    pub protocol: Protocol,
    /// First port.
    pub first: u16,
    /// Last port. A range that ends before it begins is empty.
    pub last: u16,
}

impl PortSpec {
    /// Every port of a protocol.
    #[must_use]
    pub const fn all(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// One port.
    #[must_use]
    pub const fn one(protocol: Protocol, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    /// An inclusive range.
    #[must_use]
    pub const fn range(protocol: Protocol, first: u16, last: u16) -> Self {
        Self { protocol, first, last }
    }

    /// Whether a packet's protocol number and destination port are meant.
    #[must_use]
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        match self.protocol.number() {
            None => true,
            Some(number) if number != protocol => false,
            Some(_) => !self.protocol.has_ports() || (self.first..=self.last).contains(&port),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.protocol.has_ports(), self.first, self.last) {
            (false, _, _) | (_, 0, u16::MAX) => write!(f, "{}", self.protocol),
            (_, first, last) if first == last => write!(f, "{} {first}", self.protocol),
            (_, first, last) => write!(f, "{} {first}-{last}", self.protocol),
        }
    }
}

/// A destination inside the cluster (R8). The addresses are in [`ClusterRanges`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterPeer {
    /// Pod ranges.
    Pods,
    /// Service ranges.
    Services,
    /// Nodes.
    Nodes,
    /// The ClusterIP and the endpoints of `default/kubernetes`.
    ApiServer,
}

/// Addresses of the cluster and of this node, from configuration and observation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterRanges {
    /// Pod ranges.
    pub pods: Vec<IpNet>,
    /// Service ranges.
    pub services: Vec<IpNet>,
    /// Addresses of nodes.
    pub nodes: Vec<IpNet>,
    /// Addresses of the API server.
    pub api_server: Vec<IpNet>,
    /// The own addresses of this node: never granted through a name (A3).
    pub own_node: Vec<IpNet>,
}

impl ClusterRanges {
    /// The addresses of one kind of peer.
    #[must_use]
    pub fn of(&self, peer: ClusterPeer) -> &[IpNet] {
        match peer {
            ClusterPeer::Pods => &self.pods,
            ClusterPeer::Services => &self.services,
            ClusterPeer::Nodes => &self.nodes,
            ClusterPeer::ApiServer => &self.api_server,
        }
    }
}

/// One member of a rule's `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// `domainNames`.
    Names(Vec<Pattern>),
    /// `ipBlock`.
    Block {
        /// The addresses.
        cidr: IpNet,
        /// Less these.
        except: Vec<IpNet>,
    },
    /// `cluster`.
    Cluster(Vec<ClusterPeer>),
}

/// The kind of object a rule came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `EgressPolicy`.
    EgressPolicy,
    /// `ClusterEgressPolicy`.
    ClusterEgressPolicy,
    /// `EgressConfig`: what holds for the cluster's own parts.
    EgressConfig,
    /// A flag of the command line.
    CommandLine,
}

/// Which policy. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Namespace; empty when it has none.
    #[serde(with = "crate::shared_text")]
    pub namespace: Arc<str>,
    /// Name.
    #[serde(with = "crate::shared_text")]
    pub name: Arc<str>,
}

impl PolicyRef {
    /// A reference; an empty namespace means none.
    #[must_use]
    pub fn new(kind: PolicyKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &*self.namespace) {
            (PolicyKind::CommandLine, _) => write!(f, "{}", self.name),
            (PolicyKind::EgressConfig, _) => write!(f, "EgressConfig {}", self.name),
            (PolicyKind::ClusterEgressPolicy, _) => write!(f, "ClusterEgressPolicy {}", self.name),
            (PolicyKind::EgressPolicy, "") => write!(f, "EgressPolicy {}", self.name),
            (PolicyKind::EgressPolicy, namespace) => write!(f, "EgressPolicy {namespace}/{}", self.name),
        }
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Adds to what may be done.
    Allow,
    /// Takes away, whatever allows it (R2).
    Deny,
}

/// Whether a rule counts (R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleMode {
    /// It does.
    Enforce,
    /// It only says what it would do.
    Audit,
}

/// One rule of one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The policy it came from.
    pub policy: PolicyRef,
    /// Its name there.
    pub name: Arc<str>,
    /// Allow or deny.
    pub effect: Effect,
    /// The policy's mode.
    pub mode: RuleMode,
    /// Where to. None means nowhere (R5).
    pub peers: Vec<Peer>,
    /// On which ports. None means no port in an allow rule and every port in a deny rule (R4). An allow rule
    /// without ports opens nothing, but its `private_addresses` counts for names that others allow (X8).
    pub ports: Vec<PortSpec>,
    /// Answers that are not globally reachable are fine (A3).
    pub private_addresses: bool,
    /// How long addresses are kept after their TTL (A5); none = the default.
    pub grace: Option<Duration>,
    /// CNAME targets need a rule, too (Q4).
    pub strict_chain: bool,
    /// When the rule ends (R7).
    pub expires_at: Option<Timestamp>,
    /// When the rule counts (R7); none = always.
    pub schedule: Option<Schedule>,
}

impl Rule {
    /// A rule with nothing in it yet: no peers, no ports, which allows nothing.
    #[must_use]
    pub fn new(policy: PolicyRef, name: &str, effect: Effect) -> Self {
        Self {
            policy,
            name: name.into(),
            effect,
            mode: RuleMode::Enforce,
            peers: Vec::new(),
            ports: Vec::new(),
            private_addresses: false,
            grace: None,
            strict_chain: false,
            expires_at: None,
            schedule: None,
        }
    }

    /// Whether the rule counts at this time (R7).
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end) && self.schedule.as_ref().is_none_or(|s| s.is_active(now))
    }

    /// The next time at which [`Rule::is_active`] may change.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.expires_at.filter(|end| now < *end);
        if self.expires_at.is_some() && end.is_none() {
            return None;
        }
        let turn = self.schedule.as_ref().and_then(|schedule| schedule.next_change(now));
        end.into_iter().chain(turn).min()
    }

    /// The ports that count: those written, or every port for a deny rule without any (R4).
    #[must_use]
    pub fn effective_ports(&self) -> &[PortSpec] {
        const EVERYTHING: &[PortSpec] = &[PortSpec::all(Protocol::Any)];
        if self.ports.is_empty() && self.effect == Effect::Deny { EVERYTHING } else { &self.ports }
    }

    /// Whether the rule means direct DNS to its blocks: an entry of just port 53 beside an `ipBlock`.
    #[must_use]
    pub fn is_direct_dns(&self) -> bool {
        let just_53 = |spec: &PortSpec| {
            matches!(spec.protocol, Protocol::Tcp | Protocol::Udp) && (spec.first, spec.last) == (53, 53)
        };
        self.effect == Effect::Allow
            && self.peers.iter().any(|peer| matches!(peer, Peer::Block { .. }))
            && self.ports.iter().any(just_53)
    }

    /// What the author should know.
    #[must_use]
    pub fn warnings(&self) -> Vec<RuleWarning> {
        if self.effect == Effect::Deny {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for peer in &self.peers {
            match peer {
                Peer::Names(patterns) => {
                    warnings.extend(patterns.iter().flat_map(Pattern::warnings).map(RuleWarning::Pattern));
                }
                Peer::Cluster(kinds) if kinds.contains(&ClusterPeer::Services) => {
                    warnings.push(RuleWarning::Services);
                }
                Peer::Cluster(_) | Peer::Block { .. } => {}
            }
        }
        if self.is_direct_dns() {
            warnings.push(RuleWarning::DirectDns);
        }
        warnings
    }
}

/// Something a rule's author should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleWarning {
    /// About one of its patterns.
    #[error(transparent)]
    Pattern(PatternWarning),
    /// `cluster: [Services]`.
    #[error(
        "who may write Services or EndpointSlices decides where service addresses lead; where the network translates before Nameward sees packets, the backend is judged instead"
    )]
    Services,
    /// An `ipBlock` with just port 53.
    #[error(
        "port 53 of an ipBlock is direct DNS: those servers are reached without the resolver, and names they answer are not granted"
    )]
    DirectDns,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(effect: Effect) -> Rule {
        Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners"), "r", effect)
    }

    #[test]
    fn no_ports_is_nothing_to_allow_and_everything_to_deny() {
        // R4, R5
        assert!(rule(Effect::Allow).effective_ports().is_empty());
        let everything = rule(Effect::Deny);
        assert!(everything.effective_ports().iter().any(|spec| spec.contains(250, 0)));
    }

    #[test]
    fn ports_by_protocol() {
        // R4
        let web = PortSpec::range(Protocol::Tcp, 80, 90);
        assert!(web.contains(6, 80) && web.contains(6, 90));
        assert!(!web.contains(6, 91) && !web.contains(17, 80));
        assert!(PortSpec::one(Protocol::IcmpEcho, 7).contains(1, 0));
        assert!(PortSpec::all(Protocol::Any).contains(47, 0));
        assert!(!PortSpec::all(Protocol::Number(47)).contains(6, 0));
    }

    #[test]
    fn ends_to_the_second() {
        // R7
        let end: Timestamp = "2027-01-31T00:00:00Z".parse().unwrap();
        let before = end - Duration::from_secs(1);
        let rule = Rule { expires_at: Some(end), ..rule(Effect::Allow) };
        assert!(rule.is_active(before) && !rule.is_active(end));
        assert_eq!((rule.next_change(before), rule.next_change(end)), (Some(end), None));
    }

    #[test]
    fn warnings_of_allow_rules() {
        // N5, R8
        let peers = vec![
            Peer::Names(vec![Pattern::parse("*.com").unwrap()]),
            Peer::Block { cidr: "192.0.2.53/32".parse().unwrap(), except: vec![] },
            Peer::Cluster(vec![ClusterPeer::Services]),
        ];
        let ports = vec![PortSpec::one(Protocol::Udp, 53)];
        let warned = Rule { peers: peers.clone(), ports: ports.clone(), ..rule(Effect::Allow) };
        assert_eq!(warned.warnings().len(), 3);
        assert_eq!(Rule { peers, ports, ..rule(Effect::Deny) }.warnings(), []);
    }
}
