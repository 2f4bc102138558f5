//! What may be reached: `ALLOW` and `ADMITTED` (names), `CIDRS`, `PORTS`.
//!
//! A port class is a bit. Entries hold one value per rule set, index 0 and 1; [`crate::Switch::slot`] says which
//! one counts, so that all of them change meaning with one write.

use crate::Port;

/// Rule sets an entry holds values for: the one in force and the one being written.
pub const RULE_SETS: usize = 2;
/// Port classes of a rule set; the compiler refuses more.
pub const PORT_CLASSES: usize = 64;

/// Value of `ALLOW`: which names gave this address, and until when.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Nanoseconds of CLOCK_BOOTTIME; new connections are denied from here on.
    pub expires_at: u64,
    /// Nanoseconds of CLOCK_BOOTTIME of the last packet to this address, written by the kernel, about once a second.
    pub last_used: u64,
    /// Key into `ADMITTED`. Never 0.
    pub admitted_id: u32,
    /// Zero.
    pub _pad: u32,
}

/// Value of `ADMITTED`: the port classes of one set of names, one value per rule set.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// Port classes by rule set; 0 allows nothing.
    pub classes: [u64; RULE_SETS],
}

/// Value of `CIDRS`. User space flattens nesting: the longest match already says everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CidrRule {
    /// Port classes that rules with `ipBlock` or `cluster` peers allow here, by rule set.
    pub allow: [u64; RULE_SETS],
    /// Port classes denied here, by rule set. Denies win over everything.
    pub deny: [u64; RULE_SETS],
    /// Port classes of `allow` that come from `cluster` peers, by rule set: only the reason differs.
    pub cluster: [u64; RULE_SETS],
}

/// Key data of `PORTS`, below the prefix length: a protocol and a port.
/// Prefix length 0 is every protocol, 8 every port of a protocol, 24 one port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// IP protocol number; ICMP echo and ICMPv6 echo are both 1.
    pub protocol: u8,
    /// Destination port; zero for protocols without ports.
    pub port: Port,
}

/// Value of `PORTS`: the classes that this protocol and port belong to. Flattened like `CIDRS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortRule {
    /// By rule set.
    pub classes: [u64; RULE_SETS],
}

crate::plain_data!(Allow = 24, Admitted = 16, CidrRule = 48, PortKey = 3, PortRule = 16);
