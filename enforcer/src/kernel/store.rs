//! The maps of one endpoint as `grants` sees them: what stands there, and single writes.
//!
//! [`KernelStore`] has two forms: the kernel's maps, and [`MemoryStore`], in which every write can be made to fail.

use std::collections::BTreeMap;

use nameward_abi::{Address, Admitted, Allow, CidrRule, Flow, FlowKey, PortKey, PortRule, Switch};

use super::KernelError;

/// What the maps of an endpoint hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// `ALLOW`.
    pub allow: BTreeMap<Address, Allow>,
    /// `ADMITTED`.
    pub admitted: BTreeMap<u32, Admitted>,
    /// `CIDRS`, by prefix length (0-128) and address.
    pub cidrs: BTreeMap<(u32, Address), CidrRule>,
    /// `PORTS`, by prefix length (0, 8-24) and key.
    pub ports: BTreeMap<(u32, PortKey), PortRule>,
    /// The word of `CONFIG` that says which rule set counts.
    pub switch: Switch,
    /// Classes of direct DNS in `CONFIG`.
    pub direct_dns: [u64; 2],
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            allow: BTreeMap::new(),
            admitted: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            ports: BTreeMap::new(),
            switch: Switch(0),
            direct_dns: [0; 2],
        }
    }
}

/// One write to one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapWrite {
    /// `ALLOW`, new or replaced. The kernel's `last_used` stays when it is later.
    Allow(Address, Allow),
    /// `ALLOW`, removed.
    ForgetAllow(Address),
    /// `ADMITTED`, new or replaced.
    Admitted(u32, Admitted),
    /// `ADMITTED`, removed.
    ForgetAdmitted(u32),
    /// `CIDRS`, new or replaced.
    Cidr(u32, Address, CidrRule),
    /// `CIDRS`, removed.
    ForgetCidr(u32, Address),
    /// `PORTS`, new or replaced.
    Port(u32, PortKey, PortRule),
    /// `PORTS`, removed.
    ForgetPort(u32, PortKey),
    /// Classes of direct DNS, for one rule set.
    DirectDns(usize, u64),
    /// The word that changes what every other entry means.
    Switch(Switch),
    /// `FLOWS`, new or replaced: a connection that lives, whatever the kernel knew of it.
    KeepFlow(FlowKey, Flow),
    /// `FLOWS` or `FLEETING`, removed: a flow that has been idle too long.
    ForgetFlow(FlowKey),
}

/// The maps of one endpoint.
pub trait KernelStore: Send {
    /// Reads all maps but the flows.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    fn observe(&self) -> Result<Observed, KernelError>;

    /// Reads one address of `ALLOW`.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    fn allowed(&self, address: Address) -> Result<Option<Allow>, KernelError>;

    /// Reads one set of names of `ADMITTED`.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    fn admitted(&self, id: u32) -> Result<Option<Admitted>, KernelError>;

    /// Reads `FLOWS` and `FLEETING`.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, KernelError>;

    /// Does one write. Removing what is absent is no error.
    ///
    /// # Errors
    /// [`KernelError::Map`]; see [`KernelError::is_full`].
    fn write(&mut self, write: &MapWrite) -> Result<(), KernelError>;
}

/// A store in memory, for tests of order and faults.
#[derive(Debug, Default)]
pub struct MemoryStore {
    /// What it holds.
    pub observed: Observed,
    /// Flows it pretends to have.
    pub flows: BTreeMap<[u8; 40], (FlowKey, Flow)>,
    /// Every write that was done, in order.
    pub log: Vec<MapWrite>,
    /// Writes that succeed before all others fail; `None` = all succeed.
    pub fails_after: Option<usize>,
}

impl KernelStore for MemoryStore {
    fn observe(&self) -> Result<Observed, KernelError> {
        Ok(self.observed.clone())
    }

    fn allowed(&self, address: Address) -> Result<Option<Allow>, KernelError> {
        Ok(self.observed.allow.get(&address).copied())
    }

    fn admitted(&self, id: u32) -> Result<Option<Admitted>, KernelError> {
        Ok(self.observed.admitted.get(&id).copied())
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        Ok(self.flows.values().copied().collect())
    }

    fn write(&mut self, write: &MapWrite) -> Result<(), KernelError> {
        if self.fails_after.is_some_and(|limit| self.log.len() >= limit) {
            let full = std::io::Error::from_raw_os_error(libc::E2BIG);
            let source = aya::maps::MapError::SyscallError(aya::sys::SyscallError {
                call: "bpf_map_update_elem",
                io_error: full,
            });
            return Err(KernelError::Map { operation: "write to", map: nameward_abi::maps::ALLOW, source });
        }
        self.log.push(*write);
        let seen = &mut self.observed;
        match *write {
            MapWrite::Allow(address, allow) => drop(seen.allow.insert(address, allow)),
            MapWrite::ForgetAllow(address) => drop(seen.allow.remove(&address)),
            MapWrite::Admitted(id, admitted) => drop(seen.admitted.insert(id, admitted)),
            MapWrite::ForgetAdmitted(id) => drop(seen.admitted.remove(&id)),
            MapWrite::Cidr(length, address, rule) => drop(seen.cidrs.insert((length, address), rule)),
            MapWrite::ForgetCidr(length, address) => drop(seen.cidrs.remove(&(length, address))),
            MapWrite::Port(length, key, rule) => drop(seen.ports.insert((length, key), rule)),
            MapWrite::ForgetPort(length, key) => drop(seen.ports.remove(&(length, key))),
            MapWrite::DirectDns(slot, classes) => seen.direct_dns[slot & 1] = classes,
            MapWrite::Switch(switch) => seen.switch = switch,
            MapWrite::KeepFlow(key, flow) => {
                self.flows.retain(|_, (other, _)| *other != key);
                self.flows.insert(octets(&key), (key, flow));
            }
            MapWrite::ForgetFlow(key) => self.flows.retain(|_, (other, _)| *other != key),
        }
        Ok(())
    }
}

fn octets(key: &FlowKey) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..16].copy_from_slice(&key.local);
    bytes[16..32].copy_from_slice(&key.remote);
    bytes[32..34].copy_from_slice(&key.local_port);
    bytes[34..36].copy_from_slice(&key.remote_port);
    bytes[36] = key.protocol;
    bytes
}
