use std::time::Duration;

use nameward_abi::{Allow, CidrRule, Flow, FlowKey, FlowState, PortKey, PortRule};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
};

use super::*;
use crate::kernel::{MemoryStore, address_bytes};

const SECOND: u64 = 1_000_000_000;
const NOW: BootTime = BootTime(1_000 * SECOND);
const HTTPS: PortSpec = PortSpec::one(Protocol::Tcp, 443);

fn rules(names: &[(&str, PortSpec)], settings: Settings) -> Arc<RuleSet> {
    let rules: Vec<Rule> = names
        .iter()
        .enumerate()
        .map(|(index, (name, port))| {
            let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
            let mut rule = Rule::new(policy, &format!("rule-{index}"), Effect::Allow);
            rule.peers = vec![Peer::Names(vec![Pattern::parse(name).unwrap()])];
            rule.ports = vec![*port];
            rule
        })
        .collect();
    let time = jiff::Timestamp::UNIX_EPOCH;
    Arc::new(
        RuleSet::compile(Isolation::Isolated, &rules, &settings, &ClusterRanges::default(), time).unwrap(),
    )
}

fn endpoint() -> Endpoint<MemoryStore> {
    let mut endpoint = Endpoint::new(MemoryStore::default(), Limits::default(), None, &[], 0).unwrap();
    endpoint
        .apply(rules(&[("example.com", HTTPS), ("*.example.net", HTTPS)], Settings::default()), NOW)
        .unwrap();
    endpoint
}

fn request(name: &str, addresses: &[&str], generation: u32) -> GrantRequest {
    GrantRequest {
        endpoint: "runner".into(),
        generation,
        name: name.into(),
        chain: vec![],
        addresses: addresses.iter().map(|a| (a.parse().unwrap(), Duration::from_secs(60))).collect(),
        grace: Duration::from_secs(600),
    }
}

fn seconds_later(seconds: u64) -> BootTime {
    BootTime(NOW.0 + seconds * SECOND)
}

fn entry(endpoint: &Endpoint<MemoryStore>, address: &str) -> Option<Allow> {
    endpoint.store.observed.allow.get(&address_bytes(address.parse().unwrap())).copied()
}

fn flow(remote: &str, admitted_id: u32, last_seen: BootTime) -> (FlowKey, Flow) {
    let key = FlowKey {
        remote: address_bytes(remote.parse().unwrap()),
        local_port: [1, 2],
        remote_port: 443u16.to_be_bytes(),
        protocol: 6,
        ..FlowKey::default()
    };
    let flow =
        Flow { last_seen: last_seen.0, admitted_id, state: FlowState::Established as u8, ..Flow::default() };
    (key, flow)
}

// G1
#[test]
fn a_grant_is_in_the_kernel_before_it_is_confirmed_and_means_something_before_it_counts() {
    let mut endpoint = endpoint();
    let begin = endpoint.store.log.len();
    let granted = endpoint.grant(&request("example.com", &["198.51.100.7", "2001:db8::7"], 1), NOW).unwrap();
    assert_eq!(granted.usable_for, Duration::from_secs(660));
    let written: Vec<_> = endpoint.store.log[begin..].to_vec();
    let position = |found: fn(&MapWrite) -> bool| written.iter().position(found).unwrap();
    assert!(
        position(|w| matches!(w, MapWrite::Admitted(..))) < position(|w| matches!(w, MapWrite::Allow(..)))
    );
    let allow = entry(&endpoint, "198.51.100.7").unwrap();
    assert_eq!(allow.expires_at, seconds_later(660).0);
    assert_ne!(endpoint.store.observed.admitted[&allow.admitted_id].classes, [0, 0]);
    assert_eq!(entry(&endpoint, "2001:db8::7").unwrap().admitted_id, allow.admitted_id);
}

// G1, F3
#[test]
fn what_cannot_be_written_is_refused() {
    let mut endpoint = endpoint();
    endpoint.store.fails_after = Some(endpoint.store.log.len());
    let refused = endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap_err();
    assert!(matches!(refused, Refused::Kernel { .. }), "{refused}");
    assert_eq!(entry(&endpoint, "198.51.100.7"), None);
}

// R6, G8
#[test]
fn in_audit_mode_a_name_without_rules_is_known_and_opens_nothing() {
    let mut endpoint = endpoint();
    let settings = Settings::default();
    let audit = RuleSet::compile(
        Isolation::Audit,
        &[],
        &settings,
        &ClusterRanges::default(),
        jiff::Timestamp::UNIX_EPOCH,
    );
    endpoint.apply(Arc::new(audit.unwrap()), NOW).unwrap();
    endpoint.grant(&request("example.org", &["198.51.100.7"], 2), NOW).unwrap();
    let address = "198.51.100.7".parse().unwrap();
    assert_eq!(endpoint.last_name(address).unwrap().as_str(), "example.org");
    let id = entry(&endpoint, "198.51.100.7").unwrap().admitted_id;
    assert_eq!(endpoint.store.observed.admitted[&id].classes, [0, 0]);
}

#[test]
fn stale_generations_foreign_names_and_limits_are_refused() {
    let mut endpoint = endpoint();
    let stale = endpoint.grant(&request("example.com", &["198.51.100.7"], 0), NOW);
    assert_eq!(stale, Err(Refused::StaleGeneration { asked: 0, current: 1 }));
    let foreign = endpoint.grant(&request("example.org", &["198.51.100.7"], 1), NOW);
    assert!(matches!(foreign, Err(Refused::NotAllowed { .. })));
    let settings = Settings { limits: Limits { addresses: 1, ..Limits::default() }, ..Settings::default() };
    endpoint.apply(rules(&[("example.com", HTTPS)], settings), NOW).unwrap();
    let many = endpoint.grant(&request("example.com", &["198.51.100.7", "198.51.100.8"], 2), NOW);
    assert_eq!(many, Err(Refused::Limit { what: "addresses" }));
    assert_eq!(endpoint.store.observed.allow.len(), 0);
}

// R9, promise 3: the meaning of ids follows the rules, addresses and ids stay
#[test]
fn new_rules_take_back_and_give_without_touching_addresses() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let before = entry(&endpoint, "198.51.100.7").unwrap();
    let other = rules(&[("*.example.net", HTTPS)], Settings::default());
    assert_eq!(endpoint.apply(other, seconds_later(1)).unwrap(), 2);
    let slot = endpoint.store.observed.switch.slot();
    assert_eq!(entry(&endpoint, "198.51.100.7"), Some(before));
    assert_eq!(endpoint.store.observed.admitted[&before.admitted_id].classes[slot], 0);
    // And a policy that comes after the lookup honours it (DESIGN 7).
    let again = rules(&[("example.com", HTTPS)], Settings::default());
    assert_eq!(endpoint.apply(again, seconds_later(2)).unwrap(), 3);
    let slot = endpoint.store.observed.switch.slot();
    assert_ne!(endpoint.store.observed.admitted[&before.admitted_id].classes[slot], 0);
}

#[test]
fn rules_that_cannot_be_written_change_nothing() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let before = endpoint.store.observed.switch;
    endpoint.store.fails_after = Some(endpoint.store.log.len() + 1);
    assert!(endpoint.apply(rules(&[], Settings::default()), NOW).is_err());
    assert_eq!(endpoint.store.observed.switch, before);
    endpoint.store.fails_after = None;
    assert!(endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).is_ok());
}

// A5
#[test]
fn what_is_in_use_does_not_lapse() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7", "198.51.100.8"], 1), NOW).unwrap();
    let id = entry(&endpoint, "198.51.100.7").unwrap().admitted_id;
    let (key, live) = flow("198.51.100.7", id, seconds_later(600));
    endpoint.store.flows.insert([0; 40], (key, live));
    endpoint.upkeep(seconds_later(650)).unwrap();
    assert_eq!(entry(&endpoint, "198.51.100.7").unwrap().expires_at, seconds_later(650 + 600).0);
    assert_eq!(entry(&endpoint, "198.51.100.8").unwrap().expires_at, seconds_later(660).0);
    // The kernel writes the last use; ended flows count from there.
    endpoint.store.flows.clear();
    let bytes = address_bytes("198.51.100.8".parse().unwrap());
    endpoint.store.observed.allow.get_mut(&bytes).unwrap().last_used = seconds_later(655).0;
    endpoint.upkeep(seconds_later(659)).unwrap();
    assert_eq!(entry(&endpoint, "198.51.100.8").unwrap().expires_at, seconds_later(655 + 600).0);
}

// G4
#[test]
fn idle_flows_and_dead_names_go() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let id = entry(&endpoint, "198.51.100.7").unwrap().admitted_id;
    endpoint.store.flows.insert([0; 40], flow("198.51.100.7", id, NOW));
    let day = 24 * 3_600;
    endpoint.upkeep(seconds_later(day - 1)).unwrap();
    assert_eq!(endpoint.store.flows.len(), 1);
    assert!(endpoint.store.observed.admitted.contains_key(&id));
    endpoint.upkeep(seconds_later(2 * day)).unwrap();
    assert_eq!(endpoint.store.flows.len(), 0);
    endpoint.upkeep(seconds_later(3 * day)).unwrap();
    endpoint.upkeep(seconds_later(3 * day + 1)).unwrap();
    assert_eq!((endpoint.store.observed.allow.len(), endpoint.store.observed.admitted.len()), (0, 0));
}

#[test]
fn drift_is_repaired_and_counted() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let before = endpoint.store.observed.clone();
    endpoint.store.observed.allow.clear();
    endpoint.store.observed.admitted.values_mut().for_each(|admitted| admitted.classes = [u64::MAX; 2]);
    let stranger = Allow { admitted_id: 99, expires_at: u64::MAX, ..Allow::default() };
    endpoint.store.observed.allow.insert([9; 16], stranger);
    endpoint.upkeep(seconds_later(1)).unwrap();
    assert_eq!(endpoint.store.observed.allow, before.allow);
    // One that is lost, one that nobody granted, one with other classes.
    assert_eq!(endpoint.drift_repairs(), 3);
    assert!(!endpoint.has_drifted(seconds_later(2)).unwrap());
    endpoint.upkeep(seconds_later(2)).unwrap();
    assert_eq!(endpoint.drift_repairs(), 3);
    assert_eq!(endpoint.store.observed.admitted, before.admitted);
}

/// What is found piece by piece, when the kernel was read as it was before `meanwhile`.
fn drifted(endpoint: &mut Endpoint<MemoryStore>, meanwhile: impl FnOnce(&mut Endpoint<MemoryStore>)) -> bool {
    let (recorded, observed) = (endpoint.recorded(), endpoint.store.observed.clone());
    meanwhile(endpoint);
    let look = super::super::Look::new(recorded, observed);
    look.pieces().any(|piece| endpoint.has_drifted_in(&piece, NOW).unwrap())
}

#[test]
fn drift_of_many_names_is_found_piece_by_piece() {
    let mut endpoint = endpoint();
    for number in 0..200 {
        let (name, address) = (format!("n{number}.example.net"), format!("198.51.100.{number}"));
        endpoint.grant(&request(&name, &[&address], 1), NOW).unwrap();
    }
    assert!(endpoint.has_many());
    assert!(!drifted(&mut endpoint, |_| {}));
    let before = endpoint.store.observed.clone();
    let first = *before.allow.keys().next().unwrap();
    let changes: [&dyn Fn(&mut Observed); 4] = [
        &|seen| {
            seen.allow.remove(&first);
        },
        &|seen| seen.allow.get_mut(&first).unwrap().expires_at += 1,
        &|seen| {
            seen.allow.insert([9; 16], Allow { expires_at: u64::MAX, ..Allow::default() });
        },
        &|seen| seen.admitted.values_mut().next().unwrap().classes = [u64::MAX; 2],
    ];
    for (index, change) in changes.into_iter().enumerate() {
        change(&mut endpoint.store.observed);
        assert!(drifted(&mut endpoint, |_| {}), "change {index}");
        assert!(endpoint.has_drifted(NOW).unwrap(), "change {index}");
        endpoint.store.observed = before.clone();
    }
    // What this process writes while the kernel is read is nobody else's change.
    assert!(!drifted(&mut endpoint, |endpoint| {
        endpoint.grant(&request("new.example.net", &["203.0.113.1", "198.51.100.1"], 1), NOW).unwrap();
    }));
}

// Drift of rules: a port opened, a prefix allowed, audit switched on by hand
#[test]
fn rules_that_somebody_else_changed_are_put_right() {
    let mut endpoint = endpoint();
    let before = endpoint.store.observed.clone();
    assert!(!endpoint.has_drifted(NOW).unwrap());
    let changes: [fn(&mut Observed); 5] = [
        |seen| seen.ports.extend([((0, PortKey::default()), PortRule { classes: [u64::MAX; 2] })]),
        |seen| seen.ports.clear(),
        |seen| seen.cidrs.extend([((0, [0; 16]), CidrRule { allow: [u64::MAX; 2], ..CidrRule::default() })]),
        |seen| seen.direct_dns = [1; 2],
        |seen| seen.switch = Switch::new(seen.switch.slot(), Mode::Audit, 0, seen.switch.generation()),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        change(&mut endpoint.store.observed);
        assert!(endpoint.has_drifted(NOW).unwrap(), "change {index}");
        let repairs = endpoint.drift_repairs();
        endpoint.upkeep(NOW).unwrap();
        assert!(endpoint.drift_repairs() > repairs, "change {index}");
        assert!(!endpoint.has_drifted(NOW).unwrap(), "change {index}");
        let slot = before.switch.slot();
        let seen = &endpoint.store.observed;
        let classes =
            |seen: &Observed| seen.ports.values().map(|rule| rule.classes[slot]).collect::<Vec<_>>();
        assert_eq!(
            (classes(seen), seen.ports.len()),
            (classes(&before), before.ports.len()),
            "change {index}"
        );
        assert_eq!((&seen.cidrs, seen.switch), (&before.cidrs, before.switch), "change {index}");
        assert_eq!(seen.direct_dns[slot], before.direct_dns[slot], "change {index}");
    }
}

// Promise 4
#[test]
fn a_set_of_names_that_is_new_because_one_lapsed_outlives_a_restart() {
    let path = std::env::temp_dir().join(format!("nwt{}-lapsed", std::process::id())).join("runner.names");
    let (journal, known) = Journal::open(&path, "boot").unwrap();
    let mut first =
        Endpoint::new(MemoryStore::default(), Limits::default(), Some(journal), &known, 0).unwrap();
    let same = rules(&[("example.com", HTTPS), ("*.example.net", HTTPS)], Settings::default());
    first.apply(Arc::clone(&same), NOW).unwrap();
    let short = GrantRequest { grace: Duration::ZERO, ..request("a.example.net", &["198.51.100.7"], 1) };
    first.grant(&short, NOW).unwrap();
    // A flow under the first set keeps it: nothing else is written down anew.
    let alone = entry(&first, "198.51.100.7").unwrap().admitted_id;
    first.store.flows.insert([1; 40], flow("198.51.100.9", alone, seconds_later(70)));
    first.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let both = entry(&first, "198.51.100.7").unwrap().admitted_id;
    first.upkeep(seconds_later(70)).unwrap();
    let one = entry(&first, "198.51.100.7").unwrap().admitted_id;
    assert_ne!(both, one);
    let (key, live) = flow("198.51.100.7", one, seconds_later(70));
    first.store.flows.insert([0; 40], (key, live));
    let store = first.store;
    let (journal, known) = Journal::open(&path, "boot").unwrap();
    let mut second = Endpoint::new(store, Limits::default(), Some(journal), &known, 0).unwrap();
    second.apply(same, seconds_later(71)).unwrap();
    let slot = second.store.observed.switch.slot();
    assert_ne!(second.store.observed.admitted[&one].classes[slot], 0);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

// F1
#[test]
fn what_lapsed_while_the_path_was_broken_is_extended_by_its_grace() {
    let mut endpoint = endpoint();
    endpoint.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    endpoint.resume(seconds_later(100), seconds_later(5_000)).unwrap();
    assert_eq!(entry(&endpoint, "198.51.100.7").unwrap().expires_at, seconds_later(5_600).0);
    // What had lapsed before stays lapsed.
    endpoint.resume(seconds_later(9_000), seconds_later(9_999)).unwrap();
    assert_eq!(entry(&endpoint, "198.51.100.7").unwrap().expires_at, seconds_later(5_600).0);
}

// Promise 4
#[test]
fn a_restart_goes_on_with_names_ids_and_generation() {
    let folder = std::env::temp_dir().join(format!("nwt{}-endpoint", std::process::id()));
    let path = folder.join("runner.names");
    let (journal, known) = Journal::open(&path, "boot").unwrap();
    let mut first =
        Endpoint::new(MemoryStore::default(), Limits::default(), Some(journal), &known, 0).unwrap();
    first.apply(rules(&[("example.com", HTTPS)], Settings::default()), NOW).unwrap();
    first.grant(&request("example.com", &["198.51.100.7"], 1), NOW).unwrap();
    let kernel = MemoryStore { observed: first.store.observed.clone(), ..MemoryStore::default() };
    drop(first);
    let (journal, known) = Journal::open(&path, "boot").unwrap();
    let mut second = Endpoint::new(kernel, Limits::default(), Some(journal), &known, 0).unwrap();
    assert_eq!(second.generation(), 1);
    assert_eq!(second.last_name("198.51.100.7".parse().unwrap()).unwrap().as_str(), "example.com");
    let before = entry(&second, "198.51.100.7").unwrap();
    second.apply(rules(&[("example.com", HTTPS)], Settings::default()), seconds_later(1)).unwrap();
    assert_eq!(entry(&second, "198.51.100.7"), Some(before));
    let slot = second.store.observed.switch.slot();
    assert_ne!(second.store.observed.admitted[&before.admitted_id].classes[slot], 0);
    second.upkeep(seconds_later(2)).unwrap();
    assert_eq!(second.drift_repairs(), 0);
    second.forget_journal();
    assert!(!path.exists());
    std::fs::remove_dir_all(folder).unwrap();
}

// A3, R11: what was recorded while nothing was denied was not asked whether it may be granted
#[test]
fn what_was_observed_is_asked_again_when_rules_come() {
    let mut endpoint = Endpoint::new(MemoryStore::default(), Limits::default(), None, &[], 0).unwrap();
    let (ranges, time) = (ClusterRanges::default(), jiff::Timestamp::UNIX_EPOCH);
    let none = RuleSet::compile(Isolation::NotIsolated, &[], &Settings::default(), &ranges, time);
    endpoint.apply(Arc::new(none.unwrap()), NOW).unwrap();
    let addresses = ["198.51.100.7", "169.254.169.254", "10.0.0.9", "2001:db8::7"];
    let observed = GrantRequest { grace: Duration::ZERO, ..request("example.com", &addresses, 1) };
    let granted = endpoint.grant(&observed, NOW).unwrap();
    assert_eq!(granted.usable_for, Duration::from_secs(660), "kept as a rule's name would be");
    assert!(addresses.iter().all(|address| entry(&endpoint, address).is_some()));
    assert!(!endpoint.isolated_before);
    let isolating = rules(&[("example.com", HTTPS)], Settings::default());
    assert!(endpoint.isolates_first(&isolating));
    endpoint.apply(Arc::clone(&isolating), NOW).unwrap();
    endpoint.upkeep(NOW).unwrap();
    let kept: Vec<_> = addresses.into_iter().filter(|address| entry(&endpoint, address).is_some()).collect();
    assert_eq!(kept, ["198.51.100.7", "2001:db8::7"]);
    // Once isolated, never again for the first time, also for the next process.
    assert!(!endpoint.isolates_first(&isolating));
    let none = RuleSet::compile(Isolation::NotIsolated, &[], &Settings::default(), &ranges, time);
    endpoint.apply(Arc::new(none.unwrap()), NOW).unwrap();
    let store = MemoryStore { observed: endpoint.store.observed.clone(), ..MemoryStore::default() };
    let next = Endpoint::new(store, Limits::default(), None, &[], 0).unwrap();
    assert!(!next.isolates_first(&isolating));
}
