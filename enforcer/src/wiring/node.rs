//! On a Kubernetes node: joins what is decided about pods with where they are, and has the guardian make it so.
//!
//! One task owns the index. It hears of objects, sandboxes, interfaces and the clock, and after each it compares the
//! whole state. Until everything was heard once, or an earlier process left what it knew, nothing is removed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use nameward_crds::{EgressNodeSpec, ServiceName};
use nameward_daemon::clock;
use nameward_policy::PolicyKind;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use super::{finding, follow::until_instant};
use crate::{
    EndpointConfig, Enforcer,
    config::Config,
    feed_client::FeedClient,
    guardian::{self, Guardian, WantedEndpoint},
    kernel::Attachment,
    pods::{Sandbox, Sandboxes, Verdicts, inside, pod_of},
    policies::{
        Decided, Index, Network,
        snapshot::Snapshot,
        watch::{Change, Health, ReadPolicy, Update},
    },
    status::report::{self, PodState, Reason},
};

/// Time before pods without a known interface are looked for; doubled after each look that leaves some.
const LOOK_FIRST: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(30);
/// Time between two writings of what is known, where no rules change.
const KEEP_EVERY: Duration = Duration::from_secs(2);
/// File of what is known, in the folder of states.
const SNAPSHOT: &str = "cluster.json";

/// What a node's follower works with.
pub(super) struct NodeParts {
    pub(super) index: Index,
    pub(super) guardian: Guardian,
    pub(super) enforcer: Enforcer,
    pub(super) sandboxes: Arc<Sandboxes>,
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) changes: mpsc::Receiver<Change>,
    pub(super) state: PathBuf,
    pub(super) node: String,
    /// Endpoints of a file, beside the pods.
    pub(super) file: Option<Config>,
    /// What the node says of itself.
    pub(super) reports: watch::Sender<Option<EgressNodeSpec>>,
    /// Which service the cluster's DNS is.
    pub(super) dns: watch::Sender<ServiceName>,
    pub(super) feed: Arc<FeedClient>,
    pub(super) health: Arc<Health>,
}

/// The task.
pub(super) struct Node {
    parts: NodeParts,
    links: watch::Receiver<()>,
    own_addresses: watch::Receiver<Vec<IpNet>>,
    /// Decisions of the last round.
    by_pod: HashMap<Arc<str>, Arc<Decided>>,
    heard: Heard,
    /// Addresses of the API server's service, and those behind it.
    api_server: [Option<Vec<std::net::IpAddr>>; 2],
    /// For the pods that an earlier process knew, and for all.
    has_looked: (bool, bool),
    /// Decisions about pods that are gone while their interface is still there.
    departed: BTreeMap<Arc<str>, Arc<Decided>>,
    look_at: Option<Instant>,
    /// When a round comes although nothing was heard, and how many rounds in a row left something over.
    again: (Option<Instant>, u32),
    /// Pods that lacked an interface in the last round, and how often they were looked for.
    missing: (usize, u32),
    hang_up: Signal,
    keep_at: Option<Instant>,
    next_change: Option<Timestamp>,
}

/// Which kinds of objects were heard of.
#[derive(Debug, Default)]
struct Heard {
    pods: bool,
    namespaces: bool,
    policies: BTreeSet<PolicyKind>,
    config: bool,
    /// An earlier process left what it knew.
    restored: bool,
}

impl Heard {
    /// Whether the API server has said everything once.
    fn is_all(&self) -> bool {
        self.pods && self.namespaces && self.config && self.policies.len() == 2
    }

    /// Whether what is known goes together: all that the API server says, or all that an earlier process knew. Pods of
    /// today with the policies of then would take fences down.
    fn is_enough(&self) -> bool {
        let is_begun = self.pods || self.namespaces || self.config || !self.policies.is_empty();
        self.is_all() || self.restored && !is_begun
    }
}

impl Node {
    pub(super) fn new(parts: NodeParts) -> Result<Self> {
        let (links, own_addresses) = (parts.enforcer.links(), parts.enforcer.own_addresses());
        Ok(Self {
            parts,
            links,
            own_addresses,
            by_pod: HashMap::new(),
            heard: Heard::default(),
            api_server: [None, None],
            has_looked: (false, false),
            departed: BTreeMap::new(),
            look_at: None,
            again: (None, 0),
            missing: (0, 0),
            hang_up: signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?,
            keep_at: None,
            next_change: None,
        })
    }

    /// Takes up what an earlier process knew, so that a node without an API server goes on.
    pub(super) async fn begin(&mut self) {
        self.note_own_addresses();
        match Snapshot::read(&self.snapshot_path(), &self.parts.node) {
            Ok(Some(snapshot)) => {
                tracing::info!(pods = snapshot.pods.len(), "going on with what was known of the cluster");
                self.parts.index.restore(snapshot);
                self.heard.restored = true;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "what was known of the cluster is not readable; waiting for the API server")
            }
        }
        self.round().await;
    }

    /// Never ends by itself.
    pub(super) async fn follow(mut self) -> Result<()> {
        loop {
            tokio::select! {
                change = self.parts.changes.recv() => {
                    self.apply(change.context("the API server is not watched any more")?);
                    // What has come meanwhile is part of the same round.
                    while let Ok(change) = self.parts.changes.try_recv() {
                        self.apply(change);
                    }
                    self.round().await;
                }
                () = self.parts.verdicts.asked() => self.round().await,
                changed = self.links.changed() => {
                    changed.context("interfaces are not watched any more")?;
                    self.parts.guardian.hurry(Instant::now());
                    self.round().await;
                }
                changed = self.own_addresses.changed() => {
                    changed.context("addresses are not watched any more")?;
                    self.note_own_addresses();
                    self.round().await;
                }
                next = self.hang_up.recv() => {
                    next.context("no more signals arrive")?;
                    self.reload();
                    self.round().await;
                }
                () = until_instant(self.look_at) => {
                    self.missing.1 += 1;
                    self.look().await;
                    self.round().await;
                }
                () = until_instant(self.again.0) => self.round().await,
                () = until_instant(self.parts.guardian.next_retry()) => {
                    // What fails again is in the endpoint's status and in the log.
                    drop(self.parts.guardian.retry(Instant::now()).await);
                    self.end_round();
                }
                () = clock::until(self.next_change) => self.round().await,
                () = until_instant(self.keep_at) => self.keep().await,
            }
        }
    }

    fn apply(&mut self, change: Change) {
        self.keep_at.get_or_insert_with(|| Instant::now() + KEEP_EVERY);
        let index = &mut self.parts.index;
        match change {
            Change::Pods(update) => {
                self.heard.pods |= matches!(update, Update::Reset(_));
                match update {
                    Update::Reset(all) => {
                        let there: BTreeSet<Arc<str>> = all.iter().map(|pod| pod.uid.clone()).collect();
                        let gone = index.pods().filter(|pod| !there.contains(&pod.uid));
                        let gone = gone.filter_map(|pod| index.decided(&pod.uid)).cloned();
                        self.departed.extend(gone.map(|decided| (decided.pod.uid.clone(), decided)));
                        index.reset_pods(all);
                    }
                    Update::Apply(pod) => index.apply_pod(pod),
                    Update::Delete(uid) => {
                        let decided = index.decided(&uid).cloned();
                        self.departed.extend(decided.map(|decided| (uid.clone(), decided)));
                        index.delete_pod(&uid);
                    }
                }
            }
            Change::Namespaces(update) => {
                self.heard.namespaces |= matches!(update, Update::Reset(_));
                match update {
                    Update::Reset(all) => index.reset_namespaces(all),
                    Update::Apply((name, labels)) => index.apply_namespace(&name, labels),
                    Update::Delete(name) => index.delete_namespace(&name),
                }
            }
            Change::Policies(kind, update) => {
                if matches!(update, Update::Reset(_)) {
                    self.heard.policies.insert(kind);
                }
                apply_policies(index, kind, update);
            }
            Change::Config(config) => {
                self.heard.config = true;
                apply_config(index, config);
                let service = &index.configured().cluster_dns;
                self.parts.dns.send_if_modified(|known| {
                    let is_new = known != service;
                    known.clone_from(service);
                    is_new
                });
            }
            Change::ApiService(addresses) => self.note_api_server(0, addresses),
            Change::ApiServers(addresses) => self.note_api_server(1, addresses),
            Change::DnsBackends(backends) => {
                let addresses: BTreeSet<IpAddr> =
                    backends.iter().flat_map(|one| one.addresses.iter().copied()).collect();
                self.parts.feed.publish_forwarders(addresses.iter().copied().collect());
                index.apply_dns_addresses(addresses);
                let servers = backends.iter().flat_map(|one| one.servers.iter().copied()).collect();
                index.apply_dns_backends(backends.into_iter().filter_map(|one| one.pod).collect(), servers);
            }
        }
    }

    /// Both of them together: one alone would take the other's addresses away from who uses them.
    fn note_api_server(&mut self, which: usize, addresses: Vec<std::net::IpAddr>) {
        self.api_server[which] = Some(addresses);
        if let [Some(service), Some(servers)] = &self.api_server {
            let all = service.iter().chain(servers).copied().map(IpNet::from);
            self.parts.index.apply_api_server(all.collect());
        }
    }

    /// Decides, and makes it so.
    async fn round(&mut self) {
        self.again.0 = None;
        let now = Timestamp::now();
        let decided = self.parts.index.decide(now);
        self.next_change = self.parts.index.next_change();
        let mut by_pod: HashMap<Arc<str>, Arc<Decided>> =
            decided.into_iter().map(|decided| (decided.pod.uid.clone(), decided)).collect();
        if !self.heard.is_enough() {
            return;
        }
        let is_first_of_all = self.heard.is_all() && !self.has_looked.1;
        if !self.has_looked.0 || is_first_of_all {
            // Before anything is removed: pods that an earlier process guarded, and those that run. Once for the pods that the
            // earlier process knew, and once for all that there are.
            finding::take_up(&self.parts.enforcer, &self.parts.sandboxes, &self.parts.index);
            self.look().await;
            self.has_looked = (true, self.heard.is_all());
        }
        // Who added one may have looked before its interface went, and nothing tells that a second time.
        self.parts.sandboxes.sweep(inside::name_of);
        let sandboxes = self.parts.sandboxes.all();
        let there: BTreeSet<&Arc<str>> = sandboxes.iter().map(|sandbox| &sandbox.pod_uid).collect();
        self.departed.retain(|uid, _| there.contains(uid) && !by_pod.contains_key(uid));
        by_pod.extend(self.departed.iter().map(|(uid, decided)| (uid.clone(), decided.clone())));
        let configured = self.parts.index.configured().clone();
        self.parts.verdicts.publish(by_pod.clone(), configured, self.heard.is_all());
        self.parts.sandboxes.keep_pods(|uid| by_pod.contains_key(uid));
        let mut wanted = self.wanted_of_file(now);
        wanted.extend(sandboxes.iter().filter_map(|sandbox| self.want(sandbox, &by_pod)));
        self.plan_look(by_pod.values().filter(|decided| lacks_sandbox(decided, &there)).count());
        if self.has_other_rules(&by_pod) {
            // First the file, then the kernel: a process that goes on from the file must not give back what was taken away.
            self.keep().await;
        }
        // Each failure is in its endpoint's status and in the log.
        if let Err(failures) = self.parts.guardian.reconcile(wanted).await {
            tracing::debug!(failures = failures.len(), "not everything is as wanted yet; it is tried again");
        }
        self.by_pod = by_pod;
        self.end_round();
        self.plan_again();
        if is_first_of_all {
            let (pods, policies) = (self.by_pod.len(), self.parts.index.policies().len());
            tracing::info!(pods, policies, "all that the API server has is known");
        }
    }

    /// Whether a pod that was there in the last round has other rules now.
    fn has_other_rules(&self, by_pod: &HashMap<Arc<str>, Arc<Decided>>) -> bool {
        self.by_pod.iter().any(|(uid, before)| {
            by_pod.get(uid).is_some_and(|decided| {
                !Arc::ptr_eq(before, decided) && !guardian::is_same(&before.rules, &decided.rules)
            })
        })
    }

    /// Soon where something is left over, and now and then in any case: a message of the kernel may be lost.
    fn plan_again(&mut self) {
        let (wait, rounds) = match self.parts.guardian.leftovers() {
            0 => (LOOK_MAX, 0),
            _ => (look_after(self.again.1), self.again.1 + 1),
        };
        self.again = (Some(Instant::now() + wait), rounds);
    }

    /// Says what is in force now.
    fn end_round(&self) {
        self.parts.verdicts.round_is_done();
        let refused = self.parts.index.policies().values().filter(|state| state.refused.is_some()).count();
        self.parts.health.unreadable_policies.store(refused, Ordering::Relaxed);
        let suspended =
            self.by_pod.values().filter(|one| one.needs_guard() && one.suspended_until.is_some()).count();
        let before = self.parts.health.suspended_pods.swap(suspended, Ordering::Relaxed);
        match suspended {
            same if same == before => {}
            0 => tracing::warn!("break-glass has ended: everything is enforced again"),
            pods => tracing::warn!(pods, "break-glass: nothing is enforced for so many pods of this node"),
        }
        let report = report::report(&self.states(), self.parts.index.policies());
        self.parts.reports.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&report);
            *known = Some(report);
            is_new
        });
    }

    fn states(&self) -> Vec<PodState> {
        let mut sandboxes: HashMap<Arc<str>, Vec<Arc<str>>> = HashMap::new();
        for sandbox in self.parts.sandboxes.all() {
            sandboxes.entry(sandbox.pod_uid).or_default().push(sandbox.endpoint);
        }
        let guarded = self.by_pod.values().filter(|decided| !decided.selected_by.is_empty());
        let states = guarded.map(|decided| {
            let endpoints = sandboxes.get(&decided.pod.uid).map(Vec::as_slice).unwrap_or_default();
            let is_settled = |endpoint: &Arc<str>| self.parts.guardian.is_settled(endpoint);
            PodState {
                decided: Arc::clone(decided),
                is_programmed: !endpoints.is_empty()
                    && decided.trouble.is_none()
                    && endpoints.iter().all(is_settled),
                not_covered: self.not_covered(decided, endpoints.is_empty()),
            }
        });
        states.collect()
    }

    fn not_covered(&self, decided: &Decided, is_missing: bool) -> Option<Reason> {
        if decided.pod.network == Network::Host {
            return Some(Reason::HostNetwork);
        }
        let interfaces = self.parts.sandboxes.not_covered(&decided.pod.uid).into_iter();
        let interface = interfaces.map(|one| Reason::Interface(one.interface, one.kind)).next();
        let is_absent = is_missing && !decided.pod.addresses.is_empty();
        interface.or(is_absent.then_some(Reason::NoInterface))
    }

    fn wanted_of_file(&mut self, now: Timestamp) -> Vec<WantedEndpoint> {
        let Some(file) = &self.parts.file else { return Vec::new() };
        match file.wanted(now, &self.own_addresses.borrow()) {
            Ok(wanted) => {
                self.next_change = self.next_change.into_iter().chain(wanted.next_change).min();
                wanted.endpoints
            }
            Err(error) => {
                tracing::error!(%error, "endpoints of the file are as before");
                Vec::new()
            }
        }
    }

    fn want(&self, sandbox: &Sandbox, by_pod: &HashMap<Arc<str>, Arc<Decided>>) -> Option<WantedEndpoint> {
        let decided = by_pod.get(&sandbox.pod_uid).filter(|decided| decided.needs_guard())?;
        if self.parts.sandboxes.is_attaching(&sandbox.endpoint) {
            return None;
        }
        let mut addresses = match sandbox.addresses.is_empty() {
            true => decided.pod.addresses.clone(),
            false => sandbox.addresses.clone(),
        };
        if addresses.is_empty() {
            // The plugin told an earlier process, and the pod's status does not say it yet.
            addresses = self.parts.enforcer.addresses_of(&sandbox.endpoint);
        }
        let config = EndpointConfig {
            uid: Arc::clone(&sandbox.endpoint),
            name: format!("{}/{}", decided.pod.namespace, decided.pod.name),
            attachment: Attachment::Interface { name: sandbox.host_interface.clone() },
            addresses,
            settings: (*decided.settings).clone(),
            allow_host: false,
        };
        let subject = Some(Arc::clone(&decided.subject));
        Some(WantedEndpoint { config, rules: Arc::clone(&decided.rules), subject })
    }

    fn plan_look(&mut self, missing: usize) {
        if missing != self.missing.0 {
            self.missing = (missing, 0);
        }
        let due = Instant::now() + look_after(self.missing.1);
        self.look_at = (missing > 0).then(|| self.look_at.map_or(due, |at| at.min(due)));
    }

    /// Reads the file again: its endpoints count from now on, its settings from the next start.
    fn reload(&mut self) {
        let Some(file) = &self.parts.file else { return };
        match file.read_again() {
            Ok(config) => {
                tracing::info!(file = %config.file().display(), endpoints = config.len(), "read again");
                self.parts.file = Some(config);
            }
            Err(error) => tracing::error!(%error, "nothing has changed: the file has mistakes"),
        }
    }

    /// Looks for the interfaces of pods that run and that nobody named.
    async fn look(&mut self) {
        self.look_at = None;
        let pods: BTreeMap<String, String> = self
            .parts
            .index
            .pods()
            .filter(|pod| pod.network == Network::Own)
            .map(|pod| (pod.uid.to_string(), format!("{}/{}", pod.namespace, pod.name)))
            .collect();
        let found = tokio::task::spawn_blocking(move || finding::running(&pods)).await;
        match found.map_err(io::Error::other).and_then(|found| found) {
            Ok(found) => {
                for (sandboxes, uid, inside) in found {
                    self.parts.sandboxes.note_inside(&uid, &inside);
                    sandboxes.into_iter().for_each(|sandbox| self.parts.sandboxes.add(sandbox));
                }
            }
            Err(error) => tracing::warn!(%error, "running pods cannot be looked for"),
        }
    }

    fn note_own_addresses(&mut self) {
        let addresses = self.own_addresses.borrow_and_update().clone();
        self.parts.index.apply_own_node(addresses);
    }

    fn snapshot_path(&self) -> PathBuf {
        self.parts.state.join(SNAPSHOT)
    }

    async fn keep(&mut self) {
        self.keep_at = None;
        if !self.heard.is_enough() {
            return;
        }
        let (snapshot, path) = (self.parts.index.snapshot(), self.snapshot_path());
        let written = tokio::task::spawn_blocking(move || snapshot.write(&path)).await;
        if let Err(error) = written.map_err(io::Error::other).and_then(|written| written) {
            tracing::warn!(%error, "what is known of the cluster is not kept for a restart");
        }
    }
}

/// What the guardian may not remove although nobody wants it: what is being attached, and, while its interface is there,
/// what belongs to a pod of which nothing is known, and what belongs to one that is to be guarded: a sandbox that was named
/// after the round had begun, or one that goes, and until it has gone its interface still leads somewhere. Before the API
/// server has said what there is, nothing is known of any pod.
pub(super) fn is_kept(
    enforcer: &Enforcer,
    sandboxes: &Sandboxes,
    verdicts: &Verdicts,
    endpoint: &str,
) -> bool {
    if sandboxes.is_attaching(endpoint) {
        return true;
    }
    let named = sandboxes.get(endpoint).map(|sandbox| sandbox.pod_uid);
    // Others are endpoints of the file, which says itself whether they are wanted.
    let Some(pod_uid) = named.as_deref().or_else(|| pod_of(endpoint)) else { return false };
    let may_need_it =
        !verdicts.is_complete() || verdicts.of(pod_uid).is_none_or(|decided| decided.needs_guard());
    may_need_it && enforcer.is_place_there(endpoint)
}

/// Time before the next look, after so many that were not enough.
fn look_after(looks: u32) -> Duration {
    LOOK_FIRST.saturating_mul(1 << looks.min(8)).min(LOOK_MAX)
}

fn lacks_sandbox(decided: &Decided, there: &BTreeSet<&Arc<str>>) -> bool {
    decided.needs_guard()
        && decided.pod.network == Network::Own
        && !decided.pod.is_over
        && !decided.pod.addresses.is_empty()
        && !there.contains(&decided.pod.uid)
}

fn apply_policies(
    index: &mut Index,
    kind: PolicyKind,
    update: Update<ReadPolicy, nameward_policy::PolicyRef>,
) {
    match update {
        Update::Reset(all) => {
            let (mut good, mut unreadable) = (Vec::new(), BTreeSet::new());
            for one in all {
                match one {
                    ReadPolicy::Good(facts) => good.push(*facts),
                    ReadPolicy::Bad { policy, generation, message } => {
                        refuse(index, &policy, generation, message);
                        unreadable.insert(policy);
                    }
                }
            }
            index.reset_policies(kind, good, &unreadable);
        }
        Update::Apply(ReadPolicy::Good(facts)) => index.apply_policy(*facts),
        Update::Apply(ReadPolicy::Bad { policy, generation, message }) => {
            refuse(index, &policy, generation, message);
        }
        Update::Delete(policy) => index.delete_policy(&policy),
    }
}

fn refuse(index: &mut Index, policy: &nameward_policy::PolicyRef, generation: i64, message: String) {
    tracing::warn!(%policy, generation, message, "a policy cannot be read; what is in force stays");
    index.refuse_policy(policy, generation, message);
}

fn apply_config(index: &mut Index, config: Option<Result<Box<nameward_crds::EgressConfig>, String>>) {
    let problems = match config {
        None => index.apply_config(None).err().unwrap_or_default(),
        Some(Ok(config)) => index.apply_config(Some(&config.spec)).err().unwrap_or_default(),
        Some(Err(message)) => vec![nameward_crds::Problem { path: "EgressConfig".into(), message }],
    };
    for problem in problems {
        tracing::warn!(
            field = problem.path,
            problem = problem.message,
            "EgressConfig/default is not understood; the one before counts"
        );
    }
}
