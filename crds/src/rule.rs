//! Rules of policies: destinations x ports, and when they count (SEMANTICS R4, R7, R8).
//!
//! The comments of fields are what `kubectl explain` shows.

#![allow(unreachable_pub, reason = "the derive makes helper types as public as ours")]

use kube_core::Rule as Cel;
use kube_derive::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// Allows destinations on ports.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Names the rule in reports: lower-case letters, digits and dashes, unique in its list.
    #[schemars(length(max = 63), regex(pattern = patterns::LABEL))]
    pub name: String,

    /// Where to: any of these.
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<Peer>,

    /// On which ports: any of these. `[{protocol: Any}]` means every port of every protocol.
    #[schemars(length(min = 1, max = 32))]
    pub ports: Vec<Port>,

    /// Whether answers with addresses that are not globally reachable (private, carrier-grade NAT, link-local
    /// and the like) are fine for the rule's names. Loopback, the metadata address and the node's own
    /// addresses never are.
    #[serde(default)]
    pub private_addresses: bool,

    /// How many seconds addresses stay usable after the end of their TTL and of their last connection, 600 by
    /// default. 0 keeps to the TTL: live connections go on, new ones need a new answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub grace_seconds: Option<i32>,

    /// Whether the names that an answer's CNAME chain leads through must be allowed, too.
    #[serde(default)]
    pub strict_chain: bool,

    /// When the rule ends, like `2027-01-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = patterns::DATE_TIME), extend("format" = "date-time"))]
    pub expires_at: Option<String>,

    /// When the rule counts. Without it, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,

    /// Who asked for the rule, and why. For people; it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
}

/// Denies destinations, whatever allows them.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenyRule {
    /// Names the rule in reports: lower-case letters, digits and dashes, unique in its list.
    #[schemars(length(max = 63), regex(pattern = patterns::LABEL))]
    pub name: String,

    /// Where to: any of these. Names are denied when they are looked up, whatever the ports.
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<Peer>,

    /// On which ports. Without it, on all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub ports: Option<Vec<Port>>,

    /// When the rule ends, like `2027-01-31T00:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = patterns::DATE_TIME), extend("format" = "date-time"))]
    pub expires_at: Option<String>,

    /// When the rule counts. Without it, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,

    /// Who asked for the rule, and why. For people; it changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<Review>,
}

/// Destinations of one kind: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new(
        "(has(self.domainNames) ? 1 : 0) + (has(self.ipBlock) ? 1 : 0) + (has(self.cluster) ? 1 : 0) == 1"
    )
    .message("write exactly one of `domainNames`, `ipBlock` and `cluster`; other destinations are items of their own")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peer {
    /// Domain names. `*.example.com` means every name below example.com, of one or more labels, and not
    /// example.com itself; `*` means every name. Other scripts are written as A-labels (`xn--...`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 1, max = 256), regex(pattern = patterns::DOMAIN_NAME))
    )]
    pub domain_names: Option<Vec<String>>,

    /// A block of addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IpBlock>,

    /// Places in the cluster, by the ranges of the installation's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub cluster: Option<Vec<ClusterPlace>>,
}

/// A block of addresses, less exceptions.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new("isCIDR(self.cidr) && cidr(self.cidr) == cidr(self.cidr).masked()")
        .message("`cidr` must be a block of addresses like 198.51.100.0/24, with no bit set beyond its prefix")
        .field_path(".cidr"),
    validation = Cel::new(
        "!has(self.except) || !isCIDR(self.cidr) || self.except.all(block, isCIDR(block) && cidr(block) == cidr(block).masked() && cidr(self.cidr).containsCIDR(block))"
    )
    .message("each `except` must be a block of addresses inside `cidr`, with no bit set beyond its prefix")
        .field_path(".except")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IpBlock {
    /// The block, like `198.51.100.0/24` or `2001:db8::/32`.
    #[schemars(length(max = 49), regex(pattern = patterns::CIDR))]
    pub cidr: String,

    /// Less these blocks inside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 49), regex(pattern = patterns::CIDR)))]
    pub except: Vec<String>,
}

/// A place in the cluster.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterPlace {
    /// Addresses of pods.
    Pods,
    /// Addresses of services.
    Services,
    /// Addresses of nodes.
    Nodes,
    /// The API server.
    APIServer,
}

/// A protocol and, with TCP, UDP and SCTP, a port or an inclusive range.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    crates(kube_core = "::kube_core"),
    validation = Cel::new(
        "type(self.protocol) == int ? self.protocol >= 0 && self.protocol <= 255 : self.protocol in ['TCP', 'UDP', 'SCTP', 'ICMPEcho', 'Any']"
    )
    .message("`protocol` must be TCP, UDP, SCTP, ICMPEcho, Any, or a protocol number from 0 to 255")
        .field_path(".protocol"),
    validation = Cel::new("!has(self.port) || type(self.protocol) == string && self.protocol in ['TCP', 'UDP', 'SCTP']")
        .message("only TCP, UDP and SCTP have ports; remove `port`, or write one of them as `protocol`")
        .field_path(".port"),
    validation = Cel::new("!has(self.endPort) || has(self.port) && self.endPort >= self.port")
        .message("`endPort` needs a `port`, and must not be below it")
        .field_path(".endPort")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Port {
    /// TCP, UDP, SCTP, ICMPEcho, a protocol number, or Any: all of these and every other.
    pub protocol: ProtocolName,

    /// The port, or the first of a range. Without it, every port of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,

    /// The last port of a range that begins at `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub end_port: Option<i32>,
}

/// A protocol by name or number.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum ProtocolName {
    /// An IP protocol number.
    Number(i64),
    /// TCP, UDP, SCTP, ICMPEcho or Any.
    Name(String),
}

impl JsonSchema for ProtocolName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ProtocolName".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// A window of time that comes again.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// The days on which the window begins. Without it, every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub days: Vec<Day>,

    /// When it begins, like `06:00`.
    #[schemars(length(max = 5), regex(pattern = patterns::TIME_OF_DAY))]
    pub start: String,

    /// When it ends, like `22:00`. An end that is not after the start lies in the next day.
    #[schemars(length(max = 5), regex(pattern = patterns::TIME_OF_DAY))]
    pub end: String,

    /// The time zone of both, by its IANA name, like `Europe/Berlin` or `UTC`.
    #[schemars(length(min = 1, max = 64), regex(pattern = patterns::TIME_ZONE))]
    pub time_zone: String,
}

/// A day of the week.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

/// Who asked for a rule, and why.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Review {
    /// Who answers for the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub owner: Option<String>,

    /// What it is needed for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub justification: Option<String>,

    /// Where it was discussed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub ticket: Option<String>,
}
