//! Objects that no schema has checked.

use serde_json::json;

use super::*;

fn policy(spec: serde_json::Value) -> EgressPolicy {
    serde_json::from_value(json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
        "metadata": { "name": "p", "namespace": "ci" }, "spec": spec,
    }))
    .unwrap()
}

fn with_rule(rule: &serde_json::Value) -> Converted {
    policy(json!({ "podSelector": {}, "egress": [rule] })).to_rules()
}

fn with_deny(rule: &serde_json::Value) -> Converted {
    policy(json!({ "podSelector": {}, "egress": [], "deny": [rule] })).to_rules()
}

fn paths(converted: &Converted) -> Vec<&str> {
    converted.problems.iter().map(|problem| problem.path.as_str()).collect()
}

#[test]
fn peers_that_are_not_understood_match_nothing() {
    // R5
    for peer in [
        json!({}),
        json!({ "domainNames": ["a.example"], "cluster": ["Pods"] }),
        json!({ "ipBlock": { "cidr": "10.1.2.3/8" } }),
        json!({ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"] } }),
    ] {
        let converted = with_rule(&json!({ "name": "r", "to": [peer], "ports": [{ "protocol": "Any" }] }));
        assert_eq!((converted.rules[0].peers.len(), converted.problems.len()), (0, 1), "{peer}");
    }
    let names = json!({ "domainNames": ["foo*.example", "a.example"] });
    let converted = with_rule(&json!({ "name": "r", "to": [names], "ports": [{ "protocol": "Any" }] }));
    assert_eq!(converted.rules[0].peers, [PolicyPeer::Names(vec![Pattern::parse("a.example").unwrap()])]);
    assert_eq!(paths(&converted), ["spec.egress[0].to[0].domainNames[0]"]);
}

#[test]
fn unknown_fields_are_not_read_past() {
    // R5: what a newer version means by a field could narrow the rule.
    let spec = json!({ "podSelector": {}, "egress": [], "unless": "weekend" });
    assert!(serde_json::from_value::<crate::EgressPolicySpec>(spec).is_err());
    let peer = json!({ "serviceAccount": "a" });
    assert!(serde_json::from_value::<Peer>(peer).is_err());
}

#[test]
fn ports_that_are_not_understood_allow_nothing_and_deny_everything() {
    // R4, R5
    for port in [
        json!({ "protocol": "tcp" }),
        json!({ "protocol": 256 }),
        json!({ "protocol": "TCP", "port": 0 }),
        json!({ "protocol": "TCP", "port": 70_000 }),
        json!({ "protocol": "TCP", "endPort": 80 }),
        json!({ "protocol": "TCP", "port": 80, "endPort": 79 }),
        json!({ "protocol": "ICMPEcho", "port": 80 }),
    ] {
        let good = json!({ "protocol": "UDP", "port": 53 });
        let rule = json!({ "name": "r", "to": [{ "cluster": ["Pods"] }], "ports": [port, good] });
        let (allowed, denied) = (with_rule(&rule), with_deny(&rule));
        assert_eq!(allowed.rules[0].ports, [PortSpec::one(Protocol::Udp, 53)], "{port}");
        assert_eq!(paths(&allowed), ["spec.egress[0].ports[0]"]);
        assert!(denied.rules[0].effective_ports().iter().any(|spec| spec.contains(6, 1)), "{port}");
        assert_eq!(paths(&denied), ["spec.deny[0].ports[0]"]);
    }
}

#[test]
fn times_that_are_not_understood_never_allow_and_always_deny() {
    // R5, R7
    let schedule = json!({ "days": ["Mon"], "start": "06:00", "end": "22:00", "timeZone": "Europe/Bonn" });
    for (field, value) in [("expiresAt", json!("tomorrow")), ("schedule", schedule)] {
        let mut rule =
            json!({ "name": "r", "to": [{ "cluster": ["Pods"] }], "ports": [{ "protocol": "Any" }] });
        rule[field] = value;
        let (allowed, denied) = (with_rule(&rule), with_deny(&rule));
        assert_eq!(
            (allowed.rules.len(), paths(&allowed)),
            (0, vec![format!("spec.egress[0].{field}").as_str()])
        );
        let always = &denied.rules[0];
        assert!(always.expires_at.is_none() && always.schedule.is_none() && denied.problems.len() == 1);
    }
}

#[test]
fn protocols() {
    // R4
    let ports = json!([
        { "protocol": "TCP", "port": 443 }, { "protocol": "UDP", "port": 1, "endPort": 65_535 }, { "protocol": "SCTP" },
        { "protocol": "ICMPEcho" }, { "protocol": 47 }, { "protocol": "Any" },
    ]);
    let converted = with_rule(&json!({ "name": "r", "to": [{ "cluster": ["Nodes"] }], "ports": ports }));
    assert_eq!(converted.problems, []);
    assert_eq!(
        converted.rules[0].ports,
        [
            PortSpec::one(Protocol::Tcp, 443),
            PortSpec::range(Protocol::Udp, 1, 65_535),
            PortSpec::all(Protocol::Sctp),
            PortSpec::all(Protocol::IcmpEcho),
            PortSpec::all(Protocol::Number(47)),
            PortSpec::all(Protocol::Any),
        ]
    );
}
