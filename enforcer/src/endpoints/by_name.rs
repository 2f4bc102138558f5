//! What of an answer that all workloads may get (Q9) one of them may use: judged by its own rules, which may say less than
//! those of the workload that asked. Pure.

use std::{net::IpAddr, time::Duration};

use nameward_policy::{Admission, KernelMode, Name, QueryDecision, RuleSet};

/// One workload's share of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Addresses that it may use, with their TTLs.
    pub(super) addresses: Vec<(IpAddr, Duration)>,
    /// How long they outlive the TTLs.
    pub(super) grace: Duration,
}

/// None where the rules give it nothing.
pub(super) fn share(
    rules: &RuleSet,
    name: &Name,
    chain: &[impl AsRef<str>],
    addresses: &[(IpAddr, Duration)],
) -> Option<Share> {
    let share = match rules.dns.decide(name) {
        QueryDecision::Allowed(rule) => {
            // Q4: an alias that is no name has no rule.
            let is_allowed = |alias: &str| {
                let decision = Name::parse(alias).ok().map(|alias| rules.dns.decide(&alias));
                matches!(decision, Some(QueryDecision::Allowed(_)))
            };
            if rule.strict_chain && !chain.iter().all(|alias| is_allowed(alias.as_ref())) {
                return None;
            }
            let is_granted =
                |(address, _): &&(IpAddr, Duration)| rules.dns.admission(&rule, *address) == Admission::Grant;
            Share { addresses: addresses.iter().filter(is_granted).copied().collect(), grace: rule.grace }
        }
        // It opens nothing, and packets are told with the name (R6, G8).
        QueryDecision::Unfiltered { would_filter: true } if rules.kernel.mode == KernelMode::Audit => {
            Share { addresses: addresses.to_vec(), grace: Duration::ZERO }
        }
        QueryDecision::Unfiltered { .. }
        | QueryDecision::Filtered { .. }
        | QueryDecision::Denied { .. }
        | QueryDecision::SearchExpansion => return None,
    };
    (!share.addresses.is_empty()).then_some(share)
}

#[cfg(test)]
mod tests {
    use nameward_policy::{
        ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
        RuleMode, Settings,
    };

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const NO_CHAIN: &[&str] = &[];

    fn allow(patterns: &[&str]) -> Rule {
        let peers = vec![Peer::Names(patterns.iter().map(|one| Pattern::parse(one).unwrap()).collect())];
        let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "egress");
        let ports = vec![PortSpec::one(Protocol::Tcp, 443)];
        Rule { peers, ports, ..Rule::new(policy, "r", Effect::Allow) }
    }

    fn compile(isolation: Isolation, rules: &[Rule]) -> RuleSet {
        let (settings, cluster) = (Settings::default(), ClusterRanges::default());
        RuleSet::compile(isolation, rules, &settings, &cluster, jiff::Timestamp::UNIX_EPOCH).unwrap()
    }

    fn isolated(rule: Rule) -> RuleSet {
        compile(Isolation::Isolated, &[rule])
    }

    fn addresses_of(rules: &RuleSet, name: &str, chain: &[&str]) -> Vec<IpAddr> {
        let answer = [external(), private()].map(|address| (address, MINUTE));
        let share = share(rules, &Name::parse(name).unwrap(), chain, &answer);
        share.into_iter().flat_map(|share| share.addresses).map(|(address, _)| address).collect()
    }

    fn external() -> IpAddr {
        [198, 51, 100, 7].into()
    }

    fn private() -> IpAddr {
        [10, 0, 0, 7].into()
    }

    // Q9, promise 6: what others may use opens nothing here
    #[test]
    fn each_workload_gets_what_its_own_rules_allow() {
        let rules = isolated(allow(&["a.example"]));
        assert_eq!(addresses_of(&rules, "a.example", NO_CHAIN), [external()]);
        assert_eq!(addresses_of(&rules, "b.example", NO_CHAIN), [] as [IpAddr; 0]);
        let wide = isolated(Rule { private_addresses: true, ..allow(&["a.example"]) });
        assert_eq!(addresses_of(&wide, "a.example", NO_CHAIN), [external(), private()]);
        let open = compile(Isolation::NotIsolated, &[]);
        assert_eq!(addresses_of(&open, "a.example", NO_CHAIN), [] as [IpAddr; 0]);
    }

    // Q4
    #[test]
    fn a_strict_chain_is_judged_here_too() {
        let strict = isolated(Rule { strict_chain: true, ..allow(&["a.example", "cdn.example"]) });
        assert_eq!(addresses_of(&strict, "a.example", &["cdn.example"]), [external()]);
        for alias in ["other.example", "no name"] {
            assert_eq!(addresses_of(&strict, "a.example", &["cdn.example", alias]), [] as [IpAddr; 0]);
        }
    }

    // A5: the rule's own grace
    #[test]
    fn the_grace_is_the_rules_own() {
        let rules = isolated(Rule { grace: Some(MINUTE), ..allow(&["a.example"]) });
        let name = Name::parse("a.example").unwrap();
        let share = share(&rules, &name, NO_CHAIN, &[(external(), MINUTE)]).unwrap();
        assert_eq!(share.grace, MINUTE);
    }

    // R6, G8
    #[test]
    fn audit_learns_the_name_of_what_it_would_deny() {
        let audited = compile(Isolation::Audit, &[Rule { mode: RuleMode::Audit, ..allow(&["a.example"]) }]);
        assert_eq!(audited.kernel.mode, KernelMode::Audit);
        assert_eq!(addresses_of(&audited, "b.example", NO_CHAIN), [external(), private()]);
    }
}
