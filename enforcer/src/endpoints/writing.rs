//! Addresses that names have given, written to the file and to the kernel.

use std::{net::IpAddr, time::Duration};

use nameward_abi::{Admitted, Allow, RULE_SETS};
use nameward_policy::{AllowEntry, BootTime, Name};

use super::{Endpoint, EndpointError, journal::Entry};
use crate::kernel::{KernelStore, MapWrite, address_bytes};

impl<S: KernelStore> Endpoint<S> {
    /// Writes addresses of a name: first to the file, then what they mean, then the addresses themselves.
    pub(super) fn write_name(
        &mut self,
        name: &Name,
        addresses: &[(IpAddr, Duration)],
        now: BootTime,
    ) -> Result<(), EndpointError> {
        let addresses = || addresses.iter().map(|(address, _)| address.to_canonical());
        let entries = self.entries(addresses(), now);
        // Other addresses of the name are there already: a name may have a thousand.
        let binding = self.bindings.of(name).map(|binding| binding.of_addresses(addresses()));
        self.note(binding.map(Entry::Binding))?;
        self.write_entries(entries, now)
    }

    /// Writes what the bindings say of addresses.
    pub(super) fn write_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        now: BootTime,
    ) -> Result<(), EndpointError> {
        let entries = self.entries(addresses, now);
        self.note_ids()?;
        self.write_entries(entries, now)
    }

    /// What the bindings say of addresses.
    fn entries(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
        now: BootTime,
    ) -> Vec<(IpAddr, AllowEntry)> {
        let entry = |address| Some((address, self.grants.entry(&self.bindings, address, now)?));
        addresses.into_iter().filter_map(entry).collect()
    }

    fn write_entries(
        &mut self,
        entries: Vec<(IpAddr, AllowEntry)>,
        now: BootTime,
    ) -> Result<(), EndpointError> {
        for (address, entry) in entries {
            let classes = self.rules().map_or(0, |rules| self.grants.classes_of(rules, entry.admitted_id));
            let admitted = Admitted { classes: [classes; RULE_SETS] };
            let bytes = address_bytes(address);
            self.write_making_room(&MapWrite::Admitted(entry.admitted_id, admitted), now)?;
            self.write_making_room(&allow(bytes, &entry, None), now)?;
        }
        Ok(())
    }

    /// A write that may meet a full map: lapsed names are cleared away once.
    fn write_making_room(&mut self, write: &MapWrite, now: BootTime) -> Result<(), EndpointError> {
        match self.store.write(write) {
            Err(error) if error.is_full() => {
                self.repair(now)?;
                Ok(self.store.write(write)?)
            }
            other => Ok(other?),
        }
    }
}

pub(super) fn allow(address: nameward_abi::Address, entry: &AllowEntry, known: Option<&Allow>) -> MapWrite {
    let last_used = known.map_or(0, |known| known.last_used);
    let expires_at = entry.expires_at.0;
    MapWrite::Allow(address, Allow { expires_at, last_used, admitted_id: entry.admitted_id, _pad: 0 })
}
