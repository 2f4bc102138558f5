//! Counters of the whole process, without names or addresses in them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters since start.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Counter),* }

        impl Counters {
            /// Names and values, in a fixed order.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value())),*]
            }
        }
    };
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Adds some.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

counters! {
    /// Messages received.
    received,
    /// Queries answered from an endpoint's own memory.
    fast,
    /// Upstream answers found in the shared cache.
    cached,
    /// Queries sent to an upstream.
    forwarded,
    /// Messages that are no query we take, answered or not (N1, Q5).
    malformed,
    /// Queries of nobody we know (Q1).
    unknown_endpoint,
    /// Questions that policy answered.
    filtered,
    /// Answers that lost private addresses (A3).
    private_address,
    /// Questions over a limit (Q8).
    limit,
    /// Questions that came from ourselves (R10).
    looped,
    /// Questions without an answer of an upstream (A8).
    upstream,
    /// Grants that were not acknowledged in time (G1).
    grant_timeout,
    /// Grants asked for.
    grants,
    /// Upstream messages that answer nothing outstanding (A9).
    mismatched,
    /// Records of an answer that the question does not lead to (A1).
    foreign_records,
    /// Chains that are too long or come back to themselves (A1).
    bad_chains,
    /// Answers cut for UDP (Q7).
    truncated,
    /// Answers given after their TTL, while upstream or enforcer were away (A8).
    stale,
    /// Answers that could not be sent.
    unsent,
}
