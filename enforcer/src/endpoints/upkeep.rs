//! What has to be done from time to time: what is in use is kept (A5), what is dead goes, what has drifted is put
//! right and counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use nameward_abi::{Admitted, Allow, Flow, FlowKey, FlowState, RULE_SETS, idle};
use nameward_policy::{BootTime, GrantTables, KernelRules, RuleSet};

use super::{Endpoint, EndpointError, journal::Entry, writing::allow};
use crate::{
    decisions::ip,
    grants::switch::{self, Target},
    kernel::{EndpointSpec, KernelEndpoint, KernelError, KernelStore, MapWrite, Observed},
};

impl Endpoint<KernelEndpoint> {
    /// Puts the configuration right, rules aside. Returns whether it was not.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn restore_config(&mut self, spec: &EndpointSpec) -> Result<bool, KernelError> {
        let repaired = self.store.restore_config(spec)?;
        self.drift_repairs += u64::from(repaired);
        Ok(repaired)
    }
}

impl<S: KernelStore> Endpoint<S> {
    /// Counts something that was put right from outside.
    pub(crate) fn count_repair(&mut self) {
        self.drift_repairs += 1;
    }

    /// Extends addresses in use, removes idle flows and lapsed names, repairs what has drifted.
    ///
    /// # Errors
    /// [`EndpointError`]; the next time tries again.
    pub fn upkeep(&mut self, now: BootTime) -> Result<(), EndpointError> {
        let observed = self.store.observe()?;
        let flows = self.store.flows()?;
        let (live, dead): (Vec<_>, Vec<_>) =
            flows.into_iter().partition(|(key, flow)| is_live(key, flow, now));
        for (key, _) in dead.iter().filter(|(_, flow)| flow.state == FlowState::Established as u8) {
            self.store.write(&MapWrite::ForgetFlow(*key))?;
        }
        self.forget_ended(&live);
        self.unseen_answers = live.iter().filter(|(_, flow)| flow.unseen != 0).count();
        let mut changed = false;
        for (address, used) in last_uses(&observed.allow, &live, now) {
            changed |= self.bindings.touch(address, used);
        }
        self.bindings.expire(now);
        let in_use: BTreeSet<u32> = live.iter().map(|(_, flow)| flow.admitted_id).collect();
        changed |= self.align(&observed, &in_use, now)?;
        self.compact(changed)
    }

    /// Whether the kernel holds something that this process did not write: somebody else changed it.
    ///
    /// # Errors
    /// [`EndpointError`] when the maps cannot be read.
    pub fn has_drifted(&mut self, now: BootTime) -> Result<bool, EndpointError> {
        let Some(rules) = self.rules().cloned() else { return Ok(false) };
        let observed = self.store.observe()?;
        let desired = self.desired(&rules, now)?;
        let slot = self.word.unwrap_or(observed.switch).slot();
        Ok(self.has_other_rules(&observed) || drift(&desired, &observed, slot, now) != 0)
    }

    /// Whether rules, or the word that says which of them count, are not as this process wrote them.
    pub(crate) fn has_other_rules(&self, observed: &Observed) -> bool {
        let Some(rules) = self.rules() else { return false };
        let slot = self.word.unwrap_or(observed.switch).slot();
        let tables = switch::restore(observed, &Target::new(&rules.kernel, BTreeMap::new()), slot);
        !tables.is_empty() || self.word.is_some_and(|word| word != observed.switch)
    }

    /// Time goes on after the answer path was broken: what would lapse at once is extended by its grace (F1).
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn resume(&mut self, last_beat: BootTime, now: BootTime) -> Result<(), EndpointError> {
        if !self.bindings.resume(last_beat, now) {
            return Ok(());
        }
        self.repair(now)?;
        self.compact(true)
    }

    /// Makes the kernel hold what it should of names, without a look at flows.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub(super) fn repair(&mut self, now: BootTime) -> Result<(), EndpointError> {
        let observed = self.store.observe()?;
        let in_use = self.store.flows()?.iter().map(|(_, flow)| flow.admitted_id).collect();
        self.align(&observed, &in_use, now).map(drop)
    }

    /// Writes the difference between what the kernel holds and what it should. Returns whether ids were forgotten.
    fn align(
        &mut self,
        observed: &Observed,
        in_use: &BTreeSet<u32>,
        now: BootTime,
    ) -> Result<bool, EndpointError> {
        let Some(rules) = self.rules().cloned() else { return Ok(false) };
        let desired = self.desired(&rules, now)?;
        // Also what an address referred to until now: a flow may just have begun under it.
        let mut referred: BTreeSet<u32> = desired.allow.values().map(|entry| entry.admitted_id).collect();
        referred.extend(observed.allow.values().map(|allow| allow.admitted_id));
        referred.extend(in_use);
        let retired = self.grants.retire(&referred);
        let slot = self.word.unwrap_or(observed.switch).slot();
        self.drift_repairs += drift(&desired, observed, slot, now);
        self.restore_tables(observed, &rules.kernel, slot)?;
        for (id, classes) in desired.admitted.iter().filter(|(id, _)| referred.contains(id)) {
            if observed.admitted.get(id).map(|admitted| admitted.classes[slot]) != Some(*classes) {
                self.store.write(&MapWrite::Admitted(*id, Admitted { classes: [*classes; RULE_SETS] }))?;
            }
        }
        for (address, entry) in &desired.allow {
            let known = observed.allow.get(address);
            let same = |known: &Allow| {
                known.admitted_id == entry.admitted_id && known.expires_at == entry.expires_at.0
            };
            if !known.is_some_and(same) {
                self.store.write(&allow(*address, entry, known))?;
            }
        }
        for address in observed.allow.keys().filter(|address| !desired.allow.contains_key(*address)) {
            self.store.write(&MapWrite::ForgetAllow(*address))?;
        }
        for id in observed.admitted.keys().filter(|id| !referred.contains(id)) {
            self.store.write(&MapWrite::ForgetAdmitted(*id))?;
        }
        Ok(!retired.is_empty())
    }

    /// What the kernel should hold of names. Sets of names that are new since one lapsed are on file before the kernel
    /// refers to them: after a restart, flows under them go on.
    fn desired(&mut self, rules: &RuleSet, now: BootTime) -> Result<GrantTables, EndpointError> {
        let desired = self.grants.desired(rules, &self.bindings, now);
        self.note_ids()?;
        Ok(desired)
    }

    /// Writes rules and switch again where somebody else changed them.
    fn restore_tables(
        &mut self,
        observed: &Observed,
        rules: &KernelRules,
        slot: usize,
    ) -> Result<(), EndpointError> {
        let target = Target::new(rules, BTreeMap::new());
        for write in switch::restore(observed, &target, slot) {
            self.drift_repairs += 1;
            self.store.write(&write)?;
        }
        if let Some(word) = self.word.filter(|word| *word != observed.switch) {
            self.drift_repairs += 1;
            self.store.write(&MapWrite::Switch(word))?;
        }
        Ok(())
    }

    /// Writes the file anew when it is long, or when it would not say what was extended or forgotten.
    pub(super) fn compact(&mut self, changed: bool) -> Result<(), EndpointError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        if !changed && !journal.is_long() {
            return Ok(());
        }
        let sets = self.grants.sets().filter(|set| !set.names.is_empty()).map(Entry::Names);
        let entries: Vec<Entry> = sets.chain(self.bindings.iter().cloned().map(Entry::Binding)).collect();
        Ok(journal.rewrite(&entries)?)
    }
}

/// Entries of names that somebody else changed: classes that were not written so, addresses that are gone, that
/// nobody granted, or that last longer than granted. Ids of an address change with time.
fn drift(desired: &GrantTables, observed: &Observed, slot: usize, now: BootTime) -> u64 {
    let classes = desired.admitted.iter().filter(|(id, classes)| {
        observed.admitted.get(id).is_some_and(|admitted| admitted.classes[slot] != **classes)
    });
    let lost = desired.allow.keys().filter(|address| !observed.allow.contains_key(*address));
    let invented = observed.allow.iter().filter(|(address, allow)| match desired.allow.get(*address) {
        Some(entry) => allow.expires_at > entry.expires_at.0,
        None => allow.expires_at > now.0,
    });
    (classes.count() + lost.count() + invented.count()) as u64
}

/// Whether a flow goes on (G4).
fn is_live(key: &FlowKey, flow: &Flow, now: BootTime) -> bool {
    let established = flow.state == FlowState::Established as u8;
    let limit = match key.protocol {
        6 if established => idle::TCP_ESTABLISHED,
        6 => idle::TCP_CLOSING,
        1 | 58 => idle::ICMP,
        _ if established => idle::UDP_ANSWERED,
        _ => idle::UDP_OPENING,
    };
    now.0.saturating_sub(flow.last_seen) < limit
}

/// When each address was last used; now, where an established flow goes there. TCP flows of cgroups do not say where they go:
/// they keep all addresses of their names.
fn last_uses(
    allowed: &BTreeMap<nameward_abi::Address, Allow>,
    live: &[(FlowKey, Flow)],
    now: BootTime,
) -> BTreeMap<IpAddr, BootTime> {
    let mut uses: BTreeMap<IpAddr, BootTime> = allowed
        .iter()
        .filter(|(_, allow)| allow.last_used != 0)
        .map(|(address, allow)| (ip(*address), BootTime(allow.last_used)))
        .collect();
    for (key, flow) in live.iter().filter(|(_, flow)| flow.admitted_id != 0) {
        let established = flow.state == FlowState::Established as u8;
        let used = if established { now } else { BootTime(flow.last_seen) };
        let anywhere = key.remote == [0; 16];
        let same = allowed.iter().filter(|(address, allow)| {
            **address == key.remote || (anywhere && allow.admitted_id == flow.admitted_id)
        });
        for (address, _) in same {
            let known = uses.entry(ip(*address)).or_default();
            *known = used.max(*known);
        }
    }
    uses
}
