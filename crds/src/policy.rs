//! `EgressPolicy` and `ClusterEgressPolicy`: who is meant, and the rules.
//!
//! The comments of fields are what `kubectl explain` shows. What the API server checks is said here once, and files
//! are checked by the schema that comes of it.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_core::Rule as Cel;
use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    rule::{DenyRule, EgressRule},
    selector::LabelSelector,
    status::PolicyStatus,
};

/// Allows workloads of its namespace to reach the destinations it names, and nothing else. A workload that an
/// EgressPolicy selects may do only what the policies that select it allow together; what any of them denies is
/// denied.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "nameward.io",
    version = "v1alpha1",
    kind = "EgressPolicy",
    plural = "egresspolicies",
    namespaced,
    status = "PolicyStatus",
    shortname = "egpol",
    category = "nameward",
    derive = "PartialEq",
    doc = "Allows workloads of its namespace to reach the destinations it names, by domain name, address block or place in the cluster, and nothing else.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Selected","type":"integer","jsonPath":".status.endpoints.selected","description":"Workloads that the policy selects"}"#,
    printcolumn = r#"{"name":"Programmed","type":"integer","jsonPath":".status.endpoints.programmed","description":"Workloads in which the policy is in force"}"#,
    printcolumn = r#"{"name":"Not covered","type":"integer","jsonPath":".status.endpoints.notCovered","description":"Workloads that the policy selects and that cannot be guarded"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Covered","type":"string","jsonPath":".status.conditions[?(@.type==\"Covered\")].status","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressPolicySpec {
    /// The pods of the policy's namespace that it is about. `{}` is the whole namespace.
    pub pod_selector: LabelSelector,

    /// Enforce judges traffic by the policy. Audit changes no verdict and reports what Enforce would have done.
    #[serde(default)]
    pub mode: Mode,

    /// What the selected workloads may reach. `[]` isolates them and allows nothing.
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub egress: Vec<EgressRule>,

    /// What the selected workloads may not reach, whatever allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub deny: Vec<DenyRule>,
}

/// Guardrails of the administrator: what workloads of any namespace may not reach, and, with `isolate`, what they
/// may. Its denials cannot be lifted by a namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "nameward.io",
    version = "v1alpha1",
    kind = "ClusterEgressPolicy",
    plural = "clusteregresspolicies",
    status = "PolicyStatus",
    shortname = "cegpol",
    category = "nameward",
    derive = "PartialEq",
    doc = "Guardrails of the administrator: what workloads of any namespace may not reach, and, with `isolate`, the only destinations they may.",
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Isolate","type":"boolean","jsonPath":".spec.isolate"}"#,
    printcolumn = r#"{"name":"Selected","type":"integer","jsonPath":".status.endpoints.selected","description":"Workloads that the policy selects"}"#,
    printcolumn = r#"{"name":"Programmed","type":"integer","jsonPath":".status.endpoints.programmed","description":"Workloads in which the policy is in force"}"#,
    printcolumn = r#"{"name":"Not covered","type":"integer","jsonPath":".status.endpoints.notCovered","description":"Workloads that the policy selects and that cannot be guarded"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Covered","type":"string","jsonPath":".status.conditions[?(@.type==\"Covered\")].status","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new("self.isolate || size(self.deny) + size(self.egress) > 0")
        .message("the policy says nothing; write `deny` or `egress` rules, or `isolate: true`")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterEgressPolicySpec {
    /// The workloads that the policy is about.
    pub subject: Subject,

    /// Whether the subject may reach only what policies allow. When false, the policy only adds to what others say:
    /// a workload that nothing isolates may do everything but what is denied.
    #[serde(default)]
    pub isolate: bool,

    /// Enforce judges traffic by the policy. Audit changes no verdict and reports what Enforce would have done.
    #[serde(default)]
    pub mode: Mode,

    /// What the subject may not reach, whatever allows it.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub deny: Vec<DenyRule>,

    /// What the subject may reach.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub egress: Vec<EgressRule>,
}

/// Pods of namespaces. Both selectors must match. Exempt namespaces (by default `kube-system` and Nameward's own)
/// are meant only when the namespace selector names their `kubernetes.io/metadata.name`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// The namespaces, by their labels. `{}` is every namespace.
    pub namespace_selector: LabelSelector,

    /// The pods in them. `{}`, like nothing, is every pod.
    #[serde(default, skip_serializing_if = "LabelSelector::is_empty")]
    pub pod_selector: LabelSelector,
}

/// Whether a policy counts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It does.
    #[default]
    Enforce,
    /// It only says what it would do.
    Audit,
}
