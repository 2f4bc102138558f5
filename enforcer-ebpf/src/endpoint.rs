//! What a program knows of its endpoint while it judges one packet: configuration and time, each read once.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use nameward_abi::{Address, Config, OWN_ADDRESSES, Reason, Switch, flags};

use crate::{
    maps::{CONFIG, HEARTBEAT},
    packet::words,
};

/// The endpoint, for one packet.
pub struct Endpoint {
    pub config: &'static Config,
    pub switch: Switch,
    /// CLOCK_BOOTTIME in nanoseconds.
    pub now: u64,
    /// What expiry is compared with: the clock, or the last heartbeat if that is earlier (F1).
    pub expiry_now: u64,
    /// Socket cookie at cgroups; 0 at interfaces.
    pub cookie: u64,
    /// Zero, read from memory: see `Packet::forget`.
    pub zero: u32,
}

impl Endpoint {
    /// `None` when the array of one has no entry, which cannot be.
    #[inline(always)]
    pub fn read(cookie: u64) -> Option<Self> {
        let config = CONFIG.get(0)?;
        // SAFETY: a pointer into the map's value; user space writes it while we read.
        let switch = Switch(unsafe { core::ptr::read_volatile(&raw const config.switch) });
        // SAFETY: takes nothing, returns a number.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        let expiry_now = if switch.has(flags::CLOSED) {
            now
        } else {
            let beat = *HEARTBEAT.get(0)?;
            if beat < now { beat } else { now }
        };
        // SAFETY: as above.
        let zero = u32::from(unsafe { core::ptr::read_volatile(&raw const config._pad[0]) });
        Some(Self { config, switch, now, expiry_now, cookie, zero })
    }

    /// The same reason, no longer known to the verifier; see `Packet::forget`.
    #[inline(always)]
    pub fn forget(&self, reason: Reason) -> Reason {
        Reason::from_number(reason as u8 | self.zero as u8).unwrap_or(Reason::Malformed)
    }

    /// Whether packets start at the IP header and flows are known by socket.
    #[inline(always)]
    pub fn is_cgroup(&self) -> bool {
        self.config.cgroup_id != 0
    }

    /// Whether the workload owns this address.
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        let wanted = words(address);
        if wanted == [0, 0] {
            return false;
        }
        let mut index = 0;
        while index < OWN_ADDRESSES {
            if words(&self.config.own[index]) == wanted {
                return true;
            }
            index += 1;
        }
        false
    }
}

/// A zero that the verifier does not know. Programs without an endpoint use this.
#[inline(always)]
pub fn unknown_zero() -> u32 {
    // SAFETY: a pointer into the map's value.
    CONFIG
        .get(0)
        .map_or(0, |config| u32::from(unsafe { core::ptr::read_volatile(&raw const config._pad[0]) }))
}
