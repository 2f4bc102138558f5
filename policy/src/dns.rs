//! What the resolver needs to know of an endpoint's rules: may a name be asked (Q2, Q3, Q6), may an address be
//! in its answer (A3).
//!
//! [`DnsRules::decide`] is on the hot path: no allocation, one hash lookup for each label of the name. It does
//! not judge ports or packets.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

#[path = "dns_union.rs"]
mod dns_union;

use crate::{AddressClass, DnsSettings, Limits, Name, Pattern, PolicyRef, TtlBounds, address};

/// What happens to names in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsMode {
    /// What no rule allows is filtered.
    Filter,
    /// What no rule allows is answered, and would be filtered if rules were enforced (R6).
    Audit,
    /// Only what a rule denies is filtered.
    Pass,
}

/// A pattern of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRuleEntry {
    /// The names.
    pub pattern: Pattern,
    /// The policy it came from.
    pub policy: PolicyRef,
    /// What the rule says of them.
    pub rule: NameRule,
    /// Port classes the names get; 0 = the rule opens nothing by itself.
    pub classes: u64,
}

/// What rules say of a name that they allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRule {
    /// How long addresses are kept after their TTL (A5).
    pub grace: Duration,
    /// Addresses that are not globally reachable are fine (A3).
    pub private_addresses: bool,
    /// CNAME targets need a rule, too (Q4).
    pub strict_chain: bool,
}

/// A pattern that a rule denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedNames {
    /// The names.
    pub pattern: Pattern,
    /// The policy it came from.
    pub policy: PolicyRef,
}

/// The rules as they travel: lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRulesData {
    /// What happens to names in general.
    pub mode: DnsMode,
    /// Allowed patterns.
    pub allowed: Vec<NameRuleEntry>,
    /// Denied patterns; they win (R2).
    pub denied: Vec<DeniedNames>,
    /// Blocks of allow rules: private answers inside are fine (A3).
    pub reachable: Vec<Reachable>,
    /// Addresses never granted through a name, beside those that never are: the node's own.
    pub own_node: Vec<IpNet>,
    /// The policy named when no rule knows a name.
    pub isolated_by: Option<PolicyRef>,
    /// Settings of the resolver.
    pub settings: DnsSettings,
    /// Bounds of TTLs.
    pub ttl: TtlBounds,
    /// Limits of the workload.
    pub limits: Limits,
}

/// A block that an allow rule covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reachable {
    /// The addresses.
    pub cidr: IpNet,
    /// Less these.
    pub except: Vec<IpNet>,
}

impl Reachable {
    fn covers(&self, address: IpAddr) -> bool {
        address::covers(&self.cidr, address) && !self.except.iter().any(|net| address::covers(net, address))
    }
}

/// The answer to "may this name be asked".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryDecision {
    /// A rule allows the name: its addresses are granted.
    Allowed(NameRule),
    /// No rule allows it: answered here (Q2, Q3).
    Filtered {
        /// A policy that isolates the workload, for the Extended DNS Error.
        policy: Option<PolicyRef>,
        /// Some rule allows a name below this one: the answer is NODATA.
        name_below_allowed: bool,
    },
    /// A rule denies it: answered here.
    Denied {
        /// The policy that denies.
        policy: PolicyRef,
    },
    /// An allowed name with a search domain of the cluster behind it: a fast negative (Q6).
    SearchExpansion,
    /// Answered as it is, nothing is granted.
    Unfiltered {
        /// What enforcement would have done (R6): true when the name would be filtered or denied.
        would_filter: bool,
    },
}

/// What becomes of an address of an answer to an allowed name (A3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Granted.
    Grant,
    /// Passed on, not granted through the name: an `ipBlock` or `cluster` rule covers it.
    PassOnly,
    /// Removed from the answer.
    Remove(AddressClass),
}

/// What an endpoint's rules say of names.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "DnsRulesData", into = "DnsRulesData")]
pub struct DnsRules {
    data: DnsRulesData,
    nodes: HashMap<Name, Node, BuildHasherDefault<Fnv>>,
    any: Leaf,
    /// Those that this is the union of; none for one workload's own.
    parts: Vec<Arc<Self>>,
}

/// What is known at one name of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Node {
    exact: Leaf,
    below: Leaf,
    /// A pattern allows some name below this one.
    parent_of_allowed: bool,
}

/// The union of patterns over the same names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Leaf {
    classes: u64,
    rule: Option<NameRule>,
    /// Index into `denied`.
    denied: Option<u32>,
}

impl From<DnsRulesData> for DnsRules {
    fn from(data: DnsRulesData) -> Self {
        Self::new(data)
    }
}

impl From<DnsRules> for DnsRulesData {
    fn from(rules: DnsRules) -> Self {
        rules.data
    }
}

impl PartialEq for DnsRules {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data && self.parts == other.parts
    }
}

impl DnsRules {
    /// Indexes the lists.
    #[must_use]
    pub fn new(data: DnsRulesData) -> Self {
        let mut rules = Self { data, nodes: HashMap::default(), any: Leaf::default(), parts: Vec::new() };
        let data = rules.data.clone();
        for entry in &data.allowed {
            rules.leaf(&entry.pattern).add(entry.classes, entry.rule);
            if entry.classes != 0 {
                rules.mark_ancestors(&entry.pattern);
            }
        }
        for (index, denied) in data.denied.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            rules.leaf(&denied.pattern).denied.get_or_insert(index);
        }
        rules
    }

    /// The rules that these are the union of; none for one workload's own.
    #[must_use]
    pub fn parts(&self) -> &[Arc<Self>] {
        &self.parts
    }

    /// The lists.
    #[must_use]
    pub fn data(&self) -> &DnsRulesData {
        &self.data
    }

    /// Whether names are told to the enforcer although no rule speaks of them: nothing isolates the workload, and what
    /// it asks for is kept for the rules that may come (R11).
    #[must_use]
    pub fn observes(&self) -> bool {
        self.data.mode == DnsMode::Pass
    }

    /// Settings of the resolver.
    #[must_use]
    pub fn settings(&self) -> &DnsSettings {
        &self.data.settings
    }

    /// Bounds of TTLs.
    #[must_use]
    pub fn ttl(&self) -> TtlBounds {
        self.data.ttl
    }

    /// Limits of the workload.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.data.limits
    }

    /// May this name be asked (Q2, Q3, Q6)?
    #[must_use]
    pub fn decide(&self, name: &Name) -> QueryDecision {
        if !self.parts.is_empty() {
            return dns_union::decide(&self.parts, name);
        }
        let found = self.look_up(name.as_str());
        if let Some(index) = found.denied {
            if self.data.mode == DnsMode::Audit {
                return QueryDecision::Unfiltered { would_filter: true };
            }
            return QueryDecision::Denied { policy: self.data.denied[index as usize].policy.clone() };
        }
        match found.rule {
            Some(rule) if found.classes != 0 => QueryDecision::Allowed(rule),
            _ => self.decide_unmatched(name),
        }
    }

    /// The policy that denies a name, whether or not it is enforced (R6).
    #[must_use]
    pub fn denied_by(&self, name: &Name) -> Option<&PolicyRef> {
        self.look_up(name.as_str()).denied.map(|index| &self.data.denied[index as usize].policy)
    }

    /// The policy that refuses a name, or would (R6): the one that denies it, else one that isolates the workload.
    #[must_use]
    pub fn refused_by(&self, name: &Name) -> Option<&PolicyRef> {
        self.denied_by(name).or(self.data.isolated_by.as_ref())
    }

    /// The port classes a name gets from this rule set; 0 = none, also for what is denied.
    #[must_use]
    pub fn classes_of(&self, name: &Name) -> u64 {
        let found = self.look_up(name.as_str());
        if found.denied.is_some() { 0 } else { found.classes }
    }

    /// What becomes of an address in an answer to a name with this rule (A3).
    #[must_use]
    pub fn admission(&self, rule: &NameRule, address: IpAddr) -> Admission {
        let covered = || self.reachable().any(|block| block.covers(address));
        match self.class_of(address) {
            AddressClass::Global => Admission::Grant,
            AddressClass::Private(_) if rule.private_addresses || covered() => Admission::Grant,
            AddressClass::Never(_) if covered() => Admission::PassOnly,
            class @ (AddressClass::Private(_) | AddressClass::Never(_)) => Admission::Remove(class),
        }
    }

    /// Whether an address may stay in the answer (A3).
    #[must_use]
    pub fn admits(&self, rule: &NameRule, address: IpAddr) -> bool {
        !matches!(self.admission(rule, address), Admission::Remove(_))
    }

    fn reachable(&self) -> impl Iterator<Item = &Reachable> {
        let of_parts = self.parts.iter().flat_map(|part| &part.data.reachable);
        self.data.reachable.iter().chain(of_parts)
    }

    fn class_of(&self, address: IpAddr) -> AddressClass {
        let inner = match address {
            IpAddr::V4(_) => [None, None],
            IpAddr::V6(v6) => address::embedded(v6),
        };
        let own = |address| self.data.own_node.iter().any(|net| address::covers(net, address));
        if own(address) || inner.into_iter().flatten().any(|v4| own(IpAddr::V4(v4))) {
            return AddressClass::Never(crate::AddressKind::OwnNode);
        }
        address::judge(address)
    }

    fn decide_unmatched(&self, name: &Name) -> QueryDecision {
        let settings = &self.data.settings;
        if self.data.mode == DnsMode::Pass {
            return QueryDecision::Unfiltered { would_filter: false };
        }
        if let Some(domain) = settings.cluster_domain.as_ref().filter(|_| !settings.filter_cluster_domain)
            && (name == domain || name.is_below(domain))
        {
            return match self.is_expansion(name, domain) {
                true => QueryDecision::SearchExpansion,
                false => QueryDecision::Unfiltered { would_filter: false },
            };
        }
        if self.data.mode == DnsMode::Audit || !settings.filter {
            return QueryDecision::Unfiltered { would_filter: settings.filter };
        }
        let node = self.nodes.get(name.as_str());
        QueryDecision::Filtered {
            policy: self.data.isolated_by.clone(),
            name_below_allowed: node.is_some_and(|node| node.parent_of_allowed),
        }
    }

    /// Whether the name is an allowed one with `<domain>`, `svc.<domain>` or `<namespace>.svc.<domain>` behind it.
    /// Only names under a top-level domain of the public list count: `web.prod` is a service of the cluster.
    fn is_expansion(&self, name: &Name, domain: &Name) -> bool {
        let Some(front) =
            name.as_str().strip_suffix(domain.as_str()).and_then(|front| front.strip_suffix('.'))
        else {
            return false;
        };
        let service = front.strip_suffix(".svc");
        let namespaced = service.and_then(|front| front.rsplit_once('.')).map(|(front, _)| front);
        [Some(front), service, namespaced].into_iter().flatten().any(|candidate| {
            let public = || psl::suffix(candidate.as_bytes()).is_some_and(|suffix| suffix.is_known());
            let found = self.look_up(candidate);
            candidate.contains('.') && found.classes != 0 && found.denied.is_none() && public()
        })
    }

    /// The union of all patterns that match.
    fn look_up(&self, name: &str) -> Leaf {
        let mut found = self.nodes.get(name).map_or(self.any, |node| node.exact.union(self.any));
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(node) = self.nodes.get(parent) {
                found = found.union(node.below);
            }
            rest = parent;
        }
        found
    }

    fn leaf(&mut self, pattern: &Pattern) -> &mut Leaf {
        match pattern {
            Pattern::Exact(name) => &mut self.nodes.entry(name.clone()).or_default().exact,
            Pattern::Below(base) => &mut self.nodes.entry(base.clone()).or_default().below,
            Pattern::Any => &mut self.any,
        }
    }

    fn mark_ancestors(&mut self, pattern: &Pattern) {
        let mut at = match pattern {
            Pattern::Exact(name) => name.parent(),
            Pattern::Below(base) => Some(base.clone()),
            Pattern::Any => None,
        };
        while let Some(name) = at {
            at = name.parent();
            self.nodes.entry(name).or_default().parent_of_allowed = true;
        }
    }
}

impl Leaf {
    fn add(&mut self, classes: u64, rule: NameRule) {
        *self = self.union(Self { classes, rule: Some(rule), denied: None });
    }

    /// Both count: the longer grace, private answers if one permits them, a strict chain if both ask for it.
    /// What opens no port has no say in the chain and the grace.
    fn union(self, other: Self) -> Self {
        let rule = match (self.rule, other.rule) {
            (Some(a), Some(b)) => Some(match (self.classes, other.classes) {
                (0, 1..) => NameRule { private_addresses: a.private_addresses || b.private_addresses, ..b },
                (1.., 0) => NameRule { private_addresses: a.private_addresses || b.private_addresses, ..a },
                _ => a.or(b),
            }),
            (a, b) => a.or(b),
        };
        Self { classes: self.classes | other.classes, rule, denied: self.denied.or(other.denied) }
    }
}

/// FNV-1a. Who writes policies can make names collide, at most as many as policies have; who asks cannot.
#[derive(Clone, Copy, Debug)]
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
