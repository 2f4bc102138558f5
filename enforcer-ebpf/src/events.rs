//! Counters and events of one packet. Counters are complete; events are folded: one a second for packets alike,
//! behind a token bucket, so that no endpoint fills the ring that all share.
//!
//! The bucket is not locked: CPUs that race may spend a token twice, which bounds nothing less.

use nameward_abi::{Direction, Event, Fold, FoldKey, Reason, Verdict};

use crate::{
    endpoint::Endpoint,
    maps::{EVENT_BUDGET, EVENTS, FOLDS, STATS},
    packet::Packet,
    verdict::begins_are_told,
};

const SECOND: u64 = 1_000_000_000;

/// Counts a packet, and tells of it where it matters.
#[inline(always)]
pub fn report(endpoint: &Endpoint, packet: &Packet, reason: Reason, verdict: Verdict, direction: Direction) {
    count(reason as u32, packet.length);
    let denied = !matches!(verdict, Verdict::Pass);
    if (denied && !packet.continues) || (packet.begins && begins_are_told(reason)) {
        let codes = reason as u32 | ((verdict as u32) << 8) | ((direction as u32) << 16);
        nameward_tell(endpoint, packet, codes);
    }
}

/// Counts a packet of `length` octets, IP header and all.
#[inline(always)]
pub fn count(reason: u32, length: u32) {
    if let Some(counter) = STATS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own value.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(length);
        }
    }
}

/// Folds the packet into those alike, and sends an event when a second has passed since the last.
/// A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_tell(endpoint: *const Endpoint, packet: *const Packet, codes: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref()) } {
        (Some(endpoint), Some(packet)) => tell(endpoint, packet, codes),
        _ => 0,
    }
}

#[inline(always)]
fn tell(endpoint: &Endpoint, packet: &Packet, codes: u32) -> u64 {
    let egress = codes >> 16 == Direction::Egress as u32;
    let key = FoldKey {
        remote: if egress { packet.destination } else { packet.source },
        remote_port: if egress { packet.destination_port } else { packet.source_port },
        protocol: packet.protocol,
        reason: codes as u8,
        _pad: [0; 4],
    };
    let known = FOLDS.get_ptr_mut(key);
    if let Some(fold) = known {
        // SAFETY: a live value; racing CPUs may lose a count of what is folded, never of STATS.
        let fold = unsafe { &mut *fold };
        fold.packets += 1;
        fold.bytes += u64::from(packet.length);
        if endpoint.now - fold.last_sent < SECOND {
            return 0;
        }
    }
    if !take_token(endpoint) {
        return 0;
    }
    // Only what is told gets a place: a flood of packets that are all different pushes nothing out, and writes nothing.
    let told = match known {
        Some(fold) => Some(fold),
        None => {
            let first = Fold { packets: 1, bytes: u64::from(packet.length), ..Fold::default() };
            let _ = FOLDS.insert(key, first, 0);
            FOLDS.get_ptr_mut(key)
        }
    };
    let (Some(fold), Some(config)) = (told, endpoint.config()) else { return 0 };
    // SAFETY: as above.
    let fold = unsafe { &mut *fold };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        lose();
        return 0;
    };
    entry.write(Event {
        at: endpoint.now,
        endpoint_id: config.endpoint_id,
        packets: fold.packets,
        bytes: fold.bytes,
        generation: endpoint.switch.generation(),
        admitted_id: packet.admitted_id,
        local: if egress { packet.source } else { packet.destination },
        remote: key.remote,
        local_port: if egress { packet.source_port } else { packet.destination_port },
        remote_port: key.remote_port,
        protocol: packet.protocol,
        reason: codes as u8,
        verdict: (codes >> 8) as u8,
        direction: (codes >> 16) as u8,
        ethertype: packet.ethertype,
        _pad: [0; 6],
    });
    entry.submit(0);
    fold.last_sent = endpoint.now;
    fold.packets = 0;
    fold.bytes = 0;
    1
}

fn lose() {
    if let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) {
        // SAFETY: a live value; see the head of this module for races.
        unsafe { (*budget).lost += 1 };
    }
}

#[inline(always)]
fn take_token(endpoint: &Endpoint) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: a live value; see the head of this module for races.
    let budget = unsafe { &mut *budget };
    let Some(config) = endpoint.config() else { return false };
    let rate = u64::from(config.events_per_second);
    let burst = u64::from(config.events_burst);
    let elapsed = endpoint.now - budget.refilled_at;
    if elapsed >= SECOND / 16 {
        let elapsed = if elapsed > 3_600 * SECOND { 3_600 * SECOND } else { elapsed };
        let filled = budget.tokens + elapsed / 1_000 * rate / 1_000_000;
        budget.tokens = if filled > burst { burst } else { filled };
        budget.refilled_at = endpoint.now;
    }
    if budget.tokens == 0 {
        budget.lost += 1;
        return false;
    }
    budget.tokens -= 1;
    true
}

/// Whether the sender of a denied packet may be told.
#[inline(always)]
pub fn take_reject(endpoint: &Endpoint) -> bool {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: a live value; see the head of this module for races.
    let budget = unsafe { &mut *budget };
    if endpoint.now - budget.rejects_since >= SECOND {
        budget.rejects_since = endpoint.now;
        budget.rejects = endpoint.config().map_or(0, |config| u64::from(config.rejects_per_second));
    }
    if budget.rejects == 0 {
        return false;
    }
    budget.rejects -= 1;
    true
}
