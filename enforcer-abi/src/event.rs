//! Counters and events. Counters are complete; events are folded and may be lost with a count (SEMANTICS G8).

use crate::{Address, Port};

/// Value of `STATS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes, layer 3.
    pub bytes: u64,
}

/// Key of `FOLDS`: packets that are told together.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FoldKey {
    /// The peer's address.
    pub remote: Address,
    /// The peer's port.
    pub remote_port: Port,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// Zero.
    pub _pad: [u8; 4],
}

/// Value of `FOLDS`: what has happened since the last event.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Nanoseconds of CLOCK_BOOTTIME of the last event; 0 = none yet.
    pub last_sent: u64,
    /// Packets since then.
    pub packets: u64,
    /// Bytes since then.
    pub bytes: u64,
}

/// A packet, or several alike, and what became of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Nanoseconds of CLOCK_BOOTTIME.
    pub at: u64,
    /// [`crate::Config::endpoint_id`].
    pub endpoint_id: u64,
    /// Packets this event stands for.
    pub packets: u64,
    /// Their bytes, layer 3.
    pub bytes: u64,
    /// Generation of the rules that judged.
    pub generation: u32,
    /// Key into `ADMITTED` where a name took part, else 0.
    pub admitted_id: u32,
    /// The workload's address (cgroups: as the packet had it).
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// The workload's port.
    pub local_port: Port,
    /// The peer's port.
    pub remote_port: Port,
    /// IP protocol number; 0 when the packet had none.
    pub protocol: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// A [`Verdict`].
    pub verdict: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// EtherType, network order, for what is not IP.
    pub ethertype: [u8; 2],
    /// Zero.
    pub _pad: [u8; 6],
}

/// What became of a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Passed.
    Pass = 0,
    /// Dropped or rejected.
    Deny = 1,
    /// Passed because of audit mode; `Enforce` would have denied it for this reason.
    WouldDeny = 2,
}

/// Which way a packet went, seen from the workload.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Sent by the workload.
    Egress = 0,
    /// Sent to the workload.
    Ingress = 1,
}

/// Value of `EVENT_BUDGET`: a token bucket and what it kept back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBudget {
    /// Nanoseconds of CLOCK_BOOTTIME of the last refill.
    pub refilled_at: u64,
    /// Events that may be sent now.
    pub tokens: u64,
    /// Events kept back since the endpoint began, by the bucket or a full ring.
    pub lost: u64,
    /// Rejections left in this second, and when that second began.
    pub rejects: u64,
    /// See `rejects`.
    pub rejects_since: u64,
    /// When `FLOWS` last had no room; new flows are denied `flows-full` for a second.
    pub flows_full_at: u64,
    /// When idle flows were last removed for want of room.
    pub swept_at: u64,
}

crate::plain_data!(Counter = 16, FoldKey = 24, Fold = 24, Event = 88, EventBudget = 56);
