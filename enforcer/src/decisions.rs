//! What became of packets and of questions, told with names: one [`Decision`] for each event of the kernel, and for each
//! name that a resolver did not answer.
//!
//! [`Decisions`] is the only place where a decision comes into the world: the audit log, the counters and the stream
//! of it come from there, with one sequence number, in its order. It does not decide anything.

mod kept;
mod questions;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use nameward_abi::{Event, Reason};
pub use nameward_api::{
    Followed,
    types::{Decision, DecisionCounts, Direction, Staged, Verdict},
};
use nameward_daemon::audit::AuditCounts;
use nameward_policy::Reason as DnsReason;
use tokio::sync::broadcast;

use self::kept::Kept;
pub(crate) use self::questions::{DNS_REASONS, RESPONSE_CODES, Refusal};
use crate::audit::Audit;

/// Decisions that a slow reader may be behind before it loses some.
const BACKLOG: usize = 4_096;

/// Tells decisions to the log and to whoever listens.
#[derive(Debug)]
pub struct Decisions {
    listeners: broadcast::Sender<Arc<Followed>>,
    told: Mutex<Told>,
    epoch: u64,
    orphaned: AtomicU64,
    audit: OnceLock<Audit>,
}

/// What was told. Its lock is held from the number of a decision until it is on its way: followers take one that comes
/// behind a later one for one that they have seen.
#[derive(Debug, Default)]
struct Told {
    number: u64,
    denied: u64,
    kept: Kept,
    /// Questions by reason, in the order of [`DNS_REASONS`].
    refused: [u64; DNS_REASONS.len()],
    untold: u64,
}

impl Default for Decisions {
    fn default() -> Self {
        Self {
            listeners: broadcast::Sender::new(BACKLOG),
            told: Mutex::default(),
            epoch: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
            orphaned: AtomicU64::new(0),
            audit: OnceLock::new(),
        }
    }
}

/// What is known about an event beyond the packet.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) endpoint: Arc<str>,
    /// What people call it, where that is something else.
    pub(crate) workload: Option<Arc<str>>,
    pub(crate) name: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) staged: Option<Staged>,
}

/// Who asked a question.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) endpoint: Arc<str>,
    /// What people call it, where that is something else.
    pub(crate) workload: Option<Arc<str>>,
    /// Its first address; none where it has none of its own.
    pub(crate) address: Option<IpAddr>,
    /// Of its rules.
    pub(crate) generation: u32,
    /// What its Audit policies would make of the question.
    pub(crate) staged: Option<Staged>,
}

impl Decisions {
    /// Follows decisions from here on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Followed>> {
        self.listeners.subscribe()
    }

    /// The latest decisions, oldest first.
    pub fn recent(&self) -> Vec<Arc<Followed>> {
        self.told().kept.all()
    }

    /// When this process began to count, in milliseconds: numbers of another begin at 1, too.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts so far.
    pub fn counts(&self) -> DecisionCounts {
        let told = self.told();
        let orphaned = self.orphaned.load(Ordering::Relaxed);
        DecisionCounts { told: told.number, denied: told.denied, orphaned }
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
        self.pass_on(self.told(), |number| decision(number, event, at, context))
    }

    /// Makes a decision of a name that was not answered, and tells it.
    pub(crate) fn tell_refused(&self, refusal: Refusal, asker: Asker) -> Arc<Followed> {
        let mut told = self.told();
        let (reason, count) = refusal.counted();
        for (_, counter) in DNS_REASONS.iter().zip(&mut told.refused).filter(|(one, _)| **one == reason) {
            *counter += count;
        }
        self.pass_on(told, |number| refusal.decision(number, asker))
    }

    /// Counts questions of an endpoint that are not told one by one, and tells how many; none: of several.
    pub(crate) fn untold(&self, endpoint: Option<&Arc<str>>, count: u64) {
        if count == 0 {
            return;
        }
        self.told().untold += count;
        tracing::warn!(target: "audit", endpoint = endpoint.map(|uid| &**uid), count, "questions are not told one by one");
        if let Some(audit) = self.audit.get() {
            audit.record_untold(endpoint, count);
        }
    }

    /// Questions by reason, and those that are not told one by one.
    pub(crate) fn refused_counts(&self) -> (Vec<(DnsReason, u64)>, u64) {
        let told = self.told();
        (DNS_REASONS.into_iter().zip(told.refused).collect(), told.untold)
    }

    /// An endpoint was removed: its decisions are kept as long as there is room.
    pub(crate) fn removed(&self, endpoint: &str) {
        self.told().kept.remove(endpoint);
    }

    fn pass_on(&self, mut told: MutexGuard<'_, Told>, make: impl FnOnce(u64) -> Decision) -> Arc<Followed> {
        told.number += 1;
        let decision = Arc::new(Followed::from(make(told.number)));
        told.denied += u64::from(decision.is_denied());
        told.kept.keep(&decision);
        if let Some(audit) = self.audit.get() {
            audit.record(&decision);
        }
        if self.listeners.send(Arc::clone(&decision)).is_err() {
            tracing::trace!("nobody follows the decisions");
        }
        drop(told);
        log(&decision);
        decision
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event whose endpoint is gone.
    pub(crate) fn orphan(&self) {
        self.orphaned.fetch_add(1, Ordering::Relaxed);
    }
}

/// Names are data: they are written as quoted strings.
fn log(decision: &Decision) {
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
        query_type = decision.query_type.as_deref(),
        response_code = decision.response_code.as_deref(),
        policy = decision.policy.as_deref(),
        staged = decision.staged.as_ref().map(|staged| staged.verdict.word()),
        staged_reason = decision.staged.as_ref().map(|staged| &*staged.reason),
        packets = decision.packets,
        bytes = decision.bytes,
    );
}

fn decision(sequence: u64, event: &Event, at: Timestamp, context: Context) -> Decision {
    Decision {
        sequence,
        at,
        endpoint: context.endpoint,
        workload: context.workload,
        verdict: verdict(event.verdict),
        reason: Reason::from_number(event.reason).map_or("unknown", Reason::word).into(),
        direction: direction(event.direction),
        protocol: event.protocol,
        local: ip(event.local),
        local_port: u16::from_be_bytes(event.local_port),
        remote: ip(event.remote),
        remote_port: u16::from_be_bytes(event.remote_port),
        name: context.name,
        query_type: None,
        response_code: None,
        policy: context.policy,
        packets: event.packets,
        bytes: event.bytes,
        generation: event.generation,
        staged: context.staged,
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
    use nameward_feed::proto::RefusedName;

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
        Context {
            endpoint: "runner".into(),
            workload: None,
            name: name.map(str::to_owned),
            policy: None,
            staged: None,
        }
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

    /// A decision of this number.
    pub(super) fn numbered(sequence: u64, endpoint: &str) -> Arc<Followed> {
        let context = Context { endpoint: endpoint.into(), ..context(None) };
        Arc::new(Followed::from(decision(sequence, &event(), Timestamp::UNIX_EPOCH, context)))
    }

    fn refused(reason: &str, answered: bool) -> Option<Refusal> {
        Refusal::read(&RefusedName {
            name: "x.example".into(),
            record_type: 28,
            reason: reason.into(),
            policy: "EgressPolicy ci/a".into(),
            count: 3,
            answered,
            response_code: Some(3),
            ..RefusedName::default()
        })
    }

    fn asker() -> Asker {
        Asker { endpoint: "runner".into(), workload: None, address: None, generation: 4, staged: None }
    }

    // G5, R6
    #[test]
    fn names_that_are_not_answered_are_numbered_with_packets() {
        let decisions = Decisions::default();
        decisions.tell(&event(), Timestamp::UNIX_EPOCH, context(None));
        let tell = |refusal: Refusal| decisions.tell_refused(refusal, asker());
        let denied = tell(refused("filtered", false).unwrap());
        assert_eq!((denied.sequence, denied.verdict, &*denied.reason), (2, Verdict::Deny, "filtered"));
        assert_eq!((denied.name.as_deref(), denied.packets), (Some("x.example"), 3));
        assert_eq!((denied.query_type.as_deref(), denied.peer()), (Some("AAAA"), "question AAAA".into()));
        assert_eq!(denied.response_code.as_deref(), Some("NXDOMAIN"));
        assert_eq!(tell(refused("filtered", true).unwrap()).verdict, Verdict::WouldDeny);
        assert_eq!(decisions.counts(), DecisionCounts { told: 3, denied: 2, orphaned: 0 });
        assert_eq!(decisions.refused_counts().0[0], (DnsReason::Filtered, 6));
        assert_eq!((refused("no-match", false), refused("other", false)), (None, None));
        assert_eq!(DNS_REASONS.iter().filter(|one| refused(one.word(), false).is_some()).count(), 6);
        let silent = RefusedName { reason: "upstream".into(), ..RefusedName::default() };
        assert_eq!(tell(Refusal::read(&silent).unwrap()).response_code, None, "it was not said");
        let long = RefusedName { name: "x".repeat(513), reason: "filtered".into(), ..RefusedName::default() };
        assert_eq!(Refusal::read(&long), None, "no name is so long");
    }

    // Issue 8: a follower takes a number below the last for one that it has seen
    #[test]
    fn tellers_that_overtake_each_other_lose_nothing() {
        const EACH: u64 = 1_000;
        let decisions = Decisions::default();
        let mut followed = decisions.subscribe();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..EACH {
                    decisions.tell(&event(), Timestamp::UNIX_EPOCH, context(Some("a.example")));
                }
            });
            scope.spawn(|| {
                for _ in 0..EACH {
                    decisions.tell_refused(refused("filtered", false).unwrap(), asker());
                }
            });
        });
        let heard: Vec<u64> =
            std::iter::from_fn(|| followed.try_recv().ok()).map(|one| one.sequence).collect();
        assert_eq!(heard, (1..=2 * EACH).collect::<Vec<_>>());
    }

    #[test]
    fn unknown_verdicts_and_reasons_are_no_passes() {
        let odd = Event { verdict: 77, reason: 200, ..event() };
        let decision = decision(1, &odd, Timestamp::UNIX_EPOCH, context(None));
        assert!(decision.is_denied());
        assert_eq!(decision.reason, "unknown");
    }
}
