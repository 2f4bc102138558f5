use std::{sync::Arc, time::Duration};

use nameward_abi::{Allow, Flow, FlowKey, FlowState};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Limits, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleSet, Settings,
};

use super::*;
use crate::{
    GrantRequest,
    endpoints::drift::Piece,
    kernel::{MapWrite, MemoryStore, address_bytes},
};

const SECOND: u64 = 1_000_000_000;
const NOW: BootTime = BootTime(10_000 * SECOND);

fn later(seconds: u64) -> BootTime {
    BootTime(NOW.0 + seconds * SECOND)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn endpoint() -> Endpoint<MemoryStore> {
    let mut endpoint = Endpoint::open(MemoryStore::default(), Limits::default()).unwrap();
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "p");
    let rule = Rule {
        peers: vec![Peer::Names(vec![Pattern::parse("*.example").unwrap()])],
        ports: vec![PortSpec::one(Protocol::Tcp, 443)],
        ..Rule::new(policy, "r", Effect::Allow)
    };
    let (settings, cluster) = (Settings::default(), ClusterRanges::default());
    let time = jiff::Timestamp::UNIX_EPOCH;
    let rules = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &cluster, time).unwrap();
    endpoint.apply(Arc::new(rules), NOW).unwrap();
    endpoint
}

fn grant(endpoint: &mut Endpoint<MemoryStore>, name: &str, addresses: &[&str], now: BootTime) {
    let ttl = Duration::from_secs(60);
    let request = GrantRequest {
        endpoint: "runner".into(),
        generation: 1,
        name: name.into(),
        chain: vec![],
        addresses: addresses.iter().map(|one| (one.parse().unwrap(), ttl)).collect(),
        grace: Duration::from_secs(600),
    };
    endpoint.grant(&request, now).unwrap();
}

/// Until when the kernel lets new connections to an address through, and under which id.
fn entry(endpoint: &Endpoint<MemoryStore>, address: &str) -> (u64, u32) {
    let allow = endpoint.store.observed.allow[&address_bytes(address.parse().unwrap())];
    (allow.expires_at, allow.admitted_id)
}

fn flush(endpoint: &mut Endpoint<MemoryStore>, who: &str, now: BootTime) -> FlushedName {
    endpoint.begin_flush(&[name(who)]);
    endpoint.finish_flush(&[name(who)], now).unwrap().remove(0)
}

// G3, promise 3: new connections end, live ones do not
#[test]
fn what_is_flushed_stops_new_connections_and_no_live_one() {
    let mut endpoint = endpoint();
    grant(&mut endpoint, "a.example", &["198.51.100.1", "198.51.100.2"], NOW);
    let (_, id) = entry(&endpoint, "198.51.100.1");
    let key =
        FlowKey { remote: address_bytes("198.51.100.1".parse().unwrap()), protocol: 6, ..FlowKey::default() };
    let state = FlowState::Established as u8;
    let flow = Flow { last_seen: NOW.0, admitted_id: id, state, ..Flow::default() };
    endpoint.store.write(&MapWrite::KeepFlow(key, flow)).unwrap();
    let flushed = flush(&mut endpoint, "a.example", later(10));
    assert_eq!((flushed.revoked.len(), flushed.renewed.len()), (2, 0));
    // Also where the kernel's time stands still (F1).
    assert_eq!(entry(&endpoint, "198.51.100.1").0, 0);
    // The flow keeps what it was admitted under, and does not bring its address back.
    endpoint.upkeep(later(20)).unwrap();
    endpoint.upkeep(later(50)).unwrap();
    assert_eq!(entry(&endpoint, "198.51.100.1").0, 0);
    assert_ne!(endpoint.store.observed.admitted[&id].classes, [0, 0]);
    assert_eq!(flush(&mut endpoint, "a.example", later(51)).revoked, [] as [IpAddr; 0]);
    grant(&mut endpoint, "a.example", &["198.51.100.2"], later(60));
    assert_eq!(entry(&endpoint, "198.51.100.2").0, later(720).0);
    assert_eq!(entry(&endpoint, "198.51.100.1").0, 0);
}

// Promise 1: an answer that leaves meanwhile is usable
#[test]
fn what_is_granted_meanwhile_stays() {
    let mut endpoint = endpoint();
    grant(&mut endpoint, "a.example", &["198.51.100.1", "198.51.100.2"], NOW);
    endpoint.begin_flush(&[name("a.example")]);
    grant(&mut endpoint, "a.example", &["198.51.100.2", "198.51.100.3"], later(1));
    let flushed = endpoint.finish_flush(&[name("a.example")], later(2)).unwrap().remove(0);
    let parse = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(flushed.revoked, [parse("198.51.100.1")]);
    assert_eq!(flushed.renewed, [parse("198.51.100.2"), parse("198.51.100.3")]);
    assert_eq!(entry(&endpoint, "198.51.100.1").0, 0);
    assert_eq!(entry(&endpoint, "198.51.100.2").0, later(661).0);
    assert!(endpoint.flushing.is_empty());
}

// G2: an address of two names keeps what the other gives
#[test]
fn another_name_keeps_its_address() {
    let mut endpoint = endpoint();
    grant(&mut endpoint, "a.example", &["198.51.100.1"], NOW);
    grant(&mut endpoint, "b.example", &["198.51.100.1"], NOW);
    let (_, both) = entry(&endpoint, "198.51.100.1");
    flush(&mut endpoint, "a.example", later(1));
    let (expires_at, one) = entry(&endpoint, "198.51.100.1");
    assert_eq!((expires_at, endpoint.names_of_id(one)), (later(660).0, &[name("b.example")][..]));
    assert_eq!(endpoint.names_of_id(both).len(), 2, "a flow may refer to it");
}

// F1: nor is it open while the kernel's time stands still, whoever says so
#[test]
fn what_is_flushed_has_drifted_when_it_can_last_at_all() {
    let mut endpoint = endpoint();
    grant(&mut endpoint, "a.example", &["198.51.100.1"], NOW);
    flush(&mut endpoint, "a.example", later(10));
    let address = address_bytes("198.51.100.1".parse().unwrap());
    let mut has_drifted = |expires_at| {
        let entry = Allow { expires_at, ..endpoint.store.observed.allow[&address] };
        endpoint.store.write(&MapWrite::Allow(address, entry)).unwrap();
        endpoint.has_drifted_in(&Piece::Allowed(&[(address, entry)]), later(20)).unwrap()
    };
    assert!(!has_drifted(0) && has_drifted(later(5).0));
}
