//! From one rule set to the next without a mixture of both (SEMANTICS G10): which writes, in which order.
//!
//! Entries hold one value per rule set. The writes before the switch change the meaning of the set that does not
//! count, and add longer prefixes with the old meaning of what they cover; one word then says that the other set
//! counts; what only the old rules needed goes afterwards. Pure: it writes nothing.

use std::collections::BTreeMap;

use nameward_abi::{Address, Admitted, CidrRule, PortKey, PortRule, RULE_SETS, Switch};

use nameward_policy::{
    KernelRules,
    tables::{CidrClasses, PortPrefix, truncate},
};

use crate::kernel::{MapWrite, Observed};

/// What the kernel has to know of a rule set. Prefixes are flattened: the longest match says everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) cidrs: BTreeMap<(u32, Address), CidrClasses>,
    pub(crate) ports: BTreeMap<(u32, PortKey), u64>,
    /// Classes of every set of names that has an id.
    pub(crate) admitted: BTreeMap<u32, u64>,
    /// Classes of direct DNS.
    pub(crate) direct_dns: u64,
}

impl Target {
    /// The tables of compiled rules, and the classes they give to sets of names.
    pub(crate) fn new(rules: &KernelRules, admitted: BTreeMap<u32, u64>) -> Self {
        let port = |prefix: &PortPrefix| {
            (prefix.bits, PortKey { protocol: prefix.protocol, port: prefix.port.to_be_bytes() })
        };
        Self {
            cidrs: rules.cidrs.clone(),
            ports: rules.ports.iter().map(|(prefix, classes)| (port(prefix), *classes)).collect(),
            admitted,
            direct_dns: rules.direct_dns,
        }
    }
}

/// Writes in three steps; each may be done again from its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SwitchPlan {
    /// Nothing that counts changes its meaning.
    pub(crate) prepare: Vec<MapWrite>,
    /// From here on the new rules count.
    pub(crate) switch: Switch,
    /// Nothing that counts changes its meaning.
    pub(crate) clean: Vec<MapWrite>,
}

/// The way from what is observed to `target`, under the switch word that `next` makes of a slot.
pub(crate) fn plan(observed: &Observed, target: &Target, next: impl FnOnce(usize) -> Switch) -> SwitchPlan {
    let old = observed.switch.slot();
    let new = 1 - old;
    let mut prepare = vec![MapWrite::DirectDns(new, target.direct_dns)];
    let mut clean = Vec::new();
    for (length, address) in union(&observed.cidrs, &target.cidrs) {
        let before = longest(&observed.cidrs, length, |at| (at, truncate(address, at)));
        let after = longest(&target.cidrs, length, |at| (at, truncate(address, at)));
        let rule = cidr_rule(before.copied().unwrap_or_default(), old, after.copied().unwrap_or_default());
        if observed.cidrs.get(&(length, address)) != Some(&rule) {
            prepare.push(MapWrite::Cidr(length, address, rule));
        }
        if !target.cidrs.contains_key(&(length, address)) {
            clean.push(MapWrite::ForgetCidr(length, address));
        }
    }
    for (length, key) in union(&observed.ports, &target.ports) {
        let before = longest(&observed.ports, length, |at| (at, truncate_port(key, at)));
        let after = longest(&target.ports, length, |at| (at, truncate_port(key, at)));
        let mut rule = PortRule::default();
        rule.classes[old] = before.map_or(0, |rule| rule.classes[old]);
        rule.classes[new] = after.copied().unwrap_or(0);
        if observed.ports.get(&(length, key)) != Some(&rule) {
            prepare.push(MapWrite::Port(length, key, rule));
        }
        if !target.ports.contains_key(&(length, key)) {
            clean.push(MapWrite::ForgetPort(length, key));
        }
    }
    for id in union(&observed.admitted, &target.admitted) {
        let before = observed.admitted.get(&id).copied();
        let mut admitted = Admitted::default();
        admitted.classes[old] = before.map_or(0, |before| before.classes[old]);
        admitted.classes[new] = target.admitted.get(&id).copied().unwrap_or(0);
        if before != Some(admitted) {
            prepare.push(MapWrite::Admitted(id, admitted));
        }
    }
    SwitchPlan { prepare, switch: next(new), clean }
}

/// What has to be written because somebody else changed the tables of the rule set that counts, which is `slot`.
/// Restored entries mean the same under both sets. Names' addresses are not looked at.
pub(crate) fn restore(observed: &Observed, target: &Target, slot: usize) -> Vec<MapWrite> {
    let mut writes = Vec::new();
    if observed.direct_dns[slot] != target.direct_dns {
        writes.push(MapWrite::DirectDns(slot, target.direct_dns));
    }
    for (&(length, address), classes) in &target.cidrs {
        let rule = both_cidr(*classes);
        let same = |known: &&CidrRule| {
            (known.allow[slot], known.deny[slot], known.cluster[slot])
                == (classes.allow, classes.deny, classes.cluster)
        };
        if observed.cidrs.get(&(length, address)).filter(same).is_none() {
            writes.push(MapWrite::Cidr(length, address, rule));
        }
    }
    for (&(length, key), classes) in &target.ports {
        if observed.ports.get(&(length, key)).map(|known| known.classes[slot]) != Some(*classes) {
            writes.push(MapWrite::Port(length, key, PortRule { classes: [*classes; RULE_SETS] }));
        }
    }
    let strange = |key: &&(u32, Address)| !target.cidrs.contains_key(*key);
    writes
        .extend(observed.cidrs.keys().filter(strange).map(|(length, at)| MapWrite::ForgetCidr(*length, *at)));
    let strange = |key: &&(u32, PortKey)| !target.ports.contains_key(*key);
    writes
        .extend(observed.ports.keys().filter(strange).map(|(length, at)| MapWrite::ForgetPort(*length, *at)));
    writes
}

fn both_cidr(classes: CidrClasses) -> CidrRule {
    CidrRule {
        allow: [classes.allow; RULE_SETS],
        deny: [classes.deny; RULE_SETS],
        cluster: [classes.cluster; RULE_SETS],
    }
}

fn cidr_rule(before: CidrRule, old: usize, after: CidrClasses) -> CidrRule {
    let new = 1 - old;
    let mut rule = CidrRule::default();
    rule.allow[old] = before.allow[old];
    rule.deny[old] = before.deny[old];
    rule.cluster[old] = before.cluster[old];
    rule.allow[new] = after.allow;
    rule.deny[new] = after.deny;
    rule.cluster[new] = after.cluster;
    rule
}

fn union<K: Ord + Copy, A, B>(one: &BTreeMap<K, A>, other: &BTreeMap<K, B>) -> Vec<K> {
    let mut keys: Vec<K> = one.keys().chain(other.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The entry that the kernel would find for a prefix: that of the longest prefix which covers it.
fn longest<K: Ord, V>(map: &BTreeMap<K, V>, length: u32, key: impl Fn(u32) -> K) -> Option<&V> {
    (0..=length).rev().find_map(|at| map.get(&key(at)))
}

/// The first `length` bits of a protocol and port.
fn truncate_port(key: PortKey, length: u32) -> PortKey {
    let bits = u32::from_be_bytes([0, key.protocol, key.port[0], key.port[1]]);
    let mask = 0x00ff_ffff_u32 & 0x00ff_ffff_u32.checked_shl(24 - length.min(24)).unwrap_or(0);
    let [_, protocol, high, low] = (bits & mask).to_be_bytes();
    PortKey { protocol, port: [high, low] }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
