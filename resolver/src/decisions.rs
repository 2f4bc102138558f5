//! What was decided about a question, for logs, events and `--learn`. Counting is [`crate::counters`].

use std::net::IpAddr;
use std::sync::Arc;

use nameward_policy::PolicyRef;
pub use nameward_policy::Reason;

/// A question and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Unique ID of the endpoint.
    pub endpoint: Arc<str>,
    /// The name asked for.
    pub name: Arc<str>,
    /// The type asked for.
    pub record_type: u16,
    /// Response code of the answer.
    pub code: u16,
    /// The policy that decided, or would have (R6), where one did.
    pub policy: Option<PolicyRef>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, with these addresses usable.
    Answered {
        /// Addresses of the answer; empty for other types and for names that are not granted.
        addresses: Vec<IpAddr>,
        /// Enforcement would have filtered the name (R6).
        would_filter: bool,
    },
    /// Not answered, or not wholly.
    Denied {
        /// Why; one of the words for DNS (G5).
        reason: Reason,
        /// The policy that decided, or what happened; for people.
        detail: String,
    },
}

/// Takes decisions. Called on the way of every question that the fast path did not answer: it must not block.
pub trait DecisionSink: Send + Sync {
    /// One decision.
    fn decided(&self, decision: Decision);
}
