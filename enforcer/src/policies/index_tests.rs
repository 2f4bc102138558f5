//! Scenarios of the index, object by object, without an API server.

use std::net::IpAddr;

use nameward_crds::{ClusterEgressPolicy, EgressPolicy};
use nameward_policy::{DnsMode, KernelMode, OnDeny};
use serde_json::{Value, json};

use super::*;
use crate::policies::Network;

const NAME_LABEL: &str = nameward_crds::NAMESPACE_NAME;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn noon() -> Timestamp {
    at("2026-06-01T12:00:00Z")
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn pod(namespace: &str, name: &str) -> PodFacts {
    PodFacts {
        uid: format!("{namespace}-{name}").into(),
        namespace: namespace.into(),
        name: name.into(),
        labels: labels(&[("app", name)]),
        addresses: vec!["10.0.0.2".parse::<IpAddr>().unwrap()],
        network: Network::Own,
        is_over: false,
    }
}

fn namespaced(namespace: &str, name: &str, spec: Value) -> PolicyFacts {
    let object = json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
        "metadata": { "namespace": namespace, "name": name, "generation": 1 }, "spec": spec,
    });
    PolicyFacts::new(Policy::Namespaced(serde_json::from_value::<EgressPolicy>(object).unwrap()))
}

fn cluster(name: &str, spec: Value) -> PolicyFacts {
    let object = json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "ClusterEgressPolicy",
        "metadata": { "name": name, "generation": 1 }, "spec": spec,
    });
    PolicyFacts::new(Policy::Cluster(serde_json::from_value::<ClusterEgressPolicy>(object).unwrap()))
}

/// Allows TCP 443 of a name to pods with a label.
fn allows(namespace: &str, app: &str, name: &str) -> PolicyFacts {
    namespaced(
        namespace,
        app,
        json!({
            "podSelector": { "matchLabels": { "app": app } },
            "egress": [{ "name": "web", "to": [{ "domainNames": [name] }], "ports": [{ "protocol": "TCP", "port": 443 }] }],
        }),
    )
}

fn denies_metadata(subject: Value) -> PolicyFacts {
    cluster(
        "guardrails",
        json!({ "subject": subject, "deny": [{ "name": "metadata", "to": [{ "ipBlock": { "cidr": "169.254.169.254/32" } }] }] }),
    )
}

/// An index with the namespaces `ci` and `kube-system`, a runner in each.
fn index() -> Index {
    index_with(Settings::default(), false)
}

fn index_with(settings: Settings, forwards: bool) -> Index {
    let (node, own_namespace) = ("node-1".into(), Some("nameward".into()));
    let mut index = Index::new(IndexOptions { node, own_namespace, settings, forwards });
    for name in ["ci", "kube-system", "nameward"] {
        index.apply_namespace(name, labels(&[(NAME_LABEL, name)]));
    }
    index.apply_pod(pod("ci", "runner"));
    index
}

fn decided(index: &mut Index, uid: &str, now: Timestamp) -> Arc<Decided> {
    index.decide(now).into_iter().find(|decided| &*decided.pod.uid == uid).unwrap()
}

fn runner(index: &mut Index) -> Arc<Decided> {
    decided(index, "ci-runner", noon())
}

fn allowed(decided: &Decided, name: &str) -> bool {
    decided.rules.classes_of(&nameward_policy::Name::parse(name).unwrap()) != 0
}

#[test]
fn nobody_selects_nobody_guards() {
    // R1, R11
    let mut index = index();
    let free = runner(&mut index);
    assert!(!free.needs_guard());
    assert_eq!(free.rules.kernel.mode, KernelMode::NotIsolated);
    index.apply_policy(allows("ci", "web", "registry.example"));
    assert!(!runner(&mut index).needs_guard(), "selects another");
    index.apply_policy(allows("ci", "runner", "registry.example"));
    let isolated = runner(&mut index);
    assert!(
        isolated.needs_guard()
            && allowed(&isolated, "registry.example")
            && !allowed(&isolated, "other.example")
    );
    assert_eq!(isolated.rules.kernel.mode, KernelMode::Enforce);
    index.delete_policy(&allows("ci", "runner", "x.example").policy.policy_ref());
    assert!(!runner(&mut index).needs_guard());
}

#[test]
fn labels_of_pods_and_namespaces_decide_anew() {
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    let selector = json!({ "namespaceSelector": { "matchLabels": { "tier": "prod" } } });
    index.apply_policy(denies_metadata(selector));
    assert_eq!(runner(&mut index).selected_by.len(), 1);
    index.apply_namespace("ci", labels(&[(NAME_LABEL, "ci"), ("tier", "prod")]));
    let both = runner(&mut index);
    assert_eq!((both.selected_by.len(), both.rules.kernel.cidrs.len()), (2, 1));
    index.apply_pod(PodFacts { labels: labels(&[("app", "other")]), ..pod("ci", "runner") });
    let guarded = runner(&mut index);
    assert_eq!(guarded.selected_by.len(), 1, "only the guardrail is left");
    assert_eq!(guarded.rules.kernel.mode, KernelMode::NotIsolated);
}

#[test]
fn without_its_namespace_nothing_is_decided() {
    // A policy by labels of the namespace may select it: until they are known, it is denied (promise 5).
    let mut index = index();
    index.apply_pod(pod("new", "runner"));
    assert!(index.decide(noon()).iter().all(|decided| &*decided.pod.namespace != "new"));
    index.apply_namespace("new", labels(&[(NAME_LABEL, "new")]));
    assert!(!decided(&mut index, "new-runner", noon()).needs_guard());
}

#[test]
fn one_name_two_pods() {
    // A pod made anew under the same name, with the address of the one before.
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    index.apply_pod(PodFacts { is_over: true, ..pod("ci", "runner") });
    let anew = PodFacts { uid: "u2".into(), labels: labels(&[]), ..pod("ci", "runner") };
    index.apply_pod(anew);
    assert!(runner(&mut index).needs_guard(), "while its interface is there");
    assert!(!decided(&mut index, "u2", noon()).needs_guard());
    index.delete_pod("ci-runner");
    assert_eq!(index.decide(noon()).len(), 1);
    index.reset_pods(Vec::new());
    assert_eq!(index.decide(noon()).len(), 0);
}

#[test]
fn exempt_are_only_those_meant_on_purpose() {
    // R10
    let mut index = index();
    index.apply_pod(pod("kube-system", "dns"));
    index.apply_pod(pod("nameward", "api"));
    index.apply_policy(denies_metadata(json!({ "namespaceSelector": {} })));
    assert!(runner(&mut index).needs_guard());
    for uid in ["kube-system-dns", "nameward-api"] {
        assert!(!decided(&mut index, uid, noon()).needs_guard(), "{uid}");
    }
    let named = json!({ "namespaceSelector": { "matchLabels": { NAME_LABEL: "kube-system" } } });
    index.apply_policy(denies_metadata(named));
    assert!(decided(&mut index, "kube-system-dns", noon()).needs_guard());
    assert!(!runner(&mut index).needs_guard());
    index.apply_policy(allows("nameward", "api", "x.example"));
    assert!(decided(&mut index, "nameward-api", noon()).needs_guard(), "a policy of its own namespace");
}

#[test]
fn servers_of_the_cluster_dns_ask_directly() {
    // R10
    let mut index = index();
    index.apply_pod(pod("ci", "dns"));
    index.apply_policy(denies_metadata(json!({ "namespaceSelector": {} })));
    assert!(decided(&mut index, "ci-dns", noon()).needs_guard());
    index.apply_dns_backends(BTreeSet::from(["ci-dns".into()]), Vec::new());
    assert!(!decided(&mut index, "ci-dns", noon()).needs_guard(), "exempt from now on");
    index.apply_policy(allows("ci", "dns", "upstream.example"));
    let server = decided(&mut index, "ci-dns", noon());
    assert!(server.needs_guard());
    assert_ne!(server.rules.kernel.direct_dns, 0, "its questions would come back to it");
    assert_eq!(runner(&mut index).rules.kernel.direct_dns, 0);
}

#[test]
fn backends_of_the_cluster_dns_stand_for_it() {
    // Q6: where sockets are translated, a question goes to a backend and means the service.
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    let trusted = |index: &mut Index| runner(index).settings.dns.trusted.clone();
    assert_eq!(trusted(&mut index), []);
    let server: std::net::SocketAddr = "10.0.0.5:5353".parse().unwrap();
    index.apply_dns_backends(BTreeSet::new(), vec![server, server]);
    assert_eq!(trusted(&mut index), [server]);
    let config = json!({ "namespaces": [{ "name": "ci", "settings": { "limits": { "names": 9 } } }] });
    index.apply_config(Some(&serde_json::from_value(config).unwrap())).unwrap();
    assert_eq!(trusted(&mut index), [server], "also with settings of its own");
    let snapshot = serde_json::to_string(&index.snapshot()).unwrap();
    index.apply_dns_backends(BTreeSet::new(), Vec::new());
    assert_eq!(trusted(&mut index), []);
    index.restore(serde_json::from_str(&snapshot).unwrap());
    assert_eq!(trusted(&mut index), [server]);
}

#[test]
fn pods_ask_a_cluster_dns_that_forwards() {
    // DESIGN 5: the service, and what is behind it where the CNI translates before us; no other server.
    let mut settings = Settings::default();
    settings.dns.trusted = vec!["10.96.0.10:53".parse().unwrap()];
    let mut index = index_with(settings, true);
    index.apply_policy(allows("ci", "runner", "x.example"));
    let reaches = |index: &mut Index, address: &str| {
        let kernel = &runner(index).rules.kernel;
        let IpAddr::V4(four) = address.parse().unwrap() else { panic!("{address}") };
        kernel.cidr(four.to_ipv6_mapped().octets()).allow & kernel.direct_dns != 0
    };
    assert!(reaches(&mut index, "10.96.0.10") && !reaches(&mut index, "10.244.1.5"));
    index.apply_dns_addresses(BTreeSet::from(["10.244.1.5".parse().unwrap()]));
    assert!(reaches(&mut index, "10.244.1.5") && !reaches(&mut index, "192.0.2.53"));
    index.apply_dns_addresses(BTreeSet::new());
    assert!(!reaches(&mut index, "10.244.1.5"), "it is gone");
}

#[test]
fn the_cluster_s_addresses() {
    // R8
    let mut index = index();
    let spec = json!({
        "podSelector": {},
        "egress": [{ "name": "in", "to": [{ "cluster": ["APIServer", "Pods"] }], "ports": [{ "protocol": "Any" }] }],
    });
    index.apply_policy(namespaced("ci", "in-cluster", spec));
    let prefixes = |index: &mut Index| {
        let rules = &runner(index).rules;
        rules.kernel.cidrs.iter().map(|cidr| format!("{cidr:?}")).collect::<Vec<_>>()
    };
    assert_eq!(prefixes(&mut index).len(), 0);
    index.apply_api_server(vec!["10.96.0.1/32".parse().unwrap(), "192.0.2.7/32".parse().unwrap()]);
    assert_eq!(prefixes(&mut index).len(), 2);
    let config = json!({ "cluster": { "pods": ["10.244.0.0/16"] } });
    index.apply_config(Some(&serde_json::from_value(config).unwrap())).unwrap();
    assert_eq!(prefixes(&mut index).len(), 3);
}

#[test]
fn times_of_rules() {
    // R7
    let mut index = index();
    let spec = json!({
        "podSelector": {},
        "egress": [{
            "name": "web", "to": [{ "domainNames": ["a.example"] }], "ports": [{ "protocol": "Any" }],
            "expiresAt": "2026-06-01T13:00:00Z",
        }],
    });
    index.apply_policy(namespaced("ci", "for-an-hour", spec));
    assert!(allowed(&runner(&mut index), "a.example"));
    assert_eq!(index.next_change(), Some(at("2026-06-01T13:00:00Z")));
    let later = decided(&mut index, "ci-runner", at("2026-06-01T13:00:00Z"));
    assert!(!allowed(&later, "a.example") && later.needs_guard());
    assert_eq!(index.next_change(), None);
}

#[test]
fn break_glass_lets_everything_pass_until_its_end() {
    // R13
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    index.apply_policy(denies_metadata(json!({ "namespaceSelector": {} })));
    index.apply_pod(pod("ci", "free"));
    let glass = |scope: Value| {
        let config = json!({
            "breakGlass": [{ "name": "incident", "scope": scope, "until": "2026-06-01T12:30:00Z", "reason": "INC-7" }],
        });
        serde_json::from_value::<EgressConfigSpec>(config).unwrap()
    };
    for scope in [
        json!({ "cluster": true }),
        json!({ "namespace": "ci" }),
        json!({ "node": "node-1" }),
        json!({ "pod": { "namespace": "ci", "name": "runner" } }),
    ] {
        index.apply_config(Some(&glass(scope.clone()))).unwrap();
        let suspended = runner(&mut index);
        assert_eq!(suspended.rules.kernel.mode, KernelMode::Audit, "{scope}");
        assert_eq!(suspended.rules.dns.data().mode, DnsMode::Audit, "{scope}");
        assert_eq!(suspended.suspended_until, Some(at("2026-06-01T12:30:00Z")));
        assert_eq!(index.next_change(), Some(at("2026-06-01T12:30:00Z")));
        assert_eq!(index.configured().suspensions(noon()).count(), 1);
        let after = decided(&mut index, "ci-runner", at("2026-06-01T12:30:00Z"));
        assert_eq!(after.rules.kernel.mode, KernelMode::Enforce, "{scope}");
        assert_eq!(index.configured().suspensions(at("2026-06-01T12:30:00Z")).count(), 0);
    }
    for scope in [json!({ "namespace": "web" }), json!({ "node": "node-2" })] {
        index.apply_config(Some(&glass(scope.clone()))).unwrap();
        assert_eq!(runner(&mut index).rules.kernel.mode, KernelMode::Enforce, "{scope}");
    }
    index.apply_config(Some(&glass(json!({ "cluster": true })))).unwrap();
    let only_denied = decided(&mut index, "ci-free", noon());
    assert_eq!(only_denied.rules.kernel.cidrs.len(), 0, "its denials are suspended, too");
}

#[test]
fn settings_of_the_cluster_and_of_namespaces() {
    // R12, R11
    let mut index = index();
    index.apply_pod(pod("nameward", "api"));
    let config = json!({
        "settings": { "onDeny": "Drop", "limits": { "names": 7 } },
        "namespaces": [{ "name": "ci", "settings": { "limits": { "names": 9 } } }],
        "observe": { "namespaces": ["nameward"] },
    });
    index.apply_config(Some(&serde_json::from_value(config).unwrap())).unwrap();
    let runner = runner(&mut index);
    assert_eq!((runner.settings.on_deny, runner.settings.limits.names), (OnDeny::Drop, 9));
    assert!(!runner.needs_guard());
    let observed = decided(&mut index, "nameward-api", noon());
    assert_eq!(observed.settings.limits.names, 7);
    assert!(observed.needs_guard() && observed.is_observed);
    assert_eq!(observed.rules.kernel.mode, KernelMode::NotIsolated);
    index.apply_config(None).unwrap();
    assert!(!decided(&mut index, "nameward-api", noon()).needs_guard());
}

#[test]
fn what_is_not_understood_changes_nothing() {
    // F2
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    let name = allows("ci", "runner", "x.example").policy.policy_ref();
    let before = runner(&mut index).rules.clone();
    index.refuse_policy(&name, 2, "unknown field".into());
    index.reset_policies(PolicyKind::EgressPolicy, Vec::new(), &BTreeSet::from([name.clone()]));
    assert!(Arc::ptr_eq(&runner(&mut index).rules, &before));
    let state = &index.policies()[&name];
    assert_eq!((state.generation, state.refused.as_ref().map(|(generation, _)| *generation)), (1, Some(2)));

    let bad = json!({ "cluster": { "pods": ["10.244.0.0/99"] }, "settings": { "onDeny": "Drop" } });
    let problems = index.apply_config(Some(&serde_json::from_value(bad).unwrap())).unwrap_err();
    assert_eq!(problems[0].path, "spec.cluster.pods[0]");
    assert_eq!(runner(&mut index).settings.on_deny, OnDeny::Reject);
}

#[test]
fn rules_that_do_not_fit_leave_the_last_good_ones() {
    // F2: over 64 distinct sets of ports.
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    let before = runner(&mut index).rules.clone();
    for policy in 0..3 {
        let rules: Vec<Value> = (1..=30)
            .map(|port| {
                json!({
                    "name": format!("r{port}"), "to": [{ "domainNames": ["a.example"] }],
                    "ports": [{ "protocol": "TCP", "port": policy * 100 + port }],
                })
            })
            .collect();
        let spec = json!({ "podSelector": {}, "egress": rules });
        index.apply_policy(namespaced("ci", &format!("ports-{policy}"), spec));
    }
    let stuck = runner(&mut index);
    assert!(matches!(stuck.trouble, Some(CompileError::TooManyPortClasses { .. })), "{:?}", stuck.trouble);
    assert!(Arc::ptr_eq(&stuck.rules, &before));
    index.apply_pod(pod("ci", "new"));
    let new = decided(&mut index, "ci-new", noon());
    assert!(new.trouble.is_some() && !allowed(&new, "a.example"), "without any before: nothing");
    assert_eq!(new.rules.kernel.mode, KernelMode::Enforce);
}

#[test]
fn pods_of_one_kind_share_their_rules() {
    let mut index = index();
    index.apply_policy(allows("ci", "runner", "registry.example"));
    for number in 0..10 {
        index.apply_pod(PodFacts { uid: format!("u{number}").into(), ..pod("ci", "runner") });
    }
    let all = index.decide(noon());
    assert_eq!(all.len(), 11);
    assert!(all.iter().all(|decided| Arc::ptr_eq(&decided.rules, &all[0].rules)));
    let other = allows("ci", "other", "x.example");
    index.apply_policy(other);
    let again = index.decide(noon());
    assert!(
        all.iter().zip(&again).all(|(one, other)| Arc::ptr_eq(one, other)),
        "nobody it selects: nothing changes"
    );
}

#[test]
fn the_next_process_knows_what_this_one_knew() {
    // F2
    let mut one = index();
    one.apply_policy(allows("ci", "runner", "registry.example"));
    one.apply_policy(denies_metadata(json!({ "namespaceSelector": {} })));
    let config = json!({ "settings": { "onDeny": "Drop" } });
    one.apply_config(Some(&serde_json::from_value(config).unwrap())).unwrap();
    let text = serde_json::to_string(&one.snapshot()).unwrap();
    let mut next = Index::new(one.options.clone());
    next.restore(serde_json::from_str(&text).unwrap());
    let (before, after) = (runner(&mut one), runner(&mut next));
    assert_eq!(before.rules.kernel, after.rules.kernel);
    assert_eq!((&before.selected_by, &before.settings), (&after.selected_by, &after.settings));
}
