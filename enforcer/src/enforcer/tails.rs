//! The end of what the kernel folds (G8): packets after the last event of their kind, of which no later packet tells.
//!
//! The kernel sends an event when a packet comes a second or more after the last one of its kind; when none comes, what
//! was folded meanwhile would stay untold. Kinds that were told of are remembered here until that second is over. There
//! are no more of them than the kernel's budget of events lets through in that time.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nameward_abi::{Event, FoldKey};

use super::{Enforcer, tasks::wall_clock};
use crate::kernel::BootNanos;

/// For so long the kernel folds after an event, and a little more: the clock is read at another time there.
const FOLDED: Duration = Duration::from_millis(1_050);

/// The last event of each kind that something may be folded behind.
#[derive(Debug, Default)]
pub(super) struct Tails(Mutex<HashMap<(u64, FoldKey), Event>>);

impl Tails {
    /// Packets like these may follow.
    pub(super) fn remember(&self, event: &Event) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((event.endpoint_id, key(event)), *event);
    }

    /// Those that no event can follow that counts what was folded behind them, oldest first; they are forgotten.
    fn take_over(&self, now: BootNanos) -> Vec<Event> {
        self.take(|event| now.since(BootNanos(event.at)) >= FOLDED)
    }

    fn take(&self, is_over: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut over: Vec<Event> =
            all.extract_if(|_, event| is_over(event)).map(|(_, event)| event).collect();
        over.sort_by_key(|event| event.at);
        over
    }
}

impl Enforcer {
    /// Tells what was folded behind events that are a second old.
    pub(super) fn tell_tails(&self) {
        let now = BootNanos::now();
        let _any = self.tell_folds(now, self.0.tails.take_over(now));
    }

    /// Tells what is folded now, when nobody sends any more and all events have been told. Whether there was any.
    pub fn tell_rest(&self) -> bool {
        self.tell_folds(BootNanos::now(), self.0.tails.take(|_| true))
    }

    fn tell_folds(&self, now: BootNanos, events: Vec<Event>) -> bool {
        let mut told = false;
        for event in events {
            // An endpoint that was removed took its folds with it.
            let Some(guarded) = self.by_number(event.endpoint_id) else { continue };
            let taken = guarded.lock().store_mut().take_fold(&key(&event), event.at);
            match taken {
                Ok(Some(fold)) => {
                    let tail = Event { at: now.0, packets: fold.packets, bytes: fold.bytes, ..event };
                    self.tell_of(&guarded, &tail, wall_clock(tail.at));
                    told = true;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(endpoint = &*guarded.config.uid, %error, "what was folded last stays untold");
                }
            }
        }
        told
    }
}

const fn key(event: &Event) -> FoldKey {
    FoldKey {
        remote: event.remote,
        remote_port: event.remote_port,
        protocol: event.protocol,
        reason: event.reason,
        _pad: [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(port: u8, at: u64) -> Event {
        Event { at, endpoint_id: 7, remote_port: [0, port], ..Event::default() }
    }

    fn second(number: u64) -> u64 {
        number * 1_000_000_000
    }

    // G8
    #[test]
    fn a_kind_is_over_when_its_last_event_is_a_second_old() {
        let tails = Tails::default();
        tails.remember(&event(1, second(10)));
        tails.remember(&event(2, second(9)));
        tails.remember(&event(1, second(11)));
        assert_eq!(tails.take_over(BootNanos(second(11))), [event(2, second(9))]);
        assert_eq!(tails.take_over(BootNanos(second(12))), []);
        assert_eq!(tails.take_over(BootNanos(second(13))), [event(1, second(11))]);
        assert_eq!(tails.take_over(BootNanos(second(20))), []);
    }
}
