//! Watches of the API server, as changes for the [`Index`](super::Index).
//!
//! Each kind is listed once and watched from there; a watch that breaks off is taken up again, first at once, then every
//! few seconds. While the API server is away nothing is sent, and what is in force stays. An object that cannot be read
//! is sent as such, and holds up no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::watcher::{self, Event, watcher},
};
use nameward_crds::{
    ClusterEgressPolicy, EgressConfig, EgressNode, EgressNodeSpec, EgressPolicy, Labels, Policy, ServiceName,
};
use nameward_policy::{PolicyKind, PolicyRef};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use super::{PodFacts, PolicyFacts};
use crate::endpoints::chain_text;

/// Time before the first new try of a watch; doubled after each that fails.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
const DNS_PORT: u16 = 53;
/// Changes that may wait for the index.
const QUEUE: usize = 4_096;

/// A change of one kind of object.
#[derive(Clone, Debug)]
pub enum Update<T, K> {
    /// These are all there are.
    Reset(Vec<T>),
    /// One came or changed.
    Apply(T),
    /// One is gone.
    Delete(K),
}

/// A policy that was read, or what keeps it from being read.
#[derive(Clone, Debug)]
pub enum ReadPolicy {
    /// It was.
    Good(Box<PolicyFacts>),
    /// It was not.
    Bad {
        /// Which.
        policy: PolicyRef,
        /// Its generation.
        generation: i64,
        /// Why.
        message: String,
    },
}

/// What the API server tells.
#[derive(Clone, Debug)]
pub enum Change {
    /// Pods of this node.
    Pods(Update<PodFacts, Arc<str>>),
    /// Namespaces and their labels.
    Namespaces(Update<(Arc<str>, Labels), Arc<str>>),
    /// Policies of a kind.
    Policies(PolicyKind, Update<ReadPolicy, PolicyRef>),
    /// The configuration; none when there is none.
    Config(Option<Result<Box<EgressConfig>, String>>),
    /// Addresses of the service `default/kubernetes`.
    ApiService(Vec<IpAddr>),
    /// Addresses behind it.
    ApiServers(Vec<IpAddr>),
    /// Who serves the cluster's DNS.
    DnsBackends(Vec<DnsBackend>),
}

/// One that serves the cluster's DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsBackend {
    /// The pod, by UID, where it is one.
    pub pod: Option<Arc<str>>,
    /// Where it answers, in so far as another port than that of DNS shows nobody that it does.
    pub servers: Vec<SocketAddr>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A service of resolvers; the feed is at its port [`FEED_PORT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverService {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The port of a service of resolvers that the feed is at.
pub const FEED_PORT: &str = "feed";

/// How it stands between this node and the cluster, for those who look at metrics.
#[derive(Debug, Default)]
pub struct Health {
    watches: Mutex<BTreeMap<&'static str, Option<String>>>,
    /// Policies of which a newer version cannot be read.
    pub unreadable_policies: AtomicUsize,
    /// Pods of which nothing is enforced for the time being (R13).
    pub suspended_pods: AtomicUsize,
}

impl Health {
    /// What is wrong with watches, a line each. Empty while all run.
    pub fn problems(&self) -> Vec<String> {
        let known = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(|(what, problem)| Some(format!("{what}: {}", problem.as_ref()?))).collect()
    }

    /// Says so once.
    fn note(&self, what: &'static str, problem: Option<String>) {
        let mut known = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(what, problem.clone()).flatten();
        match (before, problem) {
            (before, Some(problem)) if before.as_ref() != Some(&problem) => {
                tracing::warn!(objects = what, problem, "not watched; what is in force stays");
            }
            (Some(_), None) => tracing::info!(objects = what, "watched again"),
            _ => {}
        }
    }
}

/// Waits a little longer after each failure. Only what was listed or watched shows that it is over: that a list is begun,
/// as [`Event::Init`] says, does not, and kube's own `backoff` takes it for that.
#[derive(Debug)]
struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(RETRY_FIRST)
    }
}

impl Patience {
    fn wait(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(RETRY_MAX);
        wait
    }
}

/// Starts watching; `dns` names the cluster's DNS service, which may change. None of the tasks ends by itself while the
/// receiver lives.
#[must_use]
pub fn start(
    client: &Client,
    node: &str,
    dns: watch::Receiver<ServiceName>,
    health: Arc<Health>,
) -> (JoinSet<()>, mpsc::Receiver<Change>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let teller = Teller { sender, health };
    let mut tasks = JoinSet::new();
    tasks.spawn(pods(client.clone(), node.to_owned(), teller.clone()));
    tasks.spawn(namespaces(client.clone(), teller.clone()));
    tasks.spawn(policies::<EgressPolicy>(client.clone(), teller.clone()));
    tasks.spawn(policies::<ClusterEgressPolicy>(client.clone(), teller.clone()));
    tasks.spawn(config(client.clone(), teller.clone()));
    tasks.spawn(api_service(client.clone(), teller.clone()));
    tasks.spawn(api_servers(client.clone(), teller.clone()));
    tasks.spawn(dns_backends(client.clone(), dns, teller));
    (tasks, receiver)
}

/// Where changes go.
#[derive(Debug)]
struct Teller<C> {
    sender: mpsc::Sender<C>,
    health: Arc<Health>,
}

impl<C> Clone for Teller<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), health: Arc::clone(&self.health) }
    }
}

impl<C: Send> Teller<C> {
    /// Follows one kind of object, from a list on, until nobody listens any more.
    async fn follow<K>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        what: &'static str,
        mut read: impl FnMut(Update<K, K>) -> Option<C> + Send,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut events = pin!(watcher(api, config));
        let (mut listed, mut patience) = (Vec::new(), Patience::default());
        while let Some(event) = events.next().await {
            let update = match event {
                Err(error) => {
                    self.health.note(what, Some(remedy(what, &error)));
                    // Nothing is asked before the next event is.
                    sleep(patience.wait()).await;
                    continue;
                }
                Ok(Event::Init) => {
                    listed.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.push(object);
                    continue;
                }
                Ok(Event::InitDone) => Update::Reset(std::mem::take(&mut listed)),
                Ok(Event::Apply(object)) => Update::Apply(object),
                Ok(Event::Delete(object)) => Update::Delete(object),
            };
            patience = Patience::default();
            self.health.note(what, None);
            if let Some(change) = read(update)
                && self.sender.send(change).await.is_err()
            {
                return;
            }
        }
    }

    /// The same for objects of which all together say something: they are kept, by name.
    async fn gather<K, V: Clone + Send>(
        &self,
        api: Api<K>,
        config: watcher::Config,
        what: &'static str,
        read: impl Fn(K) -> Vec<V> + Send,
        tell: impl Fn(Vec<V>) -> C + Send,
    ) where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let mut known: BTreeMap<String, Vec<V>> = BTreeMap::new();
        let keep = move |update: Update<K, K>| {
            match update {
                Update::Reset(all) => {
                    known = all.into_iter().map(|one| (one.name_any(), read(one))).collect();
                }
                Update::Apply(one) => drop(known.insert(one.name_any(), read(one))),
                Update::Delete(one) => drop(known.remove(&one.name_any())),
            }
            Some(tell(known.values().flatten().cloned().collect()))
        };
        self.follow(api, config, what, keep).await;
    }
}

/// What is wrong with a watch, and what to do.
fn remedy(what: &str, error: &watcher::Error) -> String {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(&**status),
        watcher::Error::WatchError(status) => Some(&**status),
        _ => None,
    };
    match status.map(|status| status.code) {
        Some(403) => format!(
            "the enforcer's account may not list and watch {what}; apply deploy/rbac.yaml, or add the verb to its ClusterRole"
        ),
        Some(401) => {
            "the API server does not know the enforcer's account; check its token or kubeconfig".into()
        }
        Some(404) => format!("the API server does not know {what}; apply the definitions of crds/generated"),
        _ => chain_text(error),
    }
}

impl<T, K> Update<T, K> {
    /// The same with other types; what `read` gives up is left out.
    fn map<U, L>(self, read: impl Fn(T) -> Option<U>, key: impl Fn(K) -> Option<L>) -> Option<Update<U, L>> {
        Some(match self {
            Self::Reset(all) => Update::Reset(all.into_iter().filter_map(read).collect()),
            Self::Apply(one) => Update::Apply(read(one)?),
            Self::Delete(one) => Update::Delete(key(one)?),
        })
    }
}

async fn pods(client: Client, node: String, teller: Teller<Change>) {
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let read = |pod: Pod| PodFacts::read(&pod);
    let key = |pod: Pod| pod.metadata.uid.map(Arc::from);
    teller
        .follow(Api::all(client), config, "pods", |update| Some(Change::Pods(update.map(read, key)?)))
        .await;
}

async fn namespaces(client: Client, teller: Teller<Change>) {
    let key = |namespace: Namespace| namespace.metadata.name.map(Arc::from);
    let read = |namespace: Namespace| {
        let labels = namespace.metadata.labels.unwrap_or_default();
        Some((Arc::from(namespace.metadata.name?), labels))
    };
    let tell = |update: Update<_, _>| Some(Change::Namespaces(update.map(read, key)?));
    teller.follow(Api::all(client), watcher::Config::default(), "namespaces", tell).await;
}

/// A kind of policy.
trait PolicyObject: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static {
    const KIND: PolicyKind;
    const WHAT: &'static str;
    fn policy(self) -> Policy;
}

impl PolicyObject for EgressPolicy {
    const KIND: PolicyKind = PolicyKind::EgressPolicy;
    const WHAT: &'static str = "egresspolicies.nameward.io";

    fn policy(self) -> Policy {
        Policy::Namespaced(self)
    }
}

impl PolicyObject for ClusterEgressPolicy {
    const KIND: PolicyKind = PolicyKind::ClusterEgressPolicy;
    const WHAT: &'static str = "clusteregresspolicies.nameward.io";

    fn policy(self) -> Policy {
        Policy::Cluster(self)
    }
}

fn name_of<K: PolicyObject>(object: &DeserializeGuard<K>) -> PolicyRef {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    PolicyRef::new(K::KIND, namespace, object.meta().name.as_deref().unwrap_or_default())
}

async fn policies<K: PolicyObject>(client: Client, teller: Teller<Change>) {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let read = |object: DeserializeGuard<K>| {
        let (policy, generation) = (name_of(&object), object.meta().generation.unwrap_or_default());
        Some(match object.0 {
            Ok(object) => ReadPolicy::Good(Box::new(PolicyFacts::new(without_luggage(object).policy()))),
            Err(error) => ReadPolicy::Bad { policy, generation, message: error.error },
        })
    };
    let key = |object: DeserializeGuard<K>| Some(name_of(&object));
    let tell = |update: Update<_, _>| Some(Change::Policies(K::KIND, update.map(read, key)?));
    teller.follow(api, watcher::Config::default(), K::WHAT, tell).await;
}

/// Who wrote which field is as long as the object itself, and counts for nothing here.
fn without_luggage<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object.meta_mut().annotations = None;
    object
}

fn only_default() -> watcher::Config {
    watcher::Config::default().fields("metadata.name=default")
}

async fn config(client: Client, teller: Teller<Change>) {
    let api: Api<DeserializeGuard<EgressConfig>> = Api::all(client);
    let read = |object: DeserializeGuard<EgressConfig>| {
        object.0.map(|config| Box::new(without_luggage(config))).map_err(|error| error.error)
    };
    let tell = |update: Update<DeserializeGuard<EgressConfig>, _>| {
        Some(Change::Config(match update {
            Update::Reset(all) => all.into_iter().next().map(read),
            Update::Apply(one) => Some(read(one)),
            Update::Delete(_) => None,
        }))
    };
    teller.follow(api, only_default(), "egressconfigs.nameward.io", tell).await;
}

fn slices_of(service: &str) -> watcher::Config {
    watcher::Config::default().labels(&format!("kubernetes.io/service-name={service}"))
}

/// The address of the service `default/kubernetes` (R8).
async fn api_service(client: Client, teller: Teller<Change>) {
    let api = Api::<Service>::namespaced(client, "default");
    let config = watcher::Config::default().fields("metadata.name=kubernetes");
    let read = |service: Service| {
        let ips = service.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
        ips.iter().filter_map(|ip| ip.parse().ok()).collect()
    };
    teller.gather(api, config, "services", read, Change::ApiService).await;
}

/// The addresses behind it.
async fn api_servers(client: Client, teller: Teller<Change>) {
    let api = Api::<EndpointSlice>::namespaced(client, "default");
    let read = |slice: EndpointSlice| {
        let addresses = slice.endpoints.into_iter().flatten().flat_map(|one| one.addresses);
        addresses.filter_map(|address| address.parse().ok()).collect()
    };
    let what = "endpointslices.discovery.k8s.io";
    teller.gather(api, slices_of("kubernetes"), what, read, Change::ApiServers).await;
}

/// The pods behind the cluster's DNS service (R10), whichever that is.
async fn dns_backends(client: Client, mut dns: watch::Receiver<ServiceName>, teller: Teller<Change>) {
    loop {
        let service = dns.borrow_and_update().clone();
        tokio::select! {
            () = backends_of(client.clone(), &service, &teller) => return,
            changed = dns.changed() => if changed.is_err() { return },
        }
    }
}

async fn backends_of(client: Client, service: &ServiceName, teller: &Teller<Change>) {
    let api = Api::<EndpointSlice>::namespaced(client, &service.namespace);
    let tell = Change::DnsBackends;
    let what = "endpointslices.discovery.k8s.io of the cluster's DNS";
    teller.gather(api, slices_of(&service.name), what, backends, tell).await;
}

/// The backends of a slice. What they serve by UDP is DNS; CoreDNS has metrics by TCP beside it.
fn backends(slice: EndpointSlice) -> Vec<DnsBackend> {
    let of_udp = slice.ports.into_iter().flatten().filter(|port| port.protocol.as_deref() == Some("UDP"));
    let ports = of_udp.filter_map(|port| u16::try_from(port.port?).ok()).filter(|port| *port != DNS_PORT);
    let ports: Vec<u16> = ports.collect();
    let endpoints = slice.endpoints.into_iter().flatten();
    let backends = endpoints.map(|one| {
        let addresses: Vec<IpAddr> = one.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        let servers =
            addresses.iter().flat_map(|address| ports.iter().map(|port| SocketAddr::new(*address, *port)));
        let servers = servers.collect();
        let pod = one.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
        DnsBackend { servers, addresses, pod: pod.and_then(|pod| pod.uid).map(Arc::from) }
    });
    backends.collect()
}

/// What the writer of status hears.
#[derive(Clone, Debug)]
pub enum StatusChange {
    /// Policies, with their status; what cannot be read with its generation.
    Policies(PolicyKind, Update<SeenPolicy, PolicyRef>),
    /// Reports of nodes.
    Nodes(Update<(String, EgressNodeSpec), String>),
    /// The configuration.
    Config(Option<Box<EgressConfig>>),
}

/// A policy, or its generation and what keeps it from being read.
pub type SeenPolicy = (PolicyRef, Result<Box<Policy>, (i64, String)>);

/// Watches what a writer of status needs. The tasks end with what is returned.
#[must_use]
pub fn watch_for_status(client: &Client) -> (JoinSet<()>, mpsc::Receiver<StatusChange>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let teller = Teller { sender, health: Arc::default() };
    let mut tasks = JoinSet::new();
    tasks.spawn(seen_policies::<EgressPolicy>(client.clone(), teller.clone()));
    tasks.spawn(seen_policies::<ClusterEgressPolicy>(client.clone(), teller.clone()));
    tasks.spawn(reports(client.clone(), teller.clone()));
    tasks.spawn(seen_config(client.clone(), teller));
    (tasks, receiver)
}

async fn seen_policies<K: PolicyObject>(client: Client, teller: Teller<StatusChange>) {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    let read = |object: DeserializeGuard<K>| {
        let (policy, generation) = (name_of(&object), object.meta().generation.unwrap_or_default());
        let read = object.0.map(|object| Box::new(without_luggage(object).policy()));
        Some((policy, read.map_err(|error| (generation, error.error))))
    };
    let key = |object: DeserializeGuard<K>| Some(name_of(&object));
    let tell = |update: Update<_, _>| Some(StatusChange::Policies(K::KIND, update.map(read, key)?));
    teller.follow(api, watcher::Config::default(), K::WHAT, tell).await;
}

async fn reports(client: Client, teller: Teller<StatusChange>) {
    let api: Api<DeserializeGuard<EgressNode>> = Api::all(client);
    let read = |node: DeserializeGuard<EgressNode>| {
        let node = node.0.ok()?;
        Some((node.metadata.name?, node.spec))
    };
    let key = |node: DeserializeGuard<EgressNode>| node.meta().name.clone();
    let tell = |update: Update<_, _>| Some(StatusChange::Nodes(update.map(read, key)?));
    teller.follow(api, watcher::Config::default(), "egressnodes.nameward.io", tell).await;
}

async fn seen_config(client: Client, teller: Teller<StatusChange>) {
    let api: Api<DeserializeGuard<EgressConfig>> = Api::all(client);
    let read = |object: DeserializeGuard<EgressConfig>| object.0.ok().map(without_luggage).map(Box::new);
    let tell = |update: Update<DeserializeGuard<EgressConfig>, _>| {
        Some(StatusChange::Config(match update {
            Update::Reset(all) => all.into_iter().next().and_then(read),
            Update::Apply(one) => read(one),
            Update::Delete(_) => None,
        }))
    };
    teller.follow(api, only_default(), "egressconfigs.nameward.io", tell).await;
}

/// The feeds of resolvers behind a service, ready or not: what is not ready yet may be waiting for us.
pub fn resolvers(
    client: Client,
    service: ResolverService,
    sender: mpsc::Sender<BTreeSet<SocketAddr>>,
    health: Arc<Health>,
) -> impl Future<Output = ()> {
    let api = Api::<EndpointSlice>::namespaced(client, &service.namespace);
    let config = slices_of(&service.name);
    async move {
        let what = "endpointslices.discovery.k8s.io of the resolvers";
        let tell = |all: Vec<SocketAddr>| all.into_iter().collect();
        Teller { sender, health }.gather(api, config, what, feeds_of, tell).await;
    }
}

fn feeds_of(slice: EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.into_iter().flatten();
    let feed = ports.filter(|port| port.name.as_deref() == Some(FEED_PORT)).find_map(|port| port.port);
    let Some(port) = feed.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let addresses = slice.endpoints.into_iter().flatten().flat_map(|one| one.addresses);
    let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_dns_are_known_where_their_port_does_not_show_them() {
        let slice = |port: u16| {
            let slice = serde_json::json!({
                "metadata": {"name": "kube-dns-x"}, "addressType": "IPv4",
                "endpoints": [
                    {"addresses": ["10.0.0.5"], "targetRef": {"kind": "Pod", "uid": "u1"}},
                    {"addresses": ["192.0.2.9"]},
                ],
                "ports": [
                    {"name": "dns", "protocol": "UDP", "port": port}, {"name": "dns-tcp", "protocol": "TCP", "port": port},
                    {"name": "metrics", "protocol": "TCP", "port": 9153},
                ],
            });
            backends(serde_json::from_value(slice).unwrap())
        };
        let one = |pod: Option<&str>, servers: &[&str], address: &str| DnsBackend {
            pod: pod.map(Arc::from),
            servers: servers.iter().map(|server| server.parse().unwrap()).collect(),
            addresses: vec![address.parse().unwrap()],
        };
        let (first, second) = ("10.0.0.5", "192.0.2.9");
        assert_eq!(slice(53), [one(Some("u1"), &[], first), one(None, &[], second)]);
        let other = [one(Some("u1"), &["10.0.0.5:5353"], first), one(None, &["192.0.2.9:5353"], second)];
        assert_eq!(slice(5353), other);
    }

    #[test]
    fn each_failure_is_waited_for_longer() {
        let mut patience = Patience::default();
        let waits: Vec<u128> = (0..7).map(|_| patience.wait().as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000]);
    }
}
