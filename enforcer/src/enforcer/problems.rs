//! What is wrong with endpoints, for those who look at their status: places that are not there, attachments that
//! failed. Tries nothing again; who tries tells here how it went.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::{EndpointConfig, Enforcer, EnforcerError};
use crate::endpoints::chain_text;

/// An endpoint that is not as wanted.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// As wanted.
    pub(super) config: EndpointConfig,
    /// What is wrong, on one line.
    pub(super) text: String,
}

/// All of them, by endpoint.
#[derive(Debug, Default)]
pub(super) struct Problems(RwLock<BTreeMap<Arc<str>, Problem>>);

impl Problems {
    /// A copy.
    pub(super) fn all(&self) -> BTreeMap<Arc<str>, Problem> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a problem; says so in the log when it is a new one.
    fn note(&self, config: &EndpointConfig, text: String) {
        let mut problems = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if problems.get(&config.uid).is_none_or(|known| known.text != text) {
            tracing::error!(endpoint = &*config.uid, problem = text, "not as wanted, tried again");
        }
        problems.insert(Arc::clone(&config.uid), Problem { config: config.clone(), text });
    }

    fn keep(&self, wanted: impl Fn(&str) -> bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| wanted(uid));
    }
}

/// How often what went wrong, by its word.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<BTreeMap<&'static str, u64>>);

impl Failures {
    pub(super) fn count(&self, word: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(word).or_default() += 1;
    }

    /// A copy.
    pub(super) fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Enforcer {
    /// How often attaching, or keeping what is attached, failed since the process began, by what went wrong.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.0.failures.all()
    }

    /// Shows an endpoint that could not be made as wanted.
    pub fn note_problem(&self, config: &EndpointConfig, error: &EnforcerError) {
        self.0.failures.count(error.word());
        self.0.problems.note(config, chain_text(error));
    }

    /// The endpoint is as wanted.
    pub fn clear_problem(&self, uid: &str) {
        self.0.problems.keep(|other| other != uid);
    }

    /// Forgets problems of endpoints that nobody wants any more.
    pub(crate) fn keep_problems_of(&self, wanted: &BTreeSet<&str>) {
        self.0.problems.keep(|uid| wanted.contains(uid));
    }
}
