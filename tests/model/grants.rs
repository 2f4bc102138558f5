//! Grants against a kernel made of two tables and a list of flows.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use nameward_policy::{
    Action, Bindings, BootTime, GrantTables, Grants, Isolation, Limits, Name, NameSet, Rule, RuleSet,
    Settings, address::to_octets, diff,
};
use proptest::{collection::vec, prelude::*};

use crate::{
    config,
    worlds::{cluster, name, rule},
};

#[derive(Clone, Debug)]
enum Step {
    Answer { name: Name, last: u8, ttl: u64 },
    Rules(Vec<Rule>),
    Wait(u64),
    Connect { last: u8 },
    Disconnect,
    Restart,
    Repair,
    HandEdit { last: u8, id: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (name(), 0..4u8, 1..30u64).prop_map(|(name, last, ttl)| Step::Answer { name, last, ttl }),
        1 => vec(rule(), 0..5).prop_map(Step::Rules),
        3 => (1..20u64).prop_map(Step::Wait),
        4 => (0..4u8).prop_map(|last| Step::Connect { last }),
        2 => Just(Step::Disconnect),
        1 => Just(Step::Restart),
        2 => Just(Step::Repair),
        1 => (0..4u8, 1..9u32).prop_map(|(last, id)| Step::HandEdit { last, id }),
    ]
}

/// The kernel's tables, the flows' ids, and for each flow the names it was admitted under.
#[derive(Default)]
struct Kernel {
    tables: GrantTables,
    flows: Vec<(u32, Vec<Name>)>,
}

impl Kernel {
    fn apply(&mut self, action: Action) {
        match action {
            Action::Admit { id, classes } => drop(self.tables.admitted.insert(id, classes)),
            Action::Allow { address, entry } => drop(self.tables.allow.insert(address, entry)),
            Action::Forget { address } => drop(self.tables.allow.remove(&address)),
            Action::Retire { id } => drop(self.tables.admitted.remove(&id)),
        }
    }

    fn in_use(&self) -> BTreeSet<u32> {
        let allowed = self.tables.allow.values().map(|entry| entry.admitted_id);
        allowed.chain(self.flows.iter().map(|(id, _)| *id)).collect()
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn compile(rules: &[Rule]) -> RuleSet {
    let now = jiff::Timestamp::UNIX_EPOCH;
    RuleSet::compile(Isolation::Isolated, rules, &Settings::default(), &cluster(), now).unwrap()
}

proptest! {
    #![proptest_config(config(1_000))]

    /// G2, R9, promise 3: whatever happens, each change is right by itself, the tables end as desired, ids that flows
    /// refer to keep their names, and repairs find every edit.
    #[test]
    fn tables_follow_rules_and_bindings(first in vec(rule(), 0..5), steps in vec(step(), 1..40)) {
        let mut rules = compile(&first);
        let mut bindings = Bindings::new(Limits::default());
        let (mut grants, mut kernel) = (Grants::default(), Kernel::default());
        let mut now = 0;
        for step in steps {
            match step {
                Step::Answer { name, last, ttl } => {
                    let answer = [(address(last), Duration::from_nanos(ttl))];
                    bindings.record(&name, &[], &answer, Duration::ZERO, BootTime(now)).unwrap();
                }
                Step::Rules(changed) => rules = compile(&changed),
                Step::Wait(nanos) => now += nanos,
                Step::Connect { last } => {
                    let entry = kernel.tables.allow.get(&to_octets(address(last))).copied();
                    if let Some(entry) = entry.filter(|entry| now < entry.expires_at.0) {
                        let names = grants.names_of(entry.admitted_id).unwrap_or_default().to_vec();
                        kernel.flows.push((entry.admitted_id, names));
                    }
                }
                Step::Disconnect => drop(kernel.flows.pop()),
                Step::Restart => {
                    let stored: Vec<NameSet> = grants.sets().collect();
                    grants = Grants::restore(&stored, &kernel.in_use());
                }
                Step::Repair => {}
                Step::HandEdit { last, id } => {
                    if let Some(entry) = kernel.tables.allow.get_mut(&to_octets(address(last))) {
                        entry.admitted_id = id;
                    }
                }
            }
            settle(&mut kernel, &mut grants, &rules, &bindings, now)?;
        }
    }
}

/// Brings the tables over, one change at a time, then forgets ids.
fn settle(
    kernel: &mut Kernel,
    grants: &mut Grants,
    rules: &RuleSet,
    bindings: &Bindings,
    now: u64,
) -> Result<(), TestCaseError> {
    let now = BootTime(now);
    let before = kernel.tables.clone();
    let desired = grants.desired(rules, bindings, now);
    for action in diff(&desired, &kernel.tables) {
        kernel.apply(action);
        for (address, entry) in &kernel.tables.allow {
            let id = &entry.admitted_id;
            let (new, old) = (desired.allow.get(address), before.allow.get(address));
            prop_assert!(new == Some(entry) || old == Some(entry), "an entry of neither");
            let classes = kernel.tables.admitted.get(id);
            let as_desired = classes == desired.admitted.get(id);
            // What an address newly refers to is right from the first moment; the rest becomes so.
            prop_assert!(as_desired || old == Some(entry) && classes == before.admitted.get(id));
        }
    }
    prop_assert_eq!(&kernel.tables, &desired);
    for id in grants.retire(&kernel.in_use()) {
        kernel.apply(Action::Retire { id });
    }
    for (id, names) in &kernel.flows {
        prop_assert!(kernel.tables.admitted.contains_key(id));
        prop_assert_eq!(grants.names_of(*id), Some(&names[..]));
        let classes = names.iter().fold(0, |classes, name| classes | rules.classes_of(name));
        prop_assert_eq!(kernel.tables.admitted[id], classes);
    }
    for (entry, address) in
        (0..4).filter_map(|last| Some((kernel.tables.allow.get(&to_octets(address(last)))?, address(last))))
    {
        let live: Vec<Name> = bindings
            .names_of(address)
            .filter(|(_, lease)| lease.is_live(now))
            .map(|(binding, _)| binding.name.clone())
            .collect();
        prop_assert_eq!(entry.expires_at > now, !live.is_empty());
        prop_assert!(live.is_empty() || grants.names_of(entry.admitted_id) == Some(&live[..]));
    }
    let fresh: BTreeSet<u32> = grants.sets().map(|set| set.id).collect();
    prop_assert_eq!(fresh, kernel.in_use());
    Ok(())
}
