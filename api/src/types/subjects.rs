//! Subjects: what policies look at, and what they say of it.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Item, Keyed};

/// An endpoint as policies see it: its labels, and the objects that select it. What rules are compiled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubjectStatus {
    /// The endpoint's identifier.
    #[schema(value_type = String, example = "ci/runner")]
    pub endpoint: Arc<str>,
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The labels of its namespace.
    pub namespace_labels: BTreeMap<String, String>,
    /// Whether only policies that mean it on purpose select it (SEMANTICS R10).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exempt: bool,
    /// Whether nothing of it is enforced for the time being (R13).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// The policies that select it, as objects without status.
    #[schema(value_type = Vec<Object>)]
    pub policies: Vec<Value>,
    /// Ranges of addresses that `cluster` peers stand for: `Pods`, `Services`, `Nodes`, `APIServer`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cluster: BTreeMap<String, Vec<String>>,
}

impl SubjectStatus {
    /// Kind, namespace and name of its policies.
    fn policy_names(&self) -> Vec<String> {
        let text = |policy: &Value, path: &str| {
            policy.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let name = |policy: &Value| {
            let (namespace, name) = (text(policy, "/metadata/namespace"), text(policy, "/metadata/name"));
            let own = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
            format!("{} {own}", text(policy, "/kind"))
        };
        self.policies.iter().map(name).collect()
    }
}

impl Hash for SubjectStatus {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.endpoint, &self.namespace, &self.labels, &self.namespace_labels).hash(state);
        (self.exempt, self.suspended, &self.cluster).hash(state);
        self.policies.iter().for_each(|policy| policy.to_string().hash(state));
    }
}

impl Item for SubjectStatus {
    const FIELDS: &'static [&'static str] =
        &["endpoint", "namespace", "labels", "namespaceLabels", "exempt", "suspended", "policies", "cluster"];
    const COLUMNS: &'static [&'static str] = &["ENDPOINT", "LABELS", "POLICIES"];

    fn row(&self) -> Vec<String> {
        let labels = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
        vec![self.endpoint.to_string(), labels.join(","), self.policy_names().join(", ")]
    }
}

impl Keyed for SubjectStatus {
    const KEY: usize = 1;

    fn key(&self) -> Vec<String> {
        vec![self.endpoint.to_string()]
    }
}
