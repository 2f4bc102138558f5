//! Settings of a whole workload (SEMANTICS R12): the installation's, never a tenant's.
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `onDeny` | `Reject` | answer denied packets, or `Drop` them (G6) |
//! | `failurePolicy` | `Static` | freeze expiry while processes are away, or `Closed` (F1) |
//! | `inbound` | `All` | whose connections may be answered: `All`, `Cluster`, `None` (G9) |
//! | `adopt` | `Keep` | connections that are live when a workload is first isolated: keep, or `Cut` (R11) |
//! | `delivery` | `Host` | where what reaches a workload is judged: at the `Host`'s side of its link, or at the workload's, for CNIs that deliver past the host's (`Peer`) |
//! | `dns.filter` | `true` | names no rule allows are answered here (Q2) |
//! | `dns.answer` | `NxDomain` | what they are answered: `NxDomain`, `Refused` (Q3) |
//! | `dns.trusted` | none | servers the workload may mean, `ADDRESS:PORT` (Q6) |
//! | `dns.hints` | `Remove` | HTTPS and SVCB address hints: `Remove`, `Learn` (A2) |
//! | `dns.clusterDomain` | none | the cluster's domain (Q6) |
//! | `dns.filterClusterDomain` | `false` | names under it are filtered, too (Q6) |
//! | `ttl.minSeconds`, `ttl.maxSeconds` | 5, 3600 | bounds of the TTL clients see (A5) |
//! | `grace.defaultSeconds`, `grace.maxSeconds` | 600, 86400 | how long addresses outlive their TTL (A5) |
//! | `limits.names` | 4096 | names with live addresses (Q8) |
//! | `limits.addresses` | 4096 | live addresses of a workload (A7) |
//! | `limits.addressesPerName` | 1000 | live addresses of a name (A7) |
//! | `limits.queriesPerSecond` | 1000 | DNS queries (Q8) |
//! | `limits.pendingQueries` | 256 | upstream queries at one time (Q8) |
//! | `limits.flows` | 4096 | established flows (G5 `flows-full`) |

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Name;

/// All settings of a workload. See the module's table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// G6.
    pub on_deny: OnDeny,
    /// F1.
    pub failure_policy: FailurePolicy,
    /// G9.
    pub inbound: Inbound,
    /// R11.
    pub adopt: Adopt,
    /// Where what reaches the workload is judged.
    pub delivery: Delivery,
    /// What concerns names.
    pub dns: DnsSettings,
    /// A5.
    pub ttl: TtlBounds,
    /// A5.
    pub grace: GraceBounds,
    /// Q8, A7.
    pub limits: Limits,
}

/// What a denied packet gets (G6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnDeny {
    /// RST or ICMP administratively prohibited.
    #[default]
    Reject,
    /// Nothing.
    Drop,
}

/// What happens while enforcer or resolver are away (F1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailurePolicy {
    /// Expiry is frozen.
    #[default]
    Static,
    /// Expiry goes on.
    Closed,
}

/// Whose connections a workload may answer (G9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inbound {
    /// Everybody's.
    #[default]
    All,
    /// The cluster's.
    Cluster,
    /// Nobody's.
    None,
}

/// What becomes of live connections of a workload that is first isolated (R11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Adopt {
    /// They go on until they end.
    #[default]
    Keep,
    /// They end.
    Cut,
}

/// On which side of its link what reaches a workload is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// The host's, which the workload cannot reach.
    #[default]
    Host,
    /// The workload's own: for CNIs that deliver past the host's (`bpf_redirect_peer`).
    Peer,
}

/// What a name that is filtered is answered (Q3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsAnswer {
    /// NXDOMAIN, or NODATA where a name below is allowed.
    #[default]
    NxDomain,
    /// REFUSED.
    Refused,
}

/// What becomes of address hints (A2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hints {
    /// Removed.
    #[default]
    Remove,
    /// Learned under the question name.
    Learn,
}

/// Settings of the resolver for a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DnsSettings {
    /// Q2.
    pub filter: bool,
    /// Q3.
    pub answer: DnsAnswer,
    /// Q6.
    pub trusted: Vec<SocketAddr>,
    /// A2.
    pub hints: Hints,
    /// Q6.
    pub cluster_domain: Option<Name>,
    /// Q6.
    pub filter_cluster_domain: bool,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            filter: true,
            answer: DnsAnswer::default(),
            trusted: Vec::new(),
            hints: Hints::default(),
            cluster_domain: None,
            filter_cluster_domain: false,
        }
    }
}

/// Bounds of the TTL that clients see (A5), in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TtlBounds {
    /// The least.
    pub min_seconds: u32,
    /// The most.
    pub max_seconds: u32,
}

impl Default for TtlBounds {
    fn default() -> Self {
        Self { min_seconds: 5, max_seconds: 3_600 }
    }
}

impl TtlBounds {
    /// A TTL within the bounds; the upper one wins when they contradict each other.
    #[must_use]
    pub fn clamp(self, ttl: Duration) -> Duration {
        let bound = |seconds| Duration::from_secs(u64::from(seconds));
        ttl.max(bound(self.min_seconds)).min(bound(self.max_seconds))
    }
}

/// How long addresses outlive their TTL (A5), in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GraceBounds {
    /// For rules that do not say.
    pub default_seconds: u32,
    /// For rules that say more.
    pub max_seconds: u32,
}

impl Default for GraceBounds {
    fn default() -> Self {
        Self { default_seconds: 600, max_seconds: 86_400 }
    }
}

impl GraceBounds {
    /// What counts for a rule.
    #[must_use]
    pub fn of(self, rule: Option<Duration>) -> Duration {
        let default = Duration::from_secs(u64::from(self.default_seconds));
        rule.unwrap_or(default).min(Duration::from_secs(u64::from(self.max_seconds)))
    }
}

/// Limits of a workload (Q8, A7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Names with live addresses.
    pub names: u32,
    /// Live addresses.
    pub addresses: u32,
    /// Live addresses of one name.
    pub addresses_per_name: u32,
    /// DNS queries a second.
    pub queries_per_second: u32,
    /// Upstream queries at one time.
    pub pending_queries: u32,
    /// Established flows.
    pub flows: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names: 4_096,
            addresses: 4_096,
            addresses_per_name: 1_000,
            queries_per_second: 1_000,
            pending_queries: 256,
            flows: 4_096,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_text() {
        // A5, A7, F1, G6, G9, Q2, Q3
        let settings = Settings::default();
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), settings);
        assert_eq!((settings.on_deny, settings.failure_policy), (OnDeny::Reject, FailurePolicy::Static));
        assert!(settings.dns.filter && settings.dns.answer == DnsAnswer::NxDomain);
        assert_eq!((settings.ttl.min_seconds, settings.ttl.max_seconds), (5, 3_600));
        assert_eq!((settings.grace.default_seconds, settings.limits.addresses_per_name), (600, 1_000));
    }

    #[test]
    fn unknown_settings_are_refused() {
        // R5
        for text in [r#"{"onDenied": "Drop"}"#, r#"{"dns": {"filters": true}}"#, r#"{"onDeny": "Allow"}"#] {
            assert!(serde_json::from_str::<Settings>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds() {
        // A5
        let seconds = Duration::from_secs;
        let ttl = TtlBounds::default();
        assert_eq!((ttl.clamp(seconds(0)), ttl.clamp(seconds(60))), (seconds(5), seconds(60)));
        assert_eq!(ttl.clamp(seconds(1 << 31)), seconds(3_600));
        let grace = GraceBounds { default_seconds: 600, max_seconds: 1_000 };
        assert_eq!(grace.of(None), seconds(600));
        assert_eq!(
            (grace.of(Some(seconds(0))), grace.of(Some(seconds(2_000)))),
            (seconds(0), seconds(1_000))
        );
    }
}
