//! Grants by name (Q9): for every workload whose rules allow the name, to all enforcers at once.
//!
//! A forwarder's cache gives an answer to workloads of any node, so the answer waits for all enforcers that are there: the
//! barrier. One that has not been heard for 2 s leaves it. Who comes, or comes back, is told first of everything that may
//! still be answered from memory, and is in the barrier from then on. Grants that come close together travel as one
//! message. Which workloads a name opens is each enforcer's own judgement.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nameward_feed::{
    DEAD_AFTER_MILLIS,
    proto::{Grant, Grants, from_resolver::Message},
};
use nameward_policy::{BootTime, KEPT_AFTER_TTL, LiveAnswer, LiveAnswers, Name};
use tokio::sync::{Notify, oneshot};

use super::{convert, enforcers::WAIT, gathering::Gathering, link::Link};
use crate::grants::{EVERYONE, GrantRequest, Granted, Refused};

/// Silence after which an enforcer is not waited for any more.
const DEAD_AFTER: Duration = Duration::from_millis(DEAD_AFTER_MILLIS);
/// Grants that come within this time after others travel together.
const GATHER: Duration = Duration::from_millis(2);
/// Octets of one message to who comes back, about.
const MESSAGE_OCTETS: usize = 256 << 10;

/// All enforcers, and what they were told for all workloads.
#[derive(Debug)]
pub(super) struct Everyone {
    state: Mutex<State>,
    changed: Notify,
    sequence: Arc<AtomicU64>,
    started: Instant,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<Arc<str>, Presence>,
    answers: LiveAnswers,
    /// Grants that have not left yet.
    batch: Vec<Grant>,
    /// Whether a task sees to it that they do.
    is_sending: bool,
}

#[derive(Debug)]
enum Presence {
    Here(Arc<Link>),
    /// Since it was last heard.
    Away(Instant),
}

/// What becomes of a grant.
enum Begun {
    Asked(Asked),
    /// An enforcer is away, and waited for until then.
    Missing(Instant),
}

/// A grant that was put on all links; who gives up waiting leaves nothing behind.
struct Asked {
    links: Vec<Arc<Link>>,
    sequence: u64,
    wait: oneshot::Receiver<Result<Granted, Refused>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.links.iter().for_each(|link| link.give_up(self.sequence));
    }
}

impl Everyone {
    /// Nobody yet; grants are numbered from `sequence`.
    pub(super) fn new(sequence: Arc<AtomicU64>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Notify::new());
        Arc::new(Self { state, changed, sequence, started: Instant::now() })
    }

    /// A node's enforcer is there from now on. What may be answered from somebody's memory is said to it before
    /// anything else.
    pub(super) fn join(&self, node: &Arc<str>, link: &Arc<Link>) {
        let mut state = self.state();
        for grants in self.known(&state.answers) {
            if let Err(stuck) = link.say(Message::Grants(grants)) {
                tracing::warn!(%node, error = %stuck, "not told of all names; the stream will begin anew");
                break;
            }
        }
        state.nodes.insert(Arc::clone(node), Presence::Here(Arc::clone(link)));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Who joins is not told of these names any more.
    pub(super) fn forget(&self, names: &[Name]) {
        let mut state = self.state();
        names.iter().for_each(|name| state.answers.forget(name));
    }

    /// The enforcer behind a link, last heard then, is away.
    pub(super) fn leave(&self, link: &Arc<Link>, heard: Instant) {
        for presence in self.state().nodes.values_mut() {
            if matches!(presence, Presence::Here(here) if Arc::ptr_eq(here, link)) {
                *presence = Presence::Away(heard);
            }
        }
    }

    /// Asks all, and waits until all that are there have acknowledged. The caller bounds the wait.
    pub(super) async fn grant(self: &Arc<Self>, request: &GrantRequest) -> Result<Granted, Refused> {
        let give_up = Instant::now() + WAIT;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.begin(request)? {
                Begun::Asked(mut asked) => match (&mut asked.wait).await.unwrap_or(Err(Refused::Absent)) {
                    // A stream that begins anew is waited for.
                    Err(Refused::Absent) if Instant::now() < give_up => {}
                    outcome => return outcome,
                },
                Begun::Missing(until) => {
                    let waited = tokio::time::timeout_at(give_up.min(until).into(), changed).await;
                    if waited.is_err() && Instant::now() >= give_up {
                        return Err(Refused::Absent);
                    }
                }
            }
        }
    }

    /// Puts a grant on all links at one go, so that who joins meanwhile is asked or told.
    fn begin(self: &Arc<Self>, request: &GrantRequest) -> Result<Begun, Refused> {
        let now = Instant::now();
        let mut state = self.state();
        state
            .nodes
            .retain(|_, presence| !matches!(presence, Presence::Away(heard) if now >= *heard + DEAD_AFTER));
        let away = |presence: &Presence| match presence {
            Presence::Away(heard) => Some(*heard + DEAD_AFTER),
            Presence::Here(_) => None,
        };
        if let Some(until) = state.nodes.values().filter_map(away).max() {
            return Ok(Begun::Missing(until));
        }
        let links = state.links();
        if links.is_empty() {
            return Err(Refused::Absent);
        }
        let name = Name::parse(&request.name).map_err(|_| Refused::NotAllowed)?;
        let chain = request.chain.iter().map(|alias| Box::from(&**alias));
        let recorded = state.answers.record(&name, chain, &request.addresses, self.time(now));
        recorded.map_err(|_| Refused::Limit("live names for all workloads".into()))?;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let shortest = request.addresses.iter().map(|(_, ttl)| *ttl).min().unwrap_or_default();
        // Who comes later finds it for so long: it may not be answered for longer, whatever the enforcers' graces.
        let (gathering, wait) = Gathering::new(links.len(), shortest.saturating_add(KEPT_AFTER_TTL));
        links.iter().for_each(|link| link.await_one_of(sequence, &gathering));
        state.batch.push(Grant { generation: 0, ..convert::grant(sequence, request) });
        if !std::mem::replace(&mut state.is_sending, true) {
            tokio::spawn(Arc::clone(self).send_all());
        }
        Ok(Begun::Asked(Asked { links, sequence, wait }))
    }

    /// Sends what there is, and what comes meanwhile together.
    async fn send_all(self: Arc<Self>) {
        while let Some((grants, links)) = self.take_batch() {
            for link in links {
                if let Err(stuck) = link.say(Message::Grants(Grants { grants: grants.clone() })) {
                    // Who waits for it gives up in time.
                    tracing::debug!(error = %stuck, grants = grants.len(), "grants do not reach an enforcer");
                }
            }
            tokio::time::sleep(GATHER).await;
        }
    }

    fn take_batch(&self) -> Option<(Vec<Grant>, Vec<Arc<Link>>)> {
        let mut state = self.state();
        if state.batch.is_empty() {
            state.is_sending = false;
            return None;
        }
        Some((std::mem::take(&mut state.batch), state.links()))
    }

    /// What is live, in messages that are not too long. Nobody waits for the acknowledgement.
    fn known(&self, answers: &LiveAnswers) -> Vec<Grants> {
        let (mut messages, mut octets) = (Vec::new(), MESSAGE_OCTETS);
        for answer in answers.live(self.time(Instant::now())) {
            if octets >= MESSAGE_OCTETS {
                messages.push(Grants::default());
                octets = 0;
            }
            let grant = self.again(&answer);
            octets += 128 + 32 * (grant.addresses.len() + grant.chain.len());
            if let Some(last) = messages.last_mut() {
                last.grants.push(grant);
            }
        }
        messages
    }

    fn again(&self, answer: &LiveAnswer<'_>) -> Grant {
        Grant {
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            endpoint: EVERYONE.into(),
            generation: 0,
            name: answer.name.as_str().into(),
            chain: answer.chain.iter().map(ToString::to_string).collect(),
            addresses: nameward_feed::addresses(&answer.addresses),
            // Each enforcer knows its rules' own.
            grace_millis: 0,
        }
    }

    fn time(&self, now: Instant) -> BootTime {
        BootTime(0).saturating_add(now.saturating_duration_since(self.started))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn links(&self) -> Vec<Arc<Link>> {
        let link = |presence: &Presence| match presence {
            Presence::Here(link) => Some(Arc::clone(link)),
            Presence::Away(_) => None,
        };
        self.nodes.values().filter_map(link).collect()
    }
}
