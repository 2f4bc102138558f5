//! What others may see of an enforcer: resolvers, the API, the command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nameward_feed::sockets::DnsSocket;
use nameward_policy::{Binding, BootTime, Destination, Explanation, KernelMode};
use serde::Serialize;

use super::{Enforcer, EnforcerError, Guarded, now, problems::Problem};
use crate::{
    GrantRequest, Granted, Refused,
    endpoints::AdoptedConnection,
    feed_client::{Backend, BindingView, EndpointView},
    kernel::{Attachment, BootNanos},
};

/// An endpoint as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its identifier.
    pub uid: Arc<str>,
    /// What people call it.
    pub name: String,
    /// `interface NAME` or `cgroup PATH`.
    pub attachment: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Generation of its rules; 0 = none yet.
    pub generation: u32,
    /// `enforce`, `audit` or `not-isolated`; none before it has rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'static str>,
    /// Names with an address that new connections may use.
    pub live_names: usize,
    /// Addresses of names that new connections may use.
    pub live_addresses: usize,
    /// What is wrong with it; it is tried again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What its fence does not hold, and why; absent when it holds everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
    /// Packets and bytes by reason; reasons that never came are left out.
    pub counters: BTreeMap<&'static str, Counts>,
    /// Events that were kept back.
    pub lost_events: u64,
    /// Repairs of map contents that were not what they should have been.
    pub drift_repairs: u64,
    /// Connections from before rules first isolated it, which go on until they end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<AdoptedConnection>,
}

/// Which name gave which addresses to whom, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingStatus {
    /// Whom: the endpoint's identifier.
    pub endpoint: Arc<str>,
    /// The name that was asked for.
    pub name: String,
    /// The aliases between the name and its addresses in the last answer.
    pub chain: Vec<String>,
    /// When it was last asked for.
    pub asked_at: Timestamp,
    /// The addresses.
    pub addresses: Vec<LeaseStatus>,
}

/// One address of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// The address.
    pub address: IpAddr,
    /// When the last answer's TTL ends.
    pub ttl_ends_at: Timestamp,
    /// New connections are denied from here on. Later while the address is in use; held while expiry is frozen.
    pub expires_at: Timestamp,
    /// Time until then, in whole seconds; 0 = lapsed.
    pub seconds_left: u64,
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, layer 3.
    pub bytes: u64,
}

impl Enforcer {
    /// All endpoints by identifier, also those that are wanted and could not be attached yet.
    ///
    /// # Errors
    /// [`EnforcerError::Kernel`].
    pub fn endpoints(&self) -> Result<Vec<EndpointStatus>, EnforcerError> {
        let mut problems = self.0.problems.all();
        let mut all = Vec::new();
        for guarded in self.all() {
            let problem = problems.remove(&guarded.config.uid);
            all.push(status(&guarded, problem)?);
        }
        all.extend(problems.into_values().map(absent));
        all.sort_by(|one, other| one.uid.cmp(&other.uid));
        Ok(all)
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`], [`EnforcerError::Kernel`].
    pub fn endpoint(&self, uid: &str) -> Result<EndpointStatus, EnforcerError> {
        let problem = self.0.problems.all().remove(uid);
        match (self.guarded(uid), problem) {
            (Ok(guarded), problem) => status(&guarded, problem),
            (Err(_), Some(problem)) => Ok(absent(problem)),
            (Err(error), None) => Err(error),
        }
    }

    /// Why this node is not ready: the answer path is broken, or an endpoint is not as wanted. Empty when it is ready.
    pub fn not_ready(&self) -> Vec<String> {
        let path = (!self.is_path_whole())
            .then(|| String::from("no resolver is connected: new names are not answered, expiry is frozen"));
        let problems = self.0.problems.all().into_iter();
        let problems = problems.map(|(uid, problem)| format!("endpoint {uid}: {}", problem.text));
        let all = self.all();
        let troubles = all.iter().filter_map(|guarded| Some((guarded, guarded.trouble()?)));
        let troubles = troubles.map(|(guarded, text)| format!("endpoint {}: {text}", guarded.config.uid));
        let without_rules = all.iter().filter(|guarded| guarded.lock().generation() == 0);
        let without_rules =
            without_rules.map(|guarded| format!("endpoint {}: no rules yet", guarded.config.uid));
        path.into_iter().chain(problems).chain(troubles).chain(without_rules).collect()
    }

    /// Names and addresses of an endpoint, lapsed ones too.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn bindings(&self, uid: &str) -> Result<Vec<Binding>, EnforcerError> {
        Ok(self.guarded(uid)?.lock().bindings().cloned().collect())
    }

    /// The same with wall-clock times, for people.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn binding_statuses(&self, uid: &str) -> Result<Vec<BindingStatus>, EnforcerError> {
        Ok(binding_statuses(&*self.guarded(uid)?))
    }

    /// Those of all endpoints.
    pub fn all_binding_statuses(&self) -> Vec<BindingStatus> {
        self.all().iter().flat_map(|guarded| binding_statuses(guarded)).collect()
    }

    /// How long ago the kernel last heard that names are answered; none when it never has, or cannot be asked.
    pub fn heartbeat_age(&self) -> Option<Duration> {
        let last = self.0.host.last_beat().ok().filter(|last| last.0 != 0)?;
        Some(BootNanos::now().since(last))
    }

    /// Whether names are answered: a resolver is connected.
    pub fn is_path_whole(&self) -> bool {
        self.0.path_is_whole.load(Ordering::Relaxed)
    }

    /// Explains a new connection of an endpoint; none while it has no rules.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn explain(
        &self,
        uid: &str,
        destination: &Destination,
        protocol: u8,
        port: u16,
    ) -> Result<Option<Explanation>, EnforcerError> {
        Ok(self.guarded(uid)?.lock().explain(destination, protocol, port, now()))
    }

    /// An endpoint as resolvers see it; none while it has no rules.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn view(&self, uid: &str) -> Result<Option<EndpointView>, EnforcerError> {
        Ok(view(&*self.guarded(uid)?))
    }
}

impl Backend for Enforcer {
    fn endpoints(&self) -> Vec<EndpointView> {
        self.all().iter().filter_map(|guarded| view(guarded)).collect()
    }

    fn bindings(&self) -> Vec<BindingView> {
        self.all().iter().flat_map(|guarded| live_bindings(guarded)).collect()
    }

    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused> {
        Self::grant(self, &request)
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        Self::dns_sockets(self)
    }
}

/// One that is wanted only.
fn absent(problem: Problem) -> EndpointStatus {
    EndpointStatus {
        problem: Some(problem.text),
        generation: 0,
        mode: None,
        live_names: 0,
        live_addresses: 0,
        counters: BTreeMap::new(),
        lost_events: 0,
        drift_repairs: 0,
        adopted: Vec::new(),
        not_covered: Vec::new(),
        attachment: attachment(&problem.config.attachment),
        uid: problem.config.uid,
        name: problem.config.name,
        addresses: problem.config.addresses,
    }
}

fn attachment(attachment: &Attachment) -> String {
    match attachment {
        Attachment::Interface { name } => format!("interface {name}"),
        Attachment::Cgroup { path, .. } => format!("cgroup {}", path.display()),
    }
}

fn status(guarded: &Guarded, problem: Option<Problem>) -> Result<EndpointStatus, EnforcerError> {
    let endpoint = guarded.lock();
    let counters = endpoint.store().stats()?;
    let (live_names, live_addresses) = live_counts(endpoint.bindings());
    Ok(EndpointStatus {
        uid: guarded.config.uid.clone(),
        name: guarded.config.name.clone(),
        attachment: attachment(&guarded.config.attachment),
        addresses: guarded.config.addresses.clone(),
        generation: endpoint.generation(),
        mode: endpoint.rules().map(|rules| mode_word(rules.kernel.mode)),
        live_names,
        live_addresses,
        problem: problem.map(|problem| problem.text).or_else(|| guarded.trouble()),
        counters: counters
            .into_iter()
            .filter(|(_, counter)| counter.packets != 0)
            .map(|(reason, counter)| {
                (reason.word(), Counts { packets: counter.packets, bytes: counter.bytes })
            })
            .collect(),
        lost_events: endpoint.store().lost_events()?,
        drift_repairs: endpoint.drift_repairs(),
        adopted: endpoint.adopted(),
        not_covered: guarded.not_covered(endpoint.unseen_answers()),
    })
}

const fn mode_word(mode: KernelMode) -> &'static str {
    match mode {
        KernelMode::Enforce => "enforce",
        KernelMode::Audit => "audit",
        KernelMode::NotIsolated => "not-isolated",
    }
}

/// Live names, and the live addresses of all names.
fn live_counts<'a>(bindings: impl Iterator<Item = &'a Binding>) -> (usize, usize) {
    let now = now();
    let (mut names, mut addresses) = (0, BTreeSet::new());
    for binding in bindings {
        let live = binding.addresses.iter().filter(|lease| lease.is_live(now));
        let live: Vec<IpAddr> = live.map(|lease| lease.address).collect();
        names += usize::from(!live.is_empty());
        addresses.extend(live);
    }
    (names, addresses.len())
}

fn binding_statuses(guarded: &Guarded) -> Vec<BindingStatus> {
    let (now, clock) = (now(), Timestamp::now());
    let endpoint = guarded.lock();
    let status = |binding: &Binding| BindingStatus {
        endpoint: guarded.config.uid.clone(),
        name: binding.name.as_str().to_owned(),
        chain: binding.chain.iter().map(|alias| alias.as_str().to_owned()).collect(),
        asked_at: wall_clock(binding.asked_at, now, clock),
        addresses: binding
            .addresses
            .iter()
            .map(|lease| LeaseStatus {
                address: lease.address,
                ttl_ends_at: wall_clock(lease.ttl_ends, now, clock),
                expires_at: wall_clock(lease.expires_at, now, clock),
                seconds_left: lease.expires_at.since(now).as_secs(),
            })
            .collect(),
    };
    endpoint.bindings().map(status).collect()
}

/// The wall clock's time of a moment before or after now, to the second: clocks do not agree on more.
fn wall_clock(moment: BootTime, now: BootTime, clock: Timestamp) -> Timestamp {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let away = seconds(moment.since(now)) - seconds(now.since(moment));
    let time = clock.checked_add(SignedDuration::from_secs(away)).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn view(guarded: &Guarded) -> Option<EndpointView> {
    let endpoint = guarded.lock();
    let rules = endpoint.rules()?;
    let json = serde_json::to_vec(&*rules.dns).unwrap_or_else(|error| {
        // An endpoint without rules may ask nothing, which is what resolvers make of this.
        tracing::error!(endpoint = &*guarded.config.uid, %error, "rules cannot be told to resolvers");
        Vec::new()
    });
    Some(EndpointView {
        uid: guarded.config.uid.clone(),
        name: guarded.config.name.clone(),
        generation: endpoint.generation(),
        identity: guarded.identity.clone(),
        addresses: guarded.config.addresses.clone(),
        rules: json.into(),
    })
}

fn live_bindings(guarded: &Guarded) -> Vec<BindingView> {
    let now = now();
    let endpoint = guarded.lock();
    let live = endpoint.bindings().map(|binding| BindingView {
        endpoint: guarded.config.uid.clone(),
        name: binding.name.as_str().into(),
        addresses: binding
            .addresses
            .iter()
            .filter(|lease| lease.is_live(now))
            .map(|lease| (lease.address, lease.expires_at.since(now)))
            .collect(),
    });
    live.filter(|binding| !binding.addresses.is_empty()).collect()
}
