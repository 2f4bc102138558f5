//! Counters of the whole process, without names or addresses in them.

use std::sync::atomic::{AtomicU64, Ordering};

use nameward_daemon::metrics::{Family, Scrape};

macro_rules! counters {
    ($($name:ident $metric:literal $help:literal),* $(,)?) => {
        /// Counters since start.
        #[derive(Debug, Default)]
        pub struct Counters { $(#[doc = $help] pub $name: Counter),* }

        impl Counters {
            /// Names and values, in a fixed order.
            pub fn read(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.value())),*]
            }

            /// The same as metrics.
            pub(crate) fn scrape(&self, scrape: &mut Scrape) {
                for (family, (_, value)) in FAMILIES.iter().zip(self.read()) {
                    scrape.add(family, &[], value);
                }
            }
        }

        /// The counters as metrics, in the same order.
        pub static FAMILIES: &[&Family] = &[$(&Family::counter($metric, &[], $help)),*];
    };
}

impl Counters {
    /// A datagram that is too long for a query, and was not read.
    pub(crate) fn too_long(&self) {
        self.received.count();
        self.malformed.count();
    }
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
    received "nameward_resolver_messages"
        "Messages received",
    fast "nameward_resolver_remembered_answers"
        "Queries answered from an endpoint's own memory",
    cached "nameward_resolver_cached_answers"
        "Upstream answers found in the shared cache",
    forwarded "nameward_resolver_forwarded_queries"
        "Queries sent to an upstream",
    // N1, Q5
    malformed "nameward_resolver_malformed_messages"
        "Messages that are no query we take, answered or not",
    // Q1
    unknown_endpoint "nameward_resolver_stranger_queries"
        "Queries of nobody we know",
    filtered "nameward_resolver_filtered_queries"
        "Questions that policy answered",
    // A3
    private_address "nameward_resolver_private_answers"
        "Answers that lost private addresses",
    // Q8
    limit "nameward_resolver_limited_queries"
        "Questions over a limit",
    // R10
    looped "nameward_resolver_looped_queries"
        "Questions that came from ourselves",
    // A8
    upstream "nameward_resolver_upstream_failures"
        "Questions without an answer of an upstream",
    // G1
    grant_timeout "nameward_resolver_grant_timeouts"
        "Grants that were not acknowledged in time",
    grants "nameward_resolver_grants"
        "Grants asked for",
    // A9
    mismatched "nameward_resolver_mismatched_answers"
        "Upstream messages that answer nothing outstanding",
    // A1
    foreign_records "nameward_resolver_foreign_records"
        "Records of an answer that the question does not lead to",
    // A1
    bad_chains "nameward_resolver_bad_chains"
        "Chains that are too long or come back to themselves",
    // Q7
    truncated "nameward_resolver_truncated_answers"
        "Answers cut for UDP",
    // A8
    stale "nameward_resolver_stale_answers"
        "Answers given after their TTL, while upstream or enforcer were away",
    unsent "nameward_resolver_unsent_answers"
        "Answers that could not be sent",
}
