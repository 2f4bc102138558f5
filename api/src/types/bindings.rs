//! Bindings: which name gave which addresses to whom, and until when.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Keyed};

/// Which name gave which addresses to whom, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BindingStatus {
    /// Whom: the endpoint's identifier.
    #[schema(value_type = String, example = "ci/runner")]
    pub endpoint: Arc<str>,
    /// What people call the endpoint, where that is something else: `NAMESPACE/NAME` of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "ci/runner")]
    pub workload: Option<Arc<str>>,
    /// The name that was asked for.
    #[schema(example = "registry.example.com")]
    pub name: String,
    /// The aliases between the name and its addresses in the last answer.
    pub chain: Vec<String>,
    /// When it was last asked for.
    #[schema(value_type = String, format = DateTime)]
    pub asked_at: Timestamp,
    /// The addresses.
    pub addresses: Vec<LeaseStatus>,
    /// The rules that allow the name; none where only audit or observation recorded it.
    #[serde(default)]
    pub rules: Vec<RuleName>,
}

/// One address of a binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// When the last answer's TTL ends.
    #[schema(value_type = String, format = DateTime)]
    pub ttl_ends_at: Timestamp,
    /// New connections are denied from here on. Later while the address is in use; held while expiry is frozen.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// Time until then, in whole seconds; 0 = lapsed.
    pub seconds_left: u64,
}

impl Hash for LeaseStatus {
    /// Without the time left, which says the same as the end and changes every second.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.address, self.ttl_ends_at, self.expires_at, self.seconds_left == 0).hash(state);
    }
}

/// A rule, by the policy that holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RuleName {
    /// Kind, namespace and name of the policy.
    #[schema(example = "EgressPolicy ci/runners")]
    pub policy: String,
    /// The rule's name in it.
    pub rule: String,
}

/// What was taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Flushed<T = FlushedBinding> {
    /// Which node says so; absent in a cluster's answer, where each item has a `node`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The bindings that counted, by endpoint and name.
    pub items: Vec<T>,
    /// What could not be had: resolvers that did not confirm, a file that could not be written.
    pub warnings: Vec<String>,
    /// There is more: do it again with this as `cursor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A binding that was taken back: new connections need a new answer, live ones go on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlushedBinding {
    /// Whose: the endpoint's identifier.
    #[schema(value_type = String, example = "ci/runner")]
    pub endpoint: Arc<str>,
    /// The name.
    #[schema(example = "registry.example.com")]
    pub name: String,
    /// Addresses that new connections may not use under it any more.
    #[schema(value_type = Vec<String>)]
    pub revoked: Vec<IpAddr>,
    /// Addresses that an answer gave anew in the meantime; they stay.
    #[schema(value_type = Vec<String>)]
    pub renewed: Vec<IpAddr>,
}

impl Item for FlushedBinding {
    const FIELDS: &'static [&'static str] = &["endpoint", "name", "revoked", "renewed"];
    const COLUMNS: &'static [&'static str] = &["ENDPOINT", "NAME", "REVOKED", "RENEWED"];

    fn row(&self) -> Vec<String> {
        let list = |addresses: &[IpAddr]| match addresses {
            [] => "-".into(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        };
        vec![self.endpoint.to_string(), self.name.clone(), list(&self.revoked), list(&self.renewed)]
    }
}

impl std::fmt::Display for RuleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rule {}", self.policy, self.rule)
    }
}

impl BindingStatus {
    /// Whether a new connection may use one of its addresses.
    pub fn is_live(&self) -> bool {
        self.addresses.iter().any(|lease| lease.seconds_left > 0)
    }
}

impl Item for BindingStatus {
    const FIELDS: &'static [&'static str] =
        &["endpoint", "workload", "name", "chain", "askedAt", "addresses", "rules"];
    const COLUMNS: &'static [&'static str] = &["ENDPOINT", "NAME", "ADDRESSES", "EXPIRES", "RULE"];

    fn row(&self) -> Vec<String> {
        let addresses: Vec<String> = self.addresses.iter().map(|lease| lease.address.to_string()).collect();
        let last = self.addresses.iter().map(|lease| lease.seconds_left).max().unwrap_or(0);
        let rule = self.rules.first().map_or_else(|| "-".into(), ToString::to_string);
        let workload = self.workload.as_ref().unwrap_or(&self.endpoint).to_string();
        vec![workload, self.name.clone(), addresses.join(","), time_left(last), rule]
    }
}

impl Keyed for BindingStatus {
    const KEY: usize = 2;

    fn key(&self) -> Vec<String> {
        vec![self.endpoint.to_string(), self.name.clone()]
    }
}

/// Seconds as people say them.
fn time_left(seconds: u64) -> String {
    match seconds {
        0 => "lapsed".into(),
        1..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3_600),
    }
}
