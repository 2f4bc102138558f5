//! What the kernel should hold of names: f(rules, bindings, now), and the way there as data.
//!
//! Each distinct set of names that gave an address has an id, which flows keep. An id outlives changes of rules
//! and is never given to another set while anything refers to it; the set's port classes follow the rules. An
//! address's expiry is the latest of its names, whatever the rules: so a change of rules touches no address.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    Bindings, BootTime, Name, RuleSet,
    address::{Address, to_octets},
};

/// An entry of the kernel's table of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// The set of names. Never 0.
    pub admitted_id: u32,
    /// New connections are denied from here on.
    pub expires_at: BootTime,
}

/// What the kernel's two tables of names hold, or should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrantTables {
    /// By address.
    pub allow: BTreeMap<Address, AllowEntry>,
    /// Port classes, by id of a set of names.
    pub admitted: BTreeMap<u32, u64>,
}

/// One change of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set the classes of an id.
    Admit {
        /// The id.
        id: u32,
        /// Its port classes.
        classes: u64,
    },
    /// Set an address.
    Allow {
        /// The address.
        address: Address,
        /// Its entry.
        entry: AllowEntry,
    },
    /// Remove an address.
    Forget {
        /// The address.
        address: Address,
    },
    /// Remove an id. Nothing refers to it.
    Retire {
        /// The id.
        id: u32,
    },
}

/// The ids of sets of names of one endpoint. Kept on disk beside the bindings, as [`NameSet`]s.
#[derive(Clone, Debug)]
pub struct Grants {
    ids: BTreeMap<Arc<[Name]>, u32>,
    names: BTreeMap<u32, Arc<[Name]>>,
    /// Given out, and not stored yet.
    fresh: Vec<u32>,
    next: u32,
}

/// A set of names and its id, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSet {
    /// The id.
    pub id: u32,
    /// The names, sorted.
    pub names: Vec<Name>,
}

impl Default for Grants {
    fn default() -> Self {
        Self { ids: BTreeMap::new(), names: BTreeMap::new(), fresh: Vec::new(), next: 1 }
    }
}

impl Grants {
    /// Takes up what an earlier process had. `in_kernel`: ids that the kernel's tables and flows refer to; those whose
    /// names are not stored are never given out while they are named here.
    #[must_use]
    pub fn restore(stored: &[NameSet], in_kernel: &BTreeSet<u32>) -> Self {
        let mut grants = Self::default();
        for set in stored.iter().filter(|set| set.id != 0) {
            let mut names = set.names.clone();
            names.sort_unstable();
            names.dedup();
            let names: Arc<[Name]> = names.into();
            if !names.is_empty() && !grants.ids.contains_key(&names) && !grants.names.contains_key(&set.id) {
                grants.ids.insert(names.clone(), set.id);
                grants.names.insert(set.id, names);
            }
        }
        let nameless: Arc<[Name]> = Arc::new([]);
        for id in in_kernel.iter().filter(|id| **id != 0) {
            grants.names.entry(*id).or_insert_with(|| nameless.clone());
        }
        grants.next = grants.names.keys().next_back().map_or(1, |last| last.wrapping_add(1).max(1));
        grants
    }

    /// All sets, to be stored.
    pub fn sets(&self) -> impl Iterator<Item = NameSet> {
        self.names.iter().map(|(id, names)| NameSet { id: *id, names: names.to_vec() })
    }

    /// Sets that got their id since [`Grants::stored`]: to be stored before the kernel refers to them.
    pub fn fresh(&self) -> impl Iterator<Item = NameSet> {
        let names = self.fresh.iter().filter_map(|id| Some((*id, self.names.get(id)?)));
        names.map(|(id, names)| NameSet { id, names: names.to_vec() })
    }

    /// All sets are stored.
    pub fn stored(&mut self) {
        self.fresh.clear();
    }

    /// The names behind an id.
    #[must_use]
    pub fn names_of(&self, id: u32) -> Option<&[Name]> {
        self.names.get(&id).map(|names| &**names)
    }

    /// The classes that rules give to an id; 0 when its names are not known.
    #[must_use]
    pub fn classes_of(&self, rules: &RuleSet, id: u32) -> u64 {
        self.names_of(id).unwrap_or_default().iter().fold(0, |classes, name| classes | rules.classes_of(name))
    }

    /// What the kernel should hold. Addresses whose names have all lapsed stay until the bindings forget them, so that
    /// the kernel can say `expired`. Every id that is known is in `admitted`: flows may refer to it.
    pub fn desired(&mut self, rules: &RuleSet, bindings: &Bindings, now: BootTime) -> GrantTables {
        let mut allow = BTreeMap::new();
        for address in bindings.addresses() {
            if let Some(entry) = self.entry(bindings, address, now) {
                allow.insert(to_octets(address), entry);
            }
        }
        let admitted = self.names.keys().map(|id| (*id, self.classes_of(rules, *id))).collect();
        GrantTables { allow, admitted }
    }

    /// What the kernel should hold for one address. A new set of names gets an id.
    pub fn entry(
        &mut self,
        bindings: &Bindings,
        address: std::net::IpAddr,
        now: BootTime,
    ) -> Option<AllowEntry> {
        let expires_at = bindings.names_of(address).map(|(_, lease)| lease.kernel_expiry()).max()?;
        let any_live = now < expires_at;
        let names: Vec<Name> = bindings
            .names_of(address)
            .filter(|(_, lease)| lease.is_live(now) || !any_live)
            .map(|(binding, _)| binding.name.clone())
            .collect();
        Some(AllowEntry { admitted_id: self.id_of(names), expires_at })
    }

    /// Forgets ids that nothing refers to. `in_use`: those that `ALLOW` and the flows of the kernel refer to, read after
    /// the addresses were removed. Returns what was forgotten.
    pub fn retire(&mut self, in_use: &BTreeSet<u32>) -> Vec<u32> {
        let gone: Vec<u32> = self.names.keys().copied().filter(|id| !in_use.contains(id)).collect();
        for id in &gone {
            if let Some(names) = self.names.remove(id)
                && self.ids.get(&names) == Some(id)
            {
                self.ids.remove(&names);
            }
        }
        gone
    }

    fn id_of(&mut self, names: Vec<Name>) -> u32 {
        if let Some(id) = self.ids.get(&names[..]) {
            return *id;
        }
        // Ids go up and come round after four billion: what is named is passed by.
        while self.next == 0 || self.names.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let (id, names) = (self.next, Arc::<[Name]>::from(names));
        self.next = self.next.wrapping_add(1);
        self.ids.insert(names.clone(), id);
        self.names.insert(id, names);
        self.fresh.push(id);
        id
    }
}

/// The changes that make `observed` into `desired`, in an order in which each one is right by itself: an id has its
/// classes before an address refers to it, and goes after the last address that does.
#[must_use]
pub fn diff(desired: &GrantTables, observed: &GrantTables) -> Vec<Action> {
    let admit =
        changed(&desired.admitted, &observed.admitted).map(|(id, classes)| Action::Admit { id, classes });
    let allow =
        changed(&desired.allow, &observed.allow).map(|(address, entry)| Action::Allow { address, entry });
    let forget = extra(&desired.allow, &observed.allow).map(|address| Action::Forget { address });
    let retire = extra(&desired.admitted, &observed.admitted).map(|id| Action::Retire { id });
    admit.chain(allow).chain(forget).chain(retire).collect()
}

fn changed<K: Ord + Copy, V: PartialEq + Copy>(
    desired: &BTreeMap<K, V>,
    observed: &BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> {
    desired.iter().filter(|(key, value)| observed.get(key) != Some(value)).map(|(key, value)| (*key, *value))
}

fn extra<K: Ord + Copy, V>(desired: &BTreeMap<K, V>, observed: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    observed.keys().filter(|key| !desired.contains_key(key)).copied()
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
