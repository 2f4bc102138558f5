//! `EgressNode`: what the enforcer of a node says about it. Made and kept by the enforcer; who writes the policies'
//! status adds these up.
//!
//! The comments of fields are what `kubectl explain` shows.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// Most policies that one report names.
pub const MAX_REPORTED_POLICIES: usize = 10_000;
/// Most pods that one report names.
pub const MAX_REPORTED_PODS: usize = 256;

/// What the enforcer of a node says about it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "nameward.io",
    version = "v1alpha1",
    kind = "EgressNode",
    plural = "egressnodes",
    category = "nameward",
    derive = "PartialEq",
    doc = "What the enforcer of a node says about it: how many pods are guarded, which policies are in force in how many of them, and who cannot be guarded. Written by the enforcer.",
    printcolumn = r#"{"name":"Pods","type":"integer","jsonPath":".spec.endpoints.selected","description":"Pods that policies select"}"#,
    printcolumn = r#"{"name":"Programmed","type":"integer","jsonPath":".spec.endpoints.programmed","description":"Pods in which their policies are in force"}"#,
    printcolumn = r#"{"name":"Not covered","type":"integer","jsonPath":".spec.endpoints.notCovered","description":"Pods that cannot be guarded"}"#,
    printcolumn = r#"{"name":"Reported","type":"date","jsonPath":".spec.reportedAt"}"#,
    crates(kube_core = "::kube_core")
)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct EgressNodeSpec {
    /// When the report was written. It is written anew when something changes, and every minute.
    #[schemars(length(max = 40), regex(pattern = patterns::DATE_TIME), extend("format" = "date-time"))]
    pub reported_at: String,

    /// Where nameward-api asks the enforcer, over TLS: an address and a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub api: Option<String>,

    /// Counts of the node's pods that policies select.
    #[serde(default)]
    pub endpoints: crate::EndpointCounts,

    /// The policies that select pods of the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10_000))]
    pub policies: Vec<PolicyReport>,

    /// Pods that policies select and that cannot be guarded, at most 256 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub not_covered: Vec<NotCoveredPod>,
}

/// A policy on a node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyReport {
    /// EgressPolicy or ClusterEgressPolicy.
    #[schemars(length(max = 63))]
    pub kind: String,

    /// The policy's namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub namespace: String,

    /// The policy's name.
    #[schemars(length(max = 253))]
    pub name: String,

    /// The generation that the node knows.
    #[serde(default)]
    pub generation: i64,

    /// Counts of pods.
    pub endpoints: crate::EndpointCounts,

    /// Why pods cannot be guarded, in one word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub not_covered_reason: Option<String>,

    /// Why the policy is not in force, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub problem: Option<String>,
}

/// A pod that cannot be guarded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NotCoveredPod {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,

    /// Its name.
    #[schemars(length(max = 253))]
    pub name: String,

    /// Why, in one word for programs.
    #[schemars(length(max = 64))]
    pub reason: String,

    /// Why, for people.
    #[schemars(length(max = 1024))]
    pub message: String,
}
