use std::net::Ipv6Addr;

use nameward_abi::{Allow, Mode};
use proptest::prelude::*;

use super::*;
use crate::kernel::{KernelStore, MemoryStore};

const NAMED: [u8; 16] = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9).octets();

/// What `rules::judge` in the kernel makes of a destination, without expiry.
fn verdict(seen: &Observed, remote: Address, port: PortKey) -> bool {
    let slot = seen.switch.slot();
    let wanted =
        longest(&seen.ports, 24, |at| (at, truncate_port(port, at))).map_or(0, |rule| rule.classes[slot]);
    let cidr = longest(&seen.cidrs, 128, |at| (at, truncate(remote, at))).copied().unwrap_or_default();
    let named = seen.allow.get(&remote).and_then(|allow| seen.admitted.get(&allow.admitted_id));
    let allowed = cidr.allow[slot] | named.map_or(0, |admitted| admitted.classes[slot]);
    cidr.deny[slot] & wanted == 0 && allowed & wanted != 0
}

fn packets() -> Vec<(Address, PortKey)> {
    let remotes = [1u8, 2, 9, 64, 65, 128, 200, 255].map(|last| {
        let mut remote = NAMED;
        remote[15] = last;
        remote
    });
    let ports = [(6, 443u16), (6, 80), (17, 443), (6, 30_000), (17, 53), (132, 9), (1, 0)];
    let key = |(protocol, port): (u8, u16)| PortKey { protocol, port: port.to_be_bytes() };
    remotes.into_iter().flat_map(|remote| ports.map(|port| (remote, key(port)))).collect()
}

fn verdicts(seen: &Observed) -> Vec<bool> {
    packets().into_iter().map(|(remote, port)| verdict(seen, remote, port)).collect()
}

fn target() -> impl Strategy<Value = Target> {
    let bits = 0..16u64;
    let cidr = (
        prop::sample::select(vec![0u32, 64, 120, 121, 122, 126, 128]),
        any::<u8>(),
        bits.clone(),
        bits.clone(),
    );
    let port = (
        prop::sample::select(vec![0u32, 8, 12, 16, 20, 24]),
        prop::sample::select(vec![6u8, 17, 132, 1]),
        prop::sample::select(vec![443u16, 80, 30_000, 53, 0]),
        bits.clone(),
    );
    (prop::collection::vec(cidr, 0..5), prop::collection::vec(port, 0..5), bits.clone(), bits).prop_map(
        |(cidrs, ports, named, direct_dns)| {
            let mut target = Target { direct_dns, ..Target::default() };
            for (length, last, allow, deny) in cidrs {
                let mut address = NAMED;
                address[15] = last;
                let classes = CidrClasses { allow, deny, cluster: 0 };
                target.cidrs.insert((length, truncate(address, length)), classes);
            }
            for (length, protocol, port, classes) in ports {
                let key = PortKey { protocol, port: port.to_be_bytes() };
                target.ports.insert((length, truncate_port(key, length)), classes);
            }
            target.admitted.insert(1, named);
            target
        },
    )
}

fn next(generation: u32) -> impl FnOnce(usize) -> Switch {
    move |slot| Switch::new(slot, Mode::Enforce, 0, generation)
}

fn apply(store: &mut MemoryStore, plan: &SwitchPlan) {
    for write in plan.prepare.iter().chain([&MapWrite::Switch(plan.switch)]).chain(&plan.clean) {
        store.write(write).unwrap();
    }
}

proptest! {
    // G10
    #[test]
    fn every_intermediate_write_means_the_old_or_the_new_rules(first in target(), second in target(), third in target()) {
        let mut store = MemoryStore::default();
        store.observed.allow.insert(NAMED, Allow { admitted_id: 1, ..Allow::default() });
        for (generation, rules) in [&first, &second, &third].into_iter().enumerate() {
            let fresh = {
                let mut fresh = MemoryStore::default();
                fresh.observed.allow = store.observed.allow.clone();
                let plan = plan(&fresh.observed, rules, next(1));
                apply(&mut fresh, &plan);
                verdicts(&fresh.observed)
            };
            let before = verdicts(&store.observed);
            let plan = plan(&store.observed, rules, next(generation as u32));
            for write in &plan.prepare {
                store.write(write).unwrap();
                prop_assert_eq!(&verdicts(&store.observed), &before);
            }
            for write in [&MapWrite::Switch(plan.switch)].into_iter().chain(&plan.clean) {
                store.write(write).unwrap();
                prop_assert_eq!(&verdicts(&store.observed), &fresh);
            }
            let kept: Vec<_> = store.observed.cidrs.keys().collect();
            prop_assert_eq!(kept, rules.cidrs.keys().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_plan_to_the_same_rules_changes_the_switch_only_once_both_sets_are_equal() {
    let mut store = MemoryStore::default();
    let mut rules = Target::default();
    rules.cidrs.insert((0, [0; 16]), CidrClasses { allow: 1, ..CidrClasses::default() });
    for generation in 1..4 {
        let plan = plan(&store.observed, &rules, next(generation));
        apply(&mut store, &plan);
        assert_eq!(store.observed.switch.generation(), generation);
        assert_eq!(plan.prepare.len(), if generation < 3 { 2 } else { 1 });
    }
}

#[test]
fn prefixes_are_cut_to_their_length() {
    let key = PortKey { protocol: 6, port: [0xff, 0xff] };
    assert_eq!(truncate_port(key, 24), key);
    assert_eq!(truncate_port(key, 8), PortKey { protocol: 6, port: [0, 0] });
    assert_eq!(truncate_port(key, 12), PortKey { protocol: 6, port: [0xf0, 0] });
    assert_eq!(truncate_port(key, 0), PortKey::default());
}
