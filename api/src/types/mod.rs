//! What the API says, as JSON has it. The same types are what clients read.
//!
//! Fields are only ever added; a client must bear fields that it does not know.

mod bindings;
mod decisions;
mod endpoints;
mod explain;
mod policies;
mod subjects;
mod traffic;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use bindings::{BindingStatus, Flushed, FlushedBinding, LeaseStatus, RuleName};
pub use decisions::{Decision, DecisionCounts, Direction, Staged, Verdict};
pub(crate) use endpoints::namespace_of;
pub use endpoints::{AdoptedConnection, Counts, EndpointStatus, Mode};
pub use explain::{Explained, ExplainedBinding, Proposal};
pub use policies::{PolicyStatus, RuleStatus, Suggested, Suggestion};
pub use subjects::SubjectStatus;
pub use traffic::TrafficStatus;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// Which node says so.
    pub node: String,
    /// What was asked for, in a stable order.
    pub items: Vec<T>,
    /// Ask again with this as `cursor` for what follows; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What stands in a list: which fields it has, for `fields=`, and how it looks as a line of a table.
pub trait Item: Serialize + std::hash::Hash {
    /// Names of its fields in JSON.
    const FIELDS: &'static [&'static str];
    /// Heads of the table.
    const COLUMNS: &'static [&'static str];
    /// Its line of the table.
    fn row(&self) -> Vec<String>;
}
