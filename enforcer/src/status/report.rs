//! A node's report: how many pods each policy selects here, in how many it is in force, who cannot be guarded.

use std::{collections::BTreeMap, sync::Arc};

use nameward_crds::{
    EgressNodeSpec, EndpointCounts, MAX_REPORTED_PODS, MAX_REPORTED_POLICIES, NotCoveredPod, PolicyReport,
};
use nameward_policy::{PolicyKind, PolicyRef};

use crate::policies::{Decided, PolicyState};

/// Longest text for people, in bytes: that of the schema.
const MAX_TEXT: usize = 1_024;

/// A pod, as it is guarded.
#[derive(Clone, Debug)]
pub struct PodState {
    /// What was decided.
    pub decided: Arc<Decided>,
    /// Whether all its interfaces have its rules.
    pub is_programmed: bool,
    /// Why it cannot be guarded, or not wholly.
    pub not_covered: Option<Reason>,
}

/// Why a pod cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It uses the node's network.
    HostNetwork,
    /// An interface has no side of the host where it could be judged: its name and kind.
    Interface(String, String),
    /// Its interface is not found.
    NoInterface,
}

impl Reason {
    /// In one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::HostNetwork => "HostNetwork",
            Self::Interface(..) => "Interface",
            Self::NoInterface => "NoInterface",
        }
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::HostNetwork => {
                "the pod uses the node's network, and has no interface of its own that could be guarded".into()
            }
            Self::Interface(name, kind) => {
                format!("the pod's interface {name} is of kind {kind}, which cannot be guarded from the host")
            }
            Self::NoInterface => {
                "the pod's interface is not found; the enforcer has to see the node's processes (hostPID), or nameward-cni has to be installed".into()
            }
        }
    }
}

/// The report of a node, without its time. Pods that have ended do not count.
#[must_use]
pub fn report(pods: &[PodState], policies: &BTreeMap<PolicyRef, PolicyState>) -> EgressNodeSpec {
    let living = pods.iter().filter(|pod| !pod.decided.pod.is_over && !pod.decided.selected_by.is_empty());
    let mut by_policy: BTreeMap<&PolicyRef, PolicyReport> = BTreeMap::new();
    let mut spec = EgressNodeSpec::default();
    for pod in living {
        count(&mut spec.endpoints, pod);
        for policy in pod.decided.selected_by.iter() {
            let report = by_policy.entry(policy).or_insert_with(|| begin(policy, policies));
            count(&mut report.endpoints, pod);
            if report.not_covered_reason.is_none() {
                report.not_covered_reason = pod.not_covered.as_ref().map(|reason| reason.word().into());
            }
            if report.problem.is_none() {
                report.problem = pod.decided.trouble.as_ref().map(|error| bounded(error.to_string()));
            }
        }
        if let Some(reason) = &pod.not_covered
            && spec.not_covered.len() < MAX_REPORTED_PODS
        {
            spec.not_covered.push(NotCoveredPod {
                namespace: pod.decided.pod.namespace.to_string(),
                name: pod.decided.pod.name.to_string(),
                reason: reason.word().into(),
                message: bounded(reason.text()),
            });
        }
    }
    spec.policies = by_policy.into_values().take(MAX_REPORTED_POLICIES).collect();
    spec.not_covered.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    spec
}

/// The kind of a policy as objects have it.
#[must_use]
pub const fn kind(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::EgressPolicy => "EgressPolicy",
        PolicyKind::ClusterEgressPolicy => "ClusterEgressPolicy",
        PolicyKind::EgressConfig => "EgressConfig",
        PolicyKind::CommandLine => "",
    }
}

fn begin(policy: &PolicyRef, policies: &BTreeMap<PolicyRef, PolicyState>) -> PolicyReport {
    PolicyReport {
        kind: kind(policy.kind).into(),
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        generation: policies.get(policy).map_or(0, |state| state.generation),
        ..PolicyReport::default()
    }
}

fn count(counts: &mut EndpointCounts, pod: &PodState) {
    counts.selected += 1;
    counts.programmed += i32::from(pod.is_programmed && pod.not_covered.is_none());
    counts.not_covered += i32::from(pod.not_covered.is_some());
}

/// A text that the schema takes.
fn bounded(mut text: String) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use nameward_crds::Policy;
    use serde_json::json;

    use super::*;
    use crate::policies::{Index, IndexOptions, Network, PodFacts, PolicyFacts};

    fn pod(name: &str, app: &str, is_over: bool) -> PodFacts {
        PodFacts {
            uid: name.into(),
            namespace: "ci".into(),
            name: name.into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            addresses: Vec::new(),
            network: Network::Own,
            is_over,
        }
    }

    #[test]
    fn a_policy_is_counted_by_the_pods_it_selects() {
        let mut index = Index::new(IndexOptions::default());
        index.apply_namespace("ci", Default::default());
        let policy = json!({
            "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
            "metadata": { "namespace": "ci", "name": "runners", "generation": 3 },
            "spec": { "podSelector": { "matchLabels": { "app": "runner" } }, "egress": [] },
        });
        index.apply_policy(PolicyFacts::new(Policy::Namespaced(serde_json::from_value(policy).unwrap())));
        index.apply_pod(pod("good", "runner", false));
        index.apply_pod(pod("on-host", "runner", false));
        index.apply_pod(pod("waits", "runner", false));
        index.apply_pod(pod("over", "runner", true));
        index.apply_pod(pod("free", "other", false));
        let states: Vec<PodState> = index
            .decide(Timestamp::UNIX_EPOCH)
            .into_iter()
            .map(|decided| PodState {
                is_programmed: &*decided.pod.name != "waits",
                not_covered: (&*decided.pod.name == "on-host").then_some(Reason::HostNetwork),
                decided,
            })
            .collect();
        let report = report(&states, index.policies());
        let counts = EndpointCounts { selected: 3, programmed: 1, not_covered: 1 };
        assert_eq!(report.endpoints, counts);
        assert_eq!(report.policies.len(), 1);
        let policy = &report.policies[0];
        assert_eq!(
            (policy.kind.as_str(), policy.name.as_str(), policy.generation),
            ("EgressPolicy", "runners", 3)
        );
        assert_eq!((policy.endpoints, policy.not_covered_reason.as_deref()), (counts, Some("HostNetwork")));
        assert_eq!(report.not_covered[0].name, "on-host");
    }
}
