//! From what is wanted to what is enforced: endpoints attached and removed, rules put into force in the order that
//! resolvers need. Reads no files; takes whole states and compares.

use std::{collections::BTreeSet, sync::Arc};

use nameward_policy::RuleSet;

use crate::{EndpointConfig, Enforcer, EnforcerError, feed_client::FeedClient, kernel::Attachment};

/// A workload and its rules, compiled.
#[derive(Clone, Debug)]
pub struct WantedEndpoint {
    /// The workload.
    pub config: EndpointConfig,
    /// Its rules.
    pub rules: Arc<RuleSet>,
}

/// Keeps an enforcer and its resolvers at what is wanted.
#[derive(Debug)]
pub struct Guardian {
    enforcer: Enforcer,
    feed: Option<Arc<FeedClient>>,
    wanted: Vec<WantedEndpoint>,
}

impl Guardian {
    /// A guardian that wants nothing yet. What an earlier process attached stays until
    /// [`reconcile`](Self::reconcile) is told what is wanted.
    pub fn new(enforcer: Enforcer, feed: Option<Arc<FeedClient>>) -> Self {
        Self { enforcer, feed, wanted: Vec::new() }
    }

    /// Makes `wanted` so. New endpoints first, then rules, then removals; one that fails does not hold up the others.
    ///
    /// # Errors
    /// The failures; everything else is as wanted.
    pub async fn reconcile(&mut self, wanted: Vec<WantedEndpoint>) -> Result<(), Vec<EnforcerError>> {
        let mut failures = Vec::new();
        let mut listeners_changed = false;
        for endpoint in &wanted {
            let known = self.known(&endpoint.config.uid).cloned();
            let same = known.as_ref().is_some_and(|known| known.config == endpoint.config);
            if !same && let Err(error) = self.enforcer.apply_endpoint(endpoint.config.clone()) {
                failures.push(error);
                continue;
            }
            listeners_changed |= !same && matches!(endpoint.config.attachment, Attachment::Cgroup { .. });
            let same_rules = known.is_some_and(|known| is_same(&known.rules, &endpoint.rules));
            if same && same_rules {
                continue;
            }
            if let Err(error) = self.put_into_force(endpoint, !same_rules).await {
                failures.push(error);
            }
        }
        failures.extend(self.remove_others(&wanted));
        if let Some(feed) = &self.feed
            && listeners_changed
        {
            feed.reconnect();
        }
        self.wanted = wanted;
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Resolvers forget the old rules before the kernel does, and learn the new ones after it (DESIGN 6).
    async fn put_into_force(&self, endpoint: &WantedEndpoint, rules: bool) -> Result<(), EnforcerError> {
        let uid = &endpoint.config.uid;
        if rules {
            if let Some(feed) = &self.feed {
                feed.revoke(uid, self.enforcer.next_generation(uid)?).await;
            }
            let generation = self.enforcer.apply_rules(uid, Arc::clone(&endpoint.rules))?;
            tracing::info!(endpoint = &**uid, generation, "rules are in force");
        }
        if let (Some(feed), Some(view)) = (&self.feed, self.enforcer.view(uid)?) {
            feed.publish(&view);
        }
        Ok(())
    }

    fn remove_others(&self, wanted: &[WantedEndpoint]) -> Vec<EnforcerError> {
        let uids: BTreeSet<&str> = wanted.iter().map(|endpoint| &*endpoint.config.uid).collect();
        let attached = match self.enforcer.attached() {
            Ok(attached) => attached,
            Err(error) => return vec![error],
        };
        let mut failures = Vec::new();
        for uid in attached.iter().filter(|uid| !uids.contains(uid.as_str())) {
            if let Some(feed) = &self.feed {
                feed.publish_removed(uid);
            }
            match self.enforcer.remove_endpoint(uid) {
                Ok(()) => tracing::info!(endpoint = uid, "removed"),
                Err(error) => failures.push(error),
            }
        }
        failures
    }

    fn known(&self, uid: &str) -> Option<&WantedEndpoint> {
        self.wanted.iter().find(|endpoint| &*endpoint.config.uid == uid)
    }
}

/// Whether two rule sets mean the same to kernel and resolver.
fn is_same(one: &RuleSet, other: &RuleSet) -> bool {
    one.kernel == other.kernel
        && one.dns == other.dns
        && one.settings == other.settings
        && one.rules == other.rules
}
