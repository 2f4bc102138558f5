//! The one writer of policies' status, and of events about objects that are not understood.
//!
//! Holds a Lease while it writes. Watches policies, the configuration and the nodes' reports; writes a policy's status
//! when it differs, at most once in 10 s.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use nameward_crds::{
    ClusterEgressPolicy, Condition, ConditionStatus, EgressConfig, EgressNodeSpec, EgressPolicy, Policy,
    PolicyStatus,
};
use nameward_policy::{PolicyKind, PolicyRef, Settings};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    WRITE_EVERY,
    conditions::{self, Facts},
    lease::Leadership,
    remedy, report,
};
use crate::policies::{
    Configured,
    watch::{SeenPolicy, StatusChange, Update, watch_for_status},
};

/// Name of the Lease.
const LEASE: &str = "nameward-status";
/// How often what is known is compared with what is written.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A node that does not report for this long is silent.
const SILENT_AFTER: Duration = Duration::from_secs(180);
/// What events name as their author.
const CONTROLLER: &str = "nameward.io/status";

/// Waits for the Lease, writes while it is held, and begins again. Never ends.
pub async fn run(client: Client, namespace: String, identity: String) {
    let mut leadership = Leadership::new(client.clone(), &namespace, LEASE, &identity);
    loop {
        leadership.acquire().await;
        tracing::info!(lease = LEASE, "this process writes the status of policies");
        tokio::select! {
            () = leadership.keep() => {}
            () = write(&client, &identity) => {}
        }
        tracing::info!(lease = LEASE, "another process may write the status of policies");
    }
}

/// A policy, as it was last seen.
#[derive(Debug, Default)]
struct Seen {
    generation: i64,
    uid: Option<String>,
    problems: Vec<String>,
    warnings: Vec<String>,
    /// As the API server has it.
    status: PolicyStatus,
    /// When it was tried last.
    written_at: Option<Instant>,
    /// Whether that was in vain.
    has_failed: bool,
    told: Option<String>,
}

/// A node's report, and since when it is as it is.
#[derive(Debug)]
struct Report {
    spec: EgressNodeSpec,
    heard_at: Instant,
}

struct Writer {
    client: Client,
    recorder: Recorder,
    policies: BTreeMap<PolicyRef, Seen>,
    nodes: BTreeMap<String, Report>,
    config: Option<Box<EgressConfig>>,
    config_written_at: Option<Instant>,
    listed: BTreeSet<&'static str>,
}

async fn write(client: &Client, identity: &str) {
    let reporter = Reporter { controller: CONTROLLER.into(), instance: Some(identity.into()) };
    let mut writer = Writer {
        client: client.clone(),
        recorder: Recorder::new(client.clone(), reporter),
        policies: BTreeMap::new(),
        nodes: BTreeMap::new(),
        config: None,
        config_written_at: None,
        listed: BTreeSet::new(),
    };
    let (_tasks, mut changes) = watch_for_status(client);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => writer.apply(change),
                None => return,
            },
            _ = look.tick() => writer.look(&mut changes).await,
        }
    }
}

impl Writer {
    fn apply(&mut self, change: StatusChange) {
        match change {
            StatusChange::Policies(kind, update) => {
                self.apply_policies(kind, update);
            }
            StatusChange::Nodes(update) => self.apply_nodes(update),
            StatusChange::Config(config) => {
                self.listed.insert("config");
                self.config = config;
            }
        }
    }

    fn apply_policies(&mut self, kind: PolicyKind, update: Update<SeenPolicy, PolicyRef>) {
        match update {
            Update::Reset(all) => {
                let there: BTreeSet<PolicyRef> = all.iter().map(|(policy, _)| policy.clone()).collect();
                self.policies.retain(|policy, _| policy.kind != kind || there.contains(policy));
                all.into_iter().for_each(|seen| self.see(seen));
                self.listed.insert(report::kind(kind));
            }
            Update::Apply(seen) => self.see(seen),
            Update::Delete(policy) => drop(self.policies.remove(&policy)),
        }
    }

    fn see(&mut self, (policy, read): SeenPolicy) {
        let seen = self.policies.entry(policy).or_default();
        match read {
            Ok(policy) => {
                let converted = policy.to_rules();
                let (metadata, status) = match *policy {
                    Policy::Namespaced(policy) => (policy.metadata, policy.status),
                    Policy::Cluster(policy) => (policy.metadata, policy.status),
                };
                seen.generation = metadata.generation.unwrap_or_default();
                seen.uid = metadata.uid;
                seen.status = status.unwrap_or_default();
                let problems = converted.problems.iter();
                seen.problems = problems.map(|one| format!("{}: {}", one.path, one.message)).collect();
                let warnings = converted.rules.iter().flat_map(|rule| {
                    rule.warnings().into_iter().map(move |warning| format!("rule {}: {warning}", rule.name))
                });
                seen.warnings = warnings.collect();
            }
            Err((generation, message)) => {
                seen.generation = generation;
                seen.problems = vec![format!("the object cannot be read: {message}")];
            }
        }
    }

    fn apply_nodes(&mut self, update: Update<(String, EgressNodeSpec), String>) {
        match update {
            Update::Reset(all) => {
                let there: BTreeSet<String> = all.iter().map(|(name, _)| name.clone()).collect();
                self.nodes.retain(|name, _| there.contains(name));
                all.into_iter().for_each(|(name, spec)| self.hear(name, spec));
                self.listed.insert("nodes");
            }
            Update::Apply((name, spec)) => self.hear(name, spec),
            Update::Delete(name) => drop(self.nodes.remove(&name)),
        }
    }

    fn hear(&mut self, name: String, spec: EgressNodeSpec) {
        let same = self.nodes.get(&name).is_some_and(|known| known.spec == spec);
        if !same {
            self.nodes.insert(name, Report { spec, heard_at: Instant::now() });
        }
    }

    /// Writes what differs and is due. Nothing, before everything was listed once.
    async fn look(&mut self, changes: &mut mpsc::Receiver<StatusChange>) {
        while let Ok(change) = changes.try_recv() {
            self.apply(change);
        }
        if self.listed.len() < 4 {
            return;
        }
        let silent = self.nodes.iter().filter(|(_, report)| report.heard_at.elapsed() > SILENT_AFTER);
        let silent: Vec<String> = silent.map(|(name, _)| name.clone()).collect();
        let (mut reports, suspended) = (self.reports(), self.suspended());
        let mut due = Vec::new();
        for (policy, seen) in &self.policies {
            let waits = seen.written_at.is_some_and(|at| at.elapsed() < WRITE_EVERY);
            let facts = Facts {
                generation: seen.generation,
                problems: seen.problems.clone(),
                warnings: seen.warnings.clone(),
                reports: reports.remove(policy).unwrap_or_default(),
                silent_nodes: silent.clone(),
                suspended: suspended.clone(),
            };
            let wanted = conditions::status(&facts, &seen.status, Timestamp::now());
            if !waits && wanted != seen.status {
                due.push((policy.clone(), wanted));
            }
        }
        for (policy, wanted) in due {
            self.put(&policy, wanted).await;
        }
        self.look_at_config().await;
    }

    /// What nodes say, by policy.
    fn reports(&self) -> BTreeMap<PolicyRef, Vec<nameward_crds::PolicyReport>> {
        let mut reports: BTreeMap<PolicyRef, Vec<_>> = BTreeMap::new();
        for one in self.nodes.values().flat_map(|report| &report.spec.policies) {
            let kind = match one.kind.as_str() {
                "EgressPolicy" => PolicyKind::EgressPolicy,
                "ClusterEgressPolicy" => PolicyKind::ClusterEgressPolicy,
                _ => continue,
            };
            let policy = PolicyRef::new(kind, &one.namespace, &one.name);
            reports.entry(policy).or_default().push(one.clone());
        }
        reports
    }

    /// What is suspended now, a sentence each (R13).
    fn suspended(&self) -> Vec<String> {
        let configured =
            self.config.as_ref().and_then(|config| Configured::read(&config.spec, &Settings::default()).ok());
        let suspensions = configured.as_ref().map(|configured| configured.suspensions(Timestamp::now()));
        let texts = suspensions.into_iter().flatten().map(|one| {
            format!("break-glass `{}` suspends enforcement until {} ({})", one.name, one.until, one.reason)
        });
        texts.collect()
    }

    async fn put(&mut self, policy: &PolicyRef, status: PolicyStatus) {
        let patch = Patch::Merge(json!({ "status": status }));
        let (client, params) = (self.client.clone(), PatchParams::default());
        let (namespace, name) = (policy.namespace.to_string(), policy.name.to_string());
        let written = match policy.kind {
            PolicyKind::EgressPolicy => {
                let api = Api::<EgressPolicy>::namespaced(client, &namespace);
                api.patch_status(&name, &params, &patch).await.map(drop)
            }
            PolicyKind::ClusterEgressPolicy => {
                let api = Api::<ClusterEgressPolicy>::all(client);
                api.patch_status(&name, &params, &patch).await.map(drop)
            }
            PolicyKind::EgressConfig | PolicyKind::CommandLine => Ok(()),
        };
        let is_written = written.is_ok();
        if let Some(seen) = self.policies.get_mut(policy) {
            seen.written_at = Some(Instant::now());
            // Once, not at every try.
            if let Err(error) = &written
                && !seen.has_failed
            {
                let error = remedy(error);
                tracing::warn!(%policy, error, "a policy's status is not written; it is tried again");
            }
            seen.has_failed = !is_written;
            if is_written {
                seen.status = status.clone();
            }
        }
        if is_written {
            self.tell(policy, &status).await;
        }
    }

    /// An event for an object that is not, or no longer, understood: once for each text.
    async fn tell(&mut self, policy: &PolicyRef, status: &PolicyStatus) {
        let Some(seen) = self.policies.get_mut(policy) else { return };
        let refused = status
            .conditions
            .iter()
            .find(|one| one.kind == "Accepted" && one.status == ConditionStatus::False);
        let text = refused.map(|condition| condition.message.clone());
        if seen.told == text {
            return;
        }
        seen.told.clone_from(&text);
        let (Some(condition), Some(text)) = (refused, text) else { return };
        let api_version = EgressPolicy::api_version(&()).into_owned();
        let reference = ObjectReference {
            api_version: Some(api_version),
            kind: Some(report::kind(policy.kind).into()),
            namespace: (!policy.namespace.is_empty()).then(|| policy.namespace.to_string()),
            name: Some(policy.name.to_string()),
            uid: seen.uid.clone(),
            ..ObjectReference::default()
        };
        self.publish(&reference, condition.reason.clone(), text).await;
    }

    async fn publish(&self, about: &ObjectReference, reason: String, mut note: String) {
        let mut end = note.len().min(1_000);
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        let event = Event {
            type_: EventType::Warning,
            reason,
            note: Some(note),
            action: "Read".into(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            tracing::warn!(error = remedy(&error), "an event is not written");
        }
    }

    async fn look_at_config(&mut self) {
        let Some(config) = &self.config else { return };
        if self.config_written_at.is_some_and(|at| at.elapsed() < WRITE_EVERY) {
            return;
        }
        let before = config.status.clone().unwrap_or_default();
        let conditions = self.config_conditions(config, &before.conditions);
        let generation = config.metadata.generation;
        if before.conditions == conditions && before.observed_generation == generation {
            return;
        }
        let reference = config.object_ref(&());
        let news = news(&before.conditions, &conditions);
        let status = json!({ "status": { "observedGeneration": generation, "conditions": conditions } });
        let api: Api<EgressConfig> = Api::all(self.client.clone());
        let written = api.patch_status("default", &PatchParams::default(), &Patch::Merge(status)).await;
        self.config_written_at = Some(Instant::now());
        match written {
            Ok(written) => {
                for (reason, text) in news {
                    self.publish(&reference, reason, text).await;
                }
                self.config = Some(Box::new(written));
            }
            Err(error) => {
                let error = remedy(&error);
                tracing::warn!(error, "the configuration's status is not written; it is tried again");
            }
        }
    }

    fn config_conditions(&self, config: &EgressConfig, before: &[Condition]) -> Vec<Condition> {
        let (now, generation) = (Timestamp::now(), config.metadata.generation.unwrap_or_default());
        let accepted = match Configured::read(&config.spec, &Settings::default()) {
            Ok(_) => (ConditionStatus::True, "Accepted", String::new()),
            Err(problems) => {
                let texts: Vec<String> =
                    problems.iter().map(|one| format!("{}: {}", one.path, one.message)).collect();
                (ConditionStatus::False, "Invalid", texts.join("; "))
            }
        };
        let suspended = self.suspended();
        let glass = match suspended.is_empty() {
            true => (ConditionStatus::False, "Enforced", String::new()),
            false => (ConditionStatus::True, "Suspended", suspended.join("; ")),
        };
        vec![
            conditions::condition("Accepted", accepted, generation, before, now),
            conditions::condition("BreakGlass", glass, generation, before, now),
        ]
    }
}

/// What people should hear of a configuration: that it is not understood, that enforcement is suspended, or is again.
fn news(before: &[Condition], after: &[Condition]) -> Vec<(String, String)> {
    let known = |kind: &str| before.iter().find(|one| one.kind == kind);
    let mut news = Vec::new();
    for one in after {
        let is_new =
            known(&one.kind).is_none_or(|known| known.status != one.status || known.message != one.message);
        let text = match (one.kind.as_str(), one.status) {
            ("Accepted", ConditionStatus::False) | ("BreakGlass", ConditionStatus::True) => {
                one.message.clone()
            }
            ("BreakGlass", ConditionStatus::False) if known(&one.kind).is_some() => {
                "everything is enforced again".into()
            }
            _ => continue,
        };
        if is_new {
            news.push((one.reason.clone(), text));
        }
    }
    news
}
