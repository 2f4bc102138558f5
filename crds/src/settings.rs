//! Settings of `nameward_policy` as the administrator writes them in an `EgressConfig` (SEMANTICS R12): every field may
//! be left out, and what is left out stays as it was. Trusted DNS servers are not among them: they belong to the node,
//! and are named where the enforcer is started.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_core::Rule as Cel;
use kube_derive::KubeSchema;
use nameward_policy::{
    Adopt, DnsAnswer, FailurePolicy, GraceBounds, Hints, Inbound, Limits, Name, OnDeny, Settings, TtlBounds,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::patterns;

/// Settings of workloads. What is left out stays as it is without them.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SettingsOverride {
    /// Whether denied packets are answered (Reject, the default: applications fail at once) or dropped (Drop).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "on_deny")]
    pub on_deny: Option<OnDeny>,

    /// While enforcer or resolver are away: Static, the default, freezes the expiry of addresses, Closed lets them
    /// expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "failure_policy")]
    pub failure_policy: Option<FailurePolicy>,

    /// Whose connections workloads may answer: All, the default, Cluster or None.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "inbound")]
    pub inbound: Option<Inbound>,

    /// What becomes of live connections when a workload is first isolated: Keep, the default, or Cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "adopt")]
    pub adopt: Option<Adopt>,

    /// What concerns names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsOverride>,

    /// Bounds of the TTLs that workloads see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TtlOverride>,

    /// How long addresses outlive their TTL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace: Option<GraceOverride>,

    /// Limits of each workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsOverride>,
}

/// Settings of DNS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsOverride {
    /// Whether names that no rule allows are answered here and never forwarded, as is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "truth")]
    pub filter: Option<bool>,

    /// What such names are answered: NxDomain, the default, or Refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "answer")]
    pub answer: Option<DnsAnswer>,

    /// Address hints in HTTPS and SVCB answers: Remove, the default, or Learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "hints")]
    pub hints: Option<Hints>,

    /// The cluster's domain, like `cluster.local`. Names under it go to the cluster's DNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "domain")]
    pub cluster_domain: Option<Name>,

    /// Whether names under the cluster's domain need rules, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "truth")]
    pub filter_cluster_domain: Option<bool>,
}

/// Bounds of TTLs, in seconds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new("!has(self.minSeconds) || !has(self.maxSeconds) || self.minSeconds <= self.maxSeconds")
        .message("`minSeconds` must not be above `maxSeconds`")
        .field_path(".minSeconds")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TtlOverride {
    /// The least, 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub min_seconds: Option<u32>,

    /// The most, 3600 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub max_seconds: Option<u32>,
}

/// Bounds of the time that addresses outlive their TTL, in seconds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GraceOverride {
    /// For rules that say nothing, 600 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub default_seconds: Option<u32>,

    /// The most that a rule may say, 86400 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub max_seconds: Option<u32>,
}

/// Limits of a workload. Beyond them nothing is granted, and nothing live is taken away.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsOverride {
    /// Names with live addresses, 4096 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub names: Option<u32>,

    /// Live addresses, 4096 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub addresses: Option<u32>,

    /// Live addresses of one name, 1000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub addresses_per_name: Option<u32>,

    /// DNS queries a second, 1000 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub queries_per_second: Option<u32>,

    /// Upstream queries at one time, 256 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pending_queries: Option<u32>,

    /// Established connections, 4096 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_000_000))]
    pub flows: Option<u32>,
}

impl SettingsOverride {
    /// `base` with what is said here.
    #[must_use]
    pub fn over(&self, base: &Settings) -> Settings {
        let mut settings = base.clone();
        set(&mut settings.on_deny, self.on_deny);
        set(&mut settings.failure_policy, self.failure_policy);
        set(&mut settings.inbound, self.inbound);
        set(&mut settings.adopt, self.adopt);
        if let Some(dns) = &self.dns {
            set(&mut settings.dns.filter, dns.filter);
            set(&mut settings.dns.answer, dns.answer);
            set(&mut settings.dns.hints, dns.hints);
            set(&mut settings.dns.filter_cluster_domain, dns.filter_cluster_domain);
            if dns.cluster_domain.is_some() {
                settings.dns.cluster_domain.clone_from(&dns.cluster_domain);
            }
        }
        self.ttl.iter().for_each(|ttl| ttl.set(&mut settings.ttl));
        self.grace.iter().for_each(|grace| grace.set(&mut settings.grace));
        self.limits.iter().for_each(|limits| limits.set(&mut settings.limits));
        settings
    }
}

impl TtlOverride {
    fn set(&self, bounds: &mut TtlBounds) {
        set(&mut bounds.min_seconds, self.min_seconds);
        set(&mut bounds.max_seconds, self.max_seconds);
    }
}

impl GraceOverride {
    fn set(&self, bounds: &mut GraceBounds) {
        set(&mut bounds.default_seconds, self.default_seconds);
        set(&mut bounds.max_seconds, self.max_seconds);
    }
}

impl LimitsOverride {
    fn set(&self, limits: &mut Limits) {
        set(&mut limits.names, self.names);
        set(&mut limits.addresses, self.addresses);
        set(&mut limits.addresses_per_name, self.addresses_per_name);
        set(&mut limits.queries_per_second, self.queries_per_second);
        set(&mut limits.pending_queries, self.pending_queries);
        set(&mut limits.flows, self.flows);
    }
}

fn set<T>(value: &mut T, wanted: Option<T>) {
    if let Some(wanted) = wanted {
        *value = wanted;
    }
}

fn words(words: &[&str]) -> Schema {
    json_schema!({ "type": "string", "enum": words })
}

fn on_deny(_: &mut SchemaGenerator) -> Schema {
    words(&["Reject", "Drop"])
}

fn failure_policy(_: &mut SchemaGenerator) -> Schema {
    words(&["Static", "Closed"])
}

fn inbound(_: &mut SchemaGenerator) -> Schema {
    words(&["All", "Cluster", "None"])
}

fn adopt(_: &mut SchemaGenerator) -> Schema {
    words(&["Keep", "Cut"])
}

fn answer(_: &mut SchemaGenerator) -> Schema {
    words(&["NxDomain", "Refused"])
}

fn hints(_: &mut SchemaGenerator) -> Schema {
    words(&["Remove", "Learn"])
}

fn truth(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "boolean" })
}

fn domain(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "maxLength": 253, "pattern": patterns::NAME })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn paths(value: &Value, prefix: &str, found: &mut Vec<String>) {
        for (name, value) in value.as_object().unwrap() {
            let path = format!("{prefix}{name}");
            if value.is_object() { paths(value, &format!("{path}."), found) } else { found.push(path) }
        }
    }

    /// Another value than the default, for each setting there is.
    fn everything() -> Value {
        json!({
            "onDeny": "Drop", "failurePolicy": "Closed", "inbound": "None", "adopt": "Cut",
            "dns": {
                "filter": false, "answer": "Refused", "hints": "Learn", "clusterDomain": "cluster.local",
                "filterClusterDomain": true,
            },
            "ttl": { "minSeconds": 6, "maxSeconds": 7 },
            "grace": { "defaultSeconds": 8, "maxSeconds": 9 },
            "limits": {
                "names": 1, "addresses": 2, "addressesPerName": 3, "queriesPerSecond": 4, "pendingQueries": 5,
                "flows": 6,
            },
        })
    }

    #[test]
    fn every_setting_can_be_said() {
        // R12
        let said: SettingsOverride = serde_json::from_value(everything()).unwrap();
        let mut settings = serde_json::to_value(said.over(&Settings::default())).unwrap();
        assert_eq!(settings["dns"]["trusted"].take(), json!([]), "named where the enforcer is started");
        settings["dns"].as_object_mut().unwrap().remove("trusted");
        // Where a CNI delivers is a property of a node's datapath, not of what the cluster wants.
        assert_eq!(settings.as_object_mut().unwrap().remove("delivery"), Some(json!("Host")));
        assert_eq!(settings, everything());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        paths(&everything(), "", &mut ours);
        paths(&settings, "", &mut theirs);
        assert_eq!(ours, theirs);
    }

    #[test]
    fn what_is_left_out_stays() {
        // R12
        let base: SettingsOverride = serde_json::from_value(everything()).unwrap();
        let base = base.over(&Settings::default());
        assert_eq!(SettingsOverride::default().over(&base), base);
        let one: SettingsOverride = serde_json::from_value(json!({ "limits": { "flows": 7 } })).unwrap();
        let changed = one.over(&base);
        assert_eq!((changed.limits.flows, changed.limits.names), (7, 1));
        assert_eq!((changed.dns, changed.on_deny), (base.dns, base.on_deny));
    }
}
