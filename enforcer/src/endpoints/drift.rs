//! Whether somebody else changed what the kernel holds of names, found piece by piece.
//!
//! The tables of an endpoint with many names take tens of milliseconds to be read and judged, and no grant is made while
//! the endpoint is locked. So they are read without it, and judged in pieces, between which grants are made. What was read
//! may be older than what this process wrote since: what looks wrong is read again before anybody believes it.

use std::net::IpAddr;

use nameward_abi::{Address, Admitted, Allow};
use nameward_policy::BootTime;

use super::{Endpoint, EndpointError};
use crate::{
    decisions::ip,
    kernel::{KernelStore, Observed, address_bytes},
};

/// Entries that are judged before grants have their turn.
const PIECE: usize = 64;
/// Addresses up to which an endpoint is judged at one go.
const FEW: usize = 128;

/// What was read of an endpoint, and what this process had recorded by then.
#[derive(Debug)]
pub(crate) struct Look {
    allow: Vec<(Address, Allow)>,
    admitted: Vec<(u32, Admitted)>,
    /// Recorded, and not among what was read.
    missing: Vec<IpAddr>,
}

/// What is judged under one lock.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// Addresses that the kernel has.
    Allowed(&'a [(Address, Allow)]),
    /// Classes that the kernel has.
    Admitted(&'a [(u32, Admitted)]),
    /// Addresses that it should have.
    Missing(&'a [IpAddr]),
}

impl Look {
    /// `recorded` before the rest was read: what is granted meanwhile is in neither, or in what was read.
    pub(crate) fn new(recorded: Vec<IpAddr>, observed: Observed) -> Self {
        let absent = |address: &IpAddr| !observed.allow.contains_key(&address_bytes(*address));
        let missing = recorded.into_iter().filter(absent).collect();
        Self {
            allow: observed.allow.into_iter().collect(),
            admitted: observed.admitted.into_iter().collect(),
            missing,
        }
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let allowed = self.allow.chunks(PIECE).map(Piece::Allowed);
        let admitted = self.admitted.chunks(PIECE).map(Piece::Admitted);
        allowed.chain(admitted).chain(self.missing.chunks(PIECE).map(Piece::Missing))
    }
}

impl<S: KernelStore> Endpoint<S> {
    /// Whether judging it takes long enough to be done piece by piece.
    pub(crate) fn has_many(&self) -> bool {
        self.bindings.addresses().nth(FEW).is_some()
    }

    /// The addresses that names have given.
    pub(crate) fn recorded(&self) -> Vec<IpAddr> {
        self.bindings.addresses().collect()
    }

    /// Whether a piece holds something that this process did not write.
    ///
    /// # Errors
    /// [`EndpointError`] when the maps cannot be read.
    pub(crate) fn has_drifted_in(&self, piece: &Piece<'_>, now: BootTime) -> Result<bool, EndpointError> {
        match piece {
            Piece::Allowed(entries) => {
                for (address, allow) in
                    entries.iter().filter(|(address, allow)| self.lasts_too_long(*address, allow, now))
                {
                    let again = self.store.allowed(*address)?;
                    if again.is_some_and(|again| self.lasts_too_long(*address, &again, now)) {
                        tracing::debug!(address = %ip(*address), ?allow, "nobody granted this");
                        return Ok(true);
                    }
                }
            }
            Piece::Admitted(entries) => {
                for (id, _) in entries.iter().filter(|(id, admitted)| self.opens_others(*id, admitted)) {
                    if self.store.admitted(*id)?.is_some_and(|again| self.opens_others(*id, &again)) {
                        return Ok(true);
                    }
                }
            }
            Piece::Missing(addresses) => {
                for address in *addresses {
                    let recorded = self.bindings.names_of(*address).next().is_some();
                    if recorded && self.store.allowed(address_bytes(*address))?.is_none() {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn lasts_too_long(&self, address: Address, allow: &Allow, now: BootTime) -> bool {
        let granted = self.bindings.names_of(ip(address)).map(|(_, lease)| lease.kernel_expiry()).max();
        allow.expires_at > granted.unwrap_or(now).0
    }

    /// Other ports than the rules say of the names. Of names that are not known nothing can be said.
    fn opens_others(&self, id: u32, admitted: &Admitted) -> bool {
        let (Some(rules), Some(word)) = (self.rules(), self.word) else { return false };
        let known = self.grants.names_of(id).is_some();
        known && admitted.classes[word.slot()] != self.grants.classes_of(rules, id)
    }
}
