//! The policy objects, their schema and the reader of policy files.
//!
//! Types of `nameward.io/v1alpha1` with the rules the API server checks, their conversion to rules of
//! `nameward_policy`, and readers of files that check the same rules and say where a mistake stands. No client of
//! the API server, and nothing that decides. Used by the resolver, the enforcer, the API and the command.

mod check;
mod config;
mod convert;
pub mod file;
mod mistake;
mod node;
mod patterns;
mod policy;
mod render_yaml;
mod rule;
pub mod schema;
mod selection;
mod selector;
mod settings;
pub mod static_config;
mod status;
mod yaml;

pub use config::{
    BreakGlass, BreakGlassScope, ClusterAddresses, EgressConfig, EgressConfigSpec, EgressConfigStatus,
    Exempt, NamespaceSettings, Observe, PodName, ServiceName,
};
pub use convert::{Converted, Problem};
pub use mistake::{Mistake, Mistakes, Place, Warning, render};
pub use node::{
    EgressNode, EgressNodeSpec, MAX_REPORTED_PODS, MAX_REPORTED_POLICIES, NotCoveredPod, PolicyReport,
};
pub use policy::{
    ClusterEgressPolicy, ClusterEgressPolicySpec, EgressPolicy, EgressPolicySpec, Mode, Subject,
};
pub use render_yaml::to_yaml;
pub use rule::{
    ClusterPlace, Day, DenyRule, EgressRule, IpBlock, Peer, Port, ProtocolName, Review, Schedule,
};
pub use selection::{NAMESPACE_NAME, Policy, Workload, isolation};
pub use selector::{LabelExpression, LabelOperator, LabelSelector, Labels};
pub use settings::{DnsOverride, GraceOverride, LimitsOverride, SettingsOverride, TtlOverride};
pub use status::{Condition, ConditionStatus, EndpointCounts, PolicyStatus};
pub use yaml::{Key, Node, Value, from_yaml};
