//! What became of packets, told with names: one [`Decision`] for each event of the kernel.
//!
//! [`Decisions::tell`] is the only way a decision comes into the world: the audit log, the counters and the stream
//! of it come from there, with one sequence number. It does not decide anything.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use nameward_abi::{Event, Reason};
pub use nameward_api::{
    Followed,
    types::{Decision, DecisionCounts, Direction, Verdict},
};
use nameward_daemon::audit::AuditCounts;
use tokio::sync::broadcast;

use crate::audit::Audit;

/// Decisions that a slow reader may be behind before it loses some.
const BACKLOG: usize = 4_096;

/// Decisions that are kept for those who ask afterwards, and for suggestions.
const RECENT: usize = 10_000;

/// Tells decisions to the log and to whoever listens.
#[derive(Debug)]
pub struct Decisions {
    listeners: broadcast::Sender<Arc<Followed>>,
    recent: Mutex<VecDeque<Arc<Followed>>>,
    epoch: u64,
    told: AtomicU64,
    denied: AtomicU64,
    orphaned: AtomicU64,
    audit: OnceLock<Audit>,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(BACKLOG),
            recent: Mutex::default(),
            epoch: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
            told: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            orphaned: AtomicU64::new(0),
            audit: OnceLock::new(),
        }
    }
}

/// What is known about an event beyond the packet.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) endpoint: Arc<str>,
    pub(crate) name: Option<String>,
    pub(crate) policy: Option<String>,
}

impl Decisions {
    /// Follows decisions from here on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Followed>> {
        self.listeners.subscribe()
    }

    /// The latest decisions, oldest first.
    pub fn recent(&self) -> Vec<Arc<Followed>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// When this process began to count, in milliseconds: numbers of another begin at 1, too.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts so far.
    pub fn counts(&self) -> DecisionCounts {
        DecisionCounts {
            told: self.told.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
            orphaned: self.orphaned.load(Ordering::Relaxed),
        }
    }

    /// Records every decision from here on, too. The first log stays.
    pub(crate) fn audit(&self, audit: Audit) {
        if self.audit.set(audit).is_err() {
            tracing::warn!("there is an audit log already");
        }
    }

    /// Records written and lost; none without a log.
    pub fn audit_counts(&self) -> Option<AuditCounts> {
        self.audit.get().map(|audit| audit.log.counts())
    }

    /// Makes a decision of an event and tells it.
    pub(crate) fn tell(&self, event: &Event, at: Timestamp, context: Context) -> Arc<Followed> {
        let sequence = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let decision = Arc::new(Followed::from(decision(sequence, event, at, context)));
        if decision.is_denied() {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(
            target: "audit",
            sequence = decision.sequence,
            at = %decision.at,
            endpoint = &*decision.endpoint,
            verdict = decision.verdict.word(),
            reason = &*decision.reason,
            direction = decision.direction.word(),
            protocol = decision.protocol,
            remote = %decision.remote,
            remote_port = decision.remote_port,
            name = decision.name_or_unknown(),
            policy = decision.policy.as_deref(),
            packets = decision.packets,
            bytes = decision.bytes,
        );
        if let Some(audit) = self.audit.get() {
            audit.record(&decision);
        }
        self.keep(&decision);
        if self.listeners.send(Arc::clone(&decision)).is_err() {
            tracing::trace!("nobody follows the decisions");
        }
        decision
    }

    fn keep(&self, decision: &Arc<Followed>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(decision));
    }

    /// Counts an event whose endpoint is gone.
    pub(crate) fn orphan(&self) {
        self.orphaned.fetch_add(1, Ordering::Relaxed);
    }
}

fn decision(sequence: u64, event: &Event, at: Timestamp, context: Context) -> Decision {
    Decision {
        sequence,
        at,
        endpoint: context.endpoint,
        verdict: verdict(event.verdict),
        reason: Reason::from_number(event.reason).map_or("unknown", Reason::word).into(),
        direction: direction(event.direction),
        protocol: event.protocol,
        local: ip(event.local),
        local_port: u16::from_be_bytes(event.local_port),
        remote: ip(event.remote),
        remote_port: u16::from_be_bytes(event.remote_port),
        name: context.name,
        policy: context.policy,
        packets: event.packets,
        bytes: event.bytes,
        generation: event.generation,
    }
}

const fn verdict(number: u8) -> Verdict {
    const PASS: u8 = nameward_abi::Verdict::Pass as u8;
    const WOULD_DENY: u8 = nameward_abi::Verdict::WouldDeny as u8;
    match number {
        PASS => Verdict::Pass,
        WOULD_DENY => Verdict::WouldDeny,
        _ => Verdict::Deny, // what the kernel may say one day is told as the worse
    }
}

const fn direction(number: u8) -> Direction {
    if number == nameward_abi::Direction::Egress as u8 { Direction::Egress } else { Direction::Ingress }
}

/// An address of the maps, in its usual form.
pub(crate) fn ip(address: nameward_abi::Address) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        Event {
            endpoint_id: 1,
            packets: 3,
            bytes: 180,
            remote: nameward_abi::mapped([203, 0, 113, 9]),
            remote_port: 443u16.to_be_bytes(),
            protocol: 6,
            reason: Reason::NoMatch as u8,
            verdict: nameward_abi::Verdict::Deny as u8,
            ..Event::default()
        }
    }

    fn context(name: Option<&str>) -> Context {
        Context { endpoint: "runner".into(), name: name.map(str::to_owned), policy: None }
    }

    // G8
    #[test]
    fn a_denial_is_told_with_its_last_name() {
        let decisions = Decisions::default();
        let mut followed = decisions.subscribe();
        decisions.tell(&event(), Timestamp::UNIX_EPOCH, context(Some("files.example.net")));
        decisions.tell(&event(), Timestamp::UNIX_EPOCH, context(None));
        let first = followed.try_recv().unwrap();
        assert_eq!((first.sequence, &*first.reason, first.verdict), (1, "no-match", Verdict::Deny));
        assert_eq!((first.remote.to_string().as_str(), first.remote_port), ("203.0.113.9", 443));
        assert_eq!(first.name_or_unknown(), "files.example.net");
        assert_eq!((first.packets, first.bytes), (3, 180));
        let second = followed.try_recv().unwrap();
        assert_eq!((second.sequence, second.name_or_unknown()), (2, "never resolved"));
        assert_eq!(decisions.counts(), DecisionCounts { told: 2, denied: 2, orphaned: 0 });
    }

    #[test]
    fn unknown_verdicts_and_reasons_are_no_passes() {
        let odd = Event { verdict: 77, reason: 200, ..event() };
        let decision = decision(1, &odd, Timestamp::UNIX_EPOCH, context(None));
        assert!(decision.is_denied());
        assert_eq!(decision.reason, "unknown");
    }
}
