//! What becomes of policies, told to the cluster.
//!
//! ```text
//!   each node:  decisions, attachments --> report --> EgressNode/NODE        (at most one write in 10 s)
//!   one of all: EgressNodes, policies  --> conditions --> status of policies (at most one write a policy in 10 s), events
//! ```
//!
//! [`report`] and [`conditions`] are pure. [`reporter`] writes the node's report, [`writer`] the policies' status, under a
//! Lease so that there is one writer. The writer knows nothing of the enforcer around it: it may run in any process.

pub mod conditions;
pub mod lease;
pub mod report;
pub mod reporter;
pub mod writer;

use std::time::Duration;

use crate::endpoints::chain_text;

/// Least time between two writes of one object.
pub const WRITE_EVERY: Duration = Duration::from_secs(10);

/// What is wrong with a write, and what to do. The API server's own words name the object, the verb and the account.
fn remedy(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; apply deploy/rbac.yaml, or add the verb to a role of this account", status.message)
        }
        other => chain_text(other),
    }
}
