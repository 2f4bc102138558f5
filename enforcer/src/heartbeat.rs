//! The heartbeat: what the kernel compares expiry with. It stands for the whole answer path, this process and a
//! resolver; while it stops, what is live stays and what has lapsed stays lapsed (SEMANTICS F1).

use std::{sync::Arc, time::Duration};

use crate::kernel::{BootNanos, Host};

/// Time between two beats.
pub const BEAT_EVERY: Duration = Duration::from_millis(100);

/// Whether the answer path is whole, and what has to be done before the first beat after it was not.
pub trait AnswerPath: Send + Sync {
    /// Whether the process and a resolver are alive.
    fn is_whole(&self) -> bool;

    /// Extends what would lapse at once, now that time goes on: nobody could have asked again since `last_beat`.
    fn resume(&self, last_beat: BootNanos, now: BootNanos);
}

/// The gate in front of one beat after another. Pure but for what it is given.
#[derive(Debug, Default)]
struct Gate {
    is_open: bool,
}

/// Beats while the answer path is whole. Never ends by itself.
pub async fn run(host: Arc<Host>, path: Arc<dyn AnswerPath>) {
    let mut gate = Gate::default();
    let mut tick = tokio::time::interval(BEAT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = host.follow_clock() {
            tracing::error!(%error, "the kernel's programs are not told of the clock");
        }
        let last = host.last_beat();
        let now = BootNanos::now();
        if gate.admits(&*path, last.as_ref().copied().unwrap_or_default(), now)
            && let Err(error) = host.beat(now)
        {
            tracing::error!(%error, "the heartbeat cannot be written: expiry is frozen");
        }
    }
}

impl Gate {
    fn admits(&mut self, path: &dyn AnswerPath, last_beat: BootNanos, now: BootNanos) -> bool {
        let whole = path.is_whole();
        if whole && !self.is_open {
            path.resume(last_beat, now);
        }
        if whole != self.is_open {
            tracing::info!(whole, "answer path");
        }
        self.is_open = whole;
        whole
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[derive(Default)]
    struct Path {
        whole: AtomicBool,
        resumed: Mutex<Vec<(u64, u64)>>,
    }

    impl AnswerPath for Path {
        fn is_whole(&self) -> bool {
            self.whole.load(Ordering::Relaxed)
        }

        fn resume(&self, last_beat: BootNanos, now: BootNanos) {
            self.resumed.lock().unwrap().push((last_beat.0, now.0));
        }
    }

    // F1
    #[test]
    fn what_lapsed_is_extended_before_the_first_beat_after_a_pause() {
        let (mut gate, path) = (Gate::default(), Path::default());
        assert!(!gate.admits(&path, BootNanos(1), BootNanos(2)));
        path.whole.store(true, Ordering::Relaxed);
        assert!(gate.admits(&path, BootNanos(1), BootNanos(3)));
        assert!(gate.admits(&path, BootNanos(3), BootNanos(4)));
        path.whole.store(false, Ordering::Relaxed);
        assert!(!gate.admits(&path, BootNanos(4), BootNanos(5)));
        path.whole.store(true, Ordering::Relaxed);
        assert!(gate.admits(&path, BootNanos(4), BootNanos(900)));
        assert_eq!(*path.resumed.lock().unwrap(), [(1, 3), (4, 900)]);
    }
}
