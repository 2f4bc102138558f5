//! What the API says, as JSON has it. The same types are what clients read.
//!
//! Fields are only ever added; a client must bear fields that it does not know.

mod bindings;
mod decisions;
mod endpoints;
mod explain;
mod located;
mod policies;
mod subjects;
mod traffic;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use bindings::{BindingStatus, Flushed, FlushedBinding, LeaseStatus, RuleName};
pub use decisions::{Decision, DecisionCounts, Direction, Staged, Verdict};
pub use endpoints::{AdoptedConnection, Counts, EndpointStatus, Mode, namespace_of};
pub use explain::{Explained, ExplainedBinding, Proposal};
pub use located::Located;
pub use policies::{PolicyStatus, RuleStatus, Suggested, Suggestion};
pub use subjects::SubjectStatus;
pub use traffic::TrafficStatus;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// Which node says so; absent in a cluster's list, where each item has a `node`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// What was asked for, in a stable order.
    pub items: Vec<T>,
    /// Ask again with this as `cursor` for what follows; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// In a cluster's list: nodes whose items are not in it, because they did not answer in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// A node that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unanswered {
    /// Which.
    pub node: String,
    /// Why, for people.
    pub problem: String,
}

impl<T> List<T> {
    /// A page of a node.
    pub fn of_node(node: &str, items: Vec<T>, next: Option<String>) -> Self {
        Self { node: node.into(), items, next, unanswered: Vec::new() }
    }
}

/// What stands in a list: which fields it has, for `fields=`, and how it looks as a line of a table.
pub trait Item: Serialize + std::hash::Hash {
    /// Names of its fields in JSON.
    const FIELDS: &'static [&'static str];
    /// Heads of the table.
    const COLUMNS: &'static [&'static str];
    /// Its line of the table.
    fn row(&self) -> Vec<String>;
    /// [`FIELDS`](Self::FIELDS), and those of what is around it.
    fn fields() -> Vec<&'static str> {
        Self::FIELDS.to_vec()
    }
    /// [`COLUMNS`](Self::COLUMNS), and those of what is around it.
    fn columns() -> Vec<&'static str> {
        Self::COLUMNS.to_vec()
    }
}

/// An item of a list that has an order and comes in pages.
pub trait Keyed: Item {
    /// Parts of a key.
    const KEY: usize;
    /// What tells it from the others of a node's list, and puts them into order.
    fn key(&self) -> Vec<String>;
}
