//! What a program knows of its endpoint while it judges one packet: configuration and time, each read once.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use nameward_abi::{Address, Config, OWN_ADDRESSES, Reason, Switch, flags};

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
    /// Socket cookie at cgroups; 0 at interfaces.
    pub cookie: u64,
    cgroup: u32,
    /// Zero, of which the verifier knows no bit: see `Packet::forget`.
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
        let zero = zero_of(config);
        let cgroup = mixed(u64::from(config.cgroup_id != 0), zero) as u32;
        Some(Self { switch, now, cookie, cgroup, zero })
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

    /// Makes the verifier forget which reasons are possible: what follows would be verified for each.
    #[inline(always)]
    pub fn forget(&self, reason: Reason) -> Reason {
        Reason::from_number(self.unknown(reason as u32) as u8).unwrap_or(Reason::Malformed)
    }

    /// The same number, unknown to the verifier.
    #[inline(always)]
    pub fn unknown(&self, number: u32) -> u32 {
        mixed(u64::from(number), self.zero) as u32
    }

    /// [`owns`](Self::owns) where few packets come: verified once.
    #[inline(always)]
    pub fn owns_rarely(&self, address: &Address) -> bool {
        nameward_owns(self, address) != 0
    }

    /// Whether the workload owns this address.
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        self.config().is_some_and(|config| is_own(config, address))
    }
}

/// Whether a grant has expired: by the clock, or by the last heartbeat if that is earlier (F1).
#[inline(always)]
pub fn has_expired(switch: Switch, now: u64, expires_at: u64) -> bool {
    if switch.has(flags::CLOSED) {
        return expires_at <= now;
    }
    HEARTBEAT.get(0).is_none_or(|beat| expires_at <= *beat && expires_at <= now)
}

/// Whether an address is one of the workload's.
#[inline(always)]
pub fn is_own(config: &Config, address: &Address) -> bool {
    let wanted = words(address);
    if wanted == [0, 0] {
        return false;
    }
    let mut index = 0;
    while index < OWN_ADDRESSES {
        if words(&config.own[index]) == wanted {
            return true;
        }
        index += 1;
    }
    false
}

/// See [`Endpoint::owns_rarely`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_owns(endpoint: *const Endpoint, address: *const Address) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), address.as_ref()) } {
        (Some(endpoint), Some(address)) => u64::from(endpoint.owns(address)),
        _ => 0,
    }
}

/// A zero that the verifier does not know. Programs without an endpoint use this.
#[inline(always)]
pub fn unknown_zero() -> u32 {
    CONFIG.get(0).map_or(0, zero_of)
}

/// `number`, where the compiler cannot see that it is: it would compare with what made it.
#[inline(always)]
pub fn mixed(number: u64, zero: u32) -> u64 {
    let mut number = number;
    // SAFETY: one instruction on registers.
    unsafe {
        asm!("{0} ^= {1}", inout(reg) number, in(reg) u64::from(zero), options(pure, nomem, nostack));
    }
    number
}

/// The verifier knows that an octet is small, and nothing of what is left when it is taken from zero.
#[inline(always)]
fn zero_of(config: &Config) -> u32 {
    // SAFETY: a pointer into the map's value; the octet is always zero.
    0u32.wrapping_sub(u32::from(unsafe { core::ptr::read_volatile(&raw const config._pad[0]) }))
}
