//! A file with every field, and what it means (SEMANTICS "The policy object", R2-R8).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, time::Duration};

use nameward_crds::{Mode, Policy, file};
use nameward_policy::{
    ClusterPeer, Effect, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleMode, Schedule,
};

const EXAMPLE: &str = r#"
apiVersion: nameward.io/v1alpha1
kind: EgressPolicy                       # shortNames [egpol], categories [nameward]
metadata: {name: ci-runners, namespace: ci}
spec:
  podSelector: {matchLabels: {app: runner}}   # required; {} = the whole namespace
  mode: Enforce                               # Enforce (default) | Audit
  egress:                                     # required, 0-64, map by name; [] = isolate and allow nothing
  - name: registries                          # required, DNS label
    to:                                       # 1-16, exactly one member each
    - domainNames: ["registry.npmjs.org", "*.pkg.example.com"]   # 1-256
    - ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.7/32]}
    ports: [{protocol: TCP, port: 443}, {protocol: UDP, port: 30000, endPort: 30999}]   # required, 1-32
    privateAddresses: false
    graceSeconds: 600                         # 0-86400
    strictChain: false
    expiresAt: "2027-01-31T00:00:00Z"
    schedule: {days: [Mon, Tue], start: "06:00", end: "22:00", timeZone: Europe/Berlin}
    review: {owner: team-ci, justification: npm builds, ticket: SEC-1482}
  - name: in-cluster
    to: [{cluster: [Pods, Services, APIServer]}]
    ports: [{protocol: Any}]
  deny:                                       # 0-64
  - {name: no-doh, to: [{domainNames: ["dns.google"]}, {ipBlock: {cidr: 8.8.8.8/32}}]}
---
apiVersion: nameward.io/v1alpha1
kind: ClusterEgressPolicy
metadata: {name: guardrails}
spec:
  subject: {namespaceSelector: {}, podSelector: {}}   # R10 exemptions apply
  isolate: false                              # true = default deny for the subject
  mode: Enforce
  deny: [{name: metadata, to: [{ipBlock: {cidr: 169.254.169.254/32}}]}]
  egress: []                                  # same rule type
"#;

fn names(texts: &[&str]) -> Peer {
    Peer::Names(texts.iter().map(|text| Pattern::parse(text).unwrap()).collect())
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer::Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

#[test]
fn the_example_means_what_it_says() {
    let file = file::read(EXAMPLE, Path::new("example.yaml")).unwrap();
    let runners = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "ci-runners");
    let guardrails = PolicyRef::new(PolicyKind::ClusterEgressPolicy, "", "guardrails");
    let expected = [
        Rule {
            peers: vec![
                names(&["registry.npmjs.org", "*.pkg.example.com"]),
                block("198.51.100.0/24", &["198.51.100.7/32"]),
            ],
            ports: vec![PortSpec::one(Protocol::Tcp, 443), PortSpec::range(Protocol::Udp, 30_000, 30_999)],
            grace: Some(Duration::from_secs(600)),
            expires_at: Some("2027-01-31T00:00:00Z".parse().unwrap()),
            schedule: Some(Schedule::parse(&["Mon", "Tue"], "06:00", "22:00", "Europe/Berlin").unwrap()),
            ..Rule::new(runners.clone(), "registries", Effect::Allow)
        },
        Rule {
            peers: vec![Peer::Cluster(vec![
                ClusterPeer::Pods,
                ClusterPeer::Services,
                ClusterPeer::ApiServer,
            ])],
            ports: vec![PortSpec::all(Protocol::Any)],
            ..Rule::new(runners.clone(), "in-cluster", Effect::Allow)
        },
        Rule {
            peers: vec![names(&["dns.google"]), block("8.8.8.8/32", &[])],
            ..Rule::new(runners, "no-doh", Effect::Deny)
        },
        Rule {
            peers: vec![block("169.254.169.254/32", &[])],
            ..Rule::new(guardrails, "metadata", Effect::Deny)
        },
    ];
    assert_eq!(file.rules(), expected);
    assert!(file.warnings.iter().all(|warning| warning.message.contains("Services")), "{:?}", file.warnings);
}

#[test]
fn nothing_of_the_example_is_lost_as_an_object() {
    // X5: what a cluster stores is the same policy
    for policy in file::read(EXAMPLE, Path::new("example.yaml")).unwrap().policies {
        let json = match &policy {
            Policy::Namespaced(policy) => serde_json::to_string(policy).unwrap(),
            Policy::Cluster(policy) => serde_json::to_string(policy).unwrap(),
        };
        let again = file::read(&json, Path::new("example.json")).unwrap();
        assert_eq!(again.policies, [policy]);
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    // R4, R6, A5
    let text = EXAMPLE
        .replace("  mode: Enforce  ", "  # ")
        .replace("    graceSeconds: 600  ", "    # ")
        .replace("  isolate: false  ", "  mode: Audit # ")
        .replace("  mode: Enforce\n", "");
    let file = file::read(&text, Path::new("example.yaml")).unwrap();
    assert_eq!([file.policies[0].mode(), file.policies[1].mode()], [Mode::Enforce, Mode::Audit]);
    assert!(!file.policies[1].isolates());
    let rules = file.rules();
    assert_eq!((rules[0].grace, rules[0].mode, rules[3].mode), (None, RuleMode::Enforce, RuleMode::Audit));
}
