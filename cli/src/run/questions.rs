//! What became of DNS questions, from the resolver's tasks to the report, and to the API where there is one.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;
use nameward_policy::address::{AddressClass, judge};
use nameward_resolver::counters::Counters;
use nameward_resolver::decisions::{Decision, DecisionSink, Outcome, Reason};
use nameward_resolver::refused::RefusedNames;
use tokio::sync::{mpsc, watch};

use crate::report::{Fact, Subject, Verdict};

/// Facts that wait for the report; more are only counted.
const WAITING: usize = 4_096;

/// Takes decisions.
pub(super) struct Sink {
    facts: mpsc::Sender<Fact>,
    missed: Arc<AtomicU64>,
    bounded: Arc<AtomicU64>,
    own_addresses: watch::Receiver<Vec<IpNet>>,
    /// Who asks the API is told by these.
    refused: Option<Arc<RefusedNames>>,
}

/// Gives facts.
pub(super) struct Questions {
    facts: mpsc::Receiver<Fact>,
    missed: Arc<AtomicU64>,
    bounded: Arc<AtomicU64>,
}

/// Both ends. `own_addresses` are the host's; `refused`: where to keep what is not answered, too.
pub(super) fn channel(
    own_addresses: watch::Receiver<Vec<IpNet>>,
    refused: Option<Arc<RefusedNames>>,
) -> (Sink, Questions) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let (missed, bounded): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
    let (also_missed, also_bounded) = (Arc::clone(&missed), Arc::clone(&bounded));
    let sink = Sink { facts: sender, missed: also_missed, bounded: also_bounded, own_addresses, refused };
    (sink, Questions { facts: receiver, missed, bounded })
}

impl DecisionSink for Sink {
    fn decided(&self, decision: Decision) {
        if is_bounded(&decision) {
            self.bounded.fetch_add(1, Ordering::Relaxed);
        }
        let fact = fact(&decision, &self.own_addresses.borrow());
        if self.facts.try_send(fact).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(refused) = &self.refused {
            refused.decided(decision);
        }
    }
}

impl Questions {
    /// The next one. Waits for ever when there is no resolver any more.
    pub(super) async fn next(&mut self) -> Fact {
        match self.facts.recv().await {
            Some(fact) => fact,
            None => std::future::pending().await,
        }
    }

    /// How many the resolver has not told, by what it counted, or could not wait.
    pub(super) fn missed(&self, counters: &Counters) -> u64 {
        let counted = counters.limit.value() + counters.malformed.value();
        let untold = counted.saturating_sub(self.bounded.load(Ordering::Relaxed));
        untold + self.missed.load(Ordering::Relaxed)
    }
}

/// Of these the resolver tells one a second. (What is no query, or for what no host can be called, it never tells: N1.)
fn is_bounded(decision: &Decision) -> bool {
    matches!(decision.outcome, Outcome::Denied { reason: Reason::Limit, .. })
}

fn fact(decision: &Decision, own_addresses: &[IpNet]) -> Fact {
    let subject = Subject::Question { name: decision.name.to_string() };
    let (verdict, reason, policy) = match &decision.outcome {
        Outcome::Answered { would_filter: false, .. } => (Verdict::Pass, "name".to_owned(), None),
        Outcome::Answered { would_filter: true, .. } => (Verdict::WouldDeny, "filtered".to_owned(), None),
        Outcome::Denied { reason, detail } => (Verdict::Deny, reason.word().to_owned(), denier(detail)),
    };
    let unopenable = match &decision.outcome {
        Outcome::Denied { reason: Reason::PrivateAddress, detail } => unopenable(detail, own_addresses),
        Outcome::Denied { .. } | Outcome::Answered { .. } => None,
    };
    Fact { subject, verdict, reason, policy, unopenable }
}

/// One of the addresses that were removed from an answer, if none of them may be opened by a name (A3).
fn unopenable(removed: &str, own_addresses: &[IpNet]) -> Option<IpAddr> {
    let is_own = |address: &IpAddr| own_addresses.iter().any(|own| own.contains(address));
    let never = |address: &IpAddr| matches!(judge(*address), AddressClass::Never(_)) || is_own(address);
    let addresses: Vec<IpAddr> = removed.split(", ").filter_map(|text| text.parse().ok()).collect();
    addresses.first().copied().filter(|_| addresses.iter().all(never))
}

/// The policy that denies the name, where one does; what no rule allows is nobody's.
fn denier(detail: &str) -> Option<String> {
    detail.split_once(" is denied by ").map(|(_, policy)| policy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> watch::Receiver<Vec<IpNet>> {
        watch::Sender::new(vec!["192.168.1.5/32".parse().unwrap()]).subscribe()
    }

    fn decision(outcome: Outcome) -> Decision {
        let (endpoint, name) = ("sandbox".into(), "a.example".into());
        Decision { endpoint, name, record_type: 1, code: 0, policy: None, outcome }
    }

    // R6, X4
    #[tokio::test]
    async fn what_enforcement_would_filter_is_no_pass() {
        let (sink, mut questions) = channel(host(), None);
        sink.decided(decision(Outcome::Answered { addresses: vec![], would_filter: true }));
        sink.decided(decision(Outcome::Denied { reason: Reason::Filtered, detail: String::new() }));
        assert_eq!(questions.next().await.verdict, Verdict::WouldDeny);
        let denied = questions.next().await;
        assert_eq!(
            (denied.verdict, denied.reason.as_str(), denied.policy),
            (Verdict::Deny, "filtered", None)
        );
        let detail = "nameward: a.example is denied by EgressPolicy ci/job".to_owned();
        sink.decided(decision(Outcome::Denied { reason: Reason::Filtered, detail }));
        assert_eq!(questions.next().await.policy.as_deref(), Some("EgressPolicy ci/job"));
    }

    // A3, X4
    #[tokio::test]
    async fn what_no_name_may_open_is_told_from_what_is_private() {
        let (sink, mut questions) = channel(host(), None);
        for (removed, expected) in [
            ("192.168.1.6", None),
            ("192.168.1.5", Some("192.168.1.5")),
            ("127.0.0.1, 192.168.1.5", Some("127.0.0.1")),
            ("127.0.0.1, 192.168.1.6", None),
        ] {
            let detail = removed.to_owned();
            sink.decided(decision(Outcome::Denied { reason: Reason::PrivateAddress, detail }));
            let found = questions.next().await.unopenable.map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{removed}");
        }
    }

    // F3
    #[test]
    fn a_flood_of_questions_is_counted_not_kept() {
        let (sink, questions) = channel(host(), None);
        for _ in 0..=WAITING {
            sink.decided(decision(Outcome::Answered { addresses: vec![], would_filter: false }));
        }
        assert_eq!(questions.missed(&Counters::default()), 1);
    }

    // Q8, X4
    #[test]
    fn what_the_resolver_only_counts_is_missed() {
        let (sink, questions) = channel(host(), None);
        let counters = Counters::default();
        let denied = |reason| Outcome::Denied { reason, detail: String::new() };
        for _ in 0..5 {
            counters.limit.count();
        }
        sink.decided(decision(denied(Reason::Limit)));
        counters.malformed.count();
        sink.decided(decision(denied(Reason::Filtered)));
        assert_eq!(questions.missed(&counters), 5);
    }

    /// What is logged meanwhile.
    fn logged(work: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Buffer(Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = {
            let buffer = buffer.clone();
            move || buffer.clone()
        };
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, work);
        let bytes = buffer.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    // Issue 8: names are data, and a line for each name, not for each question
    #[test]
    fn the_resolvers_log_is_bounded_and_nothing_in_it_is_interpreted() {
        let names = RefusedNames::default();
        let hostile = "a\u{1b}]0;owned\u{7}\nb.example";
        let log = logged(|| {
            for _ in 0..5_000 {
                let outcome = Outcome::Denied { reason: Reason::Limit, detail: String::new() };
                names.decided(Decision { name: hostile.into(), ..decision(outcome) });
            }
            names.take(std::time::Instant::now()).log();
        });
        let lines: Vec<_> = log.lines().filter(|line| line.contains("owned")).collect();
        assert!(matches!(lines[..], [line] if line.contains("count=5000")), "{log:?}");
        assert!(!log.contains(['\u{1b}', '\u{7}']), "{log:?}");
    }
}
