//! Rules in, names in, kernel written: in an order that keeps the promises at every step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use nameward_abi::{Admitted, Mode, RULE_SETS, Switch, flags};
use nameward_api::filter::BindingFilter;
use nameward_policy::{
    Admission, Binding, Bindings, BootTime, Destination, Explanation, FailurePolicy, GrantTables, Grants,
    Inbound, KernelMode, LimitReached, Limits, LiveAnswer, Name, OnDeny, Pattern, QueryDecision, RuleSet,
    Settings, explain,
};
use thiserror::Error;

use super::{
    adopted::{self, AdoptedConnections},
    by_name::share,
    journal::{Entry, Journal},
    writing::allow,
};
use crate::{
    GrantRequest, Granted, Refused,
    grants::switch::{self, Target},
    kernel::{KernelError, KernelStore, MapWrite, Observed, address_bytes},
};

/// What can go wrong with one endpoint.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Programs, maps or links.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The file of names.
    #[error("cannot write the file of names; is there room on the disk?")]
    Journal(#[from] std::io::Error),
}

/// One workload.
#[derive(Debug)]
pub struct Endpoint<S> {
    pub(super) store: S,
    pub(super) bindings: Bindings,
    pub(super) grants: Grants,
    pub(super) journal: Option<Journal>,
    pub(super) drift_repairs: u64,
    rules: Option<Arc<RuleSet>>,
    generation: u32,
    /// The switch as this process wrote it last.
    pub(super) word: Option<Switch>,
    /// Flags of the switch that come from the interface, not from settings.
    link_flags: u64,
    /// Rules have isolated the workload at some time (R11).
    pub(super) isolated_before: bool,
    pub(super) adopted: AdoptedConnections,
    pub(super) unseen_answers: usize,
    /// Names that are being flushed: by how many, and what was granted under them meanwhile.
    pub(super) flushing: BTreeMap<Name, (usize, BTreeSet<IpAddr>)>,
}

impl<S: KernelStore> Endpoint<S> {
    /// Takes up an endpoint of which nothing is on file: names are forgotten with the process.
    ///
    /// # Errors
    /// [`EndpointError::Kernel`] when the maps cannot be read.
    pub fn open(store: S, limits: Limits) -> Result<Self, EndpointError> {
        Self::new(store, limits, None, &[], 0)
    }

    /// Takes up an endpoint: what the kernel holds, and what is on file about the names behind it.
    ///
    /// # Errors
    /// [`EndpointError::Kernel`] when the maps cannot be read.
    pub(crate) fn new(
        store: S,
        limits: Limits,
        journal: Option<Journal>,
        known: &[Entry],
        link_flags: u64,
    ) -> Result<Self, EndpointError> {
        let observed = store.observe()?;
        let mut in_kernel: BTreeSet<u32> = observed.admitted.keys().copied().collect();
        in_kernel.extend(observed.allow.values().map(|allow| allow.admitted_id));
        let flows = store.flows()?;
        in_kernel.extend(flows.iter().map(|(_, flow)| flow.admitted_id));
        let mut bindings = Bindings::new(limits);
        let mut sets = Vec::new();
        for entry in known {
            match entry {
                Entry::Binding(binding) => bindings.restore(binding),
                Entry::Names(set) => sets.push(set.clone()),
                Entry::Begin { .. } => {}
            }
        }
        let grants = Grants::restore(&sets, &in_kernel);
        let generation = observed.switch.generation();
        let isolates = observed.switch.mode() == Mode::Enforce;
        Ok(Self {
            store,
            bindings,
            grants,
            journal,
            drift_repairs: 0,
            rules: None,
            generation,
            word: None,
            link_flags,
            isolated_before: isolates || observed.switch.has(flags::ISOLATED_BEFORE),
            adopted: adopted::found(&flows),
            unseen_answers: 0,
            flushing: BTreeMap::new(),
        })
    }

    /// Generation of the rules in force; 0 before the first.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The generation that the next rules will have.
    pub fn next_generation(&self) -> u32 {
        self.generation.wrapping_add(1).max(1)
    }

    /// The rules in force, as far as this process knows them.
    pub fn rules(&self) -> Option<&Arc<RuleSet>> {
        self.rules.as_ref()
    }

    /// The names and addresses that are known, lapsed ones too.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.bindings.iter()
    }

    /// Those whose names and addresses pass a filter, by name. A single name or address is looked up, not searched for.
    pub fn bindings_like(&self, filter: &BindingFilter) -> Vec<&Binding> {
        let passes = |binding: &&Binding| {
            filter.passes_name(&binding.name)
                && (filter.address.is_none()
                    || binding.addresses.iter().any(|lease| filter.passes_address(lease.address)))
        };
        if let Some(Pattern::Exact(name)) = &filter.name {
            return self.bindings.of(name).into_iter().filter(passes).collect();
        }
        if let Some(address) = filter.single_address() {
            return self.bindings.names_of(address).map(|(binding, _)| binding).filter(passes).collect();
        }
        self.bindings.iter().filter(passes).collect()
    }

    /// The names behind an id of the kernel's; none when they are not known.
    pub fn names_of_id(&self, id: u32) -> &[Name] {
        self.grants.names_of(id).unwrap_or_default()
    }

    /// Whether something lapses after `now` and before `then`.
    pub fn lapses_before(&self, now: BootTime, then: BootTime) -> bool {
        self.bindings.next_expiry(now).is_some_and(|next| next < then)
    }

    /// The maps.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Live connections whose answers no program has seen, as of the last upkeep.
    pub(crate) fn unseen_answers(&self) -> usize {
        self.unseen_answers
    }

    /// The maps, for what is not this endpoint's business.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Repairs of map contents so far.
    pub fn drift_repairs(&self) -> u64 {
        self.drift_repairs
    }

    /// Puts rules into force, for new connections and, at their next packet, for live ones (R9, G10). What was asked
    /// before counts under them. When it fails, the old rules are in force as before.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn apply(&mut self, rules: Arc<RuleSet>, now: BootTime) -> Result<u32, EndpointError> {
        let generation = self.next_generation();
        self.bindings.set_limits(rules.settings.limits);
        let lost = self.bindings.retain(|name, address| may_keep(&rules, name, address));
        let mut observed = self.store.observe()?;
        let desired = self.grants.desired(&rules, &self.bindings, now);
        self.note_ids()?;
        self.admit_fresh_ids(&desired, &mut observed)?;
        let target = Target::new(&rules.kernel, desired.admitted);
        let isolated = self.isolated_before || rules.kernel.mode == KernelMode::Enforce;
        let once = if isolated { flags::ISOLATED_BEFORE } else { 0 };
        let bits = self.flags(&rules.settings) | once;
        let word = |slot| Switch::new(slot, mode(rules.kernel.mode), bits, generation);
        let plan = switch::plan(&observed, &target, word);
        for write in &plan.prepare {
            self.store.write(write)?;
        }
        for (address, entry) in &desired.allow {
            let known = observed.allow.get(address);
            if known.is_none_or(|known| known.admitted_id != entry.admitted_id) {
                self.store.write(&allow(*address, entry, known))?;
            }
        }
        self.store.write(&MapWrite::Switch(plan.switch))?;
        self.word = Some(plan.switch);
        self.generation = generation;
        self.isolated_before = isolated;
        self.rules = Some(rules);
        // No name gives these any more, while the ids that they refer to may be in use for other addresses.
        let lost = lost.into_iter().map(address_bytes).filter(|address| !desired.allow.contains_key(address));
        let lost: Vec<_> = lost.map(MapWrite::ForgetAllow).collect();
        for write in lost.iter().chain(&plan.clean) {
            if let Err(error) = self.store.write(write) {
                // The meaning of the rest does not depend on it; the next switch tries again.
                tracing::warn!(%error, "an old rule's entry stays in the kernel");
            }
        }
        Ok(generation)
    }

    /// Makes the addresses of an answer usable; when it returns, they are (G1).
    ///
    /// # Errors
    /// [`Refused`]; the answer must not leave.
    pub fn grant(&mut self, request: &GrantRequest, now: BootTime) -> Result<Granted, Refused> {
        let (name, chain) = self.admit(request)?;
        self.make_usable(&name, &chain, &request.addresses, self.grace(request), now)
    }

    /// The same for an answer that all workloads may get (Q9): what the rules in force allow of it. None where that is
    /// nothing, and before the first rules, which find it by [`learn`](Self::learn).
    ///
    /// # Errors
    /// [`Refused`]; the answer must not leave.
    pub fn grant_by_name(
        &mut self,
        request: &GrantRequest,
        now: BootTime,
    ) -> Result<Option<Granted>, Refused> {
        let not_allowed = |_| Refused::NotAllowed { name: request.name.clone() };
        let name = Name::parse(&request.name).map_err(not_allowed)?;
        let rules = self.rules.as_ref();
        let share = rules.and_then(|rules| share(rules, &name, &request.chain, &request.addresses));
        let Some(share) = share else { return Ok(None) };
        let chain = aliases(&request.chain);
        self.make_usable(&name, &chain, &share.addresses, share.grace, now).map(Some)
    }

    /// Records what `rules`, which come next, allow of answers that all workloads may get. What is over a limit is left
    /// out.
    ///
    /// # Errors
    /// [`EndpointError::Journal`].
    pub fn learn<'a>(
        &mut self,
        answers: impl Iterator<Item = LiveAnswer<'a>>,
        rules: &RuleSet,
        now: BootTime,
    ) -> Result<(), EndpointError> {
        self.bindings.set_limits(rules.settings.limits);
        let mut learned = Vec::new();
        for LiveAnswer { name, chain, addresses } in answers {
            let Some(share) = share(rules, name, chain, &addresses) else { continue };
            if self.knows(name, &share.addresses, now) {
                continue;
            }
            match self.bindings.record(name, &aliases(chain), &share.addresses, share.grace, now) {
                Ok(_) => learned.extend(self.bindings.of(name).cloned().map(Entry::Binding)),
                Err(error) => tracing::debug!(name = name.as_str(), %error, "not learned"),
            }
        }
        match &mut self.journal {
            Some(journal) => Ok(journal.append(&learned)?),
            None => Ok(()),
        }
    }

    /// Explains a new connection; none before the first rules.
    pub fn explain(
        &self,
        destination: &Destination,
        protocol: u8,
        port: u16,
        now: BootTime,
    ) -> Option<Explanation> {
        let rules = self.rules.as_ref()?;
        Some(explain(rules, &self.bindings, destination, protocol, port, now))
    }

    /// The name that last gave an address, be it lapsed (G8).
    pub fn last_name(&self, address: IpAddr) -> Option<&Name> {
        self.bindings
            .names_of(address)
            .max_by_key(|(binding, _)| binding.asked_at)
            .map(|(binding, _)| &binding.name)
    }

    /// Forgets the file of names; the endpoint is about to go.
    pub(crate) fn forget_journal(&mut self) {
        if let Some(journal) = self.journal.take()
            && let Err(error) = journal.remove()
        {
            tracing::warn!(%error, "a file of names of a removed endpoint stays");
        }
    }

    /// How long the addresses outlive their TTL. What is observed gets what rules that do not say would give (R11).
    fn grace(&self, request: &GrantRequest) -> Duration {
        let observed = |rules: &&Arc<RuleSet>| rules.kernel.mode == KernelMode::NotIsolated;
        let rules = self.rules.as_ref().filter(observed);
        rules.map_or(request.grace, |rules| request.grace.max(rules.settings.grace.of(None)))
    }

    /// Whether the addresses were granted under the name for as long already.
    fn knows(&self, name: &Name, addresses: &[(IpAddr, Duration)], now: BootTime) -> bool {
        let Some(binding) = self.bindings.of(name) else { return false };
        let lasts = |address: IpAddr, ttl| {
            binding.lease(address).is_some_and(|lease| lease.ttl_ends >= now.saturating_add(ttl))
        };
        addresses.iter().all(|(address, ttl)| lasts(*address, *ttl))
    }

    fn make_usable(
        &mut self,
        name: &Name,
        chain: &[Name],
        addresses: &[(IpAddr, Duration)],
        grace: Duration,
        now: BootTime,
    ) -> Result<Granted, Refused> {
        let first = self
            .bindings
            .record(name, chain, addresses, grace, now)
            .map_err(|reached| Refused::Limit { what: limit_word(reached) })?;
        if let Some((_, renewed)) = self.flushing.get_mut(name) {
            renewed.extend(addresses.iter().map(|(address, _)| address.to_canonical()));
        }
        let written = self.write_name(name, addresses, now);
        written.map_err(|error| Refused::Kernel { detail: chain_text(&error) })?;
        Ok(Granted { usable_for: first.since(now) })
    }

    fn admit(&self, request: &GrantRequest) -> Result<(Name, Vec<Name>), Refused> {
        let not_allowed = || Refused::NotAllowed { name: request.name.clone() };
        if request.generation != self.generation {
            return Err(Refused::StaleGeneration { asked: request.generation, current: self.generation });
        }
        let rules = self.rules.as_ref().ok_or_else(not_allowed)?;
        let name = Name::parse(&request.name).map_err(|_| not_allowed())?;
        // Where nothing is denied, a name without rules is kept for what is told of packets (R6, G8) and for rules to come
        // (R11): it opens no port.
        if rules.classes_of(&name) == 0 && rules.kernel.mode == KernelMode::Enforce {
            return Err(not_allowed());
        }
        Ok((name, aliases(&request.chain)))
    }

    /// Ids that the kernel does not know get what the old rules say of their names, so that addresses may refer to them
    /// before the switch.
    fn admit_fresh_ids(
        &mut self,
        desired: &GrantTables,
        observed: &mut Observed,
    ) -> Result<(), EndpointError> {
        for id in desired.admitted.keys() {
            if observed.admitted.contains_key(id) {
                continue;
            }
            let classes = self.rules.as_ref().map_or(0, |rules| self.grants.classes_of(rules, *id));
            let admitted = Admitted { classes: [classes; RULE_SETS] };
            self.store.write(&MapWrite::Admitted(*id, admitted))?;
            observed.admitted.insert(*id, admitted);
        }
        Ok(())
    }

    /// Puts ids that are new on file.
    pub(super) fn note_ids(&mut self) -> Result<(), EndpointError> {
        self.note(None)
    }

    /// Puts ids that are new on file, and what is said with them, in one write.
    pub(super) fn note(&mut self, said: Option<Entry>) -> Result<(), EndpointError> {
        if let Some(journal) = &mut self.journal {
            let lines: Vec<Entry> = self.grants.fresh().map(Entry::Names).chain(said).collect();
            journal.append(&lines)?;
        }
        self.grants.stored();
        Ok(())
    }

    fn flags(&self, settings: &Settings) -> u64 {
        let reject = match settings.on_deny {
            OnDeny::Reject => flags::REJECT,
            OnDeny::Drop => 0,
        };
        let closed = match settings.failure_policy {
            FailurePolicy::Static => 0,
            FailurePolicy::Closed => flags::CLOSED,
        };
        let inbound = match settings.inbound {
            Inbound::All => 0,
            Inbound::Cluster => flags::INBOUND_CLUSTER,
            Inbound::None => flags::INBOUND_NONE,
        };
        reject | closed | inbound | self.link_flags
    }
}

/// Whether an address may stay under a name (A3): what was recorded while nothing was denied, or under other rules, was
/// not asked this.
fn may_keep(rules: &RuleSet, name: &Name, address: IpAddr) -> bool {
    match rules.dns.decide(name) {
        QueryDecision::Allowed(rule) => rules.dns.admission(&rule, address) == Admission::Grant,
        QueryDecision::Unfiltered { .. }
        | QueryDecision::SearchExpansion
        | QueryDecision::Filtered { .. }
        | QueryDecision::Denied { .. } => true,
    }
}

const fn mode(mode: KernelMode) -> Mode {
    match mode {
        KernelMode::Enforce => Mode::Enforce,
        KernelMode::Audit => Mode::Audit,
        KernelMode::NotIsolated => Mode::NotIsolated,
    }
}

/// Aliases are for explanations: one that is no name is left out.
fn aliases(chain: &[impl AsRef<str>]) -> Vec<Name> {
    chain.iter().filter_map(|alias| Name::parse(alias.as_ref()).ok()).collect()
}

const fn limit_word(reached: LimitReached) -> &'static str {
    match reached {
        LimitReached::Names { .. } => "names",
        LimitReached::Addresses { .. } => "addresses",
        LimitReached::AddressesPerName { .. } => "addresses of one name",
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
