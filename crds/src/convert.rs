//! Policies as rules of `nameward_policy` (SEMANTICS R4, R5, R7, R8).
//!
//! What cannot be understood never allows: an allow rule loses it, a deny rule keeps denying at least as much. Each
//! such place is told as a [`Problem`]. Files never come here with one; objects may, when a newer API server let it in.

use std::{sync::Arc, time::Duration};

use nameward_policy::{
    ClusterPeer, Effect, Pattern, Peer as PolicyPeer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleMode,
};

use crate::{
    ClusterEgressPolicy, ClusterPlace, DenyRule, EgressPolicy, EgressRule, IpBlock, Mode, Peer, Port,
    ProtocolName, Schedule, patterns,
};

/// The rules of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// What is understood.
    pub rules: Vec<Rule>,
    /// What is not.
    pub problems: Vec<Problem>,
}

/// Something in an object that is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, like `spec.egress[0].to[1].ipBlock.cidr`.
    pub path: String,
    /// What is wrong and what to write.
    pub message: String,
}

impl EgressPolicy {
    /// What reports call the policy.
    #[must_use]
    pub fn policy_ref(&self) -> PolicyRef {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        PolicyRef::new(PolicyKind::EgressPolicy, namespace, self.metadata.name.as_deref().unwrap_or_default())
    }

    /// Its rules.
    #[must_use]
    pub fn to_rules(&self) -> Converted {
        Converter::new(self.policy_ref(), self.spec.mode).convert(&self.spec.egress, &self.spec.deny)
    }
}

impl ClusterEgressPolicy {
    /// What reports call the policy.
    #[must_use]
    pub fn policy_ref(&self) -> PolicyRef {
        PolicyRef::new(PolicyKind::ClusterEgressPolicy, "", self.metadata.name.as_deref().unwrap_or_default())
    }

    /// Its rules.
    #[must_use]
    pub fn to_rules(&self) -> Converted {
        Converter::new(self.policy_ref(), self.spec.mode).convert(&self.spec.egress, &self.spec.deny)
    }
}

impl From<Mode> for RuleMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Audit => Self::Audit,
        }
    }
}

struct Converter {
    policy: PolicyRef,
    mode: RuleMode,
    problems: Vec<Problem>,
}

/// What allow and deny rules have in common.
struct Common<'a> {
    path: String,
    name: &'a str,
    effect: Effect,
    to: &'a [Peer],
    ports: &'a [Port],
    expires_at: Option<&'a str>,
    schedule: Option<&'a Schedule>,
}

impl Converter {
    fn new(policy: PolicyRef, mode: Mode) -> Self {
        Self { policy, mode: mode.into(), problems: Vec::new() }
    }

    fn convert(mut self, egress: &[EgressRule], deny: &[DenyRule]) -> Converted {
        let mut rules = Vec::with_capacity(egress.len() + deny.len());
        for (index, rule) in egress.iter().enumerate() {
            rules.extend(self.allow(rule, format!("spec.egress[{index}]")));
        }
        for (index, rule) in deny.iter().enumerate() {
            rules.extend(self.deny(rule, format!("spec.deny[{index}]")));
        }
        Converted { rules, problems: self.problems }
    }

    fn allow(&mut self, rule: &EgressRule, path: String) -> Option<Rule> {
        let common = Common {
            path,
            name: &rule.name,
            effect: Effect::Allow,
            to: &rule.to,
            ports: &rule.ports,
            expires_at: rule.expires_at.as_deref(),
            schedule: rule.schedule.as_ref(),
        };
        let grace =
            rule.grace_seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
        let base = self.rule(&common)?;
        Some(Rule {
            private_addresses: rule.private_addresses,
            strict_chain: rule.strict_chain,
            grace,
            ..base
        })
    }

    fn deny(&mut self, rule: &DenyRule, path: String) -> Option<Rule> {
        self.rule(&Common {
            path,
            name: &rule.name,
            effect: Effect::Deny,
            to: &rule.to,
            ports: rule.ports.as_deref().unwrap_or_default(),
            expires_at: rule.expires_at.as_deref(),
            schedule: rule.schedule.as_ref(),
        })
    }

    fn rule(&mut self, common: &Common<'_>) -> Option<Rule> {
        let before = self.problems.len();
        let expires_at = common
            .expires_at
            .and_then(|text| self.understood(&common.path, "expiresAt", patterns::date_time(text)));
        let schedule = common.schedule.and_then(|schedule| {
            let parsed = to_schedule(schedule).map_err(|error| error.to_string());
            self.understood(&common.path, "schedule", parsed)
        });
        // An allow rule whose time is not understood never counts, a deny rule always does.
        let timeless = self.problems.len() > before;
        let peers = self.peers(common);
        let ports = self.ports(common);
        (common.effect == Effect::Deny || !timeless).then(|| Rule {
            mode: self.mode,
            peers,
            ports,
            expires_at,
            schedule,
            ..Rule::new(self.policy.clone(), common.name, common.effect)
        })
    }

    fn peers(&mut self, common: &Common<'_>) -> Vec<PolicyPeer> {
        let mut peers = Vec::with_capacity(common.to.len());
        for (index, peer) in common.to.iter().enumerate() {
            let path = format!("{}.to[{index}]", common.path);
            match peer {
                Peer { domain_names: Some(names), ip_block: None, cluster: None } => {
                    peers.push(PolicyPeer::Names(self.names(names, &path)));
                }
                Peer { domain_names: None, ip_block: Some(block), cluster: None } => {
                    peers.extend(self.understood(&path, "ipBlock", to_block(block)));
                }
                Peer { domain_names: None, ip_block: None, cluster: Some(places) } => {
                    peers.push(PolicyPeer::Cluster(places.iter().copied().map(ClusterPeer::from).collect()));
                }
                Peer { .. } => {
                    let message = "write exactly one of `domainNames`, `ipBlock` and `cluster`".into();
                    self.problems.push(Problem { path, message });
                }
            }
        }
        peers
    }

    fn names(&mut self, names: &[String], path: &str) -> Vec<Pattern> {
        let mut patterns = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            let parsed = Pattern::parse(name).map_err(|error| error.to_string());
            patterns.extend(self.understood(path, &format!("domainNames[{index}]"), parsed));
        }
        patterns
    }

    fn ports(&mut self, common: &Common<'_>) -> Vec<PortSpec> {
        let mut specs = Vec::with_capacity(common.ports.len());
        for (index, port) in common.ports.iter().enumerate() {
            specs.extend(self.understood(&common.path, &format!("ports[{index}]"), to_port(port)));
        }
        // What a deny rule meant beside what is understood is unknown: it denies on every port (R4).
        if common.effect == Effect::Deny && specs.len() < common.ports.len() {
            specs.clear();
        }
        specs
    }

    fn understood<T>(&mut self, path: &str, field: &str, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|message| self.problems.push(Problem { path: format!("{path}.{field}"), message }))
            .ok()
    }
}

impl From<ClusterPlace> for ClusterPeer {
    fn from(place: ClusterPlace) -> Self {
        match place {
            ClusterPlace::Pods => Self::Pods,
            ClusterPlace::Services => Self::Services,
            ClusterPlace::Nodes => Self::Nodes,
            ClusterPlace::APIServer => Self::ApiServer,
        }
    }
}

fn to_block(block: &IpBlock) -> Result<PolicyPeer, String> {
    let cidr = patterns::cidr(&block.cidr)?;
    let inside = |text: &String| match patterns::cidr(text)? {
        except if cidr.contains(&except) => Ok(except),
        except => Err(format!("`{except}` is not inside `{cidr}`")),
    };
    let except = block.except.iter().map(inside).collect::<Result<_, _>>()?;
    Ok(PolicyPeer::Block { cidr, except })
}

fn to_port(port: &Port) -> Result<PortSpec, String> {
    let protocol = to_protocol(&port.protocol)?;
    let number = |number: i32| {
        u16::try_from(number)
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("`{number}` is not a port; write 1 to 65535"))
    };
    match (port.port, port.end_port) {
        (None, None) => Ok(PortSpec::all(protocol)),
        (Some(_), _) if !protocol.has_ports() => Err(format!("{protocol} has no ports; remove `port`")),
        (Some(first), None) => Ok(PortSpec::one(protocol, number(first)?)),
        (Some(first), Some(last)) if first <= last => {
            Ok(PortSpec::range(protocol, number(first)?, number(last)?))
        }
        (_, Some(_)) => Err("`endPort` needs a `port`, and must not be below it".into()),
    }
}

fn to_protocol(name: &ProtocolName) -> Result<Protocol, String> {
    let wrong = |found: &dyn std::fmt::Display| {
        format!("`{found}` is not a protocol; write TCP, UDP, SCTP, ICMPEcho, Any, or a number from 0 to 255")
    };
    match name {
        ProtocolName::Number(number) => {
            u8::try_from(*number).map(Protocol::Number).map_err(|_| wrong(number))
        }
        ProtocolName::Name(name) => match name.as_str() {
            "TCP" => Ok(Protocol::Tcp),
            "UDP" => Ok(Protocol::Udp),
            "SCTP" => Ok(Protocol::Sctp),
            "ICMPEcho" => Ok(Protocol::IcmpEcho),
            "Any" => Ok(Protocol::Any),
            other => Err(wrong(&other)),
        },
    }
}

fn to_schedule(schedule: &Schedule) -> Result<nameward_policy::Schedule, nameward_policy::ScheduleError> {
    let days: Vec<Arc<str>> = schedule.days.iter().map(|day| format!("{day:?}").into()).collect();
    nameward_policy::Schedule::parse(&days, &schedule.start, &schedule.end, &schedule.time_zone)
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
