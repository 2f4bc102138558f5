//! Which policies select a workload, and what that makes of it (SEMANTICS R1, R3, R6, R10).

use nameward_policy::{Isolation, PolicyRef};

use crate::{ClusterEgressPolicy, Converted, EgressPolicy, Labels, Mode};

/// The label by which a namespace is known.
pub const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// A policy of either kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// Of a namespace.
    Namespaced(EgressPolicy),
    /// Of the administrator.
    Cluster(ClusterEgressPolicy),
}

/// What selectors look at.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// The namespace's labels.
    pub namespace_labels: &'a Labels,
    /// Its own labels.
    pub labels: &'a Labels,
    /// Whether only policies that mean it on purpose select it (R10).
    pub exempt: bool,
}

impl Policy {
    /// What reports call the policy.
    #[must_use]
    pub fn policy_ref(&self) -> PolicyRef {
        match self {
            Self::Namespaced(policy) => policy.policy_ref(),
            Self::Cluster(policy) => policy.policy_ref(),
        }
    }

    /// Whether the policy is about a workload.
    #[must_use]
    pub fn selects(&self, workload: &Workload<'_>) -> bool {
        match self {
            Self::Namespaced(policy) => {
                policy.metadata.namespace.as_deref() == Some(workload.namespace)
                    && policy.spec.pod_selector.matches(workload.labels)
            }
            Self::Cluster(policy) => {
                let subject = &policy.spec.subject;
                let meant =
                    !workload.exempt || subject.namespace_selector.names(NAMESPACE_NAME, workload.namespace);
                meant
                    && subject.namespace_selector.matches(workload.namespace_labels)
                    && subject.pod_selector.matches(workload.labels)
            }
        }
    }

    /// Whether the policy isolates what it selects (R1).
    #[must_use]
    pub const fn isolates(&self) -> bool {
        match self {
            Self::Namespaced(_) => true,
            Self::Cluster(policy) => policy.spec.isolate,
        }
    }

    /// Whether it counts (R6).
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self {
            Self::Namespaced(policy) => policy.spec.mode,
            Self::Cluster(policy) => policy.spec.mode,
        }
    }

    /// Its rules.
    #[must_use]
    pub fn to_rules(&self) -> Converted {
        match self {
            Self::Namespaced(policy) => policy.to_rules(),
            Self::Cluster(policy) => policy.to_rules(),
        }
    }
}

/// What the policies that select a workload make of it (R1, R6).
#[must_use]
pub fn isolation<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Isolation {
    let mut isolation = Isolation::NotIsolated;
    for policy in policies {
        match (policy.isolates(), policy.mode()) {
            (true, Mode::Enforce) => return Isolation::Isolated,
            (true, Mode::Audit) => isolation = Isolation::Audit,
            (false, _) => {}
        }
    }
    isolation
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespaced(namespace: &str, mode: &str, selector: serde_json::Value) -> Policy {
        let policy = json!({
            "metadata": { "name": "p", "namespace": namespace },
            "spec": { "podSelector": selector, "mode": mode, "egress": [] },
        });
        Policy::Namespaced(object(policy, "EgressPolicy"))
    }

    fn cluster(isolate: bool, mode: &str, subject: serde_json::Value) -> Policy {
        let policy = json!({
            "metadata": { "name": "c" },
            "spec": { "subject": subject, "mode": mode, "isolate": isolate },
        });
        Policy::Cluster(object(policy, "ClusterEgressPolicy"))
    }

    fn object<T: serde::de::DeserializeOwned>(mut policy: serde_json::Value, kind: &str) -> T {
        policy["apiVersion"] = "nameward.io/v1alpha1".into();
        policy["kind"] = kind.into();
        serde_json::from_value(policy).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn what_isolates() {
        // R1, R6
        let everything = || json!({ "namespaceSelector": {} });
        let enforce = namespaced("ci", "Enforce", json!({}));
        let audit = namespaced("ci", "Audit", json!({}));
        let denies = cluster(false, "Enforce", everything());
        let isolates = cluster(true, "Enforce", everything());
        let would = cluster(true, "Audit", everything());
        let table: [(&[&Policy], Isolation); 9] = [
            (&[], Isolation::NotIsolated),
            (&[&denies], Isolation::NotIsolated),
            (&[&enforce], Isolation::Isolated),
            (&[&isolates], Isolation::Isolated),
            (&[&audit], Isolation::Audit),
            (&[&would], Isolation::Audit),
            (&[&audit, &denies], Isolation::Audit),
            (&[&audit, &enforce], Isolation::Isolated),
            (&[&enforce, &would], Isolation::Isolated),
        ];
        for (policies, expected) in table {
            assert_eq!(isolation(policies.iter().copied()), expected, "{policies:?}");
        }
    }

    #[test]
    fn who_is_selected() {
        // R1, R3, R10
        let ci = labels(&[(NAMESPACE_NAME, "ci"), ("team", "build")]);
        let system = labels(&[(NAMESPACE_NAME, "kube-system")]);
        let runner = labels(&[("app", "runner")]);
        let pod = Workload { namespace: "ci", namespace_labels: &ci, labels: &runner, exempt: false };
        let dns =
            Workload { namespace: "kube-system", namespace_labels: &system, labels: &runner, exempt: true };
        let select = |app: &str| json!({ "matchLabels": { "app": app } });
        assert!(namespaced("ci", "Enforce", json!({})).selects(&pod));
        assert!(namespaced("ci", "Enforce", select("runner")).selects(&pod));
        assert!(!namespaced("ci", "Enforce", select("web")).selects(&pod));
        assert!(!namespaced("web", "Enforce", json!({})).selects(&pod), "another namespace's");
        assert!(namespaced("kube-system", "Enforce", json!({})).selects(&dns), "its own namespace's");

        let of_teams = json!({ "namespaceSelector": { "matchLabels": { "team": "build" } }, "podSelector": select("runner") });
        assert!(cluster(true, "Enforce", of_teams.clone()).selects(&pod));
        assert!(!cluster(true, "Enforce", of_teams).selects(&dns));
        assert!(!cluster(true, "Enforce", json!({ "namespaceSelector": {} })).selects(&dns), "exempt");
        let by_name = json!({ "namespaceSelector": { "matchLabels": { NAMESPACE_NAME: "kube-system" } } });
        assert!(cluster(true, "Enforce", by_name).selects(&dns), "meant on purpose");
    }
}
