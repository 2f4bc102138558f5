//! Explanations: whether a new connection passes, why, and what would change it.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{RuleName, Staged};

/// Whether a new connection passes, why, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The same in one line for people.
    pub text: String,
    /// `allowed` or `denied`.
    #[schema(example = "denied")]
    pub verdict: String,
    /// Why, in one stable word.
    #[schema(example = "no-match")]
    pub reason: String,
    /// The address that was judged; absent when a name has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// The rules that allow or deny it, or come close.
    pub rules: Vec<RuleName>,
    /// The names that gave the address.
    pub bindings: Vec<ExplainedBinding>,
    /// What is missing: `rule`, `question`, `new-question`, `port` or `no-deny`; absent when it passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// What would allow it; absent where a deny stands in the way, or nothing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<Proposal>,
    /// What would become of it if the Audit policies of the workload were enforced, too; absent where there are none beside
    /// what is enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
}

/// A binding of the address that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedBinding {
    /// The name.
    pub name: String,
    /// Its aliases in the last answer.
    pub chain: Vec<String>,
    /// When it was last asked.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// Until when it counts.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Whether it counts now.
    pub live: bool,
    /// Whether the rules allow the name on some port.
    pub allowed: bool,
}

/// A rule that would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    /// The name or address to allow.
    pub destination: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The port; absent for protocols without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The flag of `nameward run` that says so; absent where no flag can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
}
