//! Compiled rules against the naive reading of the same rules.

use std::time::Duration;

use nameward_policy::{
    Bindings, BootTime, Grants, KernelMode, Limits, Name, QueryDecision, RuleSet, Settings,
    address::to_octets,
    diff,
    tables::{Granted, MAX_CIDRS, MAX_PORTS},
};
use proptest::{collection::vec, prelude::*};

use crate::{
    config,
    naive::{Bound, World},
    worlds::{NAMES, address, cluster, isolation, name, packet, rule},
};

const NOW: BootTime = BootTime(100);

fn settings() -> Settings {
    Settings::default()
}

proptest! {
    #![proptest_config(config(100_000))]

    /// R1, R2, R4, R6, R8, G2, G3, G5, B23: flattened classes, ports and blocks say what the rules say.
    #[test]
    fn compiled_rules_judge_as_the_rules_read(
        isolation in isolation(),
        rules in vec(rule(), 0..8),
        bound in vec((name(), address(), 1..200u64), 0..12),
        packets in vec(packet(), 4),
    ) {
        let cluster = cluster();
        let now = jiff::Timestamp::UNIX_EPOCH;
        let compiled = RuleSet::compile(isolation, &rules, &settings(), &cluster, now).unwrap();
        prop_assert!(compiled.kernel.cidrs.len() <= MAX_CIDRS && compiled.kernel.ports.len() <= MAX_PORTS);
        let world = World { isolation, rules: &rules, cluster: &cluster };
        let mut bindings = Bindings::new(Limits::default());
        for (name, address, ttl) in &bound {
            let answer = [(*address, Duration::from_nanos(*ttl))];
            bindings.record(name, &[], &answer, Duration::ZERO, BootTime(0)).unwrap();
        }
        let tables = Grants::default().desired(&compiled, &bindings, NOW);
        let taken = packets.iter().map(|packet| packet.remote).chain(bound.iter().map(|(_, address, _)| *address));
        for (packet, remote) in packets.iter().cycle().zip(taken) {
            let packet = crate::worlds::Packet { remote, ..packet.clone() };
            let names: Vec<Bound> = bindings
                .names_of(remote)
                .map(|(binding, lease)| Bound { name: binding.name.clone(), live: lease.is_live(NOW) })
                .collect();
            let granted = tables.allow.get(&to_octets(remote.to_canonical())).map(|entry| Granted {
                classes: tables.admitted[&entry.admitted_id],
                expired: entry.expires_at <= NOW,
            });
            let remote = to_octets(remote.to_canonical());
            let judged = compiled.kernel.judge(granted, remote, packet.protocol, packet.port);
            prop_assert_eq!(judged, world.judge(&packet, &names), "{:?}", packet);
        }
    }
}

proptest! {
    #![proptest_config(config(2_000))]

    /// Q2, Q3, R2: the index of names decides as the patterns read, also after it travelled.
    #[test]
    fn questions_are_decided_as_the_rules_read(isolation in isolation(), rules in vec(rule(), 0..8)) {
        let cluster = cluster();
        let compiled = RuleSet::compile(isolation, &rules, &settings(), &cluster, jiff::Timestamp::UNIX_EPOCH).unwrap();
        let world = World { isolation, rules: &rules, cluster: &cluster };
        let allowed: Vec<Name> = NAMES
            .iter()
            .chain(&["deep.z.x.a.example", "deep.b.example", "deep.a.other", "x.y.a.example"])
            .map(|text| Name::parse(text).unwrap())
            .collect();
        for name in &allowed {
            let decided = compiled.dns.decide(name);
            let denied = world.denies_name(name);
            let allows = world.allows_name(name);
            prop_assert_eq!(compiled.classes_of(name) != 0, allows);
            match decided {
                QueryDecision::Denied { .. } => prop_assert!(denied && compiled.kernel.mode != KernelMode::Audit),
                QueryDecision::Allowed(_) => prop_assert!(allows),
                QueryDecision::Filtered { name_below_allowed, .. } => {
                    prop_assert!(!allows && !denied && compiled.kernel.mode == KernelMode::Enforce);
                    // A pattern that allows something below may itself be denied there: NODATA is still no leak.
                    let below = allowed.iter().any(|other| other.is_below(name) && world.allows_name(other));
                    prop_assert!(name_below_allowed || !below);
                }
                QueryDecision::Unfiltered { would_filter } => {
                    prop_assert!(!allows && compiled.kernel.mode != KernelMode::Enforce);
                    prop_assert_eq!(would_filter, compiled.kernel.mode == KernelMode::Audit);
                }
                QueryDecision::SearchExpansion => prop_assert!(false, "no cluster domain is set"),
            }
        }
    }

    /// R9, G10: with the tables of names brought over one change at a time, an address never has classes that neither
    /// the old nor the new rules give to its names, and a change of rules changes no address.
    #[test]
    fn a_change_of_rules_moves_only_classes(
        old in vec(rule(), 0..6),
        new in vec(rule(), 0..6),
        bound in vec((name(), address(), 1..200u64), 0..12),
    ) {
        let cluster = cluster();
        let compile = |rules: &[_]| {
            let isolated = nameward_policy::Isolation::Isolated;
            RuleSet::compile(isolated, rules, &settings(), &cluster, jiff::Timestamp::UNIX_EPOCH).unwrap()
        };
        let mut bindings = Bindings::new(Limits::default());
        for (name, address, ttl) in &bound {
            let answer = [(*address, Duration::from_nanos(*ttl))];
            bindings.record(name, &[], &answer, Duration::ZERO, BootTime(0)).unwrap();
        }
        let mut grants = Grants::default();
        let before = grants.desired(&compile(&old), &bindings, NOW);
        let after = grants.desired(&compile(&new), &bindings, NOW);
        prop_assert_eq!(&before.allow, &after.allow);
        for action in diff(&after, &before) {
            let only_classes = matches!(action, nameward_policy::Action::Admit { .. });
            prop_assert!(only_classes, "{:?}", action);
        }
    }
}
