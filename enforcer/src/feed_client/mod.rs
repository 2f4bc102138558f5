//! The enforcer's end of the feed: one stream to each resolver, of this node (a folder of unix sockets) and elsewhere
//! (TLS). Resolvers elsewhere get no DNS sockets, which cannot be handed over TCP: they listen for themselves, and know
//! endpoints by what a forwarder that they trust says.
//!
//! Says what endpoints there are and what they may ask, takes grants and acknowledges them, takes back what may not
//! be answered any more. What a grant means is the [`Backend`]'s business.

mod connection;
mod messages;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nameward_feed::{
    folder::{self, ResolverSockets},
    proto::{FromEnforcer, RefusedNames, from_enforcer::Message},
    sockets::DnsSocket,
    tls::{Credentials, Remote},
};
use nameward_policy::Name;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use connection::{Connection, ConnectionError};
use messages::Distance;
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
    /// The same where nobody has to be waited for; none where somebody has, and nothing was done. Called on a thread of
    /// the runtime.
    fn grant_at_once(&self, request: &GrantRequest) -> Option<Result<Granted, Refused>> {
        tracing::trace!(name = request.name, "granted by whom waiting harms nobody");
        None
    }
    /// Takes names that a resolver did not answer. Called on a thread of its own.
    fn refused_names(&self, names: &RefusedNames) {
        tracing::trace!(names = names.names.len(), "refused names that nobody tells");
    }
    /// DNS sockets for one more resolver; none when no endpoint needs any.
    ///
    /// # Errors
    /// When descriptors run out.
    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>>;
}

/// Where resolvers are looked for.
#[derive(Clone, Debug)]
pub enum Place {
    /// All that have sockets in this folder.
    Folder(PathBuf),
    /// One on the network.
    Remote(Remote, Arc<Credentials>),
    /// Those that somebody else finds, who come and go.
    Found(watch::Receiver<Vec<FoundResolver>>),
}

/// One that somebody found, and what is proven to it.
pub type FoundResolver = (Remote, Arc<Credentials>);

/// A resolver to connect to.
#[derive(Clone, Debug)]
enum Resolver {
    Near(ResolverSockets),
    Far(Remote, Arc<Credentials>),
}

impl Resolver {
    fn distance(&self) -> Distance {
        match self {
            Self::Near(_) => Distance::Near,
            Self::Far(..) => Distance::Far,
        }
    }
}

/// What tells it from others.
impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Near(sockets) => write!(f, "unix:{}", sockets.feed.display()),
            Self::Far(remote, _) => remote.fmt(f),
        }
    }
}

/// Streams to all resolvers of some places.
pub struct FeedClient {
    places: Vec<Place>,
    node: String,
    backend: Arc<dyn Backend>,
    connections: Mutex<HashMap<String, Arc<Connection>>>,
    /// Servers of the cluster's DNS, where they are known.
    forwarders: Mutex<Option<Vec<IpAddr>>>,
    /// Why there is no stream to a resolver elsewhere: said once, not with each attempt.
    troubles: Mutex<HashMap<String, String>>,
}

impl std::fmt::Debug for FeedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedClient").field("places", &self.places).finish_non_exhaustive()
    }
}

impl FeedClient {
    /// A client of the resolvers in these places; [`run`](Self::run) connects it.
    pub fn new(places: Vec<Place>, node: String, backend: Arc<dyn Backend>) -> Arc<Self> {
        let (connections, forwarders, troubles) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { places, node, backend, connections, forwarders, troubles })
    }

    /// Connects to resolvers as they come, again when they went. Never ends by itself.
    pub async fn run(self: Arc<Self>) {
        let mut streams = JoinSet::new();
        let mut busy: HashSet<String> = HashSet::new();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    for resolver in self.resolvers() {
                        let name = resolver.to_string();
                        if busy.insert(name.clone()) {
                            let client = Arc::clone(&self);
                            streams.spawn(async move {
                                client.serve(&resolver, &name).await;
                                name
                            });
                        }
                    }
                }
                Some(ended) = streams.join_next() => {
                    if let Ok(name) = ended {
                        busy.remove(&name);
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

    /// Has resolvers forget names of an endpoint: when this returns, none that is alive answers them from memory. Returns
    /// what could not be had of them.
    pub async fn forget(&self, uid: &str, generation: u32, names: &[Name]) -> Vec<String> {
        let connections: Vec<_> = {
            let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().map(|(name, connection)| (name.clone(), Arc::clone(connection))).collect()
        };
        let asked = connections.iter().map(|(name, connection)| async move {
            let asked = self.forget_at(connection, uid, generation, names);
            match tokio::time::timeout(REVOKE_WITHIN, asked).await {
                Ok(true) => None,
                Ok(false) => Some(format!(
                    "the resolver at {name} is of an older version: answers that it shares stay until their TTLs end"
                )),
                Err(_) => Some(format!("the resolver at {name} did not confirm that it forgot")),
            }
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Whether all of it could be had. A resolver of an older version forgets what it remembers for the endpoint: its rules
    /// go and come back.
    async fn forget_at(&self, connection: &Connection, uid: &str, generation: u32, names: &[Name]) -> bool {
        if connection.forgets_names().await {
            connection.forget(uid, names).await;
            return true;
        }
        connection.revoke(uid.into(), generation.wrapping_add(1)).await;
        // Newer rules are published under the same lock, after they can be seen: they never come before older ones.
        let _one_at_a_time = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = self.backend.endpoints().into_iter().find(|view| *view.uid == *uid) {
            let endpoint = view.to_message(connection.distance());
            connection.say(FromEnforcer { message: Some(Message::Endpoint(endpoint)) });
        }
        false
    }

    /// Says what an endpoint is from now on.
    pub fn publish(&self, endpoint: &EndpointView) {
        self.broadcast(|distance| Message::Endpoint(endpoint.to_message(distance)));
    }

    /// Says that an endpoint is gone.
    pub fn publish_removed(&self, uid: &str) {
        let message = nameward_feed::proto::EndpointRemoved { uid: uid.into() };
        self.broadcast(|_| Message::EndpointRemoved(message.clone()));
    }

    /// Says which servers the cluster's DNS has: forwarders, for resolvers elsewhere.
    pub fn publish_forwarders(&self, forwarders: Vec<IpAddr>) {
        // Under the same lock as snapshots are said: none says older ones after this.
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.forwarders.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(&forwarders) {
            return;
        }
        let message = messages::forwarders(&forwarders);
        for connection in connections.values().filter(|one| one.distance() == Distance::Far) {
            connection.say(FromEnforcer { message: Some(Message::Forwarders(message.clone())) });
        }
        *known = Some(forwarders);
    }

    /// Begins every stream anew over which DNS sockets are handed, with all that there are now.
    pub fn reconnect(&self) {
        let near = |connection: &&Arc<Connection>| connection.distance() == Distance::Near;
        self.live().iter().filter(near).for_each(|connection| connection.end());
    }

    fn broadcast(&self, message: impl Fn(Distance) -> Message) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.values() {
            connection.say(FromEnforcer { message: Some(message(connection.distance())) });
        }
    }

    fn live(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn resolvers(&self) -> Vec<Resolver> {
        self.places.iter().flat_map(resolvers).collect()
    }

    async fn serve(&self, resolver: &Resolver, name: &str) {
        let (say, outgoing) = mpsc::unbounded_channel();
        let connection = Arc::new(Connection::new(say, resolver.distance()));
        // Nobody broadcasts meanwhile: a change is in the snapshot or comes after it, never in between.
        let enter = |say_snapshot: &dyn Fn()| {
            let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
            connections.insert(name.to_owned(), Arc::clone(&connection));
            say_snapshot();
            let forwarders = self.forwarders.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(forwarders) = forwarders.as_ref().filter(|_| resolver.distance() == Distance::Far) {
                let message = Message::Forwarders(messages::forwarders(forwarders));
                connection.say(FromEnforcer { message: Some(message) });
            }
        };
        let ended = connection.serve(resolver, &self.node, &self.backend, outgoing, enter).await;
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.tell_end(resolver, name, ended);
    }

    fn tell_end(&self, resolver: &Resolver, name: &str, ended: Result<(), ConnectionError>) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        match ended {
            Ok(()) => {
                troubles.remove(name);
                tracing::info!(resolver = name, "the feed was closed");
            }
            Err(error) => {
                let error = error.to_string();
                // Sockets of resolvers that are gone are found on a node now and then.
                if resolver.distance() == Distance::Far && troubles.get(name) != Some(&error) {
                    tracing::warn!(resolver = name, error, "no feed; it is tried again");
                } else {
                    tracing::debug!(resolver = name, error, "no feed");
                }
                troubles.insert(name.to_owned(), error);
            }
        }
    }
}

fn resolvers(place: &Place) -> Vec<Resolver> {
    match place {
        Place::Folder(folder) => {
            let found = folder::resolvers(folder).unwrap_or_else(|error| {
                tracing::warn!(folder = %folder.display(), %error, "cannot look for resolvers");
                Vec::new()
            });
            found.into_iter().map(Resolver::Near).collect()
        }
        Place::Remote(remote, credentials) => vec![Resolver::Far(remote.clone(), Arc::clone(credentials))],
        Place::Found(found) => {
            let far = |(remote, credentials): &FoundResolver| {
                Resolver::Far(remote.clone(), Arc::clone(credentials))
            };
            found.borrow().iter().map(far).collect()
        }
    }
}

#[cfg(test)]
mod tests;
