use std::{net::IpAddr, time::Duration};

use super::*;
use crate::{
    ClusterRanges, Effect, Isolation, Limits, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    Settings,
};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn rules(allowed: &[(&str, u16)]) -> RuleSet {
    let rules: Vec<Rule> = allowed
        .iter()
        .map(|(pattern, port)| Rule {
            peers: vec![Peer::Names(vec![Pattern::parse(pattern).unwrap()])],
            ports: vec![PortSpec::one(Protocol::Tcp, *port)],
            ..Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "ci", "p"), pattern, Effect::Allow)
        })
        .collect();
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    RuleSet::compile(Isolation::Isolated, &rules, &Settings::default(), &ClusterRanges::default(), now)
        .unwrap()
}

fn bindings(bound: &[(&str, u8, u64)]) -> Bindings {
    let mut bindings = Bindings::new(Limits::default());
    for (who, last, ttl) in bound {
        let answer = [(address(*last), Duration::from_nanos(*ttl))];
        bindings.record(&name(who), &[], &answer, Duration::ZERO, BootTime(0)).unwrap();
    }
    bindings
}

fn ids(tables: &GrantTables) -> Vec<u32> {
    tables.allow.values().map(|entry| entry.admitted_id).collect()
}

#[test]
fn an_id_stands_for_a_set_of_names() {
    // G2
    let rules = rules(&[("a.example", 443), ("b.example", 80)]);
    let bindings =
        bindings(&[("a.example", 1, 10), ("b.example", 1, 20), ("a.example", 2, 10), ("a.example", 3, 10)]);
    let mut grants = Grants::default();
    let tables = grants.desired(&rules, &bindings, BootTime(0));
    let [both, first, again] = ids(&tables)[..] else { panic!("{tables:?}") };
    assert_eq!(first, again);
    assert_ne!(both, first);
    assert_eq!(
        tables.admitted[&both],
        rules.classes_of(&name("a.example")) | rules.classes_of(&name("b.example"))
    );
    assert_eq!(tables.admitted[&first], rules.classes_of(&name("a.example")));
    assert_eq!(grants.names_of(both).unwrap(), [name("a.example"), name("b.example")]);
    // The shorter name goes when it lapses, and takes its ports with it.
    let later = grants.desired(&rules, &bindings, BootTime(10));
    assert_eq!(later.admitted[&ids(&later)[0]], rules.classes_of(&name("b.example")));
    assert_eq!(later.allow[&to_octets(address(1))].expires_at, BootTime(20));
    // What has lapsed whole stays, so that the kernel can say so.
    assert_eq!(
        later.allow[&to_octets(address(2))],
        AllowEntry { admitted_id: first, expires_at: BootTime(10) }
    );
}

#[test]
fn ids_outlive_changes_of_rules() {
    // R9, promise 3
    let bindings = bindings(&[("a.example", 1, 10)]);
    let mut grants = Grants::default();
    let allowed = grants.desired(&rules(&[("a.example", 443)]), &bindings, BootTime(0));
    let refused = grants.desired(&rules(&[("b.example", 443)]), &bindings, BootTime(0));
    assert_eq!((refused.admitted[&ids(&allowed)[0]], ids(&refused)), (0, ids(&allowed)));
    assert_eq!(refused.allow, allowed.allow, "a change of rules touches no address");
    let back = grants.desired(&rules(&[("c.example", 1), ("*.example", 443)]), &bindings, BootTime(0));
    assert_ne!(back.admitted[&ids(&allowed)[0]], 0);
}

#[test]
fn ids_are_not_reused_while_anything_refers_to_them() {
    let rules = rules(&[("*", 443)]);
    let mut grants = Grants::default();
    let old = ids(&grants.desired(&rules, &bindings(&[("a.example", 1, 10)]), BootTime(0)))[0];
    let none = Bindings::new(Limits::default());
    assert!(grants.retire(&BTreeSet::from([old])).is_empty());
    assert!(grants.desired(&rules, &none, BootTime(0)).admitted.contains_key(&old), "a flow refers to it");
    // The counter comes round: what is named is passed by.
    grants.next = u32::MAX;
    let next = |grants: &mut Grants, who: &str| {
        ids(&grants.desired(&rules, &bindings(&[(who, 1, 10)]), BootTime(0)))[0]
    };
    assert_eq!(next(&mut grants, "b.example"), u32::MAX);
    assert_eq!((old, next(&mut grants, "c.example")), (1, 2));
    assert_eq!(grants.retire(&BTreeSet::from([2])), [1, u32::MAX]);
    assert_ne!(next(&mut grants, "a.example"), old);
}

#[test]
fn sets_are_stored_and_taken_up_again() {
    let rules = rules(&[("*", 443)]);
    let bound = bindings(&[("a.example", 1, 10), ("b.example", 2, 10)]);
    let mut before = Grants::default();
    let tables = before.desired(&rules, &bound, BootTime(0));
    let stored: Vec<NameSet> = before.sets().collect();
    let stored: Vec<NameSet> = serde_json::from_str(&serde_json::to_string(&stored).unwrap()).unwrap();
    let mut after = Grants::restore(&stored, &BTreeSet::from([1, 2, 7]));
    let again = after.desired(&rules, &bound, BootTime(0));
    assert_eq!(again.allow, tables.allow);
    assert_eq!(again.admitted.get(&7), Some(&0), "an id without names gives nothing");
    let fresh = after.desired(&rules, &bindings(&[("c.example", 1, 10)]), BootTime(0));
    assert_eq!(ids(&fresh), [8]);
}

#[test]
fn changes_come_in_an_order_that_is_right_at_each_step() {
    let entry = |admitted_id| AllowEntry { admitted_id, expires_at: BootTime(1) };
    let (one, two) = (to_octets(address(1)), to_octets(address(2)));
    let observed = GrantTables { allow: [(one, entry(1))].into(), admitted: [(1, 1), (3, 1)].into() };
    let desired = GrantTables { allow: [(two, entry(2))].into(), admitted: [(2, 1), (3, 2)].into() };
    assert_eq!(
        diff(&desired, &observed),
        [
            Action::Admit { id: 2, classes: 1 },
            Action::Admit { id: 3, classes: 2 },
            Action::Allow { address: two, entry: entry(2) },
            Action::Forget { address: one },
            Action::Retire { id: 1 },
        ]
    );
    assert_eq!(diff(&desired, &desired), []);
}
