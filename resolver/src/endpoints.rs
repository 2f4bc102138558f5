//! Who may ask: endpoints by identity, each with its rules and its own memory of answers and grants.
//!
//! A view replaces everything an endpoint had, its remembered answers included, so that nothing of older rules
//! is answered. Readers never wait for a writer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use nameward_policy::{DnsMode, DnsRules, DnsRulesData, DnsSettings, Limits as PolicyLimits, TtlBounds};
use tokio::sync::Notify;

pub use nameward_feed::Identity;

use crate::fast_path::{FastPath, SharedMemory};
use crate::granted::GrantedNames;
use crate::grants::{EVERYONE, Scope};
use crate::limits::Limits;

/// What the log calls those that nobody guards.
const UNGUARDED: &str = "workloads without policies";

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
    pub(crate) granted: Arc<GrantedNames>,
    pub(crate) limits: Arc<Limits>,
}

/// All endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    index: ArcSwap<Index>,
    writing: Mutex<()>,
    changed: Notify,
    memory: Arc<SharedMemory>,
    scope: Scope,
    /// By the stream on which they were named.
    forwarders: ArcSwap<HashMap<u64, Named>>,
}

/// Forwarders that an enforcer named.
#[derive(Clone, Debug)]
struct Named {
    forwarders: Vec<IpAddr>,
    is_live: bool,
}

#[derive(Clone, Debug, Default)]
struct Index {
    by_uid: HashMap<Arc<str>, Arc<Endpoint>>,
    by_port: HashMap<u16, Arc<Endpoint>, foldhash::fast::RandomState>,
    by_address: HashMap<IpAddr, Arc<Endpoint>, foldhash::fast::RandomState>,
    by_source: HashMap<IpAddr, Arc<Endpoint>, foldhash::fast::RandomState>,
    /// All of them as one, where a forwarder's questions are judged so.
    everyone: Option<Arc<Endpoint>>,
}

impl Endpoints {
    /// No endpoints: every query is refused.
    pub fn new() -> Self {
        Self::default()
    }

    /// No endpoints, for a resolver that grants in this scope.
    pub fn with_scope(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Whom the answers to a forwarder are granted to.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// These are all forwarders that an enforcer knows of, on the stream with this number.
    pub fn set_forwarders(&self, stream: u64, forwarders: &[IpAddr]) {
        self.forwarders.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|_, named| named.is_live);
            known.insert(stream, Named { forwarders: forwarders.to_vec(), is_live: true });
            known
        });
    }

    /// A stream has ended: its word counts no more, unless nobody else's does. If no forwarder were known, the whole cluster
    /// would be without names until an enforcer is back.
    pub fn forget_forwarders(&self, stream: u64) {
        self.forwarders.rcu(|known| {
            let mut known = HashMap::clone(known);
            let ended = known.remove(&stream);
            let others = known.values().any(|named| !named.forwarders.is_empty());
            known.extend(ended.filter(|_| !others).map(|named| (stream, Named { is_live: false, ..named })));
            known
        });
    }

    /// Whether an enforcer names this forwarder.
    pub(crate) fn is_forwarder(&self, address: IpAddr) -> bool {
        self.forwarders.load().values().any(|named| named.forwarders.contains(&address))
    }

    /// Who stands for all that nobody guards: may ask everything, and is granted nothing.
    pub(crate) fn unguarded(&self) -> Arc<Endpoint> {
        let limits = PolicyLimits {
            queries_per_second: u32::MAX,
            pending_queries: u32::MAX,
            ..PolicyLimits::default()
        };
        let data = DnsRulesData {
            mode: DnsMode::Pass,
            allowed: Vec::new(),
            denied: Vec::new(),
            reachable: Vec::new(),
            own_node: Vec::new(),
            isolated_by: None,
            settings: DnsSettings::default(),
            ttl: TtlBounds::default(),
            limits,
        };
        let view = EndpointView {
            uid: UNGUARDED.into(),
            name: UNGUARDED.into(),
            generation: 1,
            rules: Arc::new(DnsRules::new(data)),
            identity: Vec::new(),
        };
        renewed(&HashMap::new(), view, &self.memory)
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
        if let Some(everyone) = self.everyone() {
            everyone.fast.forget();
        }
    }

    /// Forgets what was remembered for an endpoint, and for all as one; rules stay. What is on its way is not remembered, and
    /// every query is granted anew.
    pub fn forget(&self, uid: &str) {
        self.change(|index| {
            if let Some(known) = index.by_uid.get(uid) {
                // Who is answered now, and was asked before, is granted anew, too.
                known.granted.close();
                let fresh = renewed(&index.by_uid, known.view.clone(), &self.memory);
                index.by_uid.insert(fresh.view.uid.clone(), fresh);
            }
            if let Some(everyone) = index.everyone.take() {
                everyone.fast.close();
                everyone.granted.close();
                let rules = Arc::clone(&everyone.view.rules);
                index.everyone = Some(Arc::new(emptied(&everyone, rules, &self.memory)));
            }
        });
    }

    /// The endpoint with this uid; [`EVERYONE`]'s is all of them.
    pub fn get(&self, uid: &str) -> Option<Arc<Endpoint>> {
        match uid {
            EVERYONE => self.everyone(),
            uid => self.index.load().by_uid.get(uid).cloned(),
        }
    }

    /// All endpoints as one: asked by a forwarder, granted by name. None before the first is known.
    pub(crate) fn everyone(&self) -> Option<Arc<Endpoint>> {
        self.index.load().everyone.clone()
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
        match self.scope {
            Scope::Endpoint => {}
            Scope::Name => index.everyone = all_as_one(&index, &self.memory),
        }
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
    let granted = Arc::new(GrantedNames::new(names));
    Arc::new(Endpoint { fast, granted, limits, view })
}

/// All endpoints as one. It stays the same while their rules do; when those change, what was granted to all stays so:
/// enforcers give it to whom it may open.
fn all_as_one(index: &Index, memory: &Arc<SharedMemory>) -> Option<Arc<Endpoint>> {
    let mut parts: Vec<_> = index.by_uid.values().map(|endpoint| Arc::clone(&endpoint.view.rules)).collect();
    parts.sort_by_key(Arc::as_ptr);
    parts.dedup_by(|one, other| Arc::ptr_eq(one, other));
    let same = |known: &&Arc<Endpoint>| {
        let known = known.view.rules.parts();
        known.len() == parts.len() && known.iter().zip(&parts).all(|(one, other)| Arc::ptr_eq(one, other))
    };
    let known = index.everyone.as_ref();
    if parts.is_empty() || known.is_some_and(|known| same(&known)) {
        return known.filter(|_| !parts.is_empty()).cloned();
    }
    if let Some(known) = known {
        known.fast.close();
    }
    let rules = Arc::new(DnsRules::union(parts));
    let Some(known) = known else {
        let names = usize::try_from(rules.limits().names).unwrap_or(usize::MAX);
        let view = EndpointView {
            uid: EVERYONE.into(),
            name: "every workload".into(),
            generation: 1,
            rules,
            identity: Vec::new(),
        };
        let fast = FastPath::new(names, Arc::clone(memory));
        let granted = Arc::new(GrantedNames::new(names));
        return Some(Arc::new(Endpoint { fast, granted, limits: Arc::default(), view }));
    };
    let emptied = emptied(known, rules, memory);
    Some(Arc::new(Endpoint { granted: Arc::clone(&known.granted), ..emptied }))
}

/// The same under these rules, with nothing remembered.
fn emptied(known: &Endpoint, rules: Arc<DnsRules>, memory: &Arc<SharedMemory>) -> Endpoint {
    let names = usize::try_from(rules.limits().names).unwrap_or(usize::MAX);
    Endpoint {
        fast: FastPath::new(names, Arc::clone(memory)),
        granted: Arc::new(GrantedNames::new(names)),
        limits: Arc::clone(&known.limits),
        view: EndpointView { generation: known.view.generation.wrapping_add(1), rules, ..known.view.clone() },
    }
}
