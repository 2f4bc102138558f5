//! Who may ask: endpoints by identity, each with its rules and its own memory of answers and grants.
//!
//! A view replaces everything an endpoint had, its remembered answers included, so that nothing of older rules
//! is answered. Readers never wait for a writer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use nameward_policy::DnsRules;
use tokio::sync::Notify;

pub use nameward_feed::Identity;

use crate::fast_path::{FastPath, SharedMemory};
use crate::granted::GrantedNames;
use crate::limits::Limits;

/// An endpoint as the enforcer describes it.
#[derive(Clone, Debug)]
pub struct EndpointView {
    /// Unique for ever, for instance the pod's UID and interface.
    pub uid: Arc<str>,
    /// For people: `namespace/name`.
    pub name: Arc<str>,
    /// Generation of the rules.
    pub generation: u32,
    /// What it may ask, and its settings.
    pub rules: Arc<DnsRules>,
    /// How its queries are known.
    pub identity: Vec<Identity>,
}

/// An endpoint with what the resolver remembers for it.
#[derive(Debug)]
pub struct Endpoint {
    /// As the enforcer described it.
    pub view: EndpointView,
    pub(crate) fast: FastPath,
    pub(crate) granted: GrantedNames,
    pub(crate) limits: Arc<Limits>,
}

/// All endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    index: ArcSwap<Index>,
    writing: Mutex<()>,
    changed: Notify,
    memory: Arc<SharedMemory>,
}

#[derive(Clone, Debug, Default)]
struct Index {
    by_uid: HashMap<Arc<str>, Arc<Endpoint>>,
    by_port: HashMap<u16, Arc<Endpoint>, foldhash::fast::RandomState>,
    by_address: HashMap<IpAddr, Arc<Endpoint>, foldhash::fast::RandomState>,
    by_source: HashMap<IpAddr, Arc<Endpoint>, foldhash::fast::RandomState>,
}

impl Endpoints {
    /// No endpoints: every query is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces everything.
    pub fn replace(&self, views: impl IntoIterator<Item = EndpointView>) {
        self.change(|index| {
            let old = std::mem::take(&mut index.by_uid);
            index.by_uid =
                views.into_iter().map(|view| (view.uid.clone(), renewed(&old, view, &self.memory))).collect();
        });
    }

    /// Adds or replaces these endpoints and forgets those, at once.
    pub fn update(&self, views: impl IntoIterator<Item = EndpointView>, gone: &[Arc<str>]) {
        self.change(|index| {
            for uid in gone {
                if let Some(endpoint) = index.by_uid.remove(uid) {
                    endpoint.fast.close();
                }
            }
            for view in views {
                let endpoint = renewed(&index.by_uid, view, &self.memory);
                index.by_uid.insert(endpoint.view.uid.clone(), endpoint);
            }
        });
    }

    /// Adds an endpoint, or replaces the one with this uid.
    pub fn apply(&self, view: EndpointView) {
        self.change(|index| {
            let endpoint = renewed(&index.by_uid, view, &self.memory);
            index.by_uid.insert(endpoint.view.uid.clone(), endpoint);
        });
    }

    /// Forgets an endpoint: its queries are refused from now on.
    pub fn remove(&self, uid: &str) {
        self.change(|index| {
            index.by_uid.remove(uid);
        });
    }

    /// Forgets what was remembered for rules before `generation`. Until the new rules arrive, every query of
    /// the endpoint is granted anew.
    pub fn revoke(&self, uid: &str, generation: u32) {
        if let Some(endpoint) = self.get(uid).filter(|endpoint| endpoint.view.generation < generation) {
            endpoint.fast.close();
            endpoint.granted.close();
        }
    }

    /// The endpoint with this uid.
    pub fn get(&self, uid: &str) -> Option<Arc<Endpoint>> {
        self.index.load().by_uid.get(uid).cloned()
    }

    /// Waits for rules of another generation, or for the end of the endpoint. The caller bounds the wait.
    pub(crate) async fn after(&self, uid: &str, generation: u32) -> Option<Arc<Endpoint>> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let endpoint = self.get(uid)?;
            if endpoint.view.generation != generation {
                return Some(endpoint);
            }
            changed.await;
        }
    }

    /// All endpoints, in no order.
    pub fn all(&self) -> Vec<Arc<Endpoint>> {
        self.index.load().by_uid.values().cloned().collect()
    }

    /// The endpoint behind a query that arrived at `local` from `peer`; `client` is what a trusted forwarder
    /// said about its own client (Q1).
    pub fn who(&self, local: SocketAddr, peer: IpAddr, client: Option<IpAddr>) -> Option<Arc<Endpoint>> {
        let index = self.index.load();
        if let Some(client) = client {
            return index.by_source.get(&client.to_canonical()).cloned();
        }
        let peer = peer.to_canonical();
        index.vouched(local, peer).or_else(|| index.by_source.get(&peer)).cloned()
    }

    /// The same, where an address that nothing vouches for does not count (Q1).
    pub(crate) fn vouched(&self, local: SocketAddr, peer: IpAddr) -> Option<Arc<Endpoint>> {
        self.index.load().vouched(local, peer.to_canonical()).cloned()
    }

    fn change(&self, change: impl FnOnce(&mut Index)) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut index = Index::clone(&self.index.load());
        change(&mut index);
        index.rebuild();
        self.index.store(Arc::new(index));
        self.changed.notify_waiters();
    }
}

impl Index {
    fn vouched(&self, local: SocketAddr, peer: IpAddr) -> Option<&Arc<Endpoint>> {
        self.by_port.get(&local.port()).or_else(|| self.by_address.get(&peer))
    }

    fn rebuild(&mut self) {
        self.by_port.clear();
        self.by_address.clear();
        self.by_source.clear();
        for endpoint in self.by_uid.values() {
            for identity in &endpoint.view.identity {
                match *identity {
                    Identity::Port(port) => drop(self.by_port.insert(port, endpoint.clone())),
                    Identity::Address(ip) => {
                        drop(self.by_address.insert(ip.to_canonical(), endpoint.clone()))
                    }
                    Identity::Source(ip) => drop(self.by_source.insert(ip.to_canonical(), endpoint.clone())),
                }
            }
        }
    }
}

/// The endpoint of a new view: its limits go on counting, its memory starts empty.
fn renewed(
    old: &HashMap<Arc<str>, Arc<Endpoint>>,
    view: EndpointView,
    memory: &Arc<SharedMemory>,
) -> Arc<Endpoint> {
    let names = usize::try_from(view.rules.limits().names).unwrap_or(usize::MAX);
    let limits = match old.get(&view.uid) {
        Some(old) => {
            old.fast.close();
            old.limits.clone()
        }
        None => Arc::default(),
    };
    let fast = FastPath::new(names, Arc::clone(memory));
    let granted = GrantedNames::new(names);
    Arc::new(Endpoint { fast, granted, limits, view })
}
