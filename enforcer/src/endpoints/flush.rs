//! Bindings that somebody takes back: new connections need a new answer, live ones go on (promise 3).
//!
//! It has two steps, because resolvers forget in between: [`Endpoint::begin_flush`] before they are told,
//! [`Endpoint::finish_flush`] when they have. An address that is granted in between belongs to an answer that leaves, and stays.

use std::{collections::BTreeSet, net::IpAddr};

use nameward_policy::{BootTime, Name};

use super::{Endpoint, EndpointError};
use crate::kernel::KernelStore;

/// What became of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlushedName {
    /// The name.
    pub name: Name,
    /// Addresses that new connections may not use under it any more.
    pub revoked: Vec<IpAddr>,
    /// Addresses that were granted anew meanwhile.
    pub renewed: Vec<IpAddr>,
}

impl<S: KernelStore> Endpoint<S> {
    /// Notes what is granted under these names from here on. Nothing is taken back yet.
    pub fn begin_flush(&mut self, names: &[Name]) {
        for name in names {
            let (open, _) = self.flushing.entry(name.clone()).or_default();
            *open += 1;
        }
    }

    /// Takes back what was granted under these names before the flush began.
    ///
    /// # Errors
    /// [`EndpointError`]: of the file, where the kernel has been written, and a restart would bring the names back; of the
    /// kernel, where upkeep tries again.
    pub fn finish_flush(&mut self, names: &[Name], now: BootTime) -> Result<Vec<FlushedName>, EndpointError> {
        let mut flushed = Vec::with_capacity(names.len());
        let mut addresses = BTreeSet::new();
        for name in names {
            let renewed = self.end_flush(name);
            let revoked = self.bindings.revoke(name, &renewed, now);
            addresses.extend(&revoked);
            let renewed = renewed.into_iter().collect();
            flushed.push(FlushedName { name: name.clone(), revoked, renewed });
        }
        let stored = self.compact(true);
        self.write_addresses(addresses, now)?;
        stored.map(|()| flushed)
    }

    /// Forgets the note, where no other flush needs it.
    pub fn end_flush(&mut self, name: &Name) -> BTreeSet<IpAddr> {
        let Some((open, renewed)) = self.flushing.get_mut(name) else { return BTreeSet::new() };
        *open -= 1;
        if *open > 0 {
            return renewed.clone();
        }
        self.flushing.remove(name).unwrap_or_default().1
    }
}

#[cfg(test)]
#[path = "flush_tests.rs"]
mod tests;
