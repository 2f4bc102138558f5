//! What was decided about a question, for logs, events and `--learn`. Counting is [`crate::counters`].

use std::net::IpAddr;
use std::sync::Arc;

/// Why a question was not simply answered: the words of SEMANTICS G5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// No rule allows the name, or a rule denies it.
    Filtered,
    /// Addresses were taken out of the answer.
    PrivateAddress,
    /// A limit of the workload was reached.
    Limit,
    /// The question came from ourselves.
    Loop,
    /// No upstream answered in time, or with an error.
    Upstream,
    /// The addresses could not be made usable in time.
    GrantTimeout,
}

impl Reason {
    /// The stable word for counters, events, API and log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::PrivateAddress => "private-address",
            Self::Limit => "limit",
            Self::Loop => "loop",
            Self::Upstream => "upstream",
            Self::GrantTimeout => "grant-timeout",
        }
    }
}

/// A question and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Unique ID of the endpoint.
    pub endpoint: Arc<str>,
    /// The name asked for.
    pub name: Arc<str>,
    /// The type asked for.
    pub record_type: u16,
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
    },
    /// Not answered, or not wholly.
    Denied {
        /// The stable word.
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

/// Writes decisions to the `audit` log target.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditLog;

impl DecisionSink for AuditLog {
    fn decided(&self, decision: Decision) {
        let Decision { endpoint, name, record_type, outcome } = decision;
        match outcome {
            Outcome::Answered { addresses } => {
                tracing::debug!(target: "audit", %endpoint, %name, record_type, ?addresses, "answered");
            }
            Outcome::Denied { reason, detail } => {
                tracing::info!(target: "audit", %endpoint, %name, record_type, reason = reason.word(), detail, "denied");
            }
        }
    }
}
