//! Decisions: what became of packets and questions.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Keyed};

/// What became of a packet, or of several alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Counts up by one, over all endpoints of this process: a gap is a loss.
    pub sequence: u64,
    /// When the packet passed, by the wall clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Identifier of the endpoint.
    #[schema(value_type = String, example = "ci/runner")]
    pub endpoint: Arc<str>,
    /// What people call the endpoint, where that is something else: `NAMESPACE/NAME` of a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "ci/runner")]
    pub workload: Option<Arc<str>>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, in one stable word.
    #[schema(value_type = String, example = "no-match")]
    pub reason: Cow<'static, str>,
    /// Whether the workload sent it.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// The workload's address.
    #[schema(value_type = String)]
    pub local: IpAddr,
    /// Its port.
    pub local_port: u16,
    /// The peer's address.
    #[schema(value_type = String)]
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
    /// The last name that gave this address to this endpoint, or the name that was asked for; absent = never resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For questions: the type asked for, as `A` or `TYPE65280`; absent for packets. A question has no peer: its remote address
    /// is the unspecified one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_type: Option<String>,
    /// For questions: the response code of the answer, as `NXDOMAIN`; absent for packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub response_code: Option<Cow<'static, str>>,
    /// The policy and rule that took part, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Packets this stands for.
    pub packets: u64,
    /// Their bytes, layer 3.
    pub bytes: u64,
    /// Generation of the rules that judged.
    pub generation: u32,
    /// The second verdict, where Audit policies select the workload beside what is enforced; absent where none does, and
    /// where `would-deny` says it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
}

/// What would have become of it if the Audit policies of the workload were enforced, too (SEMANTICS R6).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    /// `pass` or `deny`.
    pub verdict: Verdict,
    /// Why, in one stable word.
    #[schema(value_type = String, example = "denied-cidr")]
    pub reason: Cow<'static, str>,
    /// The policy and rule that would take part, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It passed.
    Pass,
    /// It was dropped or rejected.
    Deny,
    /// It passed because of audit mode.
    WouldDeny,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Deny, Self::WouldDeny];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Deny => "deny",
            Self::WouldDeny => "would-deny",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.word())
    }
}

/// Which way it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the workload.
    Egress,
    /// To it.
    Ingress,
}

impl Direction {
    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        }
    }
}

/// Counts of decisions since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DecisionCounts {
    /// Decisions told.
    pub told: u64,
    /// Those that denied.
    pub denied: u64,
    /// Events of endpoints that were removed before they were read.
    pub orphaned: u64,
}

impl Decision {
    /// The second verdict and its reason for people: `deny no-match`; `-` where there is none.
    pub fn staged_words(&self) -> String {
        self.staged
            .as_ref()
            .map_or_else(|| "-".into(), |staged| format!("{} {}", staged.verdict, staged.reason))
    }

    /// What people call the endpoint.
    pub fn workload_name(&self) -> &str {
        self.workload.as_deref().unwrap_or(&self.endpoint)
    }

    /// Whether the packet was dropped or rejected.
    pub fn is_denied(&self) -> bool {
        self.verdict == Verdict::Deny
    }

    /// The name, or that there never was one (SEMANTICS G8).
    pub fn name_or_unknown(&self) -> &str {
        self.name.as_deref().unwrap_or("never resolved")
    }

    /// Protocol and peer, for people: `tcp 203.0.113.9:443`.
    pub fn peer(&self) -> String {
        if let Some(query_type) = &self.query_type {
            return format!("question {query_type}");
        }
        let protocol = match self.protocol {
            6 => "tcp".into(),
            17 => "udp".into(),
            132 => "sctp".into(),
            1 | 58 => return format!("icmp {}", self.remote),
            other => return format!("protocol {other} {}", self.remote),
        };
        let protocol: Cow<'static, str> = protocol;
        format!("{protocol} {}", std::net::SocketAddr::new(self.remote, self.remote_port))
    }
}

impl Item for Decision {
    const FIELDS: &'static [&'static str] = &[
        "sequence",
        "at",
        "endpoint",
        "workload",
        "verdict",
        "reason",
        "direction",
        "protocol",
        "local",
        "localPort",
        "remote",
        "remotePort",
        "name",
        "queryType",
        "responseCode",
        "policy",
        "packets",
        "bytes",
        "generation",
        "staged",
    ];
    const COLUMNS: &'static [&'static str] = &[
        "TIME",
        "ENDPOINT",
        "VERDICT",
        "REASON",
        "DIRECTION",
        "PEER",
        "NAME",
        "PACKETS",
        "STAGED",
        "POLICY",
    ];

    fn row(&self) -> Vec<String> {
        vec![
            self.at.strftime("%H:%M:%S").to_string(),
            self.workload_name().into(),
            self.verdict.to_string(),
            self.reason.to_string(),
            self.direction.word().into(),
            self.peer(),
            self.name_or_unknown().into(),
            self.packets.to_string(),
            self.staged_words(),
            self.policy.clone().unwrap_or_else(|| "-".into()),
        ]
    }
}

impl Keyed for Decision {
    const KEY: usize = 2;

    fn key(&self) -> Vec<String> {
        // The latest first: numbers that fall, as wide as they can get.
        let falling = |number: u64| format!("{:020}", u64::MAX - number);
        let nanoseconds = u64::try_from(self.at.as_nanosecond()).unwrap_or(0);
        vec![falling(nanoseconds), falling(self.sequence)]
    }
}
