//! What was decided about pods, for the CNI server: it asks while the task that decides is at work.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use nameward_policy::Settings;
use tokio::sync::{Notify, watch};

use crate::policies::{Configured, Decided};

/// Decisions as of the last round, and the word that one is wanted.
#[derive(Debug)]
pub struct Verdicts {
    known: RwLock<Known>,
    rounds: watch::Sender<u64>,
    wanted: Notify,
}

#[derive(Debug)]
struct Known {
    by_pod: HashMap<Arc<str>, Arc<Decided>>,
    configured: Configured,
    is_complete: bool,
}

impl Verdicts {
    /// Nothing decided yet; `base` are the settings of pods that nothing is known of.
    #[must_use]
    pub fn new(base: &Settings) -> Self {
        let known =
            Known { by_pod: HashMap::new(), configured: Configured::standard(base), is_complete: false };
        Self { known: RwLock::new(known), rounds: watch::Sender::new(0), wanted: Notify::new() }
    }

    /// These are the decisions now; `is_complete` where the API server has said everything that they come from.
    pub fn publish(
        &self,
        by_pod: HashMap<Arc<str>, Arc<Decided>>,
        configured: Configured,
        is_complete: bool,
    ) {
        let known = Known { by_pod, configured, is_complete };
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Whether the decisions come from all that the API server has; else from what an earlier process knew of it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.known.read().unwrap_or_else(PoisonError::into_inner).is_complete
    }

    /// What was decided is in force.
    pub fn round_is_done(&self) {
        self.rounds.send_modify(|round| *round += 1);
    }

    /// The decision about a pod; none while it is not known.
    #[must_use]
    pub fn of(&self, pod_uid: &str) -> Option<Arc<Decided>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).by_pod.get(pod_uid).cloned()
    }

    /// The UID of a pod by its name, for runtimes that do not say it.
    #[must_use]
    pub fn uid_of(&self, namespace: &str, name: &str) -> Option<Arc<str>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut named = known.by_pod.values().map(|decided| &decided.pod);
        named.find(|pod| &*pod.namespace == namespace && &*pod.name == name).map(|pod| Arc::clone(&pod.uid))
    }

    /// Settings of a namespace's pods.
    #[must_use]
    pub fn settings_of(&self, namespace: &str) -> Settings {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        (**known.configured.settings_of(namespace)).clone()
    }

    /// Asks for a round: something is new.
    pub fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        self.wanted.notified().await;
    }

    /// Waits until `is_done` says so, which is asked after each round; at most for `timeout`.
    pub async fn wait(&self, timeout: Duration, is_done: impl Fn() -> bool) {
        let mut rounds = self.rounds.subscribe();
        let done = async {
            while !is_done() {
                if rounds.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who waits goes on either way: what has no rules yet denies.
        drop(tokio::time::timeout(timeout, done).await);
    }
}
