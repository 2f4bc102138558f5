use nameward_api::types::{LeaseStatus, RuleName};
use serde_json::json;

use super::*;

const NOW: &str = "2027-01-31T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn object(name: &str, mode: &str, egress: &Value, deny: &Value) -> Value {
    json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
        "metadata": {"name": name, "namespace": "ci"},
        "spec": {"podSelector": {"matchLabels": {"app": "runner"}}, "mode": mode, "egress": egress, "deny": deny},
    })
}

fn names(rule: &str, names: &[&str]) -> Value {
    json!({"name": rule, "to": [{"domainNames": names}], "ports": [{"protocol": "TCP", "port": 443}]})
}

fn block(rule: &str, cidr: &str) -> Value {
    json!({"name": rule, "to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": 443}]})
}

fn decision(name: Option<&str>, remote: &str, reason: &str) -> Decision {
    let verdict = if reason == "name" || reason == "cidr" || reason == "cluster" { "pass" } else { "deny" };
    let decision = json!({
        "sequence": 1, "at": NOW, "endpoint": "ci/runner", "verdict": verdict, "reason": reason,
        "direction": "egress", "protocol": 6, "local": "10.0.0.2", "localPort": 1, "remote": remote,
        "remotePort": 443, "name": name, "packets": 1, "bytes": 60, "generation": 1,
    });
    serde_json::from_value(decision).unwrap()
}

fn question(name: &str) -> Decision {
    Decision {
        query_type: Some("A".into()),
        remote: "0.0.0.0".parse().unwrap(),
        remote_port: 53,
        ..decision(Some(name), "0.0.0.0", "filtered")
    }
}

/// A runner that has reached `a.example`, a pod and a block, was refused `new.example` and an address, and holds a connection
/// to `held.example`.
fn known(policies: Vec<Value>) -> Known {
    let lease = LeaseStatus {
        address: "198.51.100.9".parse().unwrap(),
        ttl_ends_at: now(),
        expires_at: now(),
        seconds_left: 9,
    };
    Known {
        subjects: vec![SubjectStatus {
            endpoint: "ci/runner".into(),
            namespace: "ci".into(),
            labels: [("app".into(), "runner".into())].into(),
            namespace_labels: [("kubernetes.io/metadata.name".into(), "ci".into())].into(),
            exempt: false,
            suspended: false,
            policies,
            cluster: [("Pods".into(), vec!["10.0.0.0/16".into()])].into(),
        }],
        bindings: vec![BindingStatus {
            endpoint: "ci/runner".into(),
            workload: None,
            name: "asked.example".into(),
            chain: vec![],
            asked_at: now(),
            addresses: vec![lease],
            rules: vec![RuleName { policy: "x".into(), rule: "y".into() }],
        }],
        traffic: vec![TrafficStatus {
            endpoint: "ci/runner".into(),
            workload: None,
            destination: "held.example".into(),
            reason: "name".into(),
            rules: vec![],
            flows: 3,
            ports: vec!["TCP 443".into()],
            packets: 9,
            bytes: 9,
        }],
        decisions: vec![
            decision(Some("a.example"), "198.51.100.1", "name"),
            decision(None, "10.0.3.4", "cluster"),
            decision(None, "192.0.2.7", "cidr"),
            decision(None, "203.0.113.5", "no-match"),
            question("new.example"),
            // Nothing that rules could change.
            decision(None, "203.0.113.6", "malformed"),
            Decision { endpoint: "ci/other".into(), ..decision(None, "203.0.113.7", "no-match") },
        ],
    }
}

fn current() -> Vec<Value> {
    let cluster = json!({"name": "pods", "to": [{"cluster": ["Pods"]}], "ports": [{"protocol": "Any"}]});
    vec![
        object(
            "web",
            "Enforce",
            &json!([names("all", &["a.example", "held.example", "asked.example"])]),
            &json!([]),
        ),
        object("net", "Enforce", &json!([cluster, block("net", "192.0.2.0/24")]), &json!([])),
    ]
}

fn told(next: &[Value], deleted: &[&str]) -> Vec<String> {
    let policies = next.iter().map(|one| policy(one).unwrap()).collect();
    let next = Next { policies, deleted: deleted.iter().copied().collect() };
    let changes = changes(&known(current()), &next, now()).unwrap();
    let line = |one: &Change| {
        format!("{} {} {} {}", one.change, one.destination, one.port.as_deref().unwrap_or("-"), one.live)
    };
    changes.iter().map(line).collect()
}

#[test]
fn what_is_the_same_changes_nothing() {
    assert_eq!(told(&current(), &[]), [] as [&str; 0]);
    // Other workloads' policies, too.
    let mut other = object("web", "Enforce", &json!([]), &json!([]));
    other["metadata"]["name"] = "other".into();
    other["spec"]["podSelector"] = json!({"matchLabels": {"app": "web"}});
    assert_eq!(told(&[other], &[]), [] as [&str; 0]);
}

#[test]
fn a_policy_takes_the_place_of_the_one_of_its_name() {
    let narrower = object("web", "Enforce", &json!([names("all", &["a.example"])]), &json!([]));
    assert_eq!(told(&[narrower], &[]), ["cut held.example TCP 443 3", "cut asked.example - 0"]);
    let wider = object(
        "web",
        "Enforce",
        &json!([names("all", &["*.example"]), block("more", "203.0.113.0/24")]),
        &json!([]),
    );
    assert_eq!(told(&[wider], &[]), ["opened new.example - 0", "opened 203.0.113.5 TCP 443 0"]);
}

#[test]
fn what_comes_beside_and_what_goes() {
    let deny = json!([{"name": "never", "to": [{"domainNames": ["a.example"]}, {"ipBlock": {"cidr": "10.0.3.0/24"}}]}]);
    let deny = object("guard", "Enforce", &json!([]), &deny);
    assert_eq!(told(&[deny], &[]), ["cut a.example TCP 443 0", "cut 10.0.3.4 TCP 443 0"]);
    assert_eq!(told(&[], &["ci/net"]), ["cut 10.0.3.4 TCP 443 0", "cut 192.0.2.7 TCP 443 0"]);
    let opened = told(&[], &["ci/net", "ci/web"]);
    assert_eq!(opened, ["opened new.example - 0", "opened 203.0.113.5 TCP 443 0"], "nobody isolates it");
}

// R6
#[test]
fn audit_says_what_it_would_cut() {
    let deny = json!([{"name": "never", "to": [{"domainNames": ["a.example"]}]}]);
    let audited = object("next", "Audit", &json!([]), &deny);
    assert_eq!(told(&[audited], &[]), ["would-cut a.example TCP 443 0"]);
    let all = ["web", "net"]
        .map(|name| object(name, "Audit", &json!([names("all", &["held.example"])]), &json!([])));
    let told = told(&all, &[]);
    let cut: Vec<&String> = told.iter().filter(|line| line.starts_with("would-cut")).collect();
    assert_eq!(cut.len(), 4, "{told:?}");
    assert!(told[0].starts_with("opened") && told.contains(&"opened new.example - 0".into()), "{told:?}");
}

#[test]
fn what_is_to_be_deleted_has_to_be_there() {
    let next = Next { policies: vec![], deleted: BTreeSet::from(["ci/webb"]) };
    let error = next.tell_unused(&known(current()).subjects).unwrap_err();
    assert!(error.to_string().contains("nameward policies"), "{error}");
    let strange = policy(&json!({"kind": "Other"})).unwrap_err();
    assert!(strange.to_string().contains("upgrade"), "{strange}");
}
