//! The kernel's tables of one rule set, as plain data, and what the kernel makes of them.
//!
//! [`KernelRules`] is what a compiled rule set writes; [`KernelRules::judge`] mirrors the kernel's lookups word by
//! word, for tests and explanations. It does not know flows, and not how a switch from one rule set to the next is
//! written.

use std::collections::BTreeMap;

use crate::{
    Reason,
    address::{Address, embedded_destination},
};

/// Port classes of a rule set: bits of a `u64`.
pub const MAX_CLASSES: usize = 64;
/// Prefixes of addresses. The kernel's trie holds those of two rule sets during a switch.
pub const MAX_CIDRS: usize = 4_096;
/// Prefixes of protocols and ports. The kernel's trie holds those of two rule sets during a switch.
pub const MAX_PORTS: usize = 2_048;

/// What the kernel does in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelMode {
    /// What no rule allows is denied.
    Enforce,
    /// What no rule allows passes and is reported (R6).
    Audit,
    /// What no rule denies passes (R1).
    NotIsolated,
}

/// Classes of a prefix of addresses. The longest match says everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CidrClasses {
    /// Allowed.
    pub allow: u64,
    /// Denied.
    pub deny: u64,
    /// Those of `allow` that come from `cluster` peers, and the mark of cluster ranges for `inbound: Cluster`.
    pub cluster: u64,
}

/// A prefix of (protocol, port): length 0 is everything, 8 a protocol, 24 one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPrefix {
    /// 0, or 8 to 24.
    pub bits: u32,
    /// IP protocol number; zero when `bits` is 0.
    pub protocol: u8,
    /// The first port.
    pub port: u16,
}

/// Everything a rule set puts into the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRules {
    /// What the kernel does in general.
    pub mode: KernelMode,
    /// By prefix length and address, host bits zero.
    pub cidrs: BTreeMap<(u32, Address), CidrClasses>,
    /// Classes by protocol and port.
    pub ports: BTreeMap<PortPrefix, u64>,
    /// Classes of rules that mean direct DNS to their blocks.
    pub direct_dns: u64,
}

/// What a grant says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Port classes of the names that gave it.
    pub classes: u64,
    /// Whether it has lapsed.
    pub expired: bool,
}

impl KernelRules {
    /// The classes that a protocol and port belong to.
    #[must_use]
    pub fn classes(&self, protocol: u8, port: u16) -> u64 {
        let ports = (8..=24).rev().map(|bits| PortPrefix { bits, protocol, port: keep_bits(port, bits) });
        let found = ports.chain([PortPrefix::default()]).find_map(|prefix| self.ports.get(&prefix));
        found.copied().unwrap_or(0)
    }

    /// What rules say of an address by itself.
    #[must_use]
    pub fn cidr(&self, address: Address) -> CidrClasses {
        let found = (0..=128).rev().find_map(|bits| self.cidrs.get(&(bits, truncate(address, bits))));
        found.copied().unwrap_or_default()
    }

    /// What becomes of a new flow.
    #[must_use]
    pub fn judge(&self, granted: Option<Granted>, remote: Address, protocol: u8, port: u16) -> Reason {
        let wanted = self.classes(protocol, port);
        let cidr = self.cidr(remote);
        let inner_deny = embedded_destination(remote).map_or(0, |inner| self.cidr(inner).deny);
        if (cidr.deny | inner_deny) & wanted != 0 {
            return Reason::DeniedCidr;
        }
        if self.mode == KernelMode::NotIsolated {
            return Reason::NotIsolated;
        }
        let (named, expired) = granted.map_or((0, false), |granted| (granted.classes, granted.expired));
        match () {
            () if named & wanted != 0 && !expired => Reason::Name,
            () if cidr.cluster & cidr.allow & wanted != 0 => Reason::Cluster,
            () if cidr.allow & wanted != 0 => Reason::Cidr,
            () if port == 853 && matches!(protocol, 6 | 17) => Reason::DnsElsewhere,
            () if named & wanted != 0 => Reason::Expired,
            () if cidr.allow != 0 || (named != 0 && !expired) => Reason::Port,
            () if matches!(protocol, 1 | 6 | 17 | 132) => Reason::NoMatch,
            () => Reason::Protocol,
        }
    }
}

/// The first `bits` bits of an address.
#[must_use]
pub fn truncate(address: Address, bits: u32) -> Address {
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (u128::from_be_bytes(address) & mask).to_be_bytes()
}

/// The port part of a prefix of 8 to 24 bits.
fn keep_bits(port: u16, bits: u32) -> u16 {
    let free = 24 - bits.clamp(8, 24);
    if free >= 16 { 0 } else { port >> free << free }
}
