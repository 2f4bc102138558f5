//! What an endpoint was granted already, so that only new and longer-lived grants travel (DESIGN, the feed).

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Granted names of one endpoint. Forgetting one costs a message, nothing else.
#[derive(Debug)]
pub(crate) struct GrantedNames {
    names: Mutex<Names>,
}

#[derive(Debug)]
struct Names {
    by_name: LruCache<Arc<str>, Vec<Grant>>,
    closed: bool,
}

/// TTLs are whole seconds: an answer from the cache may seem to last this much longer than what was granted.
const ROUNDING: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Grant {
    address: IpAddr,
    ttl_ends: Instant,
    usable_until: Instant,
}

impl GrantedNames {
    pub(crate) fn new(most: usize) -> Self {
        let most = NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Self { names: Mutex::new(Names { by_name: LruCache::new(most), closed: false }) }
    }

    /// Until when all of these are usable, when every one has been granted for at least its TTL from now, but for the
    /// rounding of TTLs to seconds.
    pub(crate) fn covers(
        &self,
        name: &str,
        addresses: &[(IpAddr, Duration)],
        now: Instant,
    ) -> Option<Instant> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let grants = names.by_name.get(name)?;
        let mut until = None;
        for (address, ttl) in addresses {
            let grant = grants.iter().find(|grant| grant.address == *address)?;
            if grant.ttl_ends + ROUNDING < now + *ttl || grant.usable_until <= now {
                return None;
            }
            until = Some(until.map_or(grant.usable_until, |until: Instant| until.min(grant.usable_until)));
        }
        until
    }

    /// What a snapshot says is granted; its TTLs have ended, as far as is known here.
    pub(crate) fn adopt(&self, name: &Arc<str>, addresses: &[(IpAddr, Duration)], now: Instant) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let grants = addresses.iter().map(|(address, usable)| Grant {
            address: *address,
            ttl_ends: now,
            usable_until: now + *usable,
        });
        names.by_name.put(name.clone(), grants.collect());
    }

    /// Until when an address is usable under this name, as far as is known here.
    pub(crate) fn usable_until(&self, name: &str, address: IpAddr, now: Instant) -> Option<Instant> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let grant = names.by_name.peek(name)?.iter().find(|grant| grant.address == address)?;
        (now < grant.usable_until).then_some(grant.usable_until)
    }

    /// Records what was acknowledged.
    pub(crate) fn record(
        &self,
        name: &Arc<str>,
        addresses: &[(IpAddr, Duration)],
        now: Instant,
        usable: Duration,
    ) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.closed {
            return;
        }
        let grants = names.by_name.get_or_insert_mut(name.clone(), Vec::new);
        grants
            .retain(|grant| grant.usable_until > now && !addresses.iter().any(|(a, _)| *a == grant.address));
        // A name has few addresses, and is one of many.
        grants.reserve_exact(addresses.len());
        grants.extend(addresses.iter().map(|(address, ttl)| Grant {
            address: *address,
            ttl_ends: now + *ttl,
            usable_until: now + usable,
        }));
    }

    /// Forgets everything, and records nothing more: what is acknowledged later was asked under rules that are gone.
    pub(crate) fn close(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.closed = true;
        names.by_name.clear();
    }
}
