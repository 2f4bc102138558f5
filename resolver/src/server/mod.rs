//! The DNS server: queries in, answers out, each step of a question's way once.
//!
//! ```text
//! udp, tcp     sockets and connections; what needs no waiting is answered here, batch by batch
//! inquiry      who asks, may it, answered before?        no await
//! asking       cache | upstream, once for all who ask the same
//! resolution   check -> grant -> remember -> answer
//! ```
//!
//! An answer to an allowed name leaves only when every address in it is usable (G1): that is [`resolution`]'s
//! business. Where endpoints and grants come from is not known here.

mod asking;
mod inquiry;
mod resolution;
mod tcp;
mod udp;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nameward_feed::sockets::{DnsSocket, Transport};
use nameward_policy::{Name, PolicyRef, Reason};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

pub(crate) use self::resolution::passes_whole;
use self::{asking::Waits, inquiry::Inquiry};
use crate::{
    cache::Cache,
    counters::Counters,
    decisions::{Decision, DecisionSink, Outcome},
    endpoints::{Endpoint, Endpoints},
    grants::Grantor,
    limits::Limits,
    upstream::{Outstanding, Routes, Upstream},
};

/// What a server is told at its start.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Servers for all names, in order of preference.
    pub upstreams: Vec<Upstream>,
    /// Servers of their own for domains and what is below them.
    pub routes: Vec<(Name, Vec<Upstream>)>,
    /// Forwarders whose word counts on whom they ask for (Q1).
    pub trusted_forwarders: Vec<IpAddr>,
    /// Whether the word of those counts, too, whom enforcers name.
    pub believe_enforcers: bool,
    /// Whether clients of a forwarder that nobody guards are answered, and not filtered.
    pub pass_unknown: bool,
    /// Whether an endpoint is known by its bare source address, for which nothing vouches: for serving without an
    /// enforcer only (S2).
    pub believe_sources: bool,
    /// How long an answer waits for its grant (G1).
    pub grant_wait: Duration,
    /// Memory of the shared cache, in octets.
    pub cache_octets: usize,
    /// Questions that wait at one time, of all endpoints.
    pub pending: usize,
    /// TCP connections at one time, of all endpoints.
    pub connections: usize,
}

impl ServerConfig {
    /// The usual bounds, asking these servers.
    pub fn new(upstreams: impl IntoIterator<Item = impl Into<Upstream>>) -> Self {
        Self {
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            routes: Vec::new(),
            trusted_forwarders: Vec::new(),
            believe_enforcers: false,
            pass_unknown: false,
            believe_sources: false,
            grant_wait: Duration::from_millis(250),
            cache_octets: 64 << 20,
            pending: 16_384,
            connections: 4_096,
        }
    }
}

/// Answers queries. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    endpoints: Arc<Endpoints>,
    grantor: Arc<dyn Grantor>,
    decisions: Arc<dyn DecisionSink>,
    routes: Routes,
    cache: Cache<Waits>,
    outstanding: Outstanding,
    counters: Arc<Counters>,
    trusted_forwarders: Vec<IpAddr>,
    believe_enforcers: bool,
    /// Whose name stands for all clients that nobody guards; none where they are refused.
    unguarded: Option<Arc<Endpoint>>,
    believe_sources: bool,
    grant_wait: Duration,
    pending: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Connections of nobody we know.
    strangers: Arc<Limits>,
    /// Servers that workloads mean, by the number under which their answers are remembered.
    meant: Mutex<Vec<SocketAddr>>,
    on_their_way: AtomicUsize,
    arrived: Notify,
    /// Connections end as soon as they are silent.
    closing: watch::Sender<bool>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("counters", &self.0.counters).finish_non_exhaustive()
    }
}

/// A socket that is served until this is dropped. What waits in it then is still taken, and what was taken is still
/// answered.
#[derive(Debug)]
#[must_use = "the socket is served as long as this lives"]
pub struct Serving {
    _until: oneshot::Sender<Never>,
    local: SocketAddr,
}

/// Nothing is said: the other end sees that a [`Serving`] is gone.
#[derive(Debug)]
enum Never {}

/// Ends when the [`Serving`] of a socket is dropped.
type Stop = oneshot::Receiver<Never>;

impl Serving {
    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

/// What a socket tells of its queries.
#[derive(Clone, Copy, Debug)]
struct Meaning {
    local: SocketAddr,
    /// The trusted server that the workload meant (Q6).
    server: Option<SocketAddr>,
    /// Its number; 0 = none.
    number: u16,
}

impl Server {
    /// Forgets what upstreams said of these names.
    pub fn forget(&self, names: &[Name]) {
        self.0.cache.forget(names);
    }

    /// A server that has no sockets yet.
    pub fn new(
        config: ServerConfig,
        endpoints: Arc<Endpoints>,
        grantor: Arc<dyn Grantor>,
        decisions: Arc<dyn DecisionSink>,
    ) -> Self {
        let unguarded = config.pass_unknown.then(|| endpoints.unguarded());
        Self(Arc::new(Shared {
            endpoints,
            grantor,
            decisions,
            routes: Routes::new(config.upstreams, config.routes),
            cache: Cache::new(config.cache_octets),
            outstanding: Outstanding::default(),
            counters: Arc::default(),
            trusted_forwarders: config.trusted_forwarders.iter().map(IpAddr::to_canonical).collect(),
            believe_enforcers: config.believe_enforcers,
            unguarded,
            believe_sources: config.believe_sources,
            grant_wait: config.grant_wait,
            pending: Arc::new(Semaphore::new(config.pending)),
            connections: Arc::new(Semaphore::new(config.connections)),
            strangers: Arc::default(),
            meant: Mutex::default(),
            on_their_way: AtomicUsize::new(0),
            arrived: Notify::new(),
            closing: watch::Sender::new(false),
        }))
    }

    /// Serves a socket, which others may serve, too. Must be called within a runtime.
    ///
    /// # Errors
    /// When the socket is none of its kind, or cannot be watched.
    pub fn serve(&self, socket: DnsSocket) -> io::Result<Serving> {
        let number = socket.server.map_or(0, |server| self.0.number(server));
        let meaning = |local| Meaning { local, server: socket.server, number };
        let (until, stop) = oneshot::channel();
        let held = OnItsWay::new(self);
        match socket.transport {
            Transport::Udp => {
                let udp = std::net::UdpSocket::from(socket.socket);
                let local = udp.local_addr()?;
                let listener = udp::Listener::new(self.clone(), udp, meaning(local))?;
                tokio::spawn(async move { drop((listener.run(stop).await, held)) });
                Ok(Serving { _until: until, local })
            }
            Transport::Tcp => {
                let tcp = std::net::TcpListener::from(socket.socket);
                tcp.set_nonblocking(true)?;
                let local = tcp.local_addr()?;
                let tcp = tokio::net::TcpListener::from_std(tcp)?;
                let running = tcp::run(self.clone(), tcp, meaning(local), stop);
                tokio::spawn(async move { drop((running.await, held)) });
                Ok(Serving { _until: until, local })
            }
        }
    }

    /// The answer to one message as if it had come in a datagram from `peer` to a socket at `local`, for callers that have
    /// their own transport or none. Nothing when nothing is to be sent.
    pub async fn answer(&self, message: &[u8], peer: IpAddr, local: SocketAddr) -> Option<Vec<u8>> {
        let meaning = Meaning { local, server: None, number: 0 };
        let mut answer = Vec::new();
        match self.inquire(message, peer, meaning, Instant::now(), &mut answer) {
            Inquiry::Answered => {}
            Inquiry::Silence => return None,
            Inquiry::Waiting(waiting) => answer = self.resolve(&waiting).await,
        }
        inquiry::fit(self, message, 0, &mut answer);
        Some(answer)
    }

    /// Whether what comes from there is a forwarder's, whose word counts on whom it asks for (Q1).
    fn forwards(&self, peer: IpAddr) -> bool {
        let (shared, peer) = (&self.0, peer.to_canonical());
        shared.trusted_forwarders.contains(&peer)
            || shared.believe_enforcers && shared.endpoints.is_forwarder(peer)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Waits until all questions that were taken are answered, and connections that are silent are closed. The caller
    /// bounds the wait, and lets go of the sockets before.
    pub async fn drained(&self) {
        self.0.closing.send_replace(true);
        loop {
            let arrived = self.0.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            if self.0.on_their_way.load(Ordering::Acquire) == 0 {
                return;
            }
            arrived.await;
        }
    }
}

impl Shared {
    fn number(&self, server: SocketAddr) -> u16 {
        let mut meant = self.meant.lock().unwrap_or_else(PoisonError::into_inner);
        let at = meant.iter().position(|known| *known == server).unwrap_or_else(|| {
            meant.push(server);
            meant.len() - 1
        });
        // Far more than there are trusted servers; beyond that answers are remembered as those of no server.
        u16::try_from(at + 1).unwrap_or(0)
    }

    fn decided(&self, endpoint: &Endpoint, (name, record_type): (&Arc<str>, u16), answer: Answer) {
        let Answer { code, policy, outcome } = answer;
        let endpoint = endpoint.view.uid.clone();
        self.decisions.decided(Decision { endpoint, name: name.clone(), record_type, code, policy, outcome });
    }
}

/// What is told of an answer.
struct Answer {
    code: u16,
    policy: Option<PolicyRef>,
    outcome: Outcome,
}

impl Answer {
    /// An answer that says no, or not everything.
    fn denied(code: u16, reason: Reason, detail: &str) -> Self {
        Self { code, policy: None, outcome: Outcome::Denied { reason, detail: detail.to_owned() } }
    }

    fn by(self, policy: Option<PolicyRef>) -> Self {
        Self { policy, ..self }
    }
}

/// A question that is waited for, a connection or a socket: counted until it is answered, given up, let go.
struct OnItsWay(Server);

impl OnItsWay {
    fn new(server: &Server) -> Self {
        server.0.on_their_way.fetch_add(1, Ordering::AcqRel);
        Self(server.clone())
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        if self.0.0.on_their_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.arrived.notify_waiters();
        }
    }
}
