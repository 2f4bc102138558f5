//! Which names gave which addresses to one endpoint, and until when (SEMANTICS A5-A7, Q8).
//!
//! Each address of a name has its own expiry; the latest answer only ever lengthens it. Lapsed bindings stay for a
//! while, so that denials can be told with the name, and go first when room is needed; what is live is never
//! evicted. It does not know rules: [`crate::Grants`] puts both together.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{BootTime, Few, Limits, Name};

/// How long a lapsed binding is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(3_600);

/// One name with its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The question name.
    pub name: Name,
    /// The aliases between the name and the addresses in the last answer.
    pub chain: Box<[Name]>,
    /// When it was last asked.
    pub asked_at: BootTime,
    /// How long addresses are kept after their TTL or last use.
    pub grace: Duration,
    /// The addresses, sorted. Most names have one.
    pub addresses: Few<Lease>,
}

/// One address of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The address; never v4-mapped.
    pub address: IpAddr,
    /// When the latest TTL ends; the beginning of time when it was revoked.
    pub ttl_ends: BootTime,
    /// New connections are denied from here on.
    pub expires_at: BootTime,
}

impl Lease {
    /// Whether the address may be used under the name.
    #[must_use]
    pub fn is_live(&self, now: BootTime) -> bool {
        now < self.expires_at
    }

    /// Whether it was taken back before its time: no use and no wait brings it back, only another answer.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.ttl_ends == BootTime::default()
    }

    /// Until when the kernel lets new connections through. What was revoked has ended also where the kernel's time stands
    /// still (F1).
    #[must_use]
    pub fn kernel_expiry(&self) -> BootTime {
        if self.is_revoked() { BootTime::default() } else { self.expires_at }
    }
}

/// Which limit an answer would exceed (Q8). Nothing of the answer was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// `limits.names`.
    #[error("the workload has {limit} live names already (limits.names)")]
    Names {
        /// The limit.
        limit: u32,
    },
    /// `limits.addresses`.
    #[error("the workload would have more than {limit} live addresses (limits.addresses)")]
    Addresses {
        /// The limit.
        limit: u32,
    },
    /// `limits.addressesPerName`.
    #[error("the name would have more than {limit} live addresses (limits.addressesPerName)")]
    AddressesPerName {
        /// The limit.
        limit: u32,
    },
}

/// The bindings of one endpoint. A host holds a million of them: each is one allocation beside its name.
#[derive(Clone, Debug)]
pub struct Bindings {
    limits: Limits,
    names: BTreeSet<ByName>,
    by_address: BTreeMap<IpAddr, Names>,
}

/// Names that gave an address, sorted. Most addresses have one.
type Names = Few<Name>;

/// A binding, found by its name.
#[derive(Clone, Debug)]
struct ByName(Box<Binding>);

impl Borrow<Name> for ByName {
    fn borrow(&self) -> &Name {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

impl Bindings {
    /// No bindings.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, names: BTreeSet::new(), by_address: BTreeMap::new() }
    }

    /// Other limits from now on. What is recorded stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Records an answer: all of it, or, at a limit, nothing. Returns when the first of the answer's addresses
    /// expires.
    ///
    /// # Errors
    /// [`LimitReached`].
    pub fn record(
        &mut self,
        name: &Name,
        chain: &[Name],
        addresses: &[(IpAddr, Duration)],
        grace: Duration,
        now: BootTime,
    ) -> Result<BootTime, LimitReached> {
        let addresses = latest(addresses, grace, now);
        if addresses.is_empty() {
            return Ok(now);
        }
        self.make_room(name, &addresses, now)?;
        let mut binding = self.take(name).unwrap_or_else(|| Box::new(Binding::new(name)));
        binding.chain = chain.into();
        binding.asked_at = now;
        binding.grace = grace;
        binding.add(addresses.values());
        let first = addresses
            .keys()
            .filter_map(|address| binding.lease(*address))
            .map(|lease| lease.expires_at)
            .min();
        for address in addresses.keys() {
            index(&mut self.by_address, *address, &binding.name);
        }
        self.names.insert(ByName(binding));
        Ok(first.unwrap_or(now))
    }

    /// Puts back what was stored, without a question about limits. Expiries only ever grow.
    pub fn restore(&mut self, stored: &Binding) {
        if stored.addresses.is_empty() {
            return;
        }
        let anew = || Box::new(Binding { addresses: Few::default(), ..stored.clone() });
        let mut binding = self.take(&stored.name).unwrap_or_else(anew);
        binding.add(&stored.addresses);
        for lease in &stored.addresses {
            index(&mut self.by_address, lease.address, &binding.name);
        }
        self.names.insert(ByName(binding));
    }

    /// An address was used, or has a live flow now (A5): it lapses no earlier than the grace after that. What had
    /// lapsed before it was used stays so. Returns whether anything changed.
    pub fn touch(&mut self, address: IpAddr, last_used: BootTime) -> bool {
        let address = address.to_canonical();
        let extended = |binding: &Binding, lease: &Lease| {
            let extended = last_used.max(lease.ttl_ends).saturating_add(binding.grace);
            let may_last = !binding.grace.is_zero() && !lease.is_revoked();
            (may_last && lease.is_live(last_used) && lease.expires_at < extended)
                .then(|| (binding.name.clone(), extended))
        };
        let longer: Vec<_> =
            self.names_of(address).filter_map(|(binding, lease)| extended(binding, lease)).collect();
        for (name, until) in &longer {
            let Some(mut binding) = self.take(name) else { continue };
            if let Some(lease) = binding.lease_mut(address) {
                lease.expires_at = *until;
            }
            self.names.insert(ByName(binding));
        }
        !longer.is_empty()
    }

    /// Takes the addresses of a name back at `now`, but for those in `stays`. They are remembered as lapsed. Returns those
    /// that counted until now.
    pub fn revoke(&mut self, name: &Name, stays: &BTreeSet<IpAddr>, now: BootTime) -> Vec<IpAddr> {
        let Some(mut binding) = self.take(name) else { return Vec::new() };
        let mut revoked = Vec::new();
        for lease in binding.addresses.iter_mut().filter(|lease| !stays.contains(&lease.address)) {
            if lease.is_live(now) {
                revoked.push(lease.address);
                lease.expires_at = now;
            }
            lease.ttl_ends = BootTime::default();
        }
        self.names.insert(ByName(binding));
        revoked
    }

    /// Expiry was frozen at `last_beat` and goes on at `now` (F1): what would have lapsed in between is live for its
    /// grace. Returns whether anything changed.
    pub fn resume(&mut self, last_beat: BootTime, now: BootTime) -> bool {
        let mut changed = false;
        let mut resume = |ByName(mut binding): ByName| {
            let until = now.saturating_add(binding.grace);
            for lease in binding.addresses.iter_mut() {
                let lapsed = lease.is_live(last_beat) && !lease.is_live(now) && !lease.is_revoked();
                if lapsed && lease.expires_at < until {
                    lease.expires_at = until;
                    changed = true;
                }
            }
            ByName(binding)
        };
        self.names = std::mem::take(&mut self.names).into_iter().map(&mut resume).collect();
        changed
    }

    /// Forgets what lapsed longer ago than [`REMEMBERED`].
    pub fn expire(&mut self, now: BootTime) {
        self.forget(|lease| now < lease.expires_at.saturating_add(REMEMBERED));
    }

    /// The next moment after `now` at which something lapses.
    #[must_use]
    pub fn next_expiry(&self, now: BootTime) -> Option<BootTime> {
        self.leases().map(|lease| lease.expires_at).filter(|at| *at > now).min()
    }

    /// The bindings that gave an address, lapsed ones too, by name.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = (&Binding, &Lease)> {
        let address = address.to_canonical();
        let names = self.by_address.get(&address).into_iter().flat_map(|names| names.iter());
        names.filter_map(move |name| {
            let binding = self.of(name)?;
            Some((binding, binding.lease(address)?))
        })
    }

    /// The binding of a name.
    #[must_use]
    pub fn of(&self, name: &Name) -> Option<&Binding> {
        self.names.get(name).map(|ByName(binding)| &**binding)
    }

    /// All bindings, lapsed ones too, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.names.iter().map(|ByName(binding)| &**binding)
    }

    /// All addresses, in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.iter().flat_map(|binding| &binding.addresses)
    }

    /// To be changed, and put back.
    fn take(&mut self, name: &Name) -> Option<Box<Binding>> {
        self.names.take(name).map(|ByName(binding)| binding)
    }

    /// Checks the limits; what has lapsed goes when they are reached.
    fn make_room(
        &mut self,
        name: &Name,
        addresses: &BTreeMap<IpAddr, Lease>,
        now: BootTime,
    ) -> Result<(), LimitReached> {
        let reached = self.over_limit(name, addresses);
        if reached.is_none() {
            return Ok(());
        }
        self.forget(|lease| lease.is_live(now));
        self.over_limit(name, addresses).map_or(Ok(()), Err)
    }

    fn over_limit(&self, name: &Name, addresses: &BTreeMap<IpAddr, Lease>) -> Option<LimitReached> {
        let Limits { names, addresses: all, addresses_per_name: each, .. } = self.limits;
        let over = |count: usize, limit: u32| count > limit as usize;
        let known = self.of(name);
        let fresh =
            addresses.keys().filter(|address| known.is_none_or(|known| known.lease(**address).is_none()));
        if over(known.map_or(0, |known| known.addresses.len()) + fresh.count(), each) {
            return Some(LimitReached::AddressesPerName { limit: each });
        }
        if over(self.names.len() + usize::from(known.is_none()), names) {
            return Some(LimitReached::Names { limit: names });
        }
        let fresh = addresses.keys().filter(|address| !self.by_address.contains_key(*address)).count();
        over(self.by_address.len() + fresh, all).then_some(LimitReached::Addresses { limit: all })
    }

    /// Forgets addresses that are not to be kept under their names. Returns those that some name has lost.
    pub fn retain(&mut self, keep: impl Fn(&Name, IpAddr) -> bool) -> BTreeSet<IpAddr> {
        self.forget_of(|name, lease| keep(name, lease.address))
    }

    fn forget(&mut self, keep: impl Fn(&Lease) -> bool) {
        self.forget_of(|_, lease| keep(lease));
    }

    fn forget_of(&mut self, keep: impl Fn(&Name, &Lease) -> bool) -> BTreeSet<IpAddr> {
        let of = |binding: &Binding| {
            let lost = binding.addresses.iter().filter(|lease| !keep(&binding.name, lease));
            lost.map(|lease| lease.address).collect::<Vec<_>>()
        };
        let gone: BTreeSet<IpAddr> = self.iter().flat_map(of).collect();
        if gone.is_empty() {
            return gone;
        }
        let kept = |ByName(mut binding): ByName| {
            let Binding { name, addresses, .. } = &mut *binding;
            addresses.retain(|lease| keep(name, lease));
            (!addresses.is_empty()).then_some(ByName(binding))
        };
        self.names = std::mem::take(&mut self.names).into_iter().filter_map(kept).collect();
        let Self { names, by_address, .. } = self;
        for address in &gone {
            if let Some(known) = by_address.get_mut(address) {
                known.retain(|name| {
                    names.get(name).is_some_and(|ByName(binding)| binding.lease(*address).is_some())
                });
                if known.is_empty() {
                    by_address.remove(address);
                }
            }
        }
        gone
    }
}

impl Binding {
    fn new(name: &Name) -> Self {
        Self {
            name: name.clone(),
            chain: Box::default(),
            asked_at: BootTime::default(),
            grace: Duration::ZERO,
            addresses: Few::default(),
        }
    }

    /// The same binding with these of its addresses alone.
    #[must_use]
    pub fn of_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let leases = addresses.into_iter().filter_map(|address| self.lease(address.to_canonical()).copied());
        Self { addresses: leases.collect(), chain: self.chain.clone(), name: self.name.clone(), ..*self }
    }

    /// The lease of an address.
    #[must_use]
    pub fn lease(&self, address: IpAddr) -> Option<&Lease> {
        let at = self.addresses.binary_search_by_key(&address, |lease| lease.address).ok()?;
        self.addresses.get(at)
    }

    fn lease_mut(&mut self, address: IpAddr) -> Option<&mut Lease> {
        let at = self.addresses.binary_search_by_key(&address, |lease| lease.address).ok()?;
        self.addresses.get_mut(at)
    }

    /// The latest wins (A6).
    fn add<'a>(&mut self, leases: impl IntoIterator<Item = &'a Lease>) {
        let mut all = self.addresses.take();
        let known = all.len();
        for new in leases {
            match all[..known].binary_search_by_key(&new.address, |lease| lease.address) {
                Ok(at) => {
                    all[at].ttl_ends = all[at].ttl_ends.max(new.ttl_ends);
                    all[at].expires_at = all[at].expires_at.max(new.expires_at);
                }
                Err(_) => all.push(*new),
            }
        }
        all.sort_unstable_by_key(|lease| lease.address);
        self.addresses = all.into();
    }
}

/// The leases that an answer gives; of an address named twice, the longer.
fn latest(addresses: &[(IpAddr, Duration)], grace: Duration, now: BootTime) -> BTreeMap<IpAddr, Lease> {
    let mut leases: BTreeMap<IpAddr, Lease> = BTreeMap::new();
    for (address, ttl) in addresses {
        let address = address.to_canonical();
        let ttl_ends = now.saturating_add(*ttl);
        let lease = Lease { address, ttl_ends, expires_at: ttl_ends.saturating_add(grace) };
        let known = leases.entry(address).or_insert(lease);
        if known.ttl_ends < ttl_ends {
            *known = lease;
        }
    }
    leases
}

fn index(by_address: &mut BTreeMap<IpAddr, Names>, address: IpAddr, name: &Name) {
    let names = by_address.entry(address).or_default();
    if let Err(at) = names.binary_search(name) {
        let mut all = names.take();
        all.insert(at, name.clone());
        *names = all.into();
    }
}

#[cfg(test)]
#[path = "bindings_tests.rs"]
mod tests;
