//! Traffic: what flows now, by name.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Keyed, RuleName};

/// What an endpoint exchanges with a destination over the connections that are live now. Both directions, from each
/// connection's beginning; what has ended is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficStatus {
    /// The endpoint's identifier.
    #[schema(value_type = String, example = "ci/runner")]
    pub endpoint: Arc<str>,
    /// What people call the endpoint, where that is something else: `NAMESPACE/NAME` of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "ci/runner")]
    pub workload: Option<Arc<str>>,
    /// The names under which the connections were admitted, with commas; or the peer's address where none gave it.
    #[schema(example = "registry.example.com")]
    pub destination: String,
    /// Why the connections were admitted, in one stable word.
    #[schema(example = "name")]
    pub reason: String,
    /// The rules that allow the names; none for addresses.
    pub rules: Vec<RuleName>,
    /// Live connections, and flows of protocols without connections.
    pub flows: u64,
    /// `TCP 443` and the like: where to, or, of connections from outside, which port of the peer; 64 at most, and none of
    /// connections that do not say (TCP of cgroups).
    #[serde(default)]
    pub ports: Vec<String>,
    /// Packets of both directions.
    pub packets: u64,
    /// Bytes of both directions, layer 3.
    pub bytes: u64,
}

impl Item for TrafficStatus {
    const FIELDS: &'static [&'static str] =
        &["endpoint", "workload", "destination", "reason", "rules", "flows", "ports", "packets", "bytes"];
    const COLUMNS: &'static [&'static str] =
        &["ENDPOINT", "DESTINATION", "REASON", "FLOWS", "PACKETS", "BYTES", "RULE"];

    fn row(&self) -> Vec<String> {
        vec![
            self.workload.as_ref().unwrap_or(&self.endpoint).to_string(),
            self.destination.clone(),
            self.reason.clone(),
            self.flows.to_string(),
            self.packets.to_string(),
            self.bytes.to_string(),
            self.rules.first().map_or_else(|| "-".into(), ToString::to_string),
        ]
    }
}

impl Keyed for TrafficStatus {
    const KEY: usize = 3;

    fn key(&self) -> Vec<String> {
        vec![self.endpoint.to_string(), self.destination.clone(), self.reason.clone()]
    }
}
