//! One stream to one resolver: sockets handed over, snapshot, then messages both ways until it ends.

use std::{
    collections::HashMap,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self as blocking, TrySendError},
    },
    thread,
    time::Duration,
};

use nameward_feed::{
    DEAD_AFTER_MILLIS, FORGET, HEARTBEAT_MILLIS, VERSION, compatible,
    proto::{
        Ack, Acks, Forget, FromEnforcer, FromResolver, Grant, Heartbeat, Hello, RefusedNames, Revoke,
        SnapshotEnd, feed_client::FeedClient, from_enforcer, from_resolver,
    },
    sockets::HandOverError,
    tls::{self, ConnectError},
};
use nameward_policy::Name;
use thiserror::Error;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::{Backend, Resolver, messages, messages::Distance};
use crate::{Granted, Refused, kernel::BootNanos};

/// How often certificates are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// Messages with refused names that are not read yet.
const WAITING: usize = 16;

/// Why a stream ended.
#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    #[error("cannot connect to the resolver at {path}: {source}")]
    Connect { path: PathBuf, source: tonic::transport::Error },
    #[error(transparent)]
    Tls(#[from] ConnectError),
    #[error("cannot hand over DNS sockets or start a thread: {0}")]
    System(#[from] io::Error),
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    #[error("the resolver ended the feed: {0}")]
    Stream(#[from] Box<tonic::Status>),
    #[error("nothing heard of the resolver for {DEAD_AFTER_MILLIS} ms")]
    Silent,
    #[error(
        "the resolver speaks version {theirs} of the feed, this is version {VERSION}: upgrade one of them"
    )]
    Version { theirs: u32 },
}

/// Grants that came together are acknowledged together.
enum Asked {
    One(Grant),
    Many(Vec<Grant>),
}

/// What comes over one stream, each on a thread of its own: names that were not answered never hold up a grant.
struct Queues {
    grants: blocking::Sender<Asked>,
    refused: blocking::SyncSender<RefusedNames>,
    /// Questions of messages that did not fit, told with the next one that does.
    missed: AtomicU64,
}

impl Queues {
    fn refused(&self, mut names: RefusedNames) {
        names.unread = self.missed.swap(0, Ordering::Relaxed);
        if let Err(TrySendError::Full(names) | TrySendError::Disconnected(names)) =
            self.refused.try_send(names)
        {
            let told: u64 = names.names.iter().map(|one| one.count).sum();
            let untold: u64 = names.untold.iter().map(|one| one.count).sum();
            self.missed.fetch_add(names.unread + told + untold, Ordering::Relaxed);
        }
    }
}

/// The thread ends with the stream.
fn refused_names(backend: Arc<dyn Backend>) -> io::Result<blocking::SyncSender<RefusedNames>> {
    let (names, queue) = blocking::sync_channel(WAITING);
    thread::Builder::new()
        .name("refused-names".into())
        .spawn(move || queue.into_iter().for_each(|names| backend.refused_names(&names)))?;
    Ok(names)
}

/// Who waits for a resolver to have heard that an endpoint's generation counts no more.
type Revocations = HashMap<(String, u32), Vec<oneshot::Sender<()>>>;

pub(super) struct Connection {
    say: mpsc::UnboundedSender<FromEnforcer>,
    distance: Distance,
    heard: Mutex<Option<Instant>>,
    revocations: Mutex<Revocations>,
    /// Who waits for the resolver to have forgotten names, by the number of the message.
    forgetting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    forgotten: AtomicU64,
    /// Version of the feed that the resolver speaks; 0 before its greeting.
    version: watch::Sender<u32>,
    end: Notify,
}

impl Connection {
    pub(super) fn new(say: mpsc::UnboundedSender<FromEnforcer>, distance: Distance) -> Self {
        Self {
            say,
            distance,
            heard: Mutex::new(None),
            revocations: Mutex::default(),
            forgetting: Mutex::default(),
            forgotten: AtomicU64::new(0),
            version: watch::Sender::new(0),
            end: Notify::new(),
        }
    }

    /// Where the resolver is.
    pub(super) fn distance(&self) -> Distance {
        self.distance
    }

    /// Whether the resolver was heard of lately.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| now.duration_since(at) < Duration::from_millis(DEAD_AFTER_MILLIS))
    }

    /// Ends the stream; the client connects again.
    pub(super) fn end(&self) {
        self.end.notify_one();
    }

    /// Puts a message on the stream; one that has ended does not need it.
    pub(super) fn say(&self, message: FromEnforcer) {
        if self.say.send(message).is_err() {
            tracing::trace!("a message for a feed that has ended");
        }
    }

    /// Asks the resolver to forget, and waits until it has, or the stream has ended.
    pub(super) async fn revoke(&self, uid: String, generation: u32) {
        let (done, wait) = oneshot::channel();
        self.revocations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry((uid.clone(), generation))
            .or_default()
            .push(done);
        self.say(message(from_enforcer::Message::Revoke(Revoke { endpoint: uid, generation })));
        if wait.await.is_err() {
            tracing::debug!("the feed ended before the resolver had forgotten");
        }
    }

    /// Whether the resolver understands that single names are to be forgotten. Waits for its greeting.
    pub(super) async fn forgets_names(&self) -> bool {
        let mut version = self.version.subscribe();
        version.wait_for(|version| *version != 0).await.is_ok_and(|version| *version >= FORGET)
    }

    /// Asks the resolver to forget names of an endpoint, and waits until it has, or the stream has ended.
    pub(super) async fn forget(&self, uid: &str, names: &[Name]) {
        let (done, wait) = oneshot::channel();
        let sequence = self.forgotten.fetch_add(1, Ordering::Relaxed);
        self.forgetting().insert(sequence, done);
        let names = names.iter().map(|name| name.as_str().into()).collect();
        let forget = Forget { sequence, endpoint: uid.into(), names };
        self.say(message(from_enforcer::Message::Forget(forget)));
        if wait.await.is_err() {
            tracing::debug!("the feed ended before the resolver had forgotten");
        }
    }

    /// Connects and serves until the stream ends; `enter` makes deltas be said from then on, and has the snapshot said
    /// at one go with that.
    pub(super) async fn serve(
        &self,
        resolver: &Resolver,
        node: &str,
        backend: &Arc<dyn Backend>,
        outgoing: mpsc::UnboundedReceiver<FromEnforcer>,
        enter: impl FnOnce(&dyn Fn()),
    ) -> Result<(), ConnectionError> {
        let (channel, number) = open(resolver, backend).await?;
        enter(&|| self.say_snapshot(node, number, &**backend));
        let stream = FeedClient::new(channel)
            .enforce(UnboundedReceiverStream::new(outgoing))
            .await
            .map_err(Box::new)?
            .into_inner();
        let queues = Queues {
            grants: self.grants(Arc::clone(backend))?,
            refused: refused_names(Arc::clone(backend))?,
            missed: AtomicU64::new(0),
        };
        let ended = tokio::select! {
            ended = self.listen(stream, queues, &**backend) => ended,
            () = other_certificates(resolver) => Ok(()),
        };
        self.revocations.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.forgetting().clear();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
        ended
    }

    fn say_snapshot(&self, node: &str, sockets: u64, backend: &dyn Backend) {
        use from_enforcer::Message;
        self.say(message(Message::Hello(Hello { version: VERSION, node: node.into(), sockets })));
        for endpoint in backend.endpoints() {
            self.say(message(Message::Endpoint(endpoint.to_message(self.distance))));
        }
        for binding in backend.bindings() {
            self.say(message(Message::Binding(binding.to_message())));
        }
        self.say(message(Message::SnapshotEnd(SnapshotEnd {})));
    }

    async fn listen(
        &self,
        mut stream: tonic::Streaming<FromResolver>,
        queues: Queues,
        backend: &dyn Backend,
    ) -> Result<(), ConnectionError> {
        let mut beat = tokio::time::interval(Duration::from_millis(HEARTBEAT_MILLIS));
        let mut sequence = 0;
        let silence = tokio::time::sleep(Duration::from_millis(DEAD_AFTER_MILLIS));
        tokio::pin!(silence);
        loop {
            tokio::select! {
                next = stream.message() => match next.map_err(Box::new)? {
                    Some(FromResolver { message }) => {
                        self.heard(&mut silence);
                        self.hear(message, &queues, backend)?;
                    }
                    None => return Ok(()),
                },
                _ = beat.tick() => {
                    sequence += 1;
                    self.say(message(from_enforcer::Message::Heartbeat(Heartbeat { sequence })));
                }
                () = self.end.notified() => return Ok(()),
                () = &mut silence => return Err(ConnectionError::Silent),
            }
        }
    }

    fn heard(&self, silence: &mut std::pin::Pin<&mut tokio::time::Sleep>) {
        let now = Instant::now();
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        silence.as_mut().reset(now + Duration::from_millis(DEAD_AFTER_MILLIS));
    }

    fn hear(
        &self,
        said: Option<from_resolver::Message>,
        queues: &Queues,
        backend: &dyn Backend,
    ) -> Result<(), ConnectionError> {
        let ask =
            |asked| queues.grants.send(asked).map_err(|_| io::Error::other("the thread that grants is gone"));
        match said {
            Some(from_resolver::Message::Grant(grant)) => match grant_at_once(&grant, backend) {
                Some(ack) => self.say(message(from_enforcer::Message::Ack(ack))),
                None => ask(Asked::One(grant))?,
            },
            Some(from_resolver::Message::Grants(grants)) => ask(Asked::Many(grants.grants))?,
            Some(from_resolver::Message::Revoked(revoked)) => {
                self.forgotten(revoked.endpoint, revoked.generation)
            }
            Some(from_resolver::Message::Welcome(welcome)) => {
                if !compatible(VERSION, welcome.version) {
                    return Err(ConnectionError::Version { theirs: welcome.version });
                }
                self.version.send_replace(welcome.version);
                tracing::info!("a resolver is connected");
            }
            Some(from_resolver::Message::Forgotten(forgotten)) => {
                let waiting = self.forgetting().remove(&forgotten.sequence);
                if waiting.is_some_and(|done| done.send(()).is_err()) {
                    tracing::debug!("a resolver confirmed late that it forgot names");
                }
            }
            Some(from_resolver::Message::RefusedNames(names)) => queues.refused(names),
            Some(from_resolver::Message::Heartbeat(_)) | None => {}
        }
        Ok(())
    }

    /// Grants that have to wait for somebody, in the order they came, on a thread of their own. It ends with the stream.
    fn grants(&self, backend: Arc<dyn Backend>) -> io::Result<blocking::Sender<Asked>> {
        let (grants, queue) = blocking::channel::<Asked>();
        let say = self.say.clone();
        thread::Builder::new().name("grants".into()).spawn(move || {
            // Promise 1: the acknowledgement is said when the kernel has been written, not before.
            let grant = |grant: &Grant| messages::ack(grant.sequence, &grant_one(grant, &*backend));
            for asked in queue {
                let said = match asked {
                    Asked::One(one) => from_enforcer::Message::Ack(grant(&one)),
                    Asked::Many(many) => {
                        from_enforcer::Message::Acks(Acks { acks: many.iter().map(grant).collect() })
                    }
                };
                if say.send(message(said)).is_err() {
                    return;
                }
            }
        })?;
        Ok(grants)
    }

    fn forgetting(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.forgetting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forgotten(&self, uid: String, generation: u32) {
        let waiting =
            self.revocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&(uid, generation));
        for done in waiting.into_iter().flatten() {
            if done.send(()).is_err() {
                tracing::debug!("a resolver confirmed late that it forgot old rules");
            }
        }
    }
}

/// A grant takes less time than to wake the thread that would make it, when nobody has to be waited for: then it is made
/// where it is heard.
fn grant_at_once(grant: &Grant, backend: &dyn Backend) -> Option<Ack> {
    let outcome = backend.grant_at_once(&messages::request(grant).ok()?)?;
    // Promise 1: said when the kernel has been written, not before.
    Some(messages::ack(grant.sequence, &outcome))
}

fn grant_one(grant: &Grant, backend: &dyn Backend) -> Result<Granted, Refused> {
    match messages::request(grant) {
        Ok(request) => backend.grant(request),
        Err(malformed) => {
            tracing::warn!(error = %malformed, "a grant that cannot be read");
            Err(Refused::NotAllowed { name: grant.name.clone() })
        }
    }
}

fn message(message: from_enforcer::Message) -> FromEnforcer {
    FromEnforcer { message: Some(message) }
}

/// A way to the resolver, and the number of the sockets that it was handed.
async fn open(resolver: &Resolver, backend: &Arc<dyn Backend>) -> Result<(Channel, u64), ConnectionError> {
    match resolver {
        Resolver::Near(near) => {
            let connect = |source| ConnectionError::Connect { path: near.feed.clone(), source };
            let endpoint =
                Endpoint::from_shared(format!("unix://{}", near.feed.display())).map_err(connect)?;
            let channel =
                endpoint.connect_timeout(Duration::from_secs(1)).connect().await.map_err(connect)?;
            let (sockets, handing) = (near.sockets.clone(), Arc::clone(backend));
            let handed = tokio::task::spawn_blocking(move || hand_over(&sockets, &*handing)).await;
            Ok((channel, handed.map_err(io::Error::other)??))
        }
        Resolver::Far(remote, credentials) => {
            Ok((tls::connect(credentials, remote.address, remote.name.clone()).await?, 0))
        }
    }
}

/// Waits until other certificates are in force than those that the stream began with.
async fn other_certificates(resolver: &Resolver) {
    let Resolver::Far(_, credentials) = resolver else { return std::future::pending().await };
    let number = credentials.number();
    while credentials.number() == number {
        tokio::time::sleep(LOOK_AT_FILES).await;
    }
    tracing::info!(%resolver, "the feed begins anew, with other certificates");
}

/// Hands the DNS sockets over beside the stream; returns the number that ties them to it, 0 without any.
fn hand_over(sockets: &Path, backend: &dyn Backend) -> Result<u64, ConnectionError> {
    let dns = backend.dns_sockets()?;
    if dns.is_empty() {
        return Ok(0);
    }
    let number = BootNanos::now().0 | 1;
    let stream = UnixStream::connect(sockets)?;
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    nameward_feed::sockets::send(&stream, number, &dns)?;
    Ok(number)
}
