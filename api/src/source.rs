//! Who knows what the API says. The enforcer implements [`Source`]; tests have one of their own.

use std::{
    ops::{Bound, Deref},
    sync::{Arc, OnceLock},
};

use futures::future::BoxFuture;
use nameward_policy::{Destination, Name};
use thiserror::Error;
use tokio::sync::broadcast;

use crate::{
    filter::BindingFilter,
    types::{
        BindingStatus, Decision, EndpointStatus, Explained, FlushedBinding, PolicyStatus, SubjectStatus,
        TrafficStatus,
    },
};

/// What a node knows. Calls may read maps of the kernel: they are made where waiting is allowed.
pub trait Source: Send + Sync + 'static {
    /// All endpoints, by identifier.
    ///
    /// # Errors
    /// [`SourceError`].
    fn endpoints(&self) -> Result<Vec<EndpointStatus>, SourceError>;

    /// One endpoint.
    ///
    /// # Errors
    /// [`SourceError`].
    fn endpoint(&self, uid: &str) -> Result<EndpointStatus, SourceError>;

    /// Identifiers and names of all endpoints, by identifier; cheaper than [`endpoints`](Self::endpoints).
    fn endpoint_names(&self) -> Vec<(Arc<str>, String)>;

    /// The bindings of an endpoint that pass the filter, by name; at most `limit` of those from `first` on.
    ///
    /// # Errors
    /// [`SourceError`].
    fn bindings(
        &self,
        uid: &str,
        filter: &BindingFilter,
        first: Bound<&str>,
        limit: usize,
    ) -> Result<Vec<BindingStatus>, SourceError>;

    /// What an endpoint's live connections carry, by destination and reason.
    ///
    /// # Errors
    /// [`SourceError`].
    fn traffic(&self, uid: &str) -> Result<Vec<TrafficStatus>, SourceError>;

    /// All endpoints as policies see them, by identifier; those whose policies are not known are left out.
    fn subjects(&self) -> Vec<SubjectStatus>;

    /// The policies in force, by kind, namespace and name.
    fn policies(&self) -> Vec<PolicyStatus>;

    /// Explains a new connection.
    ///
    /// # Errors
    /// [`SourceError::NoRules`] while the endpoint has none.
    fn explain(
        &self,
        uid: &str,
        destination: &Destination,
        protocol: u8,
        port: u16,
    ) -> Result<Explained, SourceError>;

    /// Whether a deny of an endpoint's rules stands against a name, also where it is only audited.
    fn forbids(&self, uid: &str, name: &Name) -> bool;

    /// The decisions that are kept, oldest first.
    fn recent_decisions(&self) -> Vec<Arc<Followed>>;

    /// Follows decisions from here on.
    fn follow(&self) -> broadcast::Receiver<Arc<Followed>>;

    /// Tells apart the processes whose decisions are numbered from 1 each.
    fn epoch(&self) -> u64;

    /// Why the node is not ready; empty when it is.
    fn not_ready(&self) -> Vec<String>;

    /// The metrics' text, and its media type.
    ///
    /// # Errors
    /// [`SourceError`].
    fn metrics(&self) -> Result<(String, &'static str), SourceError>;
}

/// What an administrator may change of a node. Only root is let through to it, and only over a unix socket.
pub trait Changes: Send + Sync + 'static {
    /// Takes bindings of an endpoint back: new connections under these names need a new answer, which is asked for anew;
    /// live connections go on. Goes on to its end also when nobody waits for it.
    fn flush(&self, uid: &str, names: Vec<Name>) -> BoxFuture<'static, Result<Flush, SourceError>>;
}

/// What became of a flush of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// By name.
    pub bindings: Vec<FlushedBinding>,
    /// What could not be had.
    pub warnings: Vec<String>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// Unknown or removed.
    #[error("there is no endpoint {0}; GET /v1/endpoints lists those of this node")]
    NoSuchEndpoint(String),
    /// Its rules have not arrived.
    #[error("endpoint {0} has no rules yet: everything is denied")]
    NoRules(String),
    /// The kernel, or whatever else failed.
    #[error("{0}")]
    Failed(String),
}

/// A decision on its way to many readers, written as JSON once for all of them.
#[derive(Debug)]
pub struct Followed {
    decision: Decision,
    json: OnceLock<Box<str>>,
}

impl Followed {
    /// The decision as JSON.
    pub fn json(&self) -> &str {
        self.json.get_or_init(|| {
            // Strings and numbers only: this cannot fail.
            serde_json::to_string(&self.decision).unwrap_or_default().into()
        })
    }
}

impl From<Decision> for Followed {
    fn from(decision: Decision) -> Self {
        Self { decision, json: OnceLock::new() }
    }
}

impl Deref for Followed {
    type Target = Decision;

    fn deref(&self) -> &Decision {
        &self.decision
    }
}
