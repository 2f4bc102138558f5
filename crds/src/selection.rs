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
