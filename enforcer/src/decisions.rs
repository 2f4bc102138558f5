//! What became of packets, told with names: one [`Decision`] for each event of the kernel.
//!
//! [`Decisions::tell`] is the only way a decision comes into the world: the audit log, the counters and the stream
//! of it come from there, with one sequence number. It does not decide anything.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use nameward_abi::{Direction, Event, Reason, Verdict};
use serde::Serialize;
use tokio::sync::broadcast;

/// Decisions that a slow reader may be behind before it loses some.
const BACKLOG: usize = 4_096;

/// Decisions that are kept for those who ask afterwards.
const RECENT: usize = 1_000;

/// What became of a packet, or of several alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Counts up by one, over all endpoints of this process: a gap is a loss.
    pub sequence: u64,
    /// When the packet passed, by the wall clock.
    pub at: Timestamp,
    /// Identifier of the endpoint.
    pub endpoint: Arc<str>,
    /// `pass`, `deny`, or `would-deny` in audit mode.
    pub verdict: &'static str,
    /// A word of SEMANTICS G5.
    pub reason: &'static str,
    /// `egress` or `ingress`.
    pub direction: &'static str,
    /// IP protocol number.
    pub protocol: u8,
    /// The workload's address.
    pub local: IpAddr,
    /// Its port.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
    /// The last name that gave this address to this endpoint; none = never resolved.
    pub name: Option<String>,
    /// The policy and rule that took part, where one is known.
    pub policy: Option<String>,
    /// Packets this stands for.
    pub packets: u64,
    /// Their bytes, layer 3.
    pub bytes: u64,
    /// Generation of the rules that judged.
    pub generation: u32,
}

impl Decision {
    /// Whether the packet was dropped or rejected.
    pub fn is_denied(&self) -> bool {
        self.verdict == verdict_word(Verdict::Deny as u8)
    }

    /// The name, or that there never was one (SEMANTICS G8).
    pub fn name_or_unknown(&self) -> &str {
        self.name.as_deref().unwrap_or("never resolved")
    }
}

/// Counts of decisions since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DecisionCounts {
    /// Decisions told.
    pub told: u64,
    /// Those that denied.
    pub denied: u64,
    /// Events of endpoints that were removed before they were read.
    pub orphaned: u64,
}

/// Tells decisions to the log and to whoever listens.
#[derive(Debug)]
pub struct Decisions {
    listeners: broadcast::Sender<Arc<Decision>>,
    recent: Mutex<VecDeque<Arc<Decision>>>,
    told: AtomicU64,
    denied: AtomicU64,
    orphaned: AtomicU64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(BACKLOG),
            recent: Mutex::default(),
            told: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            orphaned: AtomicU64::new(0),
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
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Decision>> {
        self.listeners.subscribe()
    }

    /// The latest decisions, oldest first.
    pub fn recent(&self) -> Vec<Arc<Decision>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Counts so far.
    pub fn counts(&self) -> DecisionCounts {
        DecisionCounts {
            told: self.told.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
            orphaned: self.orphaned.load(Ordering::Relaxed),
        }
    }

    /// Makes a decision of an event and tells it.
    pub(crate) fn tell(&self, event: &Event, at: Timestamp, context: Context) -> Arc<Decision> {
        let sequence = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let decision = Arc::new(decision(sequence, event, at, context));
        if decision.is_denied() {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        tracing::info!(
            target: "audit",
            sequence = decision.sequence,
            at = %decision.at,
            endpoint = &*decision.endpoint,
            verdict = decision.verdict,
            reason = decision.reason,
            direction = decision.direction,
            protocol = decision.protocol,
            remote = %decision.remote,
            remote_port = decision.remote_port,
            name = decision.name_or_unknown(),
            policy = decision.policy,
            packets = decision.packets,
            bytes = decision.bytes,
        );
        self.keep(&decision);
        if self.listeners.send(Arc::clone(&decision)).is_err() {
            tracing::trace!("nobody follows the decisions");
        }
        decision
    }

    fn keep(&self, decision: &Arc<Decision>) {
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
        verdict: verdict_word(event.verdict),
        reason: Reason::from_number(event.reason).map_or("unknown", Reason::word),
        direction: if event.direction == Direction::Egress as u8 { "egress" } else { "ingress" },
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

const fn verdict_word(verdict: u8) -> &'static str {
    const PASS: u8 = Verdict::Pass as u8;
    const WOULD_DENY: u8 = Verdict::WouldDeny as u8;
    match verdict {
        PASS => "pass",
        WOULD_DENY => "would-deny",
        _ => "deny", // what the kernel may say one day is told as the worse
    }
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
            verdict: Verdict::Deny as u8,
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
        assert_eq!((first.sequence, first.reason, first.verdict), (1, "no-match", "deny"));
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
