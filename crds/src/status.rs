//! What Nameward says back about a policy.
//!
//! Only the shape; who writes it decides.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// What became of a policy.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// The generation of the policy that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// How many workloads it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,

    /// Accepted: the policy is understood. Programmed: it is in force in every workload it selects. Covered: each of
    /// these can be guarded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Counts of workloads.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCounts {
    /// That the policy selects.
    #[serde(default)]
    pub selected: i32,
    /// In which the policy is in force.
    #[serde(default)]
    pub programmed: i32,
    /// That cannot be guarded.
    #[serde(default)]
    pub not_covered: i32,
}

/// One aspect, as `metav1.Condition` has it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Accepted, Programmed or Covered.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub kind: String,

    /// True, False or Unknown.
    pub status: ConditionStatus,

    /// The generation of the policy that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Since when the status is what it is.
    #[schemars(length(max = 40), regex(pattern = patterns::DATE_TIME), extend("format" = "date-time"))]
    pub last_transition_time: String,

    /// Why, in one word for programs.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,

    /// Why, for people.
    #[schemars(length(max = 32_768))]
    pub message: String,
}

/// Whether a condition holds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    Unknown,
}
