//! What a program knows of its endpoint while it judges one packet: configuration and time, each read once.

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use nameward_abi::{Address, Config, OWN_ADDRESSES, Switch, flags};

use crate::{
    maps::{CONFIG, HEARTBEAT, SUSPENDED},
    packet::words,
};

/// The endpoint, for one packet. Handed to global functions as plain memory: no pointers, no padding.
#[repr(C)]
pub struct Endpoint {
    pub switch: Switch,
    /// CLOCK_BOOTTIME in nanoseconds, as of the last tick of the kernel's clock (1 to 10 ms ago at most): reading the
    /// clock itself costs as much as looking a flow up.
    pub now: u64,
    /// What expiry is compared with: the clock, or the last heartbeat if that is earlier (F1).
    pub expiry_now: u64,
    /// Socket cookie at cgroups; 0 at interfaces.
    pub cookie: u64,
    cgroup: u32,
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
        let now = unsafe { bpf_ktime_get_coarse_ns() } + *SUSPENDED.get(0)?;
        let expiry_now = if switch.has(flags::CLOSED) {
            now
        } else {
            let beat = *HEARTBEAT.get(0)?;
            if beat < now { beat } else { now }
        };
        // SAFETY: as above.
        let zero = u32::from(unsafe { core::ptr::read_volatile(&raw const config._pad[0]) });
        let cgroup = u32::from(config.cgroup_id != 0);
        Some(Self { switch, now, expiry_now, cookie, cgroup, zero })
    }

    /// Whether packets start at the IP header and flows are known by socket.
    #[inline(always)]
    pub fn is_cgroup(&self) -> bool {
        self.cgroup != 0
    }

    /// The configuration; never absent.
    #[inline(always)]
    pub fn config(&self) -> Option<&'static Config> {
        CONFIG.get(0)
    }

    /// Whether the workload owns this address.
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        let wanted = words(address);
        if wanted == [0, 0] {
            return false;
        }
        let Some(config) = self.config() else { return false };
        let mut index = 0;
        while index < OWN_ADDRESSES {
            if words(&config.own[index]) == wanted {
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
