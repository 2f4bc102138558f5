//! Policies in force on this node, and policies that what was seen would need.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Keyed};

/// A policy as it is in force: its rules that count now, and whom they bind. A policy that selects no endpoint of the
/// node is not known to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// `EgressPolicy`, `ClusterEgressPolicy` or `CommandLine`.
    pub kind: String,
    /// Its namespace; empty when it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Identifiers of the endpoints that it binds.
    pub endpoints: Vec<String>,
    /// Its rules that count now (those that have ended or are suspended are left out).
    pub rules: Vec<RuleStatus>,
}

/// A rule in force.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleStatus {
    /// Its name.
    pub name: String,
    /// `allow` or `deny`.
    pub effect: String,
    /// Names, patterns and addresses, as the policy has them.
    pub to: Vec<String>,
    /// Protocols and ports.
    pub ports: Vec<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When a name that it allows was last asked for; absent when none is remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_asked_at: Option<Timestamp>,
}

impl PolicyStatus {
    /// `NAMESPACE/NAME`, or the name alone.
    pub fn full_name(&self) -> String {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            format!("{}/{}", self.namespace, self.name)
        }
    }
}

impl Item for PolicyStatus {
    const FIELDS: &'static [&'static str] = &["kind", "namespace", "name", "endpoints", "rules"];
    const COLUMNS: &'static [&'static str] = &["POLICY", "KIND", "RULES", "ENDPOINTS", "LAST ASKED"];

    fn row(&self) -> Vec<String> {
        let last = self.rules.iter().filter_map(|rule| rule.last_asked_at).max();
        vec![
            self.full_name(),
            self.kind.clone(),
            self.rules.len().to_string(),
            self.endpoints.len().to_string(),
            last.map_or_else(|| "-".into(), |at| at.to_string()),
        ]
    }
}

impl Keyed for PolicyStatus {
    const KEY: usize = 3;

    fn key(&self) -> Vec<String> {
        vec![self.kind.clone(), self.namespace.clone(), self.name.clone()]
    }
}

/// What an endpoint tried that no rule allows: the smallest policy that would.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// The endpoint's identifier.
    pub endpoint: String,
    /// Destinations, each with the ports that were tried.
    pub destinations: Vec<Suggested>,
}

/// A destination that was tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Suggested {
    /// A name, or an address that no name gave.
    pub destination: String,
    /// `TCP 443` and the like; protocols without ports stand alone.
    pub ports: Vec<String>,
    /// Packets that tried.
    pub packets: u64,
    /// When last.
    #[schema(value_type = String, format = DateTime)]
    pub last_at: Timestamp,
    /// Whether the address is not globally reachable, so that a rule by name needs `privateAddresses: true`.
    #[serde(default)]
    pub private: bool,
}

impl Item for Suggestion {
    const FIELDS: &'static [&'static str] = &["endpoint", "destinations"];
    const COLUMNS: &'static [&'static str] = &["ENDPOINT", "DESTINATIONS"];

    fn row(&self) -> Vec<String> {
        let each = |one: &Suggested| format!("{} ({})", one.destination, one.ports.join(", "));
        vec![self.endpoint.clone(), self.destinations.iter().map(each).collect::<Vec<_>>().join("; ")]
    }
}

impl Keyed for Suggestion {
    const KEY: usize = 1;

    fn key(&self) -> Vec<String> {
        vec![self.endpoint.clone()]
    }
}
