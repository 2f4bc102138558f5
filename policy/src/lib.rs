//! Names, patterns, rules, bindings and grants: what may be reached, by whom, until when.
//!
//! Pure: no IO, no clock, no async; time is an argument. Everything else in the workspace may depend on this
//! crate; it depends on none of it. The kernel's tables appear here as plain data ([`tables`]), so that what is
//! written and what it means can be tested without a kernel.

pub mod address;
mod bindings;
mod cidrs;
mod dns;
mod explain;
mod few;
mod grants;
mod live_answers;
mod name;
mod pattern;
mod ports;
mod reason;
mod rule;
mod rule_set;
mod schedule;
mod settings;
mod shared_text;
pub mod tables;
mod time;

pub use address::{AddressClass, AddressKind};
pub use bindings::{Binding, Bindings, Lease, LimitReached, REMEMBERED};
pub use dns::{
    Admission, DeniedNames, DnsMode, DnsRules, DnsRulesData, NameRule, NameRuleEntry, QueryDecision,
    Reachable,
};
pub use explain::{BindingView, Destination, Explanation, Missing, RuleRef, Suggestion, explain};
pub use few::Few;
pub use grants::{Action, AllowEntry, GrantTables, Grants, NameSet, diff};
pub use live_answers::{KEPT_AFTER_TTL, LiveAnswer, LiveAnswers, TooManyAnswers};
pub use name::{MAX_LABEL, MAX_NAME, Name, NameError, Suffixes};
pub use pattern::{PUBLIC_RESOLVERS, Pattern, PatternError, PatternWarning};
pub use reason::{Outcome, Reason};
pub use rule::{
    ClusterPeer, ClusterRanges, Effect, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleMode,
    RuleWarning,
};
pub use rule_set::{CompileError, CompiledRule, Isolation, RuleSet};
pub use schedule::{Schedule, ScheduleError};
pub use settings::{
    Adopt, Delivery, DnsAnswer, DnsSettings, FailurePolicy, GraceBounds, Hints, Inbound, Limits, OnDeny,
    Settings, TtlBounds,
};
pub use tables::{KernelMode, KernelRules};
pub use time::BootTime;
