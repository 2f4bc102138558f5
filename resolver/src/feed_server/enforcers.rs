//! Which enforcer answers for which endpoint, and the question for a grant sent to it.
//!
//! A node's name stands for one enforcer: its newest snapshot replaces all that the node announced before. While it
//! is away its endpoints stay, so that what was granted goes on being answered; grants are refused as `Absent`.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use nameward_feed::Identity;
use nameward_policy::Name;
use thiserror::Error;
use tokio::sync::Notify;

use super::{convert::Binding, everyone::Everyone, link::Link};
use crate::{
    endpoints::{EndpointView, Endpoints},
    grants::{EVERYONE, GrantRequest, Granted, Grantor, Refused, Scope},
};

/// An enforcer that begins its stream anew is back within this time; grants wait for it.
const BACK_WITHIN: Duration = Duration::from_millis(500);
/// How long one grant waits for that. Less than the caller's bound: what is granted already can still be answered.
pub(super) const WAIT: Duration = Duration::from_millis(200);

/// All enforcers that are or were connected. Cheap to share.
#[derive(Debug)]
pub struct Enforcers {
    pub(super) endpoints: Arc<Endpoints>,
    owners: Mutex<HashMap<Arc<str>, Owner>>,
    changed: Notify,
    everyone: Arc<Everyone>,
    /// Of grants on all streams: each number is one grant's.
    sequence: Arc<AtomicU64>,
}

/// Who announced an endpoint.
#[derive(Debug)]
struct Owner {
    node: Arc<str>,
    presence: Presence,
}

#[derive(Clone, Debug)]
enum Presence {
    Here(Arc<Link>),
    Away(Instant),
}

/// What an enforcer said between Hello and SnapshotEnd.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) views: HashMap<Arc<str>, EndpointView>,
    /// Endpoints that cannot be read: what is in force for them stays (F2).
    pub(super) unreadable: HashSet<Arc<str>>,
    pub(super) bindings: Vec<Binding>,
}

/// Two enforcers that claim the same: one workload's lookups would be the other's.
#[derive(Debug, Error)]
#[error(
    "endpoint {uid} of node {node} is already served for node {other}: give each enforcer a folder of its own with --feed"
)]
pub(super) struct Conflict {
    uid: Arc<str>,
    node: Arc<str>,
    other: Arc<str>,
}

impl Enforcers {
    /// Nobody yet; who connects fills `endpoints`.
    pub fn new(endpoints: Arc<Endpoints>) -> Self {
        let sequence = Arc::new(AtomicU64::new(1));
        let everyone = Everyone::new(Arc::clone(&sequence));
        Self { endpoints, owners: Mutex::default(), changed: Notify::new(), everyone, sequence }
    }

    /// Where the numbers of grants come from.
    pub(super) fn sequence(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sequence)
    }

    /// Replaces all that the node announced before. Nothing changes on a conflict.
    pub(super) fn announce(
        &self,
        node: &Arc<str>,
        link: &Arc<Link>,
        snapshot: Snapshot,
    ) -> Result<(), Conflict> {
        let mut owners = self.owners();
        self.conflict(&owners, node, snapshot.views.values())?;
        if self.endpoints.scope() == Scope::Name {
            // Before its workloads' names count: no answer to them leaves without it.
            self.everyone.join(node, link);
        }
        let (views, stays) = (&snapshot.views, &snapshot.unreadable);
        let gone: Vec<Arc<str>> = owners
            .iter()
            .filter(|(uid, owner)| owner.node == *node && !views.contains_key(*uid) && !stays.contains(*uid))
            .map(|(uid, _)| Arc::clone(uid))
            .collect();
        gone.iter().for_each(|uid| drop(owners.remove(uid)));
        let present =
            snapshot.views.keys().chain(stays.iter().filter(|uid| self.endpoints.get(uid).is_some()));
        for uid in present {
            owners.insert(Arc::clone(uid), Owner::new(node, link));
        }
        self.endpoints.update(snapshot.views.into_values(), &gone);
        drop(owners);
        self.adopt(&snapshot.bindings);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Adds or replaces one endpoint.
    pub(super) fn apply(
        &self,
        node: &Arc<str>,
        link: &Arc<Link>,
        view: EndpointView,
    ) -> Result<(), Conflict> {
        let mut owners = self.owners();
        self.conflict(&owners, node, [&view])?;
        owners.insert(Arc::clone(&view.uid), Owner::new(node, link));
        self.endpoints.apply(view);
        Ok(())
    }

    /// Forgets an endpoint of the node; returns the ports that only its queries arrived at.
    pub(super) fn remove(&self, node: &Arc<str>, uid: &str) -> Vec<u16> {
        let mut owners = self.owners();
        if owners.get(uid).is_none_or(|owner| owner.node != *node) {
            return Vec::new();
        }
        owners.remove(uid);
        let identity = self.endpoints.get(uid).map(|endpoint| endpoint.view.identity.clone());
        self.endpoints.remove(uid);
        let port = |identity| match identity {
            Identity::Port(port) => Some(port),
            Identity::Address(_) | Identity::Source(_) => None,
        };
        identity.into_iter().flatten().filter_map(port).collect()
    }

    /// Forgets what was remembered for older rules; when it returns, nothing of them is answered from memory.
    pub(super) fn revoke(&self, node: &Arc<str>, uid: &str, generation: u32) {
        if self.owners().get(uid).is_some_and(|owner| owner.node == *node) {
            self.endpoints.revoke(uid, generation);
        }
    }

    /// Forgets names of an endpoint of the node; when it returns, nothing of them is answered from memory.
    pub(super) fn forget(&self, node: &Arc<str>, uid: &str, names: &[Name]) {
        self.everyone.forget(names);
        if self.owners().get(uid).is_some_and(|owner| owner.node == *node) {
            self.endpoints.forget(uid);
        }
    }

    /// The enforcer behind a link, last heard then, is away from now on; its endpoints stay.
    pub(super) fn ended(&self, link: &Arc<Link>, heard: Instant) {
        self.everyone.leave(link, heard);
        link.end(heard);
        let now = Instant::now();
        for owner in self.owners().values_mut() {
            if matches!(&owner.presence, Presence::Here(here) if Arc::ptr_eq(here, link)) {
                owner.presence = Presence::Away(now);
            }
        }
    }

    /// Whether another live link speaks for the node.
    pub(super) fn is_taken(&self, node: &Arc<str>, link: &Arc<Link>) -> bool {
        let others =
            |owner: &Owner| matches!(&owner.presence, Presence::Here(here) if !Arc::ptr_eq(here, link));
        self.owners().values().any(|owner| owner.node == *node && others(owner))
    }

    fn conflict<'a>(
        &self,
        owners: &HashMap<Arc<str>, Owner>,
        node: &Arc<str>,
        views: impl IntoIterator<Item = &'a EndpointView>,
    ) -> Result<(), Conflict> {
        let others: Vec<_> = self
            .endpoints
            .all()
            .into_iter()
            .filter_map(|endpoint| {
                let owner = owners.get(&endpoint.view.uid)?;
                let live = matches!(owner.presence, Presence::Here(_)) && owner.node != *node;
                live.then(|| (Arc::clone(&owner.node), endpoint))
            })
            .collect();
        let claimed: HashMap<Identity, &Arc<str>> = others
            .iter()
            .flat_map(|(other, endpoint)| endpoint.view.identity.iter().map(move |one| (*one, other)))
            .collect();
        let uids: HashMap<&Arc<str>, &Arc<str>> =
            others.iter().map(|(other, endpoint)| (&endpoint.view.uid, other)).collect();
        for view in views {
            let other = uids.get(&view.uid).or_else(|| view.identity.iter().find_map(|one| claimed.get(one)));
            if let Some(&other) = other {
                return Err(Conflict {
                    uid: Arc::clone(&view.uid),
                    node: Arc::clone(node),
                    other: Arc::clone(other),
                });
            }
        }
        Ok(())
    }

    fn adopt(&self, bindings: &[Binding]) {
        let now = Instant::now();
        for binding in bindings {
            if let Some(endpoint) = self.endpoints.get(&binding.endpoint) {
                endpoint.granted.adopt(&binding.name, &binding.addresses, now);
            }
        }
    }

    /// The link to ask for an endpoint, waited for where it will be back at once.
    async fn link_of(&self, uid: &str) -> Result<Arc<Link>, Refused> {
        let asked = Instant::now();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let presence = self.owners().get(uid).map(|owner| owner.presence.clone());
            let since = match presence {
                Some(Presence::Here(link)) => return Ok(link),
                Some(Presence::Away(since)) => since,
                None => return Err(Refused::NoSuchEndpoint),
            };
            let until = (asked + WAIT).min(since + BACK_WITHIN);
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                return Err(Refused::Absent);
            }
        }
    }

    /// The link to who announced an endpoint, while it is there.
    pub(super) fn present(&self, uid: &str) -> Option<Arc<Link>> {
        match &self.owners().get(uid)?.presence {
            Presence::Here(link) => Some(Arc::clone(link)),
            Presence::Away(_) => None,
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<Arc<str>, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grantor for Enforcers {
    fn grant(&self, request: GrantRequest) -> BoxFuture<'_, Result<Granted, Refused>> {
        Box::pin(async move {
            match &*request.endpoint {
                EVERYONE => self.everyone.grant(&request).await,
                uid => self.link_of(uid).await?.grant(&request).await,
            }
        })
    }
}

impl Owner {
    fn new(node: &Arc<str>, link: &Arc<Link>) -> Self {
        Self { node: Arc::clone(node), presence: Presence::Here(Arc::clone(link)) }
    }
}
