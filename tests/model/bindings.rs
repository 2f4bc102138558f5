//! Bindings against a list.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use nameward_policy::{Bindings, BootTime, LimitReached, Limits, Name};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{config, worlds::name};

const LIMITS: (u32, u32, u32) = (4, 8, 4);

#[derive(Clone, Debug)]
enum Step {
    Answer { name: Name, last: Vec<u8>, ttl: u64, grace: u64 },
    Use { last: u8 },
    Revoke { name: Name, stays: Vec<u8> },
    Wait { nanos: u64 },
    Away { nanos: u64 },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let answer = (name(), vec(0..12u8, 0..5), 0..20u64, select(vec![0u64, 5, 30]))
        .prop_map(|(name, last, ttl, grace)| Step::Answer { name, last, ttl, grace });
    prop_oneof![
        6 => answer,
        3 => (0..12u8).prop_map(|last| Step::Use { last }),
        3 => (1..15u64).prop_map(|nanos| Step::Wait { nanos }),
        1 => (1..60u64).prop_map(|nanos| Step::Away { nanos }),
        1 => (name(), vec(0..12u8, 0..2)).prop_map(|(name, stays)| Step::Revoke { name, stays }),
        1 => Just(Step::Expire),
    ]
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

/// Live leases, and nothing else: (name, address) -> (end of the TTL, expiry). The grace is the name's.
#[derive(Default)]
struct Model {
    leases: BTreeMap<(Name, IpAddr), (u64, u64)>,
    grace: BTreeMap<Name, u64>,
}

impl Model {
    fn answer(
        &mut self,
        name: &Name,
        last: &[u8],
        ttl: u64,
        grace: u64,
        now: u64,
    ) -> Result<(), LimitReached> {
        if last.is_empty() {
            return Ok(());
        }
        let mut then: BTreeSet<(Name, IpAddr)> = self.leases.keys().cloned().collect();
        then.extend(last.iter().map(|last| (name.clone(), address(*last))));
        let count = |number: usize| u32::try_from(number).unwrap();
        let of_name = then.iter().filter(|(other, _)| other == name).count();
        if count(of_name) > LIMITS.2 {
            return Err(LimitReached::AddressesPerName { limit: LIMITS.2 });
        }
        if count(then.iter().map(|(name, _)| name).collect::<BTreeSet<_>>().len()) > LIMITS.0 {
            return Err(LimitReached::Names { limit: LIMITS.0 });
        }
        if count(then.iter().map(|(_, address)| address).collect::<BTreeSet<_>>().len()) > LIMITS.1 {
            return Err(LimitReached::Addresses { limit: LIMITS.1 });
        }
        self.grace.insert(name.clone(), grace);
        for last in last {
            let lease = self.leases.entry((name.clone(), address(*last))).or_default();
            *lease = (lease.0.max(now + ttl), lease.1.max(now + ttl + grace));
        }
        Ok(())
    }

    /// A5: the grace counts from the later of the TTL's end and the last use; without grace the TTL alone counts.
    fn used(&mut self, used: IpAddr, now: u64) {
        for ((name, address), (ttl_ends, expires_at)) in &mut self.leases {
            let grace = self.grace[name];
            if *address == used && grace > 0 {
                *expires_at = (*expires_at).max(now.max(*ttl_ends) + grace);
            }
        }
    }

    /// F1: what would have lapsed meanwhile is live for its grace.
    fn away(&mut self, now: u64) {
        for ((name, _), (_, expires_at)) in &mut self.leases {
            if *expires_at <= now {
                *expires_at = now + self.grace[name];
            }
        }
    }

    /// What is taken back comes back by an answer alone.
    fn revoke(&mut self, name: &Name, stays: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        let is_meant = |key: &(Name, IpAddr)| key.0 == *name && !stays.contains(&key.1);
        self.leases.extract_if(.., |key, _| is_meant(key)).map(|((_, address), _)| address).collect()
    }

    fn lapse(&mut self, now: u64) {
        self.leases.retain(|_, (_, expires_at)| now < *expires_at);
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    /// A5, A6, A7, Q8, F1: what is live, until when, what is refused, and when something lapses next.
    #[test]
    fn bindings_are_what_a_list_would_hold(steps in vec(step(), 1..40)) {
        let (names, addresses, addresses_per_name) = LIMITS;
        let mut bindings = Bindings::new(Limits { names, addresses, addresses_per_name, ..Limits::default() });
        let mut model = Model::default();
        let mut now = 1_000u64;
        for step in steps {
            match &step {
                Step::Answer { name, last, ttl, grace } => {
                    let answer: Vec<_> = last.iter().map(|last| (address(*last), Duration::from_nanos(*ttl))).collect();
                    let recorded = bindings.record(name, &[], &answer, Duration::from_nanos(*grace), BootTime(now));
                    prop_assert_eq!(recorded.map(|_| ()), model.answer(name, last, *ttl, *grace, now));
                    if let (Ok(first), false) = (recorded, last.is_empty()) {
                        let expiry = |last: &u8| model.leases[&(name.clone(), address(*last))].1;
                        prop_assert_eq!(first.0, last.iter().map(expiry).min().unwrap());
                    }
                }
                Step::Use { last } => {
                    bindings.touch(address(*last), BootTime(now));
                    model.used(address(*last), now);
                }
                Step::Revoke { name, stays } => {
                    let stays: BTreeSet<IpAddr> = stays.iter().map(|last| address(*last)).collect();
                    let revoked = bindings.revoke(name, &stays, BootTime(now));
                    prop_assert_eq!(revoked, model.revoke(name, &stays));
                }
                Step::Wait { nanos } => now += nanos,
                Step::Away { nanos } => {
                    bindings.resume(BootTime(now), BootTime(now + nanos));
                    now += nanos;
                    model.away(now);
                }
                Step::Expire => bindings.expire(BootTime(now)),
            }
            model.lapse(now);
            check(&bindings, &model, now)?;
        }
    }
}

fn check(bindings: &Bindings, model: &Model, now: u64) -> Result<(), TestCaseError> {
    let now = BootTime(now);
    let live: BTreeMap<(Name, IpAddr), (u64, u64)> = bindings
        .iter()
        .flat_map(|binding| binding.addresses.iter().map(|lease| (binding.name.clone(), lease)))
        .filter(|(_, lease)| lease.is_live(now))
        .map(|(name, lease)| ((name, lease.address), (lease.ttl_ends.0, lease.expires_at.0)))
        .collect();
    prop_assert_eq!(&live, &model.leases);
    prop_assert_eq!(
        bindings.next_expiry(now).map(|at| at.0),
        model.leases.values().map(|lease| lease.1).min()
    );
    for last in 0..12 {
        let names: Vec<Name> = bindings
            .names_of(address(last))
            .filter(|(_, lease)| lease.is_live(now))
            .map(|(binding, _)| binding.name.clone())
            .collect();
        let expected: Vec<Name> =
            model.leases.keys().filter(|key| key.1 == address(last)).map(|key| key.0.clone()).collect();
        prop_assert_eq!(names, expected);
    }
    let (_, limit, _) = LIMITS;
    prop_assert!(bindings.addresses().count() <= limit as usize, "lapsed ones count, too");
    Ok(())
}
