//! The moment when rules isolate a workload for the first time: what it has open goes on, or ends (R11).

use nameward_policy::{Adopt, RuleSet};

use super::{Guarded, now};
use crate::{
    endpoints::Endpoint,
    kernel::{Attachment, KernelEndpoint},
    workload,
};

impl Guarded {
    /// Makes flows of the workload's live connections and ends those that have no place. What cannot be read or written
    /// ends at its next packet, and is said.
    ///
    /// Before the first rules only those count that lived before the programs were attached. What came since cannot be a
    /// connection: no packet passed. With NET_ADMIN in its namespace a workload can make a socket look like one
    /// (`TCP_REPAIR`).
    pub(super) fn take_over(&self, endpoint: &mut Endpoint<KernelEndpoint>, rules: &RuleSet) {
        let attachment = &self.config.attachment;
        let mut live = match workload::live_connections(attachment) {
            Ok(Some(live)) => live,
            Ok(None) => {
                tracing::info!(
                    endpoint = &*self.config.uid,
                    "no network namespace is known behind it: connections that live there are not adopted"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(endpoint = &*self.config.uid, %error, "live connections cannot be read: they end");
                return;
            }
        };
        if endpoint.generation() == 0 {
            live.retain(|one| self.found.iter().any(|before| before.is_same(one)));
        }
        let keep = rules.settings.adopt == Adopt::Keep;
        let by_socket = matches!(attachment, Attachment::Cgroup { .. });
        match endpoint.adopt(&live, rules, keep, by_socket, now()) {
            Ok(ended) => {
                if let Err(error) = workload::end_connections(attachment, &ended) {
                    tracing::warn!(endpoint = &*self.config.uid, %error, "connections end at their next packet only");
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = &*self.config.uid, %error, "not all live connections were adopted");
            }
        }
    }
}
