use std::{sync::Arc, time::Duration};

use nameward_policy::{
    ClusterRanges, Effect, Isolation, Limits, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleMode, Settings,
};

use super::*;
use crate::{GrantRequest, kernel::MemoryStore};

const NOW: BootTime = BootTime(1_000_000_000_000);

fn rule(mode: RuleMode, effect: Effect, peer: Peer) -> Rule {
    let policy =
        PolicyRef::new(PolicyKind::EgressPolicy, "ci", if mode == RuleMode::Audit { "new" } else { "old" });
    let ports = vec![PortSpec::one(Protocol::Tcp, 443)];
    Rule { mode, peers: vec![peer], ports, ..Rule::new(policy, "r", effect) }
}

fn names(patterns: &[&str]) -> Peer {
    Peer::Names(patterns.iter().map(|one| Pattern::parse(one).unwrap()).collect())
}

fn block(cidr: &str) -> Peer {
    Peer::Block { cidr: cidr.parse().unwrap(), except: vec![] }
}

fn endpoint(isolation: Isolation, rules: &[Rule]) -> Endpoint<MemoryStore> {
    let mut endpoint = Endpoint::open(MemoryStore::default(), Limits::default()).unwrap();
    let (settings, cluster) = (Settings::default(), ClusterRanges::default());
    let rules = RuleSet::compile(isolation, rules, &settings, &cluster, jiff::Timestamp::UNIX_EPOCH).unwrap();
    endpoint.apply(Arc::new(rules), NOW).unwrap();
    endpoint
}

fn event(remote: &str, reason: nameward_abi::Reason) -> Event {
    let address: std::net::IpAddr = remote.parse().unwrap();
    Event {
        remote: crate::kernel::address_bytes(address),
        remote_port: 443u16.to_be_bytes(),
        protocol: 6,
        reason: reason as u8,
        direction: Direction::Egress as u8,
        ..Event::default()
    }
}

fn words(staged: Option<Staged>) -> Option<String> {
    staged.map(|one| format!("{} {} {}", one.verdict, one.reason, one.policy.unwrap_or_default()))
}

// R6
#[test]
fn an_enforced_workload_has_a_second_verdict() {
    use nameward_abi::Reason::{Malformed, Name, NoMatch};
    let rules = [
        rule(RuleMode::Enforce, Effect::Allow, names(&["a.example", "b.example"])),
        rule(RuleMode::Audit, Effect::Allow, block("192.0.2.0/24")),
        rule(RuleMode::Audit, Effect::Allow, names(&["c.example"])),
        rule(RuleMode::Audit, Effect::Deny, names(&["b.example"])),
    ];
    let mut endpoint = endpoint(Isolation::Isolated, &rules);
    for (name, address) in [("a.example", "198.51.100.1"), ("b.example", "198.51.100.2")] {
        let request = GrantRequest {
            endpoint: "runner".into(),
            generation: 1,
            name: name.into(),
            chain: vec![],
            addresses: vec![(address.parse().unwrap(), Duration::from_secs(60))],
            grace: Duration::ZERO,
        };
        endpoint.grant(&request, NOW).unwrap();
    }
    let of = |remote, reason| words(endpoint.staged_packet(&event(remote, reason), NOW)).unwrap();
    assert_eq!(of("198.51.100.1", Name), "pass name EgressPolicy ci/old rule r");
    assert_eq!(of("198.51.100.2", Name), "deny no-match EgressPolicy ci/new");
    assert_eq!(of("192.0.2.1", NoMatch), "pass cidr EgressPolicy ci/new rule r");
    assert_eq!(of("203.0.113.1", NoMatch), "deny no-match ");
    assert_eq!(of("192.0.2.1", Malformed), "deny malformed ");
    let inbound = Event { direction: Direction::Ingress as u8, ..event("192.0.2.1", NoMatch) };
    assert_eq!(words(endpoint.staged_packet(&inbound, NOW)).unwrap(), "deny no-match ");
    let asked = |name, reason| words(endpoint.staged_question(name, reason)).unwrap();
    assert_eq!(asked("c.example", Reason::Filtered), "pass name EgressPolicy ci/new rule r");
    assert_eq!(asked("d.example", Reason::Filtered), "deny filtered EgressPolicy ci/new");
    assert_eq!(asked("c.example", Reason::Upstream), "deny upstream ");
}

// R1, R6: denies are enforced, isolation is audited
#[test]
fn a_workload_that_only_denies_bind_has_a_second_verdict() {
    use nameward_abi::Reason::{DeniedCidr, NotIsolated};
    let rules = [
        rule(RuleMode::Enforce, Effect::Deny, block("203.0.113.0/24")),
        rule(RuleMode::Audit, Effect::Allow, block("192.0.2.0/24")),
    ];
    let endpoint = endpoint(Isolation::Audit, &rules);
    let of = |remote, reason| words(endpoint.staged_packet(&event(remote, reason), NOW)).unwrap();
    assert_eq!(of("192.0.2.1", NotIsolated), "pass cidr EgressPolicy ci/new rule r");
    assert_eq!(of("198.51.100.1", NotIsolated), "deny no-match ");
    assert_eq!(of("203.0.113.1", DeniedCidr), "deny denied-cidr EgressPolicy ci/old rule r");
}

#[test]
fn without_audit_policies_there_is_one_verdict() {
    let endpoint =
        endpoint(Isolation::Isolated, &[rule(RuleMode::Enforce, Effect::Allow, names(&["a.example"]))]);
    assert_eq!(endpoint.staged_packet(&event("192.0.2.1", nameward_abi::Reason::NoMatch), NOW), None);
    assert_eq!(endpoint.staged_question("b.example", Reason::Filtered), None);
}
