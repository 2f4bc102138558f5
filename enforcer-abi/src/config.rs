//! What a program knows about its endpoint: `CONFIG`, an array of one.
//!
//! User space writes the whole value; the kernel copies it word by word, so every aligned u64 is seen whole.
//! What must change at once is therefore packed into [`Config::switch`], which each packet reads once.

use crate::{Address, DnsRedirect};

/// Addresses that an endpoint may have.
pub const OWN_ADDRESSES: usize = 8;

/// In [`Config::on_link`]: the gateway of this family is not known.
pub const UNCHECKED: u8 = u8::MAX;

/// Configuration of an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A packed [`Switch`].
    pub switch: u64,
    /// Number of the endpoint in events.
    pub endpoint_id: u64,
    /// Cookie of the network namespace that sockets of a cgroup endpoint must have; 0 = any.
    pub netns_cookie: u64,
    /// cgroup v2 id of a cgroup endpoint (`name_to_handle_at`, the inode number); 0 for interfaces.
    pub cgroup_id: u64,
    /// Established flows admitted at most; more are denied `flows-full`.
    pub flow_limit: u64,
    /// Events a second that the endpoint may send, and the burst it may save up.
    pub events_per_second: u32,
    /// See `events_per_second`.
    pub events_burst: u32,
    /// Rejections (RST, ICMP errors) a second.
    pub rejects_per_second: u32,
    /// Level of the endpoint's cgroup below the root, for `bpf_sk_ancestor_cgroup_id`; 0 for interfaces.
    pub cgroup_level: u32,
    /// Interface index the programs are attached to; 0 for cgroups.
    pub ifindex: u32,
    /// MAC that frames to addresses beyond the link must carry; zero = not checked.
    pub gateway_mac: [u8; 6],
    /// Not zero: what reaches the workload is judged by [`crate::programs::POD_ARRIVAL`] on its side of the pair, and
    /// passes the host's side unjudged.
    pub arrivals: u8,
    /// Zero.
    pub _pad: [u8; 3],
    /// How many leading bits an address has in common with one of `own` when it is on the link, for IPv4 and for IPv6;
    /// 0 = none is, [`UNCHECKED`] = frames of this family may go anywhere. Counts where `gateway_mac` does.
    pub on_link: [u8; 2],
    /// The workload's own addresses; unused ones are all zero. Without any, every source is spoofed (interfaces).
    pub own: [Address; OWN_ADDRESSES],
    /// The DNS redirect.
    pub dns: DnsRedirect,
    /// Port classes of `ipBlock` entries of just port 53, by rule set: queries to those servers are not redirected.
    pub direct_dns: [u64; crate::RULE_SETS],
    /// Which object the attached programs are from, for user space; 0 while they are being replaced.
    pub object: u64,
}

/// The word that changes what every other entry means. Bits: 0 slot, 1-3 mode, 4-15 flags, 32-63 generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub u64);

/// What happens to packets in general.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Attached, no rules yet: everything but link housekeeping is denied `no-policy-yet`.
    NoPolicyYet = 0,
    /// What no rule allows is denied.
    Enforce = 1,
    /// What no rule allows passes, and is reported as what `Enforce` would have denied.
    Audit = 2,
    /// What no rule denies passes as `not-isolated`; denies and the DNS redirect count.
    NotIsolated = 3,
}

/// Flag bits of [`Switch`].
pub mod flags {
    /// `onDeny: Reject`.
    pub const REJECT: u64 = 1 << 4;
    /// `failurePolicy: Closed`: expiry is compared with the clock instead of the last heartbeat.
    pub const CLOSED: u64 = 1 << 5;
    /// `inbound: None`: connections from outside are denied.
    pub const INBOUND_NONE: u64 = 1 << 6;
    /// `inbound: Cluster`: connections from outside are admitted from addresses that a `cluster` CIDR covers.
    pub const INBOUND_CLUSTER: u64 = 1 << 7;
    /// Queries are not redirected and port 53 is judged like any other (`observe` of a DNS server, exemptions).
    pub const DNS_DIRECT: u64 = 1 << 8;
    /// The endpoint is a layer 3 interface (no Ethernet header).
    pub const LAYER3: u64 = 1 << 9;
    /// Rules have isolated the workload before: what lived then was adopted or cut, and is not asked for again. Kept
    /// here for the next process; programs do not read it.
    pub const ISOLATED_BEFORE: u64 = 1 << 10;
}

impl Switch {
    /// Packs a switch word.
    #[inline(always)]
    pub const fn new(slot: usize, mode: Mode, flags: u64, generation: u32) -> Self {
        Self((slot as u64 & 1) | ((mode as u64) << 1) | (flags & 0xfff0) | ((generation as u64) << 32))
    }

    /// Index into values that hold one entry per rule set: 0 or 1.
    #[inline(always)]
    pub const fn slot(self) -> usize {
        (self.0 & 1) as usize
    }

    /// The mode. A value that is not one reads as `NoPolicyYet`.
    #[inline(always)]
    pub const fn mode(self) -> Mode {
        match (self.0 >> 1) & 7 {
            1 => Mode::Enforce,
            2 => Mode::Audit,
            3 => Mode::NotIsolated,
            _ => Mode::NoPolicyYet,
        }
    }

    /// Whether a bit of [`flags`] is set.
    #[inline(always)]
    pub const fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Generation of the rules in force.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

crate::plain_data!(Config = 504);
