//! The handle that the rest of a process holds: endpoints by identifier, rules in, grants in, decisions out.
//!
//! Each endpoint has its own lock: nobody's lookups wait for another's rules. What is done under it is in
//! [`crate::endpoints`]; how an endpoint comes and goes is in `attaching`.

mod attaching;
mod everyone;
mod flushing;
mod gateways;
mod isolating;
mod problems;
mod tails;
mod tasks;
mod views;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ipnet::IpNet;
use nameward_api::Followed;
use nameward_daemon::audit::AuditCounts;
use nameward_feed::{Identity, sockets::DnsSocket};
use nameward_policy::{BootTime, LiveAnswers, RuleSet, Settings};
use thiserror::Error;
use tokio::sync::{broadcast, watch};

use problems::{Failures, Problems};
use tails::Tails;
pub(crate) use views::{Clock, InForce};

use crate::{
    GrantRequest, Granted, Refused,
    audit::Audit,
    connections::Connection,
    coverage,
    decisions::{DecisionCounts, Decisions},
    dns_link::{DnsLink, DnsLinkError, DnsLinkOptions},
    endpoints::{Endpoint, EndpointError, chain_text, journal},
    gateway::Following,
    kernel::{
        Attachment, BootNanos, EndpointSpec, Host, HostOptions, KernelEndpoint, KernelError, cgroup_id,
        interface_index,
    },
    own_addresses::own_addresses,
    policies::{Subject, watch::Health},
};

/// Where an enforcer keeps things.
#[derive(Clone, Debug, Default)]
pub struct EnforcerOptions {
    /// Folder of pins.
    pub host: HostOptions,
    /// Folder of files that a restart needs; without one, names are forgotten with the process.
    pub state: Option<PathBuf>,
    /// The link that interface endpoints' DNS takes; without one their queries are denied.
    pub dns_link: Option<DnsLinkOptions>,
}

/// A workload to guard.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointConfig {
    /// Stable identifier.
    pub uid: Arc<str>,
    /// What people call it.
    pub name: String,
    /// Where it is attached.
    pub attachment: Attachment,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Limits, trusted DNS servers and the rest of R12.
    pub settings: Settings,
    /// Take an interface of a default route or the root cgroup nevertheless.
    pub allow_host: bool,
}

/// What can go wrong with an enforcer.
#[derive(Debug, Error)]
pub enum EnforcerError {
    /// Programs, maps, links.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The link for DNS.
    #[error(transparent)]
    DnsLink(#[from] DnsLinkError),
    /// One endpoint.
    #[error("endpoint {uid}")]
    Endpoint {
        /// Which.
        uid: Arc<str>,
        /// Cause; boxed, because it is the largest of all.
        source: Box<EndpointError>,
    },
    /// Sockets or files.
    #[error("cannot {operation} for endpoint {uid}")]
    Io {
        /// Verb and object.
        operation: &'static str,
        /// Which endpoint.
        uid: Arc<str>,
        /// Cause.
        source: io::Error,
    },
    /// Unknown or removed.
    #[error("there is no endpoint {uid}")]
    NoSuchEndpoint {
        /// As asked.
        uid: String,
    },
    /// More interface endpoints than identity addresses.
    #[error(
        "there are no identity addresses left: {} interface endpoints are possible",
        crate::dns_link::IDENTITIES
    )]
    NoIdentity,
    /// The process ends before it was done.
    #[error("the process is about to end")]
    Stopped(#[source] tokio::task::JoinError),
    /// The kernel does not tell which addresses this host has.
    #[error("cannot read the addresses of this host")]
    OwnAddresses(#[source] io::Error),
    /// The kernel's identifier of this boot cannot be read.
    #[error("cannot read the boot's identifier; is /proc mounted?")]
    Boot(#[source] io::Error),
}

impl EnforcerError {
    /// What went wrong, in one word: for counters.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kernel(error) | Self::DnsLink(DnsLinkError::Kernel(error)) => error.word(),
            Self::DnsLink(_) => "dns-link",
            Self::Endpoint { source, .. } => match &**source {
                EndpointError::Kernel(error) => error.word(),
                EndpointError::Journal(_) => "file",
            },
            Self::Io { .. } | Self::Boot(_) => "file",
            Self::OwnAddresses(_) => "addresses",
            Self::NoSuchEndpoint { .. } => "endpoint",
            Self::NoIdentity => "identity",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// Everything that one process enforces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Enforcer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<Host>,
    link: Option<DnsLink>,
    state: Option<PathBuf>,
    boot: String,
    endpoints: RwLock<HashMap<Arc<str>, Arc<Guarded>>>,
    /// Held while an endpoint is attached: no two may choose the same identity addresses.
    attaching: Mutex<()>,
    problems: Problems,
    failures: Failures,
    decisions: Decisions,
    tails: Tails,
    /// What the rules of endpoints are compiled from.
    subjects: RwLock<BTreeMap<Arc<str>, Arc<Subject>>>,
    /// What resolvers answer to all workloads.
    live_answers: Mutex<LiveAnswers>,
    /// On a node of a cluster.
    cluster: OnceLock<Arc<Health>>,
    /// Changes with every interface that comes, goes or changes.
    links: watch::Sender<()>,
    own_addresses: watch::Sender<Vec<IpNet>>,
    path_is_whole: AtomicBool,
}

/// An endpoint and what does not change while it is attached.
#[derive(Debug)]
struct Guarded {
    config: EndpointConfig,
    spec: EndpointSpec,
    number: u64,
    identity: Vec<Identity>,
    /// Which identity addresses it has (interfaces).
    index: Option<u16>,
    listeners: Vec<DnsSocket>,
    endpoint: Mutex<Endpoint<KernelEndpoint>>,
    /// What is wrong with its place: gone, or not to be seen.
    trouble: Mutex<Option<String>>,
    /// Since when its interface is not there.
    gone_since: Mutex<Option<Instant>>,
    /// Connections that lived before its programs were attached: the workload may make others look alive since.
    found: Vec<Connection>,
    /// What its fence does not hold, as far as that shows from outside; none before somebody looked.
    gaps: Mutex<Option<Vec<String>>>,
    /// Where it is behind a bridge that is its gateway.
    gateway: Mutex<Following>,
    /// It has as many names or addresses as it may: said once.
    is_full: AtomicBool,
    /// Questions that are no decisions.
    untold: AtomicU64,
    /// Another took its place. Set under the lock; from then on nothing is written through this one.
    is_retired: AtomicBool,
}

impl Guarded {
    /// What people call it, where that is not its identifier.
    fn workload(&self) -> Option<Arc<str>> {
        let EndpointConfig { uid, name, .. } = &self.config;
        (**uid != **name).then(|| name.as_str().into())
    }

    /// For reading. Who writes uses [`current`](Self::current).
    fn lock(&self) -> MutexGuard<'_, Endpoint<KernelEndpoint>> {
        self.endpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its interface or cgroup was made anew since its programs were attached.
    fn is_elsewhere(&self) -> Result<bool, KernelError> {
        let attached = self.lock().store().config()?;
        Ok(match &self.config.attachment {
            Attachment::Interface { name } => interface_index(name)? != attached.ifindex,
            Attachment::Cgroup { path, .. } => cgroup_id(path)? != attached.cgroup_id,
        })
    }

    /// What is wrong with its place, where something is.
    fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps in mind whether its interface is gone, and returns for how long it has been.
    fn note_absence(&self, is_gone: bool) -> Duration {
        let mut since = self.gone_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = is_gone.then(|| since.unwrap_or_else(Instant::now));
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Keeps in mind what is wrong with its place, and says so once.
    fn note_trouble(&self, error: Option<&KernelError>, failures: &Failures) {
        let text = error.map(|error| chain_text(error));
        let before = std::mem::replace(
            &mut *self.trouble.lock().unwrap_or_else(PoisonError::into_inner),
            text.clone(),
        );
        match (before, text) {
            (before, Some(text)) if before.as_ref() != Some(&text) => {
                failures.count(error.map_or("unknown", KernelError::word));
                tracing::error!(endpoint = &*self.config.uid, problem = text, "not guarded as it should be");
            }
            (Some(_), None) => tracing::info!(endpoint = &*self.config.uid, "guarded again"),
            _ => {}
        }
    }

    /// Looks for what its fence does not hold, and says so when that has changed.
    fn look_for_gaps(&self) {
        let found = coverage::gaps(&self.config.attachment, self.spec.arrivals);
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let known = gaps.replace(found.clone()).unwrap_or_default();
        drop(gaps);
        for gap in found.iter().filter(|gap| !known.contains(gap)) {
            tracing::warn!(endpoint = &*self.config.uid, gap, "not wholly covered");
        }
    }

    /// The same where that was not done yet, and where it costs little: a look into another namespace does not.
    fn look_for_new_gaps(&self) {
        let is_cgroup = matches!(self.config.attachment, Attachment::Cgroup { .. });
        let is_known = self.gaps.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if is_cgroup || !is_known {
            self.look_for_gaps();
        }
    }

    /// What its fence does not hold; empty when it holds everything.
    fn not_covered(&self, unseen_answers: usize) -> Vec<String> {
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        let unseen = coverage::unseen_answers(unseen_answers).filter(|_| !self.spec.arrivals);
        gaps.into_iter().chain(unseen).collect()
    }

    /// For writing; none when it was attached anew meanwhile.
    fn current(&self) -> Option<MutexGuard<'_, Endpoint<KernelEndpoint>>> {
        let endpoint = self.lock();
        (!self.is_retired.load(Ordering::Acquire)).then_some(endpoint)
    }
}

impl Enforcer {
    /// Opens what the endpoints of this instance share. What an earlier process attached goes on as it was; it is
    /// taken up when [`apply_endpoint`](Self::apply_endpoint) names it.
    ///
    /// # Errors
    /// [`EnforcerError`].
    pub fn open(options: EnforcerOptions) -> Result<Self, EnforcerError> {
        let host = Arc::new(Host::open(&options.host)?);
        let link = options.dns_link.map(|link| DnsLink::open(link, &host)).transpose()?;
        Ok(Self(Arc::new(Inner {
            host,
            link,
            state: options.state,
            boot: journal::boot_id().map_err(EnforcerError::Boot)?,
            endpoints: RwLock::default(),
            attaching: Mutex::default(),
            problems: Problems::default(),
            failures: Failures::default(),
            decisions: Decisions::default(),
            tails: Tails::default(),
            subjects: RwLock::default(),
            live_answers: Mutex::default(),
            cluster: OnceLock::new(),
            links: watch::Sender::new(()),
            own_addresses: watch::Sender::new(own_addresses().map_err(EnforcerError::OwnAddresses)?),
            path_is_whole: AtomicBool::new(false),
        })))
    }

    /// Puts rules into force. Resolvers must have forgotten older generations before (`FeedClient::revoke`), and learn
    /// of the new one afterwards. Returns the new generation.
    ///
    /// # Errors
    /// [`EnforcerError`]; then the old rules are in force as before.
    pub fn apply_rules(&self, uid: &str, rules: Arc<RuleSet>) -> Result<u32, EnforcerError> {
        loop {
            let guarded = self.guarded(uid)?;
            let Some(mut endpoint) = guarded.current() else { continue };
            if let Some(Err(error)) = &rules.staged {
                tracing::warn!(endpoint = uid, %error, "Audit policies cannot be judged: no second verdict is told");
            }
            let isolates_first = endpoint.isolates_first(&rules);
            // Before the first rules nothing can be opened.
            let was_open = endpoint.generation() != 0;
            if isolates_first {
                guarded.take_over(&mut endpoint, &rules);
            }
            let learned = endpoint.learn(self.live_answers().live(now()), &rules, now());
            let applied = learned.and_then(|()| endpoint.apply(Arc::clone(&rules), now()));
            if isolates_first && applied.is_ok() {
                if was_open {
                    // Also what was opened meanwhile.
                    guarded.take_over(&mut endpoint, &rules);
                }
                let adopted = endpoint.adopted().len();
                tracing::info!(endpoint = &*guarded.config.uid, adopted, "isolated for the first time");
            }
            return applied.map_err(|source| EnforcerError::Endpoint {
                uid: guarded.config.uid.clone(),
                source: Box::new(source),
            });
        }
    }

    /// Shows in metrics how it stands between this node and its cluster. The first word counts.
    pub fn show_cluster(&self, health: Arc<Health>) {
        self.0.cluster.get_or_init(|| health);
    }

    /// How it stands between this node and its cluster; none where there is none.
    pub fn cluster(&self) -> Option<&Health> {
        self.0.cluster.get().map(|health| &**health)
    }

    /// The generation that the next rules of an endpoint will have.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn next_generation(&self, uid: &str) -> Result<u32, EnforcerError> {
        Ok(self.guarded(uid)?.lock().next_generation())
    }

    /// Makes addresses usable; when it returns, they are (G1).
    ///
    /// # Errors
    /// [`Refused`].
    pub fn grant(&self, request: &GrantRequest) -> Result<Granted, Refused> {
        let granted = match request.is_for_everyone() {
            true => self.grant_everyone(request),
            false => self.grant_one(request),
        };
        told(request, granted)
    }

    /// The same for one endpoint whose lock is free; none where somebody holds it, and nothing was done.
    pub(crate) fn grant_at_once(&self, request: &GrantRequest) -> Option<Result<Granted, Refused>> {
        if request.is_for_everyone() {
            return None;
        }
        let guarded = self.guarded(&request.endpoint).ok()?;
        let mut endpoint = guarded.endpoint.try_lock().ok()?;
        let current = !guarded.is_retired.load(Ordering::Acquire);
        current.then(|| told(request, endpoint.grant(request, now())))
    }

    /// Follows decisions from here on.
    pub fn decisions(&self) -> broadcast::Receiver<Arc<Followed>> {
        self.0.decisions.subscribe()
    }

    /// The latest decisions, oldest first.
    pub fn recent_decisions(&self) -> Vec<Arc<Followed>> {
        self.0.decisions.recent()
    }

    /// Tells this process from others whose decisions begin at 1, too.
    pub fn epoch(&self) -> u64 {
        self.0.decisions.epoch()
    }

    /// Records every decision from here on in an audit log, too.
    pub fn audit(&self, audit: Audit) {
        self.0.decisions.audit(audit);
    }

    /// Records of the audit log; none without one.
    pub fn audit_counts(&self) -> Option<AuditCounts> {
        self.0.decisions.audit_counts()
    }

    /// Counts of decisions.
    pub fn decision_counts(&self) -> DecisionCounts {
        self.0.decisions.counts()
    }

    /// Questions that were not answered by reason, and those that are no decision.
    pub(crate) fn refused_counts(&self) -> (Vec<(nameward_policy::Reason, u64)>, u64) {
        self.0.decisions.refused_counts()
    }

    /// Copies of all DNS sockets, for a resolver in this process or another.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn dns_sockets(&self) -> io::Result<Vec<DnsSocket>> {
        let mut sockets = match &self.0.link {
            Some(link) => link.sockets()?,
            None => Vec::new(),
        };
        for guarded in self.all() {
            for one in &guarded.listeners {
                let socket = one.socket.try_clone()?;
                sockets.push(DnsSocket { transport: one.transport, server: one.server, socket });
            }
        }
        Ok(sockets)
    }

    fn grant_one(&self, request: &GrantRequest) -> Result<Granted, Refused> {
        loop {
            let guarded = self
                .guarded(&request.endpoint)
                .map_err(|_| Refused::NoSuchEndpoint { uid: request.endpoint.to_string() })?;
            if let Some(mut endpoint) = guarded.current() {
                return endpoint.grant(request, now());
            }
        }
    }

    fn guarded(&self, uid: &str) -> Result<Arc<Guarded>, EnforcerError> {
        let endpoints = self.0.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        endpoints.get(uid).cloned().ok_or_else(|| EnforcerError::NoSuchEndpoint { uid: uid.into() })
    }

    fn by_number(&self, number: u64) -> Option<Arc<Guarded>> {
        let endpoints = self.0.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        endpoints.values().find(|guarded| guarded.number == number).cloned()
    }

    /// By identifier, in order.
    fn all(&self) -> Vec<Arc<Guarded>> {
        let endpoints = self.0.endpoints.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = endpoints.values().cloned().collect();
        all.sort_by(|one, other| one.config.uid.cmp(&other.config.uid));
        all
    }
}

fn told(request: &GrantRequest, granted: Result<Granted, Refused>) -> Result<Granted, Refused> {
    let (endpoint, name) = (&*request.endpoint, &request.name);
    match &granted {
        Ok(granted) => tracing::debug!(endpoint, name, ?granted.usable_for, "granted"),
        Err(refused) => tracing::debug!(endpoint, name, %refused, "not granted"),
    }
    granted
}

/// The kernel's clock, as `policy` counts it.
fn now() -> BootTime {
    BootTime(BootNanos::now().0)
}
