//! A workload as policies see it, for those who ask what other policies would make of it.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use nameward_api::types::SubjectStatus;
use nameward_crds::{Labels, Policy};
use nameward_policy::ClusterRanges;
use serde::Serialize;
use serde_json::{Value, json};

/// What rules are compiled from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subject {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// The labels of its namespace.
    pub namespace_labels: Labels,
    /// Whether only policies that mean it on purpose select it (R10).
    pub exempt: bool,
    /// Whether nothing of it is enforced for the time being (R13).
    pub suspended: bool,
    /// The policies that select it.
    pub policies: Vec<Arc<Policy>>,
    /// What `cluster` peers stand for.
    pub cluster: ClusterRanges,
}

impl Subject {
    pub(crate) fn status(&self, endpoint: &Arc<str>) -> SubjectStatus {
        let ranges = [
            ("Pods", &self.cluster.pods),
            ("Services", &self.cluster.services),
            ("Nodes", &self.cluster.nodes),
            ("APIServer", &self.cluster.api_server),
        ];
        let texts = |ranges: &[IpNet]| ranges.iter().map(ToString::to_string).collect();
        let ranges = ranges.into_iter().filter(|(_, ranges)| !ranges.is_empty());
        SubjectStatus {
            endpoint: Arc::clone(endpoint),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            namespace_labels: self.namespace_labels.clone(),
            exempt: self.exempt,
            suspended: self.suspended,
            policies: self.policies.iter().map(|policy| object(policy)).collect(),
            cluster: ranges
                .map(|(kind, ranges)| (kind.to_owned(), texts(ranges)))
                .collect::<BTreeMap<_, _>>(),
        }
    }
}

/// What an author writes, and nothing that others added.
fn object(policy: &Policy) -> Value {
    match policy {
        Policy::Namespaced(policy) => written("EgressPolicy", &policy.metadata, &policy.spec),
        Policy::Cluster(policy) => written("ClusterEgressPolicy", &policy.metadata, &policy.spec),
    }
}

fn written(
    kind: &str,
    metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: &impl Serialize,
) -> Value {
    let mut own = json!({"name": metadata.name});
    if let Some(namespace) = &metadata.namespace {
        own["namespace"] = namespace.as_str().into();
    }
    json!({"apiVersion": "nameward.io/v1alpha1", "kind": kind, "metadata": own, "spec": json!(spec)})
}
