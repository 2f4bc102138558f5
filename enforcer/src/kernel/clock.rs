//! CLOCK_BOOTTIME, the clock of everything in the maps: it goes on while the machine sleeps.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootNanos(pub u64);

impl BootNanos {
    /// Now.
    pub fn now() -> Self {
        Self(read(ClockId::CLOCK_BOOTTIME))
    }

    /// By how many nanoseconds this clock is ahead of CLOCK_MONOTONIC, which stands still while the machine is suspended.
    /// Known to some microseconds: the two are read one after the other.
    pub fn suspended() -> u64 {
        let monotonic = read(ClockId::CLOCK_MONOTONIC);
        read(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic)
    }

    /// Later by `duration`; stays at the end of time instead of overflowing.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier`; zero when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("this clock exists on every kernel that this program runs on");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
