//! From what is wanted to what is enforced: endpoints attached and removed, rules put into force in the order that
//! resolvers need. What fails is told in the endpoint's status and tried again. Reads no files; takes whole states
//! and compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use nameward_policy::RuleSet;
use tokio::time::Instant;

use crate::{
    EndpointConfig, Enforcer, EnforcerError, endpoints::chain_text, feed_client::FeedClient,
    kernel::Attachment, policies::Subject,
};

/// Time before the first new try; doubled after each that fails.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Endpoints that are attached before the first of them gets its rules.
const GROUP: usize = 32;

/// A workload and its rules, compiled.
#[derive(Clone, Debug)]
pub struct WantedEndpoint {
    /// The workload.
    pub config: EndpointConfig,
    /// Its rules.
    pub rules: Arc<RuleSet>,
    /// What they are compiled from, for those who ask; none where nobody can.
    pub subject: Option<Arc<Subject>>,
}

/// Keeps an enforcer and its resolvers at what is wanted.
pub struct Guardian {
    enforcer: Enforcer,
    feed: Option<Arc<FeedClient>>,
    standings: BTreeMap<Arc<str>, Standing>,
    is_kept: Keeper,
    /// Nobody wants them, and they are still attached.
    leftovers: usize,
}

/// Says of an endpoint that nobody wants whether it stays nevertheless.
pub type Keeper = Box<dyn Fn(&str) -> bool + Send + Sync>;

impl fmt::Debug for Guardian {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guardian").field("standings", &self.standings).finish_non_exhaustive()
    }
}

/// What is wanted of an endpoint, and how far it is.
#[derive(Debug)]
struct Standing {
    wanted: WantedEndpoint,
    /// As it is attached.
    config: Option<EndpointConfig>,
    /// The rules in force, as far as they are ours.
    rules: Option<Arc<RuleSet>>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    tries: u32,
    again_at: Instant,
}

impl Standing {
    fn is_settled(&self) -> bool {
        self.is_attached() && self.has_rules()
    }

    fn is_attached(&self) -> bool {
        self.config.as_ref() == Some(&self.wanted.config)
    }

    fn has_rules(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| is_same(rules, &self.wanted.rules))
    }
}

impl Guardian {
    /// A guardian that wants nothing yet. What an earlier process attached stays until
    /// [`reconcile`](Self::reconcile) is told what is wanted.
    pub fn new(enforcer: Enforcer, feed: Option<Arc<FeedClient>>) -> Self {
        Self { enforcer, feed, standings: BTreeMap::new(), is_kept: Box::new(|_| false), leftovers: 0 }
    }

    /// The same, but what `is_kept` says yes to is never removed: somebody else attaches it, or its owner is not known
    /// yet. It is asked after the endpoints that are attached have been listed.
    #[must_use]
    pub fn keeping(self, is_kept: Keeper) -> Self {
        Self { is_kept, ..self }
    }

    /// Whether an endpoint is as wanted, rules and all.
    pub fn is_settled(&self, uid: &str) -> bool {
        self.standings.get(uid).is_some_and(Standing::is_settled)
    }

    /// How many endpoints were still attached after the last reconciliation although nobody wanted them: kept, or not to be
    /// removed. Nothing may happen that tells when that can change.
    pub fn leftovers(&self) -> usize {
        self.leftovers
    }

    /// Makes `wanted` so. New endpoints first, then rules, then removals; one that fails does not hold up the others
    /// and is tried again by [`retry`](Self::retry).
    ///
    /// # Errors
    /// The failures; everything else is as wanted.
    pub async fn reconcile(&mut self, wanted: Vec<WantedEndpoint>) -> Result<(), Vec<EnforcerError>> {
        let mut before = std::mem::take(&mut self.standings);
        for wanted in wanted {
            let uid = Arc::clone(&wanted.config.uid);
            if let Some(subject) = &wanted.subject {
                self.enforcer.describe(&uid, Arc::clone(subject));
            }
            let (config, rules) =
                before.remove(&uid).map_or((None, None), |known| (known.config, known.rules));
            self.standings.insert(uid, Standing { wanted, config, rules, trouble: None });
        }
        let uids = self.standings.keys().cloned().collect();
        let mut failures = self.settle(uids).await;
        failures.extend(self.remove_others().await);
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Tries again what failed; `now` decides what is due. What fails once more waits longer.
    ///
    /// # Errors
    /// The failures.
    pub async fn retry(&mut self, now: Instant) -> Result<(), Vec<EnforcerError>> {
        let due = |standing: &Standing| standing.trouble.is_some_and(|trouble| trouble.again_at <= now);
        let uids =
            self.standings.iter().filter(|(_, standing)| due(standing)).map(|(uid, _)| Arc::clone(uid));
        let uids = uids.collect();
        let failures = self.settle(uids).await;
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Makes all that failed due now, because something on the host has changed.
    pub fn hurry(&mut self, now: Instant) {
        for trouble in self.standings.values_mut().filter_map(|standing| standing.trouble.as_mut()) {
            *trouble = Trouble { tries: 0, again_at: now };
        }
    }

    /// When something is due to be tried again.
    pub fn next_retry(&self) -> Option<Instant> {
        self.standings.values().filter_map(|standing| Some(standing.trouble?.again_at)).min()
    }

    /// Group by group, so that the first of many endpoints need not wait for the last.
    async fn settle(&mut self, uids: Vec<Arc<str>>) -> Vec<EnforcerError> {
        let mut failures = Vec::new();
        for group in uids.chunks(GROUP) {
            failures.extend(self.settle_group(group).await);
        }
        failures
    }

    /// Attaches, hands listeners over, then puts rules into force: a resolver that hears of an endpoint has its
    /// sockets, or gets them with the same snapshot.
    async fn settle_group(&mut self, uids: &[Arc<str>]) -> Vec<EnforcerError> {
        let mut failed = BTreeMap::new();
        let mut listeners_changed = false;
        for uid in uids {
            match self.attach(uid).await {
                Ok(changed) => listeners_changed |= changed,
                Err(error) => drop(failed.insert(Arc::clone(uid), error)),
            }
        }
        if let Some(feed) = &self.feed
            && listeners_changed
        {
            feed.reconnect();
        }
        for uid in uids {
            // Also where it is attached as before: new rules do not wait for a new place.
            if let Err(error) = self.put_into_force(uid).await {
                failed.entry(Arc::clone(uid)).or_insert(error);
            }
        }
        uids.iter().for_each(|uid| self.note(uid, failed.get(uid)));
        failed.into_values().collect()
    }

    /// Attaches as wanted. Returns whether listeners for DNS are new.
    async fn attach(&mut self, uid: &str) -> Result<bool, EnforcerError> {
        let Some(standing) = self.standings.get_mut(uid).filter(|standing| !standing.is_attached()) else {
            return Ok(false);
        };
        let (enforcer, config) = (self.enforcer.clone(), standing.wanted.config.clone());
        blocking(move || enforcer.apply_endpoint(config)).await?;
        standing.config = Some(standing.wanted.config.clone());
        standing.rules = None;
        Ok(matches!(standing.wanted.config.attachment, Attachment::Cgroup { .. }))
    }

    /// Resolvers forget the old rules before the kernel does, and learn the new ones after it (DESIGN 6).
    async fn put_into_force(&mut self, uid: &str) -> Result<(), EnforcerError> {
        let Some(standing) = self.standings.get_mut(uid) else { return Ok(()) };
        if standing.config.is_none() || standing.has_rules() {
            return Ok(());
        }
        if let Some(feed) = &self.feed {
            feed.revoke(uid, self.enforcer.next_generation(uid)?).await;
        }
        let rules = Arc::clone(&standing.wanted.rules);
        let (enforcer, own) = (self.enforcer.clone(), Arc::clone(&standing.wanted.config.uid));
        let generation = blocking(move || enforcer.apply_rules(&own, rules)).await?;
        standing.rules = Some(Arc::clone(&standing.wanted.rules));
        tracing::info!(endpoint = uid, generation, "rules are in force");
        if let (Some(feed), Some(view)) = (&self.feed, self.enforcer.view(uid)?) {
            feed.publish(&view);
        }
        Ok(())
    }

    /// Keeps in mind, and in the endpoint's status, what failed.
    fn note(&mut self, uid: &str, error: Option<&EnforcerError>) {
        let Some(standing) = self.standings.get_mut(uid) else { return };
        match error {
            None => {
                if standing.trouble.take().is_some() && standing.is_settled() {
                    tracing::info!(endpoint = uid, "in order again");
                }
                self.enforcer.clear_problem(uid);
            }
            Some(error) => {
                let tries = standing.trouble.map_or(0, |trouble| trouble.tries);
                let wait = RETRY_FIRST.saturating_mul(1 << tries.min(8)).min(RETRY_MAX);
                standing.trouble = Some(Trouble { tries: tries + 1, again_at: Instant::now() + wait });
                self.enforcer.note_problem(&standing.wanted.config, error);
            }
        }
    }

    async fn remove_others(&mut self) -> Vec<EnforcerError> {
        self.leftovers = 0;
        let wanted: BTreeSet<&str> = self.standings.keys().map(|uid| &**uid).collect();
        let attached = match self.enforcer.attached() {
            Ok(attached) => attached,
            Err(error) => return vec![error],
        };
        self.enforcer.keep_problems_of(&wanted);
        let mut failures = Vec::new();
        let unwanted = attached.into_iter().filter(|uid| !wanted.contains(uid.as_str()));
        for uid in unwanted {
            if (self.is_kept)(&uid) {
                self.leftovers += 1;
                continue;
            }
            if let Some(feed) = &self.feed {
                feed.publish_removed(&uid);
            }
            let (enforcer, own) = (self.enforcer.clone(), uid.clone());
            match blocking(move || enforcer.remove_endpoint(&own)).await {
                Ok(()) => tracing::info!(endpoint = uid, "removed"),
                Err(error) => {
                    tracing::warn!(
                        endpoint = uid,
                        error = chain_text(&error),
                        "cannot be removed; it is tried again"
                    );
                    self.leftovers += 1;
                    failures.push(error);
                }
            }
        }
        failures
    }
}

/// Does what loads programs and writes maps beside the tasks that must not wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EnforcerError> + Send + 'static,
) -> Result<T, EnforcerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(EnforcerError::Stopped(cancelled)),
        },
    }
}

/// Whether two rule sets mean the same to kernel and resolver, and to what is told.
pub(crate) fn is_same(one: &Arc<RuleSet>, other: &Arc<RuleSet>) -> bool {
    Arc::ptr_eq(one, other) || (says_same(one, other) && is_same_staged(one, other))
}

fn is_same_staged(one: &RuleSet, other: &RuleSet) -> bool {
    match (&one.staged, &other.staged) {
        (None, None) => true,
        (Some(Ok(one)), Some(Ok(other))) => says_same(one, other),
        (Some(Err(one)), Some(Err(other))) => one == other,
        (None | Some(_), _) => false,
    }
}

fn says_same(one: &RuleSet, other: &RuleSet) -> bool {
    one.kernel == other.kernel
        && one.dns == other.dns
        && one.settings == other.settings
        && one.rules == other.rules
}
