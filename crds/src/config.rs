//! `EgressConfig`: what the administrator says for the whole cluster (SEMANTICS R8, R10-R13). One object, `default`.
//!
//! The comments of fields are what `kubectl explain` shows.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_core::Rule as Cel;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{patterns, settings::SettingsOverride, status::Condition};

/// The administrator's configuration of the cluster. Only the object named `default` counts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nameward.io",
    version = "v1alpha1",
    kind = "EgressConfig",
    plural = "egressconfigs",
    status = "EgressConfigStatus",
    category = "nameward",
    derive = "PartialEq",
    derive = "Default",
    doc = "The administrator's configuration of the cluster: settings, exemptions, observation and break-glass. Only the object named `default` counts.",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressConfigSpec {
    /// Settings of every workload. What is left out has its default.
    #[serde(default)]
    pub settings: SettingsOverride,

    /// Settings of the workloads of single namespaces, over those above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub namespaces: Vec<NamespaceSettings>,

    /// The cluster's addresses, which `cluster` peers of policies mean.
    #[serde(default)]
    pub cluster: ClusterAddresses,

    /// The cluster's DNS service. Its backends are selected only by policies that mean them on purpose, and what they
    /// ask other servers is never redirected.
    #[serde(default, rename = "clusterDNS")]
    pub cluster_dns: ServiceName,

    /// Whom only policies that mean them on purpose select.
    #[serde(default)]
    pub exempt: Exempt,

    /// Whose names and connections are recorded although no policy selects them.
    #[serde(default)]
    pub observe: Observe,

    /// Where enforcement is suspended, and until when: everything passes, and what would be denied is told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub break_glass: Vec<BreakGlass>,
}

/// Settings of a namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceSettings {
    /// The namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub name: String,

    /// What is different there.
    #[serde(default)]
    pub settings: SettingsOverride,
}

/// Blocks of addresses of the cluster.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterAddresses {
    /// Of pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = patterns::CIDR)))]
    pub pods: Vec<String>,

    /// Of services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = patterns::CIDR)))]
    pub services: Vec<String>,

    /// Of nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = patterns::CIDR)))]
    pub nodes: Vec<String>,

    /// Of the API server, beside the address and the endpoints of the service `default/kubernetes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = patterns::CIDR)))]
    pub api_server: Vec<String>,
}

/// A service.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceName {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub namespace: String,

    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub name: String,
}

impl Default for ServiceName {
    fn default() -> Self {
        Self { namespace: "kube-system".into(), name: "kube-dns".into() }
    }
}

/// Whom only policies that mean them on purpose select.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exempt {
    /// Namespaces: their own policies count there, and ClusterEgressPolicies whose namespace selector names them by
    /// `kubernetes.io/metadata.name`. Nameward's own namespace is always one.
    #[serde(default = "exempt_namespaces")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), regex(pattern = patterns::LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
}

fn exempt_namespaces() -> Vec<String> {
    vec!["kube-system".into()]
}

impl Default for Exempt {
    fn default() -> Self {
        Self { namespaces: exempt_namespaces() }
    }
}

/// Whose names and connections are recorded although no policy selects them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observe {
    /// The pods of the whole cluster.
    #[serde(default)]
    pub cluster: bool,

    /// The pods of these namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63), regex(pattern = patterns::LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
}

/// Enforcement suspended somewhere, until a time.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlass {
    /// Names it in reports.
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub name: String,

    /// Where.
    pub scope: BreakGlassScope,

    /// Until when, like `2027-01-31T00:00:00Z`. From then on everything is enforced again by itself.
    #[schemars(length(max = 40), regex(pattern = patterns::DATE_TIME), extend("format" = "date-time"))]
    pub until: String,

    /// Why. It stands in events and logs.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
}

/// Where enforcement is suspended: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new(
        "(self.cluster ? 1 : 0) + (has(self.namespace) ? 1 : 0) + (has(self.node) ? 1 : 0) + (has(self.pod) ? 1 : 0) == 1"
    )
    .message("write exactly one of `cluster: true`, `namespace`, `node` and `pod`")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BreakGlassScope {
    /// Everywhere.
    #[serde(default)]
    pub cluster: bool,

    /// In a namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub namespace: Option<String>,

    /// On a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = patterns::OBJECT_NAME))]
    pub node: Option<String>,

    /// For one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodName>,
}

/// A pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodName {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = patterns::LABEL))]
    pub namespace: String,

    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = patterns::OBJECT_NAME))]
    pub name: String,
}

/// What became of the configuration.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct EgressConfigStatus {
    /// The generation of the configuration that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Accepted: the configuration is understood. BreakGlass: enforcement is suspended somewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
