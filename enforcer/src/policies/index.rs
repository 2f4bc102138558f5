//! The index: objects in, decisions out. See the module above for the picture.
//!
//! What cannot be understood or compiled changes nothing that is in force (SEMANTICS F2): the last good rules of a pod
//! stay, and [`Index::policies`] says what is wrong. A pod without any yet may do nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use nameward_crds::{EgressConfigSpec, Labels, Policy, Problem, Workload, isolation};
use nameward_policy::{
    ClusterRanges, CompileError, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleMode, RuleSet, Settings,
};

use super::{Configured, PodFacts, PolicyFacts, Subject, snapshot::Snapshot};

const DNS_PORT: u16 = 53;

/// What does not change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct IndexOptions {
    /// Name of this node.
    pub node: Arc<str>,
    /// Nameward's own namespace: exempt like those that the configuration names (R10).
    pub own_namespace: Option<String>,
    /// Settings below those of the `EgressConfig`.
    pub settings: Settings,
    /// Pods ask the cluster's DNS itself, which forwards to resolvers.
    pub forwards: bool,
}

/// A pod, and what it may do.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The pod.
    pub pod: Arc<PodFacts>,
    /// Its rules. Pods that the same policies select share them.
    pub rules: Arc<RuleSet>,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// The policies that select it.
    pub selected_by: Arc<BTreeSet<PolicyRef>>,
    /// All that the rules are compiled from.
    pub subject: Arc<Subject>,
    /// Whether it is observed without any policy (R11).
    pub is_observed: bool,
    /// Until when nothing of it is enforced (R13).
    pub suspended_until: Option<Timestamp>,
    /// Why its newest rules do not count.
    pub trouble: Option<CompileError>,
    next_change: Option<Timestamp>,
}

/// A policy, as far as it is understood.
#[derive(Clone, Debug)]
pub struct PolicyState {
    /// The generation that rules come from.
    pub generation: i64,
    /// What is not understood of it, and warnings.
    pub problems: Vec<Problem>,
    /// A newer version that cannot be read at all: its generation, and why. The rules of the one before stay.
    pub refused: Option<(i64, String)>,
    known: Option<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    policy: Arc<Policy>,
    rules: Arc<[Rule]>,
}

#[derive(Debug)]
struct Entry {
    facts: Arc<PodFacts>,
    selected_by: Arc<BTreeSet<PolicyRef>>,
    decided: Option<Arc<Decided>>,
    is_stale: bool,
}

/// Everything that decides about the pods of this node.
#[derive(Debug)]
pub struct Index {
    options: IndexOptions,
    configured: Configured,
    /// The object behind it.
    config: Option<EgressConfigSpec>,
    policies: BTreeMap<PolicyRef, PolicyState>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    pods: BTreeMap<Arc<str>, Entry>,
    /// Of `default/kubernetes`, as observed.
    api_server: Vec<IpNet>,
    own_node: Vec<IpNet>,
    dns_backends: BTreeSet<Arc<str>>,
    /// Where they answer, by other ports than 53.
    dns_servers: Vec<SocketAddr>,
    /// Their addresses.
    dns_addresses: BTreeSet<IpAddr>,
}

impl Decided {
    /// Whether there is anything to guard: nobody else's packets need to pass our programs (R11).
    #[must_use]
    pub fn needs_guard(&self) -> bool {
        !self.selected_by.is_empty() || self.is_observed
    }
}

impl Index {
    /// An index without any object.
    #[must_use]
    pub fn new(options: IndexOptions) -> Self {
        let configured = Configured::standard(&options.settings);
        Self {
            options,
            configured,
            config: None,
            policies: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            api_server: Vec::new(),
            own_node: Vec::new(),
            dns_backends: BTreeSet::new(),
            dns_servers: Vec::new(),
            dns_addresses: BTreeSet::new(),
        }
    }

    /// A pod of this node came or changed.
    pub fn apply_pod(&mut self, pod: PodFacts) {
        let known = self.pods.get(&pod.uid);
        if known.is_some_and(|entry| *entry.facts == pod) {
            return;
        }
        let decided = known.and_then(|entry| entry.decided.clone());
        let uid = Arc::clone(&pod.uid);
        let facts = Arc::new(pod);
        let entry = Entry { facts, selected_by: Arc::default(), decided, is_stale: true };
        self.pods.insert(Arc::clone(&uid), entry);
        self.select(&uid);
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// These are all pods of this node.
    pub fn reset_pods(&mut self, pods: Vec<PodFacts>) {
        let there: BTreeSet<Arc<str>> = pods.iter().map(|pod| Arc::clone(&pod.uid)).collect();
        self.pods.retain(|uid, _| there.contains(uid));
        pods.into_iter().for_each(|pod| self.apply_pod(pod));
    }

    /// A namespace came or changed.
    pub fn apply_namespace(&mut self, name: &str, labels: Labels) {
        if self.namespaces.get(name) == Some(&labels) {
            return;
        }
        self.namespaces.insert(name.into(), labels);
        self.select_where(|pod| *pod.namespace == *name);
    }

    /// A namespace is gone. Its pods are gone before; what is left of them keeps its rules.
    pub fn delete_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// These are all namespaces.
    pub fn reset_namespaces(&mut self, namespaces: Vec<(Arc<str>, Labels)>) {
        let there: BTreeSet<Arc<str>> = namespaces.iter().map(|(name, _)| Arc::clone(name)).collect();
        self.namespaces.retain(|name, _| there.contains(name));
        namespaces.into_iter().for_each(|(name, labels)| self.apply_namespace(&name, labels));
    }

    /// A policy came or changed.
    pub fn apply_policy(&mut self, facts: PolicyFacts) {
        let policy_ref = facts.policy.policy_ref();
        let before = self.policies.get(&policy_ref);
        let same = before
            .and_then(|state| state.known.as_ref())
            .is_some_and(|known| is_same(&known.policy, &facts.policy));
        if let Some(state) = self.policies.get_mut(&policy_ref)
            && same
        {
            state.generation = facts.generation;
            state.refused = None;
            return;
        }
        let converted = facts.policy.to_rules();
        let known = Known { policy: Arc::new(facts.policy), rules: converted.rules.into() };
        let state = PolicyState {
            generation: facts.generation,
            problems: converted.problems,
            refused: None,
            known: Some(known),
        };
        self.policies.insert(policy_ref.clone(), state);
        self.reconsider(&policy_ref);
    }

    /// A policy came or changed and cannot be read: what is in force stays (F2).
    pub fn refuse_policy(&mut self, policy: &PolicyRef, generation: i64, message: String) {
        let state = self.policies.entry(policy.clone()).or_insert_with(|| PolicyState {
            generation: 0,
            problems: Vec::new(),
            refused: None,
            known: None,
        });
        state.refused = Some((generation, message));
    }

    /// A policy is gone.
    pub fn delete_policy(&mut self, policy: &PolicyRef) {
        if self.policies.remove(policy).is_some() {
            self.reconsider(policy);
        }
    }

    /// These are all policies of a kind. Those that cannot be read are told by [`refuse_policy`](Self::refuse_policy)
    /// before, and named in `unreadable`.
    pub fn reset_policies(
        &mut self,
        kind: PolicyKind,
        policies: Vec<PolicyFacts>,
        unreadable: &BTreeSet<PolicyRef>,
    ) {
        let there: BTreeSet<PolicyRef> = policies.iter().map(|facts| facts.policy.policy_ref()).collect();
        let gone = self.policies.keys().filter(|policy| {
            policy.kind == kind && !there.contains(*policy) && !unreadable.contains(*policy)
        });
        for policy in gone.cloned().collect::<Vec<_>>() {
            self.delete_policy(&policy);
        }
        policies.into_iter().for_each(|facts| self.apply_policy(facts));
    }

    /// The configuration came, changed or went. Rules follow at the next [`decide`](Self::decide).
    ///
    /// # Errors
    /// What is not understood; then the configuration before stays (F2).
    pub fn apply_config(&mut self, spec: Option<&EgressConfigSpec>) -> Result<(), Vec<Problem>> {
        let base = self.base();
        self.configured = match spec {
            Some(spec) => Configured::read(spec, &base)?,
            None => Configured::standard(&base),
        };
        self.config = spec.cloned();
        self.select_where(|_| true);
        Ok(())
    }

    /// Addresses of the API server, as the service `default/kubernetes` and its endpoints have them.
    pub fn apply_api_server(&mut self, mut addresses: Vec<IpNet>) {
        addresses.sort_unstable();
        addresses.dedup();
        if self.api_server != addresses {
            self.api_server = addresses;
            self.make_stale(|_| true);
        }
    }

    /// Own addresses of this node, which no name may open (A3).
    pub fn apply_own_node(&mut self, mut addresses: Vec<IpNet>) {
        addresses.sort_unstable();
        addresses.dedup();
        if self.own_node != addresses {
            self.own_node = addresses;
            self.make_stale(|_| true);
        }
    }

    /// Pods that serve the cluster's DNS (R10), by UID, and where these serve it by another port than 53: workloads whose
    /// sockets are translated mean the service when they ask there (Q6).
    pub fn apply_dns_backends(&mut self, pods: BTreeSet<Arc<str>>, mut servers: Vec<SocketAddr>) {
        servers.sort_unstable();
        servers.dedup();
        if self.dns_servers != servers {
            self.dns_servers = servers;
            let (config, base) = (self.config.clone().unwrap_or_default(), self.base());
            // What was understood is understood again.
            if let Ok(configured) = Configured::read(&config, &base) {
                self.configured = configured;
                self.make_stale(|_| true);
            }
        }
        let changed: BTreeSet<_> = self.dns_backends.symmetric_difference(&pods).cloned().collect();
        self.dns_backends = pods;
        self.select_where(|pod| changed.contains(&pod.uid));
    }

    /// Addresses of what serves the cluster's DNS: where it forwards, pods may ask there.
    pub fn apply_dns_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.dns_addresses != addresses {
            self.dns_addresses = addresses;
            let forwards = self.options.forwards;
            self.make_stale(|_| forwards);
        }
    }

    /// Settings below those of the configuration.
    fn base(&self) -> Settings {
        let mut settings = self.options.settings.clone();
        let known = settings.dns.trusted.clone();
        settings.dns.trusted.extend(self.dns_servers.iter().filter(|server| !known.contains(server)));
        settings
    }

    /// The objects behind all this, for the process after this one.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.options.node);
        snapshot.pods = self.pods().map(|pod| (**pod).clone()).collect();
        snapshot.namespaces =
            self.namespaces.iter().map(|(name, labels)| (name.clone(), labels.clone())).collect();
        for known in self.policies.values().filter_map(|state| state.known.as_ref()) {
            match &*known.policy {
                Policy::Namespaced(policy) => snapshot.policies.push(policy.clone()),
                Policy::Cluster(policy) => snapshot.cluster_policies.push(policy.clone()),
            }
        }
        snapshot.config.clone_from(&self.config);
        snapshot.api_server.clone_from(&self.api_server);
        snapshot.dns_backends.clone_from(&self.dns_backends);
        snapshot.dns_servers.clone_from(&self.dns_servers);
        snapshot.dns_addresses.clone_from(&self.dns_addresses);
        snapshot
    }

    /// Takes up what an earlier process knew. What watches say afterwards replaces it.
    pub fn restore(&mut self, snapshot: Snapshot) {
        self.reset_namespaces(snapshot.namespaces);
        let namespaced = snapshot.policies.into_iter().map(Policy::Namespaced);
        let cluster = snapshot.cluster_policies.into_iter().map(Policy::Cluster);
        namespaced.chain(cluster).for_each(|policy| self.apply_policy(PolicyFacts::new(policy)));
        if self.apply_config(snapshot.config.as_ref()).is_err() {
            tracing::warn!("the configuration that was kept is not understood any more; the defaults count");
        }
        self.apply_api_server(snapshot.api_server);
        self.apply_dns_backends(snapshot.dns_backends, snapshot.dns_servers);
        self.apply_dns_addresses(snapshot.dns_addresses);
        self.reset_pods(snapshot.pods);
    }

    /// What holds for the whole cluster.
    #[must_use]
    pub fn configured(&self) -> &Configured {
        &self.configured
    }

    /// All policies, and what is wrong with them.
    #[must_use]
    pub fn policies(&self) -> &BTreeMap<PolicyRef, PolicyState> {
        &self.policies
    }

    /// The decision about a pod, as of the last [`decide`](Self::decide).
    #[must_use]
    pub fn decided(&self, uid: &str) -> Option<&Arc<Decided>> {
        self.pods.get(uid)?.decided.as_ref()
    }

    /// The pods of this node.
    pub fn pods(&self) -> impl Iterator<Item = &Arc<PodFacts>> {
        self.pods.values().map(|entry| &entry.facts)
    }

    /// Makes decisions that are missing or out of date at `now`, and gives those of all pods, also of those that
    /// have ended: while its interface is there, a pod is guarded. A pod whose namespace is not known yet has none.
    pub fn decide(&mut self, now: Timestamp) -> Vec<Arc<Decided>> {
        let stale = self.pods.iter().filter(|(_, entry)| entry.is_out_of_date(now));
        let stale: Vec<Arc<str>> = stale.map(|(uid, _)| Arc::clone(uid)).collect();
        let cluster = self.ranges();
        let mut compiled = Compiled::default();
        for uid in stale {
            let decided = self.compile(&uid, &cluster, &mut compiled, now);
            if let (Some(entry), Some(decided)) = (self.pods.get_mut(&uid), decided) {
                entry.decided = Some(Arc::new(decided));
                entry.is_stale = false;
            }
        }
        self.pods.values().filter_map(|entry| entry.decided.clone()).collect()
    }

    /// When the next rule begins or ends (R7, R13).
    #[must_use]
    pub fn next_change(&self) -> Option<Timestamp> {
        self.pods.values().filter_map(|entry| entry.decided.as_ref()?.next_change).min()
    }

    fn ranges(&self) -> ClusterRanges {
        let mut ranges = self.configured.ranges.clone();
        ranges.api_server.extend(&self.api_server);
        ranges.own_node.clone_from(&self.own_node);
        ranges
    }

    /// Asks again which policies select a pod.
    fn select(&mut self, uid: &str) {
        let Some(entry) = self.pods.get(uid) else { return };
        let Some(labels) = self.namespaces.get(&entry.facts.namespace) else { return };
        let workload = self.workload(&entry.facts, labels);
        let known = self.policies.iter().filter_map(|(policy, state)| Some((policy, state.known.as_ref()?)));
        let selected_by = known.filter(|(_, known)| known.policy.selects(&workload));
        let selected_by: BTreeSet<PolicyRef> = selected_by.map(|(policy, _)| policy.clone()).collect();
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.selected_by = Arc::new(selected_by);
            entry.is_stale = true;
        }
    }

    fn select_where(&mut self, which: impl Fn(&PodFacts) -> bool) {
        let meant = self.pods.values().filter(|entry| which(&entry.facts));
        for uid in meant.map(|entry| Arc::clone(&entry.facts.uid)).collect::<Vec<_>>() {
            self.select(&uid);
        }
    }

    fn make_stale(&mut self, which: impl Fn(&PodFacts) -> bool) {
        self.pods.values_mut().filter(|entry| which(&entry.facts)).for_each(|entry| entry.is_stale = true);
    }

    /// Asks of all pods whether one policy, which changed, selects them; only they are decided anew.
    fn reconsider(&mut self, policy: &PolicyRef) {
        let known = self.policies.get(policy).and_then(|state| state.known.as_ref());
        let mut changes = Vec::new();
        for (uid, entry) in &self.pods {
            let Some(labels) = self.namespaces.get(&entry.facts.namespace) else { continue };
            let selects =
                known.is_some_and(|known| known.policy.selects(&self.workload(&entry.facts, labels)));
            if selects || entry.selected_by.contains(policy) {
                changes.push((Arc::clone(uid), selects));
            }
        }
        for (uid, selects) in changes {
            let Some(entry) = self.pods.get_mut(&uid) else { continue };
            entry.is_stale = true;
            let selected_by = Arc::make_mut(&mut entry.selected_by);
            if selects {
                selected_by.insert(policy.clone());
            } else {
                selected_by.remove(policy);
            }
        }
    }

    fn workload<'a>(&self, pod: &'a PodFacts, namespace_labels: &'a Labels) -> Workload<'a> {
        let exempt = self.configured.is_exempt(&pod.namespace)
            || self.options.own_namespace.as_deref() == Some(&*pod.namespace)
            || self.dns_backends.contains(&pod.uid);
        Workload { namespace: &pod.namespace, namespace_labels, labels: &pod.labels, exempt }
    }

    fn compile(
        &self,
        uid: &str,
        cluster: &ClusterRanges,
        compiled: &mut Compiled,
        now: Timestamp,
    ) -> Option<Decided> {
        let entry = self.pods.get(uid)?;
        let pod = &entry.facts;
        let labels = self.namespaces.get(&pod.namespace)?;
        let settings = self.configured.settings_of(&pod.namespace);
        let suspended_until = self.configured.suspended_until(pod, &self.options.node, now);
        let source = Source {
            selected_by: Arc::clone(&entry.selected_by),
            settings: Arc::clone(settings),
            is_suspended: suspended_until.is_some(),
            asks_directly: self.dns_backends.contains(&pod.uid),
        };
        let rules = compiled.get(source, |source| self.compile_source(source, cluster, now));
        let before = entry.decided.as_ref().map(|decided| Arc::clone(&decided.rules));
        let (rules, trouble) = match rules {
            Ok(rules) => (rules, None),
            // The last good rules stay; a pod that has none may do nothing.
            Err(error) => (before.or_else(|| nothing(settings, cluster, now))?, Some(error)),
        };
        let known = || entry.selected_by.iter().filter_map(|policy| self.known(policy));
        let subject = Subject {
            namespace: pod.namespace.to_string(),
            labels: pod.labels.clone(),
            namespace_labels: labels.clone(),
            exempt: self.workload(pod, labels).exempt,
            suspended: suspended_until.is_some(),
            policies: known().map(|known| Arc::clone(&known.policy)).collect(),
            cluster: cluster.clone(),
        };
        let turn =
            known().flat_map(|known| known.rules.iter()).filter_map(|rule| rule.next_change(now)).min();
        Some(Decided {
            pod: Arc::clone(pod),
            next_change: turn.into_iter().chain(suspended_until).min(),
            rules,
            settings: Arc::clone(settings),
            selected_by: Arc::clone(&entry.selected_by),
            subject: Arc::new(subject),
            is_observed: self.configured.is_observed(&pod.namespace),
            suspended_until,
            trouble,
        })
    }

    fn known(&self, policy: &PolicyRef) -> Option<&Known> {
        self.policies.get(policy)?.known.as_ref()
    }

    /// What a pod means as the cluster's DNS, as it leaves the pod: the service, or, where that was translated, what is
    /// behind it.
    fn forwarders(&self, settings: &Settings) -> Vec<Rule> {
        let mut by_port: BTreeMap<u16, BTreeSet<IpAddr>> = BTreeMap::new();
        for server in &settings.dns.trusted {
            by_port.entry(server.port()).or_default().insert(server.ip());
        }
        by_port.entry(DNS_PORT).or_default().extend(&self.dns_addresses);
        let rule =
            |(port, servers): (u16, BTreeSet<IpAddr>)| direct_dns(servers.into_iter().map(IpNet::from), port);
        by_port.into_iter().map(rule).collect()
    }

    fn compile_source(
        &self,
        source: &Source,
        cluster: &ClusterRanges,
        now: Timestamp,
    ) -> Result<Arc<RuleSet>, CompileError> {
        let known: Vec<&Known> = source.selected_by.iter().filter_map(|policy| self.known(policy)).collect();
        let mut isolation = isolation(known.iter().map(|known| &*known.policy));
        let mut rules: Vec<Rule> = known.iter().flat_map(|known| known.rules.iter().cloned()).collect();
        if source.is_suspended {
            (isolation, rules) = suspended(isolation, rules);
        }
        if source.asks_directly {
            let everywhere = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|all| all.parse().ok());
            rules.push(direct_dns(everywhere, DNS_PORT));
        } else if self.options.forwards {
            rules.extend(self.forwarders(&source.settings));
        }
        RuleSet::compile(isolation, &rules, &source.settings, cluster, now).map(Arc::new)
    }
}

impl Entry {
    fn is_out_of_date(&self, now: Timestamp) -> bool {
        let change = self.decided.as_ref().and_then(|decided| decided.next_change);
        self.is_stale || change.is_some_and(|at| at <= now)
    }
}

/// What rules are compiled from.
#[derive(Clone, Debug)]
struct Source {
    selected_by: Arc<BTreeSet<PolicyRef>>,
    settings: Arc<Settings>,
    is_suspended: bool,
    asks_directly: bool,
}

/// What tells two sources apart.
type SourceKey = (Arc<BTreeSet<PolicyRef>>, usize, bool, bool);

/// Rules that were compiled for one pod and serve all that have the same source.
#[derive(Debug, Default)]
struct Compiled(BTreeMap<SourceKey, Result<Arc<RuleSet>, CompileError>>);

impl Compiled {
    fn get(
        &mut self,
        source: Source,
        compile: impl FnOnce(&Source) -> Result<Arc<RuleSet>, CompileError>,
    ) -> Result<Arc<RuleSet>, CompileError> {
        // Settings are shared by all pods of a namespace: where they are says which they are.
        let settings = Arc::as_ptr(&source.settings) as usize;
        let key = (Arc::clone(&source.selected_by), settings, source.is_suspended, source.asks_directly);
        self.0.entry(key).or_insert_with(|| compile(&source)).clone()
    }
}

/// Whether two versions of a policy say the same; labels and status are not what they say.
fn is_same(one: &Policy, other: &Policy) -> bool {
    match (one, other) {
        (Policy::Namespaced(one), Policy::Namespaced(other)) => one.spec == other.spec,
        (Policy::Cluster(one), Policy::Cluster(other)) => one.spec == other.spec,
        (Policy::Namespaced(_), Policy::Cluster(_)) | (Policy::Cluster(_), Policy::Namespaced(_)) => false,
    }
}

/// Everything passes, and decisions say what would have been denied (R13).
fn suspended(isolation: Isolation, rules: Vec<Rule>) -> (Isolation, Vec<Rule>) {
    match isolation {
        // What only denies has nothing left to say.
        Isolation::NotIsolated => (Isolation::NotIsolated, Vec::new()),
        Isolation::Isolated | Isolation::Audit => {
            let audited = rules.into_iter().map(|rule| Rule { mode: RuleMode::Audit, ..rule });
            (Isolation::Audit, audited.collect())
        }
    }
}

/// Asks these servers without us. Servers of the cluster's DNS ask others as they like: their questions must not come back to
/// them through the resolver (R10). Where they forward to resolvers, everybody asks them.
fn direct_dns(servers: impl Iterator<Item = IpNet>, port: u16) -> Rule {
    let policy = PolicyRef::new(PolicyKind::EgressConfig, "", "default");
    Rule {
        peers: servers.map(|cidr| Peer::Block { cidr, except: Vec::new() }).collect(),
        ports: vec![PortSpec::one(Protocol::Udp, port), PortSpec::one(Protocol::Tcp, port)],
        ..Rule::new(policy, "cluster-dns", Effect::Allow)
    }
}

/// Isolated, and nothing is allowed.
fn nothing(settings: &Settings, cluster: &ClusterRanges, now: Timestamp) -> Option<Arc<RuleSet>> {
    RuleSet::compile(Isolation::Isolated, &[], settings, cluster, now).ok().map(Arc::new)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
