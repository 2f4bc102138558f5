//! What all workloads together may ask (Q9): for a forwarder whose cache does not know its clients.
//!
//! Each workload's rules are asked in turn, so that a name counts as allowed exactly when some workload may ask it. Whom
//! its addresses open is not decided here: every enforcer judges them by the rules of each of its workloads.

use std::sync::Arc;

use super::{DnsMode, DnsRules, DnsRulesData, NameRule, QueryDecision};
use crate::{DnsAnswer, DnsSettings, Hints, Limits, Name, PolicyRef, TtlBounds};

/// Names that are remembered for all together.
const NAMES: u32 = 65_536;
/// Questions of all together, also of clients that nobody knows. The server's own bounds count beside these.
const UNBOUNDED: u32 = u32::MAX;

impl DnsRules {
    /// The union of these rules. It never travels: enforcers know their own workloads.
    ///
    /// The least that they agree on counts for what answers look like: hints stay where all keep them, filtered names
    /// are REFUSED where all say so, TTLs are within everybody's bounds.
    #[must_use]
    pub fn union(parts: Vec<Arc<Self>>) -> Self {
        let every = |is: &dyn Fn(&DnsSettings) -> bool| {
            !parts.is_empty() && parts.iter().all(|one| is(one.settings()))
        };
        let answer = match every(&|settings| settings.answer == DnsAnswer::Refused) {
            true => DnsAnswer::Refused,
            false => DnsAnswer::NxDomain,
        };
        let hints = match every(&|settings| settings.hints == Hints::Learn) {
            true => Hints::Learn,
            false => Hints::Remove,
        };
        let usual = TtlBounds::default();
        let ttl = TtlBounds {
            min_seconds: parts.iter().map(|one| one.ttl().min_seconds).max().unwrap_or(usual.min_seconds),
            max_seconds: parts.iter().map(|one| one.ttl().max_seconds).min().unwrap_or(usual.max_seconds),
        };
        let limits = Limits {
            names: NAMES,
            queries_per_second: UNBOUNDED,
            pending_queries: UNBOUNDED,
            ..Limits::default()
        };
        let data = DnsRulesData {
            mode: DnsMode::Filter,
            allowed: Vec::new(),
            denied: Vec::new(),
            reachable: Vec::new(),
            // Another node's address is a destination like others; each enforcer knows its own node.
            own_node: Vec::new(),
            isolated_by: None,
            settings: DnsSettings { answer, hints, ..DnsSettings::default() },
            ttl,
            limits,
        };
        Self { parts, ..Self::new(data) }
    }
}

/// What some part allows is allowed; else what some part would answer is answered; filtered is what all filter.
pub(super) fn decide(parts: &[Arc<DnsRules>], name: &Name) -> QueryDecision {
    parts
        .iter()
        .map(|part| part.decide(name))
        .reduce(either)
        .unwrap_or(QueryDecision::Filtered { policy: None, name_below_allowed: false })
}

fn either(one: QueryDecision, other: QueryDecision) -> QueryDecision {
    use QueryDecision::{Allowed, Denied, Filtered, SearchExpansion, Unfiltered};
    match (one, other) {
        (Allowed(one), Allowed(other)) => Allowed(one.or(other)),
        (Allowed(rule), _) | (_, Allowed(rule)) => Allowed(rule),
        (Unfiltered { would_filter: one }, Unfiltered { would_filter: other }) => {
            Unfiltered { would_filter: one || other }
        }
        (decision @ Unfiltered { .. }, _) | (_, decision @ Unfiltered { .. }) => decision,
        (SearchExpansion, _) | (_, SearchExpansion) => SearchExpansion,
        (Denied { policy: one }, Denied { policy: other }) if one == other => Denied { policy: one },
        (one, other) => Filtered {
            policy: agreed(&one, &other),
            name_below_allowed: is_above_allowed(&one) || is_above_allowed(&other),
        },
    }
}

/// A policy is named where both name it; else nobody's is told to others.
fn agreed(one: &QueryDecision, other: &QueryDecision) -> Option<PolicyRef> {
    match (one, other) {
        (QueryDecision::Filtered { policy: one, .. }, QueryDecision::Filtered { policy: other, .. })
            if one == other =>
        {
            one.clone()
        }
        _ => None,
    }
}

fn is_above_allowed(decision: &QueryDecision) -> bool {
    matches!(decision, QueryDecision::Filtered { name_below_allowed: true, .. })
}

impl NameRule {
    /// The rule of two that both allow a name: the longer grace, private answers if one permits them, a strict chain if
    /// both ask for it.
    #[must_use]
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            grace: self.grace.max(other.grace),
            private_addresses: self.private_addresses || other.private_addresses,
            strict_chain: self.strict_chain && other.strict_chain,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        Admission, ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PortSpec, Protocol, Rule,
        RuleMode, RuleSet, Settings,
    };

    fn policy(namespace: &str) -> PolicyRef {
        PolicyRef::new(PolicyKind::EgressPolicy, namespace, "egress")
    }

    fn rule(namespace: &str, effect: Effect, pattern: &str) -> Rule {
        let peers = vec![Peer::Names(vec![Pattern::parse(pattern).unwrap()])];
        let ports = vec![PortSpec::one(Protocol::Tcp, 443)];
        Rule { peers, ports, ..Rule::new(policy(namespace), "r", effect) }
    }

    fn compile(isolation: Isolation, rules: &[Rule], settings: &Settings) -> Arc<DnsRules> {
        let now = jiff::Timestamp::UNIX_EPOCH;
        RuleSet::compile(isolation, rules, settings, &ClusterRanges::default(), now).unwrap().dns
    }

    fn isolated(rules: &[Rule]) -> Arc<DnsRules> {
        compile(Isolation::Isolated, rules, &Settings::default())
    }

    fn decide(union: &DnsRules, name: &str) -> QueryDecision {
        union.decide(&Name::parse(name).unwrap())
    }

    // Q9
    #[test]
    fn what_one_workload_may_ask_may_be_asked() {
        let ci = isolated(&[
            rule("ci", Effect::Allow, "*.ci.example"),
            rule("ci", Effect::Deny, "bad.ci.example"),
        ]);
        let web = isolated(&[rule("web", Effect::Allow, "api.example")]);
        let union = DnsRules::union(vec![Arc::clone(&ci), Arc::clone(&web)]);
        for name in ["a.ci.example", "api.example"] {
            assert!(matches!(decide(&union, name), QueryDecision::Allowed(_)), "{name}");
        }
        // Denied for one and allowed by nobody else is not asked, nor is anything that no rule names.
        for name in ["bad.ci.example", "other.example"] {
            assert!(matches!(decide(&union, name), QueryDecision::Filtered { policy: None, .. }), "{name}");
        }
        let also_bad = isolated(&[rule("lab", Effect::Allow, "bad.ci.example")]);
        let union = DnsRules::union(vec![ci, web, also_bad]);
        assert!(matches!(decide(&union, "bad.ci.example"), QueryDecision::Allowed(_)));
    }

    // Promise 2: nobody's rules allow nothing
    #[test]
    fn nobody_may_ask_nothing() {
        let nobody = DnsRules::union(Vec::new());
        assert!(matches!(decide(&nobody, "a.example"), QueryDecision::Filtered { .. }));
        let travelled = DnsRules::new(DnsRulesData::from(DnsRules::union(vec![isolated(&[rule(
            "ci",
            Effect::Allow,
            "*",
        )])])));
        assert!(
            matches!(decide(&travelled, "a.example"), QueryDecision::Filtered { .. }),
            "it never travels"
        );
    }

    // R1, R6
    #[test]
    fn a_workload_that_is_not_filtered_lets_names_through_for_all() {
        let open = compile(Isolation::NotIsolated, &[], &Settings::default());
        let union = DnsRules::union(vec![isolated(&[rule("ci", Effect::Allow, "a.example")]), open]);
        assert!(matches!(decide(&union, "a.example"), QueryDecision::Allowed(_)));
        assert_eq!(decide(&union, "b.example"), QueryDecision::Unfiltered { would_filter: false });
        let audit = Rule { mode: RuleMode::Audit, ..rule("lab", Effect::Allow, "c.example") };
        let audited = compile(Isolation::Audit, &[audit], &Settings::default());
        let union = DnsRules::union(vec![isolated(&[]), audited]);
        assert!(matches!(decide(&union, "d.example"), QueryDecision::Unfiltered { would_filter: true }));
    }

    // A3, Q4: each enforcer judges for its own workloads; the answer serves the one that may have most
    #[test]
    fn the_widest_rule_shapes_the_answer() {
        let private = Rule { private_addresses: true, ..rule("ci", Effect::Allow, "a.example") };
        let strict = Rule { strict_chain: true, ..rule("web", Effect::Allow, "a.example") };
        let union = DnsRules::union(vec![isolated(&[private]), isolated(std::slice::from_ref(&strict))]);
        let QueryDecision::Allowed(rule) = decide(&union, "a.example") else { panic!("not allowed") };
        assert!(rule.private_addresses && !rule.strict_chain);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(union.admission(&rule, address), Admission::Grant);
        let union = DnsRules::union(vec![isolated(std::slice::from_ref(&strict)), isolated(&[strict])]);
        let QueryDecision::Allowed(rule) = decide(&union, "a.example") else { panic!("not allowed") };
        assert!(rule.strict_chain);
        assert!(matches!(union.admission(&rule, address), Admission::Remove(_)));
    }

    #[test]
    fn ttls_are_within_everybodys_bounds() {
        let bounds = |min_seconds, max_seconds| {
            let ttl = TtlBounds { min_seconds, max_seconds };
            compile(Isolation::Isolated, &[], &Settings { ttl, ..Settings::default() })
        };
        let union = DnsRules::union(vec![bounds(5, 60), bounds(10, 3_600)]);
        assert_eq!(union.ttl(), TtlBounds { min_seconds: 10, max_seconds: 60 });
        assert_eq!(DnsRules::union(Vec::new()).ttl(), TtlBounds::default());
    }
}
