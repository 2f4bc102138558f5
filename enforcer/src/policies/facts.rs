//! What counts of objects of the API server, and nothing else of them.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use nameward_crds::{Labels, Policy};
use serde::{Deserialize, Serialize};

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodFacts {
    /// Its UID: a pod made anew under the same name has another one.
    pub uid: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses as its status has them, sorted; empty until it has some.
    pub addresses: Vec<IpAddr>,
    /// Whose network it uses.
    pub network: Network,
    /// It has ended, and its addresses may be another's by now.
    pub is_over: bool,
}

/// Whose network a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// A namespace of its own.
    Own,
    /// The node's: it has no interface to guard.
    Host,
}

/// A policy as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFacts {
    /// The object.
    pub policy: Policy,
    /// Its generation.
    pub generation: i64,
}

impl PodFacts {
    /// Reads a pod; none when it lacks what every pod of an API server has.
    #[must_use]
    pub fn read(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let listed = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let first = status.and_then(|status| status.pod_ip.as_deref());
        let texts = listed.map(|one| one.ip.as_str()).chain(first);
        let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        Some(Self {
            uid: pod.metadata.uid.as_deref()?.into(),
            namespace: pod.metadata.namespace.as_deref()?.into(),
            name: pod.metadata.name.as_deref()?.into(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            addresses,
            network: if on_host { Network::Host } else { Network::Own },
            is_over: matches!(phase, Some("Succeeded" | "Failed")),
        })
    }
}

impl PolicyFacts {
    /// A policy with the generation that its metadata says.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        let metadata = match &policy {
            Policy::Namespaced(policy) => &policy.metadata,
            Policy::Cluster(policy) => &policy.metadata,
        };
        let generation = metadata.generation.unwrap_or_default();
        Self { policy, generation }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(pod: serde_json::Value) -> PodFacts {
        PodFacts::read(&serde_json::from_value(pod).unwrap()).unwrap()
    }

    #[test]
    fn what_counts_of_a_pod() {
        let metadata =
            json!({ "uid": "u1", "namespace": "ci", "name": "runner", "labels": { "app": "runner" } });
        let new = read(json!({ "metadata": metadata, "spec": { "containers": [] } }));
        assert_eq!((new.addresses.len(), new.network, new.is_over), (0, Network::Own, false));
        let running = read(json!({
            "metadata": metadata,
            "spec": { "containers": [], "hostNetwork": true },
            "status": {
                "phase": "Running", "podIP": "10.0.0.2",
                "podIPs": [{ "ip": "2001:db8::2" }, { "ip": "10.0.0.2" }],
            },
        }));
        assert_eq!(
            running.addresses,
            ["10.0.0.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(running.network, Network::Host);
        for phase in ["Succeeded", "Failed"] {
            let over =
                json!({ "metadata": metadata, "spec": { "containers": [] }, "status": { "phase": phase } });
            assert!(read(over).is_over, "{phase}");
        }
    }
}
