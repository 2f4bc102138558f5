//! Limits of one endpoint (Q8): queries a second, and questions that wait for an upstream or a grant.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters of one endpoint. They outlive changes of its rules.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    bucket: Mutex<Bucket>,
    pending: AtomicUsize,
    connections: AtomicUsize,
    told_at: Mutex<Option<Instant>>,
}

/// Between two words about one endpoint that is over its limits; all are counted.
const TELL_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Bucket {
    filled_at: Option<Instant>,
    tokens: f64,
}

/// A place among the waiting questions, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Limits>);

/// A place among the connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Connection(Arc<Limits>);

impl Limits {
    /// Takes one query of `a_second`; a second's worth may be saved up.
    pub(crate) fn take(&self, a_second: u32, now: Instant) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let full = f64::from(a_second);
        bucket.tokens = match bucket.filled_at {
            Some(at) => (bucket.tokens + now.saturating_duration_since(at).as_secs_f64() * full).min(full),
            None => full,
        };
        bucket.filled_at = Some(now);
        let taken = bucket.tokens >= 1.0;
        if taken {
            bucket.tokens -= 1.0;
        }
        taken
    }

    /// A place among `most` waiting questions.
    pub(crate) fn enter(self: &Arc<Self>, most: usize) -> Option<Place> {
        let place = Place(self.clone());
        (self.pending.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    /// Whether it shall be told that this endpoint is over a limit: a flood must not fill anybody's log.
    pub(crate) fn tell(&self, now: Instant) -> bool {
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
        if due {
            *told_at = Some(now);
        }
        due
    }

    /// A place among `most` connections.
    pub(crate) fn connect(self: &Arc<Self>, most: usize) -> Option<Connection> {
        let connection = Connection(self.clone());
        (self.connections.fetch_add(1, Ordering::Relaxed) < most).then_some(connection)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Q8
    #[test]
    fn queries_a_second_are_bounded_and_come_back() {
        let (limits, start) = (Limits::default(), Instant::now());
        assert_eq!((0..20).filter(|_| limits.take(10, start)).count(), 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| limits.take(10, later)).count(), 5);
    }

    // Q8
    #[test]
    fn places_are_given_back() {
        let limits = Arc::new(Limits::default());
        let places: Vec<_> = (0..3).map(|_| limits.enter(2)).collect();
        assert_eq!(places.iter().flatten().count(), 2);
        drop(places);
        assert!(limits.enter(2).is_some());
    }
}
