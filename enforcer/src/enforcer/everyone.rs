//! Grants by name (Q9): for every endpoint whose rules allow the name, and for those that come later.
//!
//! Somebody's cache in front of the resolver may give such an answer to any workload until its TTL ends, so it is kept as
//! long: rules that come later find it.

use std::sync::{MutexGuard, PoisonError, atomic::Ordering};

use nameward_policy::{LiveAnswers, Name};

use super::{Enforcer, now};
use crate::{GrantRequest, Granted, Refused};

impl Enforcer {
    /// When it returns, the addresses are usable for all that may use them. An endpoint that is over its own limits gets
    /// nothing, and holds up nobody else (promise 6).
    pub(super) fn grant_everyone(&self, request: &GrantRequest) -> Result<Granted, Refused> {
        let name =
            Name::parse(&request.name).map_err(|_| Refused::NotAllowed { name: request.name.clone() })?;
        let chain = request.chain.iter().map(|alias| alias.as_str().into());
        // Before endpoints are asked: one that gets rules from here on finds it, one that has them is asked.
        let kept = self.live_answers().record(&name, chain, &request.addresses, now());
        kept.map_err(|_| Refused::Limit { what: "names for all workloads" })?;
        let shortest = request.addresses.iter().map(|(_, ttl)| *ttl).min().unwrap_or_default();
        let mut granted = Granted { usable_for: shortest.saturating_add(request.grace) };
        for endpoint in self.all() {
            if let Some(one) = self.grant_by_name(&endpoint.config.uid, request)? {
                granted.usable_for = granted.usable_for.min(one.usable_for);
            }
        }
        Ok(granted)
    }

    /// None where the rules do not allow it, or the endpoint is gone.
    fn grant_by_name(&self, uid: &str, request: &GrantRequest) -> Result<Option<Granted>, Refused> {
        let (guarded, outcome) = loop {
            let Ok(guarded) = self.guarded(uid) else { return Ok(None) };
            let outcome = guarded.current().map(|mut endpoint| endpoint.grant_by_name(request, now()));
            if let Some(outcome) = outcome {
                break (guarded, outcome);
            }
        };
        let is_full = matches!(outcome, Err(Refused::Limit { .. }));
        if guarded.is_full.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::warn!(
                endpoint = uid,
                "over its limit of names or addresses: it gets no more of those for all"
            );
        }
        if is_full { Ok(None) } else { outcome }
    }

    pub(super) fn live_answers(&self) -> MutexGuard<'_, LiveAnswers> {
        self.0.live_answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
