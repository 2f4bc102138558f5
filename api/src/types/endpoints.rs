//! Endpoints: workloads that are guarded.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Item, Keyed};

/// An endpoint as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its identifier.
    #[schema(value_type = String, example = "ci/runner")]
    pub uid: Arc<str>,
    /// What people call it: `NAMESPACE/NAME` where it has a namespace.
    pub name: String,
    /// `interface NAME` or `cgroup PATH`.
    #[schema(example = "interface veth1a2b")]
    pub attachment: String,
    /// Its own addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// Generation of its rules; 0 = none yet.
    pub generation: u32,
    /// What becomes of what no rule allows; absent before it has rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Names with an address that new connections may use.
    pub live_names: usize,
    /// Addresses of names that new connections may use.
    pub live_addresses: usize,
    /// What is wrong with it; it is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What its fence does not hold, and why; absent when it holds everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
    /// Packets and bytes by reason; reasons that never came are left out.
    #[schema(value_type = BTreeMap<String, Counts>)]
    pub counters: BTreeMap<Cow<'static, str>, Counts>,
    /// Events that were kept back.
    pub lost_events: u64,
    /// Questions that were not answered, and are not told one by one.
    #[serde(default)]
    pub lost_questions: u64,
    /// Repairs of map contents that were not what they should have been.
    pub drift_repairs: u64,
    /// Connections from before rules first isolated it, which go on until they end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<AdoptedConnection>,
}

/// A connection that goes on although no rule allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct AdoptedConnection {
    /// The workload's end; absent when only its socket is known (cgroups, after a restart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub local: Option<SocketAddr>,
    /// The other end; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub remote: Option<SocketAddr>,
}

/// What becomes of what no rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is denied.
    Enforce,
    /// It passes, and is told.
    Audit,
    /// No policy isolates the endpoint.
    NotIsolated,
}

impl Mode {
    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
            Self::NotIsolated => "not-isolated",
        }
    }
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, layer 3.
    pub bytes: u64,
}

impl EndpointStatus {
    /// The namespace that its name has.
    pub fn namespace(&self) -> Option<&str> {
        namespace_of(&self.name)
    }

    /// Packets that were denied, or would have been.
    pub fn denied_packets(&self) -> u64 {
        let denies = |word: &str| {
            nameward_policy::Reason::from_word(word)
                .is_none_or(|reason| reason.outcome() == nameward_policy::Outcome::Denied)
        };
        self.counters.iter().filter(|(word, _)| denies(word)).map(|(_, counts)| counts.packets).sum()
    }
}

/// The namespace of `NAMESPACE/NAME`.
pub fn namespace_of(name: &str) -> Option<&str> {
    name.split_once('/').map(|(namespace, _)| namespace)
}

impl Item for EndpointStatus {
    const FIELDS: &'static [&'static str] = &[
        "uid",
        "name",
        "attachment",
        "addresses",
        "generation",
        "mode",
        "liveNames",
        "liveAddresses",
        "problem",
        "notCovered",
        "counters",
        "lostEvents",
        "lostQuestions",
        "driftRepairs",
        "adopted",
    ];
    const COLUMNS: &'static [&'static str] =
        &["UID", "MODE", "GENERATION", "NAMES", "ADDRESSES", "DENIED", "ATTACHMENT", "PROBLEM"];

    fn row(&self) -> Vec<String> {
        vec![
            self.uid.to_string(),
            self.mode.map_or("-", Mode::word).into(),
            self.generation.to_string(),
            self.live_names.to_string(),
            self.live_addresses.to_string(),
            self.denied_packets().to_string(),
            self.attachment.clone(),
            self.problem.clone().unwrap_or_else(|| "-".into()),
        ]
    }
}

impl Keyed for EndpointStatus {
    const KEY: usize = 1;

    fn key(&self) -> Vec<String> {
        vec![self.uid.to_string()]
    }
}
