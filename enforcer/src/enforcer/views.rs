//! What others may see of an enforcer: resolvers, the API, the command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::{Bound, RangeBounds},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nameward_api::{
    filter::BindingFilter,
    suggest::port_text,
    types::{
        BindingStatus, Counts, EndpointStatus, LeaseStatus, Mode, RuleName, SubjectStatus, TrafficStatus,
    },
};
use nameward_feed::proto::RefusedNames;
use nameward_feed::sockets::DnsSocket;
use nameward_policy::{Binding, BootTime, Destination, Explanation, KernelMode, Name, RuleSet};

use super::{Enforcer, EnforcerError, Guarded, now, problems::Problem};
use crate::{
    GrantRequest, Granted, Refused,
    decisions::ip,
    feed_client::{Backend, BindingView, EndpointView},
    kernel::{Attachment, BootNanos, KernelStore},
    policies::Subject,
};

/// Different ports of one destination that are told.
const PORTS_TOLD: usize = 64;

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
        self.some_binding_statuses(uid, &BindingFilter::default(), Bound::Unbounded, usize::MAX)
    }

    /// Those that pass a filter, by name; at most `limit` behind the name `after`.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn some_binding_statuses(
        &self,
        uid: &str,
        filter: &BindingFilter,
        first: Bound<&str>,
        limit: usize,
    ) -> Result<Vec<BindingStatus>, EnforcerError> {
        let guarded = self.guarded(uid)?;
        let clock = Clock::now();
        // What takes time is done without the lock: nobody's grant waits for somebody who asks.
        let (found, rules) = {
            let endpoint = guarded.lock();
            let behind = |binding: &&Binding| {
                RangeBounds::<str>::contains(&(first, Bound::Unbounded), binding.name.as_str())
            };
            let most = if filter.asks_for_more() { usize::MAX } else { limit };
            let found = endpoint.bindings_like(filter).into_iter().filter(behind).take(most).cloned();
            (found.collect::<Vec<Binding>>(), endpoint.rules().map(Arc::clone))
        };
        let statuses = found.iter().map(|binding| clock.binding_status(&guarded, rules.as_deref(), binding));
        Ok(statuses.filter(|status| filter.passes_rest(status)).take(limit).collect())
    }

    /// Identifiers and names of all endpoints that are attached, by identifier.
    pub fn endpoint_names(&self) -> Vec<(Arc<str>, String)> {
        self.all().iter().map(|one| (one.config.uid.clone(), one.config.name.clone())).collect()
    }

    /// What an endpoint's live connections carry, by destination and reason.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`], [`EnforcerError::Kernel`].
    pub fn traffic(&self, uid: &str) -> Result<Vec<TrafficStatus>, EnforcerError> {
        let guarded = self.guarded(uid)?;
        let endpoint = guarded.lock();
        let mut all: BTreeMap<(String, &'static str), TrafficStatus> = BTreeMap::new();
        let mut ports: BTreeMap<(String, &'static str), BTreeSet<(u8, u16)>> = BTreeMap::new();
        for (key, flow) in endpoint.store().flows()? {
            let names = endpoint.names_of_id(flow.admitted_id);
            let reason =
                nameward_abi::Reason::from_number(flow.admitted_by).map_or("unknown", |reason| reason.word());
            let destination = destination(names, ip(key.remote));
            if key.remote_port != [0, 0] || !matches!(key.protocol, 6 | 17 | 132) {
                let ports = ports.entry((destination.clone(), reason)).or_default();
                if ports.len() < PORTS_TOLD {
                    ports.insert((key.protocol, u16::from_be_bytes(key.remote_port)));
                }
            }
            let one = all.entry((destination, reason)).or_insert_with_key(|(destination, _)| TrafficStatus {
                endpoint: guarded.config.uid.clone(),
                workload: guarded.workload(),
                destination: destination.clone(),
                reason: reason.into(),
                rules: rules_of_all(endpoint.rules().map(|rules| &**rules), names),
                flows: 0,
                ports: Vec::new(),
                packets: 0,
                bytes: 0,
            });
            one.flows += 1;
            one.packets += flow.packets;
            one.bytes += flow.bytes;
        }
        for (key, ports) in ports {
            if let Some(one) = all.get_mut(&key) {
                one.ports = ports.into_iter().map(|(protocol, port)| port_text(protocol, port)).collect();
            }
        }
        Ok(all.into_values().collect())
    }

    /// The rules of each endpoint that has rules, and when each of its names was last asked, by identifier.
    pub(crate) fn rule_sets(&self) -> Vec<InForce> {
        let each = |guarded: &Arc<Guarded>| {
            let endpoint = guarded.lock();
            let rules = Arc::clone(endpoint.rules()?);
            let asked = endpoint.bindings().map(|binding| (binding.name.clone(), binding.asked_at));
            Some(InForce { uid: guarded.config.uid.clone(), rules, asked: asked.collect() })
        };
        self.all().iter().filter_map(each).collect()
    }

    /// Keeps in mind what the rules of an endpoint are compiled from.
    pub fn describe(&self, uid: &Arc<str>, subject: Arc<Subject>) {
        let mut subjects = self.0.subjects.write().unwrap_or_else(PoisonError::into_inner);
        subjects.insert(Arc::clone(uid), subject);
    }

    /// Endpoints as policies see them, by identifier.
    pub fn subjects(&self) -> Vec<SubjectStatus> {
        let subjects = self.0.subjects.read().unwrap_or_else(PoisonError::into_inner);
        subjects.iter().map(|(uid, subject)| subject.status(uid)).collect()
    }

    /// Whether a deny of an endpoint's rules stands against a name, also where it is only audited.
    pub fn forbids(&self, uid: &str, name: &Name) -> bool {
        let Ok(guarded) = self.guarded(uid) else { return false };
        let endpoint = guarded.lock();
        endpoint.rules().is_some_and(|rules| rules.dns.denied_by(name).is_some())
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

    /// The same under the rules that would be in force if its Audit policies were enforced, too; none where there are no such.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub(crate) fn explain_staged(
        &self,
        uid: &str,
        destination: &Destination,
        protocol: u8,
        port: u16,
    ) -> Result<Option<Explanation>, EnforcerError> {
        Ok(self.guarded(uid)?.lock().explain_staged(destination, protocol, port, now()))
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

    fn grant_at_once(&self, request: &GrantRequest) -> Option<Result<Granted, Refused>> {
        Self::grant_at_once(self, request)
    }

    fn refused_names(&self, names: &RefusedNames) {
        self.tell_refused(names);
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
        lost_questions: 0,
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
        mode: endpoint.rules().map(|rules| mode(rules.kernel.mode)),
        live_names,
        live_addresses,
        problem: problem.map(|problem| problem.text).or_else(|| guarded.trouble()),
        counters: counters
            .into_iter()
            .filter(|(_, counter)| counter.packets != 0)
            .map(|(reason, counter)| {
                (reason.word().into(), Counts { packets: counter.packets, bytes: counter.bytes })
            })
            .collect(),
        lost_events: endpoint.store().lost_events()?,
        lost_questions: guarded.untold.load(Ordering::Relaxed),
        drift_repairs: endpoint.drift_repairs(),
        adopted: endpoint.adopted(),
        not_covered: guarded.not_covered(endpoint.unseen_answers()),
    })
}

const fn mode(mode: KernelMode) -> Mode {
    match mode {
        KernelMode::Enforce => Mode::Enforce,
        KernelMode::Audit => Mode::Audit,
        KernelMode::NotIsolated => Mode::NotIsolated,
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

/// The rules of an endpoint, and when each of its names was last asked.
pub(crate) struct InForce {
    pub(crate) uid: Arc<str>,
    pub(crate) rules: Arc<RuleSet>,
    pub(crate) asked: Vec<(Name, BootTime)>,
}

/// The two clocks at one moment: what is told in the kernel's becomes the wall's.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    boot: BootTime,
    wall: Timestamp,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self { boot: now(), wall: Timestamp::now() }
    }

    /// The wall clock's time of a moment, to the second: clocks do not agree on more.
    pub(crate) fn wall(self, moment: BootTime) -> Timestamp {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let away = seconds(moment.since(self.boot)) - seconds(self.boot.since(moment));
        let time = self.wall.checked_add(SignedDuration::from_secs(away)).unwrap_or(Timestamp::MAX);
        Timestamp::from_second(time.as_second()).unwrap_or(time)
    }

    fn binding_status(self, guarded: &Guarded, rules: Option<&RuleSet>, binding: &Binding) -> BindingStatus {
        let lease = |lease: &nameward_policy::Lease| LeaseStatus {
            address: lease.address,
            ttl_ends_at: self.wall(if lease.is_revoked() { lease.expires_at } else { lease.ttl_ends }),
            expires_at: self.wall(lease.expires_at),
            seconds_left: lease.expires_at.since(self.boot).as_secs(),
        };
        BindingStatus {
            endpoint: guarded.config.uid.clone(),
            workload: guarded.workload(),
            name: binding.name.as_str().to_owned(),
            chain: binding.chain.iter().map(|alias| alias.as_str().to_owned()).collect(),
            asked_at: self.wall(binding.asked_at),
            addresses: binding.addresses.iter().map(lease).collect(),
            rules: rules.map(|rules| allowing(rules, &binding.name)).unwrap_or_default(),
        }
    }
}

/// The names that a connection may have been meant for; else where it goes. TCP of cgroups does not say.
fn destination(names: &[Name], remote: IpAddr) -> String {
    match names {
        [] if remote.is_unspecified() => "an address".into(),
        [] => remote.to_string(),
        names => names.iter().map(Name::as_str).collect::<Vec<_>>().join(","),
    }
}

fn rules_of_all(rules: Option<&RuleSet>, names: &[Name]) -> Vec<RuleName> {
    let all = names.iter().flat_map(|name| rules.map(|rules| allowing(rules, name)).unwrap_or_default());
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The rules that allow a name.
fn allowing(rules: &RuleSet, name: &Name) -> Vec<RuleName> {
    let all = rules.rules_of(name).filter(|compiled| compiled.rule.effect == nameward_policy::Effect::Allow);
    all.map(|compiled| RuleName {
        policy: compiled.rule.policy.to_string(),
        rule: compiled.rule.name.to_string(),
    })
    .collect()
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
