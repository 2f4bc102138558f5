//! One stream of one enforcer: Hello, snapshot, then deltas, revocations, acknowledgements and heartbeats until it
//! ends or falls silent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nameward_feed::{
    DEAD_AFTER_MILLIS, HEARTBEAT_MILLIS, VERSION, compatible, ip_from_bytes,
    proto::{
        Binding, Endpoint, Forget, Forgotten, Forwarders, FromEnforcer, FromResolver, Heartbeat, Hello,
        Revoke, Revoked, Welcome, from_enforcer::Message, from_resolver,
    },
    tls::Peer,
};
use nameward_policy::Name;
use thiserror::Error;
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Status, Streaming};

use super::{
    FeedServer, convert,
    enforcers::{Conflict, Snapshot},
    link::{Link, Stuck},
};
use crate::endpoints::{EndpointView, Identity};

/// How often the certificate of one that came over the network is looked at again.
const CHECK_PEER: Duration = Duration::from_secs(1);
/// How many streams there were.
static STREAMS: AtomicU64 = AtomicU64::new(0);

/// Why a stream ended, other than that the enforcer closed it.
#[derive(Debug, Error)]
enum End {
    #[error("the stream broke: {0}")]
    Broken(#[from] Box<Status>),
    #[error("nothing heard of the enforcer for {DEAD_AFTER_MILLIS} ms")]
    Silent,
    #[error(
        "the enforcer speaks version {theirs} of the feed, this resolver version {VERSION}: upgrade one of them"
    )]
    Version { theirs: u32 },
    #[error("an enforcer without a name: give it one with --node")]
    NoName,
    #[error(
        "its certificate is not for node {node}: give it one with that DNS name, or the name of its certificate with --node"
    )]
    NotItsName { node: String },
    #[error("its certificate is not good any more: {0}")]
    NotTrusted(#[from] rustls::Error),
    #[error("DNS sockets cannot be handed over by a stream over the network")]
    FarSockets,
    #[error("the DNS sockets that the stream speaks of did not arrive")]
    NoSockets,
    #[error(transparent)]
    Conflict(#[from] Conflict),
    #[error(transparent)]
    Stuck(#[from] Stuck),
}

impl End {
    fn status(&self) -> Status {
        let code = match self {
            Self::Version { .. } | Self::NoName | Self::FarSockets => Code::FailedPrecondition,
            Self::NotItsName { .. } | Self::NotTrusted(_) => Code::PermissionDenied,
            Self::Conflict(_) => Code::AlreadyExists,
            Self::Broken(_) | Self::Silent | Self::NoSockets | Self::Stuck(_) => Code::Aborted,
        };
        Status::new(code, self.to_string())
    }
}

pub(super) struct Session {
    server: FeedServer,
    /// Tells it from all others.
    number: u64,
    link: Arc<Link>,
    /// Set for one that came over the network.
    peer: Option<Peer>,
    /// When the enforcer said something last.
    heard: Instant,
    /// Known since Hello.
    node: Option<Arc<str>>,
    /// Between Hello and SnapshotEnd.
    collecting: Option<Collecting>,
}

/// A snapshot on its way.
#[derive(Default)]
struct Collecting {
    sockets: u64,
    snapshot: Snapshot,
    /// Revocations meanwhile count for what the snapshot brings, too.
    revoked: Vec<Revoke>,
}

impl Session {
    pub(super) fn new(
        server: FeedServer,
        say: mpsc::Sender<Result<FromResolver, Status>>,
        peer: Option<Peer>,
    ) -> Self {
        let link = Link::new(say, server.enforcers.sequence());
        let number = STREAMS.fetch_add(1, Ordering::Relaxed);
        Self { server, number, link, peer, heard: Instant::now(), node: None, collecting: None }
    }

    pub(super) async fn run(mut self, stream: Streaming<FromEnforcer>) {
        let ended = self.listen(stream).await;
        self.server.enforcers.ended(&self.link, self.heard.into_std());
        self.server.enforcers.endpoints.forget_forwarders(self.number);
        let node = self.node.as_deref().unwrap_or("unknown");
        match ended {
            Ok(()) => {
                tracing::info!(node, "an enforcer closed its feed; what it granted goes on being answered")
            }
            Err(end) => {
                tracing::warn!(node, error = %end, "the feed of an enforcer ended");
                self.link.say_end(end.status());
            }
        }
    }

    async fn listen(&mut self, mut stream: Streaming<FromEnforcer>) -> Result<(), End> {
        let link = Arc::clone(&self.link);
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MILLIS));
        let mut look = tokio::time::interval(CHECK_PEER);
        let mut sequence = 0;
        let silence = tokio::time::sleep(Duration::from_millis(DEAD_AFTER_MILLIS));
        tokio::pin!(silence);
        loop {
            tokio::select! {
                next = stream.message() => {
                    let Some(FromEnforcer { message }) = next.map_err(Box::new)? else { return Ok(()) };
                    if let Some(message) = message {
                        self.hear(message).await?;
                    }
                    self.heard = Instant::now();
                    silence.as_mut().reset(self.heard + Duration::from_millis(DEAD_AFTER_MILLIS));
                }
                _ = beat.tick(), if self.node.is_some() => {
                    sequence += 1;
                    link.say(from_resolver::Message::Heartbeat(Heartbeat { sequence }))?;
                }
                _ = look.tick() => self.peer.as_ref().map_or(Ok(()), Peer::check)?,
                () = link.closed() => return Ok(()),
                () = &mut silence => return Err(End::Silent),
            }
        }
    }

    async fn hear(&mut self, message: Message) -> Result<(), End> {
        match (self.node.clone(), message) {
            (_, Message::Hello(hello)) => self.begin(hello),
            (_, Message::Ack(ack)) => {
                self.link.acknowledge(ack);
                Ok(())
            }
            (_, Message::Acks(acks)) => {
                acks.acks.into_iter().for_each(|ack| self.link.acknowledge(ack));
                Ok(())
            }
            (_, Message::Heartbeat(_)) => Ok(()),
            (node, Message::Revoke(revoke)) => self.revoke(node.as_ref(), revoke),
            (Some(node), Message::Forget(forget)) => self.forget(&node, &forget),
            (Some(node), Message::Endpoint(endpoint)) => self.endpoint(&node, &endpoint),
            (Some(node), Message::Forwarders(forwarders)) => {
                self.forwarders(&node, &forwarders);
                Ok(())
            }
            (Some(_), Message::Binding(binding)) => {
                self.binding(&binding);
                Ok(())
            }
            (Some(node), Message::SnapshotEnd(_)) => self.complete(&node).await,
            (Some(node), Message::EndpointRemoved(removed)) => {
                self.remove(&node, &removed.uid);
                Ok(())
            }
            // A change before Hello is in the snapshot that follows.
            (
                None,
                Message::Endpoint(_)
                | Message::Forget(_)
                | Message::Forwarders(_)
                | Message::Binding(_)
                | Message::SnapshotEnd(_)
                | Message::EndpointRemoved(_),
            ) => Ok(()),
        }
    }

    fn begin(&mut self, hello: Hello) -> Result<(), End> {
        if !compatible(VERSION, hello.version) {
            return Err(End::Version { theirs: hello.version });
        }
        if hello.node.is_empty() {
            return Err(End::NoName);
        }
        if let Some(peer) = &self.peer {
            if !peer.is(&hello.node) {
                return Err(End::NotItsName { node: hello.node });
            }
            if hello.sockets != 0 {
                return Err(End::FarSockets);
            }
        }
        let node: Arc<str> = hello.node.into();
        if self.server.enforcers.is_taken(&node, &self.link) {
            tracing::warn!(%node, "another enforcer of this name; give each a name of its own with --node");
        }
        self.node = Some(node);
        self.collecting = Some(Collecting { sockets: hello.sockets, ..Collecting::default() });
        self.link.say(from_resolver::Message::Welcome(Welcome { version: VERSION }))?;
        Ok(())
    }

    fn endpoint(&mut self, node: &Arc<str>, message: &Endpoint) -> Result<(), End> {
        let endpoints = &self.server.enforcers.endpoints;
        let known = |uid: &str, generation| {
            let known = endpoints.get(uid).filter(|known| known.view.generation == generation)?;
            Some(Arc::clone(&known.view.rules))
        };
        let far = self.peer.is_some();
        let read = convert::endpoint(message, &self.server.rules, known)
            .map(|view| if far { seen_from_far(view) } else { view });
        match (read, &mut self.collecting) {
            (Ok(view), Some(collecting)) => collecting.add(view),
            (Ok(view), None) => self.server.enforcers.apply(node, &self.link, view)?,
            (Err(error), collecting) => {
                let endpoint = &message.uid;
                tracing::error!(%node, endpoint, %error, "an endpoint that cannot be read; what is in force stays");
                if let Some(collecting) = collecting {
                    collecting.snapshot.unreadable.insert(message.uid.as_str().into());
                }
            }
        }
        Ok(())
    }

    /// Only those of other hosts name forwarders: on its own host everybody asks at sockets of its own.
    fn forwarders(&self, node: &Arc<str>, message: &Forwarders) {
        if self.peer.is_none() {
            return;
        }
        let addresses = message.addresses.iter().filter_map(|bytes| ip_from_bytes(bytes).ok());
        let addresses: Vec<_> = addresses.map(|address| address.to_canonical()).collect();
        tracing::info!(%node, forwarders = ?addresses, "forwarders that an enforcer knows of");
        self.server.enforcers.endpoints.set_forwarders(self.number, &addresses);
    }

    fn remove(&mut self, node: &Arc<str>, uid: &str) {
        if let Some(collecting) = &mut self.collecting {
            collecting.snapshot.views.remove(uid);
        }
        let ports = self.server.enforcers.remove(node, uid);
        if !ports.is_empty() {
            self.server.taker.let_go(node, &ports);
        }
    }

    /// Endpoints first, sockets after: no query arrives of somebody we do not know yet.
    async fn complete(&mut self, node: &Arc<str>) -> Result<(), End> {
        let Some(Collecting { sockets, snapshot, revoked }) = self.collecting.take() else { return Ok(()) };
        let sockets = match sockets {
            0 => Vec::new(),
            number => self.server.hand_overs.take(number).await.ok_or(End::NoSockets)?,
        };
        let (endpoints, bindings) = (snapshot.views.len(), snapshot.bindings.len());
        tracing::info!(%node, endpoints, bindings, sockets = sockets.len(), "an enforcer is connected");
        self.server.enforcers.announce(node, &self.link, snapshot)?;
        for revoke in revoked {
            self.server.enforcers.revoke(node, &revoke.endpoint, revoke.generation);
        }
        self.server.taker.replace(node, sockets);
        Ok(())
    }

    fn binding(&mut self, message: &Binding) {
        let Some(collecting) = &mut self.collecting else { return };
        match convert::binding(message) {
            Ok(binding) => collecting.snapshot.bindings.push(binding),
            // It is granted anew when it is asked for.
            Err(error) => tracing::warn!(%error, "a binding that cannot be read"),
        }
    }

    /// Forgets names, then says so: the enforcer takes them back after our word. What is shared goes first, so that nothing
    /// is remembered of it again.
    fn forget(&mut self, node: &Arc<str>, forget: &Forget) -> Result<(), End> {
        let names: Vec<Name> = forget.names.iter().filter_map(|name| Name::parse(name).ok()).collect();
        if let Some(collecting) = &mut self.collecting {
            let is_meant = |binding: &convert::Binding| {
                *binding.endpoint == *forget.endpoint
                    && forget.names.iter().any(|name| *name == *binding.name)
            };
            collecting.snapshot.bindings.retain(|binding| !is_meant(binding));
        }
        self.server.taker.forget(&names);
        self.server.enforcers.forget(node, &forget.endpoint, &names);
        self.link.say(from_resolver::Message::Forgotten(Forgotten { sequence: forget.sequence }))?;
        Ok(())
    }

    /// Forgets, then says so: the kernel switches rules after our word.
    fn revoke(&mut self, node: Option<&Arc<str>>, revoke: Revoke) -> Result<(), End> {
        if let Some(node) = node {
            self.server.enforcers.revoke(node, &revoke.endpoint, revoke.generation);
        }
        if let Some(collecting) = &mut self.collecting {
            collecting.revoked.push(revoke.clone());
        }
        let Revoke { endpoint, generation } = revoke;
        self.link.say(from_resolver::Message::Revoked(Revoked { endpoint, generation }))?;
        Ok(())
    }
}

/// Ports and identity addresses of another node mean nothing here, or somebody else.
fn seen_from_far(mut view: EndpointView) -> EndpointView {
    view.identity.retain(|identity| matches!(identity, Identity::Source(_)));
    view
}

impl Collecting {
    /// A change that came meanwhile is newer than the snapshot's word.
    fn add(&mut self, view: EndpointView) {
        self.snapshot.unreadable.remove(&view.uid);
        let known = self.snapshot.views.get(&view.uid);
        if known.is_none_or(|known| known.generation <= view.generation) {
            self.snapshot.views.insert(Arc::clone(&view.uid), view);
        }
    }
}
