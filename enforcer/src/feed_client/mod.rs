//! The enforcer's end of the feed: one stream to each resolver of the node.
//!
//! Says what endpoints there are and what they may ask, takes grants and acknowledges them, takes back what may not
//! be answered any more. What a grant means is the [`Backend`]'s business.

mod connection;
mod messages;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nameward_feed::{
    folder::{self, ResolverSockets},
    proto::{FromEnforcer, from_enforcer::Message},
    sockets::DnsSocket,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use connection::Connection;
pub use messages::{BindingView, EndpointView};

use crate::{GrantRequest, Granted, Refused};

/// How long a tightening of rules waits for a resolver that does not answer.
const REVOKE_WITHIN: Duration = Duration::from_millis(250);
/// How often the folder is looked at for resolvers.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What the feed asks of the enforcer.
pub trait Backend: Send + Sync + 'static {
    /// All endpoints, for a snapshot.
    fn endpoints(&self) -> Vec<EndpointView>;
    /// All live bindings, for a snapshot.
    fn bindings(&self) -> Vec<BindingView>;
    /// Makes addresses usable, before it returns.
    ///
    /// # Errors
    /// [`Refused`], for the resolver to answer SERVFAIL or to ask again.
    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused>;
    /// DNS sockets for one more resolver; none when no endpoint needs any.
    ///
    /// # Errors
    /// When descriptors run out.
    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>>;
}

/// Streams to all resolvers that have a socket in one folder.
pub struct FeedClient {
    folder: PathBuf,
    node: String,
    backend: Arc<dyn Backend>,
    connections: Mutex<HashMap<PathBuf, Arc<Connection>>>,
}

impl std::fmt::Debug for FeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedClient").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl FeedClient {
    /// A client of the resolvers in `folder`; [`run`](Self::run) connects it.
    pub fn new(folder: PathBuf, node: String, backend: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { folder, node, backend, connections: Mutex::new(HashMap::new()) })
    }

    /// Connects to resolvers as they come, again when they went. Never ends by itself.
    pub async fn run(self: Arc<Self>) {
        let mut streams = JoinSet::new();
        let mut busy: HashSet<PathBuf> = HashSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    for resolver in self.resolvers() {
                        if busy.insert(resolver.feed.clone()) {
                            let client = Arc::clone(&self);
                            streams.spawn(async move {
                                client.serve(&resolver).await;
                                resolver.feed
                            });
                        }
                    }
                }
                Some(ended) = streams.join_next() => {
                    if let Ok(path) = ended {
                        busy.remove(&path);
                    } else {
                        busy.clear();
                    }
                }
            }
        }
    }

    /// Whether at least one resolver has been heard within the time that the feed allows.
    pub fn is_alive(&self) -> bool {
        self.live().iter().any(|connection| connection.is_alive(Instant::now()))
    }

    /// Takes generations before `generation` back: when this returns, no resolver that is alive answers from them.
    pub async fn revoke(&self, uid: &str, generation: u32) {
        let mut waits = JoinSet::new();
        for connection in self.live() {
            let uid = uid.to_owned();
            waits.spawn(async move {
                tokio::time::timeout(REVOKE_WITHIN, connection.revoke(uid, generation)).await.is_ok()
            });
        }
        while let Some(done) = waits.join_next().await {
            if !matches!(done, Ok(true)) {
                tracing::warn!(
                    endpoint = uid,
                    generation,
                    "a resolver did not confirm that it forgot old rules"
                );
            }
        }
    }

    /// Says what an endpoint is from now on.
    pub fn publish(&self, endpoint: &EndpointView) {
        self.broadcast(&Message::Endpoint(endpoint.to_message()));
    }

    /// Says that an endpoint is gone.
    pub fn publish_removed(&self, uid: &str) {
        let message = nameward_feed::proto::EndpointRemoved { uid: uid.into() };
        self.broadcast(&Message::EndpointRemoved(message));
    }

    /// Begins every stream anew, with all DNS sockets that there are now.
    pub fn reconnect(&self) {
        self.live().iter().for_each(|connection| connection.end());
    }

    fn broadcast(&self, message: &Message) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.values() {
            connection.say(FromEnforcer { message: Some(message.clone()) });
        }
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn resolvers(&self) -> Vec<ResolverSockets> {
        folder::resolvers(&self.folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot look for resolvers");
            Vec::new()
        })
    }

    async fn serve(&self, resolver: &ResolverSockets) {
        let (say, outgoing) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection::new(say));
        // Nobody broadcasts meanwhile: a change is in the snapshot or comes after it, never in between.
        let enter = |say_snapshot: &dyn Fn()| {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.insert(resolver.feed.clone(), Arc::clone(&connection));
            say_snapshot();
        };
        let ended = connection.serve(resolver, &self.node, &self.backend, outgoing, enter).await;
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&resolver.feed);
        match ended {
            Ok(()) => tracing::info!(resolver = %resolver.feed.display(), "the resolver closed its feed"),
            Err(error) => tracing::debug!(resolver = %resolver.feed.display(), %error, "no feed"),
        }
    }
}

#[cfg(test)]
mod tests;
