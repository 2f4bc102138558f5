//! Asking other servers (A8, A9): several of them, UDP with ports, IDs and letter case that cannot be guessed, TCP when an
//! answer is cut, DNS over TLS where it is asked for, a second attempt beside a slow first one, and servers that fail
//! left alone for a while.
//!
//! What may be asked, and what an answer may hold, is decided elsewhere.

mod plain;
pub mod question;
mod reply;
mod routes;
mod server;
mod stream;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::ResponseCode;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub use self::question::{Outstanding, Question};
pub use self::reply::Reply;
pub use self::routes::Routes;
use self::server::{Attempt, Server};
pub use self::server::{Over, Upstream};
pub use self::tls::{Tls, Trust, TrustError};
pub(crate) use self::udp::Departing;
use self::udp::{Heard, Place, Told};
use crate::counters::Counters;

/// After this time of silence another attempt starts beside the first.
const HEDGE_AFTER: Duration = Duration::from_millis(400);
/// The most time for one question, everything included (A8 allows 5 s to the client).
const DEADLINE: Duration = Duration::from_millis(4_500);
/// Attempts at most.
const ATTEMPTS: usize = 5;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Nobody answered in time.
    #[error("no upstream answered within {} ms ({servers})", DEADLINE.as_millis())]
    Silent {
        /// The servers asked.
        servers: String,
    },
    /// All that answered did so with an error.
    #[error("upstream {server} answered {code}")]
    Code {
        /// The last one.
        server: SocketAddr,
        /// Its code.
        code: ResponseCode,
    },
    /// The question could not be sent.
    #[error("cannot reach upstream {server}: {detail}")]
    Unreachable {
        /// The last one.
        server: SocketAddr,
        /// The system's answer.
        detail: String,
    },
    /// There is nobody to ask.
    #[error("no upstream is configured")]
    Nobody,
}

/// Servers that stand for each other.
#[derive(Debug)]
pub struct Group {
    number: usize,
    servers: Vec<Server>,
}

impl Group {
    /// Servers in order of preference.
    pub fn new(servers: impl IntoIterator<Item = impl Into<Upstream>>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let servers = servers.into_iter().map(|server| Server::new(server.into())).collect();
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), servers }
    }

    /// Tells it from other groups of the process.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The servers.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.servers.iter().map(|server| server.address)
    }

    /// Asks without waiting, when `departing` is sent. `told` is called once, perhaps at once, and must not block: with
    /// the answer, if the first server gives one soon, else with what has to be done, which takes a task.
    pub(crate) fn begin(
        self: &Arc<Self>,
        question: Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
        departing: &mut Departing,
        told: impl FnOnce(Started) + Send + 'static,
    ) {
        let at = Instant::now();
        let number = self.servers.iter().position(|server| server.is_well(at)).unwrap_or(0);
        let rest = Rest {
            group: Arc::clone(self),
            question: question.clone(),
            outstanding: outstanding.clone(),
            counters: Arc::clone(counters),
            begun_at: at,
            first: None,
        };
        let Some(server) = self.servers.get(number) else { return told(Started::Rest(rest)) };
        let heard: Told = Box::new(move |heard: Heard<'_>| told(rest.hear(number, heard)));
        if let Err(heard) = server.begin(&question, outstanding, counters, departing, heard) {
            heard(Heard::Never);
        }
    }

    /// Asks until one answers. NXDOMAIN is an answer; SERVFAIL and the like make it ask the next.
    pub async fn ask(
        self: &Arc<Self>,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
    ) -> Result<Reply, UpstreamError> {
        let (tell, told) = oneshot::channel();
        let asked = question.clone();
        Departing::at_once(|departing| {
            self.begin(asked, outstanding, counters, departing, move |started| drop(tell.send(started)));
        });
        match told.await {
            Ok(Started::Reply(reply)) => Ok(reply),
            Ok(Started::Rest(rest)) => rest.go_on().await,
            Err(_) => Err(UpstreamError::Nobody),
        }
    }

    async fn ask_all(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
        begun: Option<(usize, Begun)>,
    ) -> Result<Reply, UpstreamError> {
        let order = self.order(begun.as_ref().map(|(number, _)| *number));
        let mut next = order.iter().cycle().take(if order.is_empty() { 0 } else { ATTEMPTS });
        let mut running = FuturesUnordered::new();
        let mut last = UpstreamError::Nobody;
        let mut failed = 0;
        // What is known of the first attempt is looked at before there is another.
        let mut wait = begun.as_ref().is_some_and(|(_, begun)| matches!(begun.first, First::Heard(_)));
        if let Some((_, begun)) = begun
            && let Some(server) = next.next()
        {
            running.push(server.attempt(question, outstanding, counters, Some(begun)));
        }
        loop {
            if !std::mem::take(&mut wait)
                && let Some(server) = next.next()
            {
                running.push(server.attempt(question, outstanding, counters, None));
            }
            let hedge = tokio::time::sleep(HEDGE_AFTER);
            tokio::select! {
                Some(attempt) = running.next() => match attempt {
                    Attempt::Answer(reply) => return Ok(reply),
                    Attempt::Failed(error) => { last = error; failed += 1 }
                },
                () = hedge, if !running.is_empty() => {}
                else => return Err(last),
            }
            // Servers that answer with an error would do so again.
            if failed >= order.len() && running.is_empty() {
                return Err(last);
            }
        }
    }

    /// Those that are well before the others; `first` before all.
    fn order(&self, first: Option<usize>) -> Vec<&Server> {
        let now = Instant::now();
        let first = first.and_then(|number| self.servers.get(number));
        let others =
            self.servers.iter().filter(|server| !first.is_some_and(|first| std::ptr::eq(first, *server)));
        let (well, ill): (Vec<_>, Vec<_>) = others.partition(|server| server.is_well(now));
        first.into_iter().chain(well).chain(ill).collect()
    }

    fn names(&self) -> String {
        self.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// What became of the first attempt.
pub(crate) enum Started {
    /// An answer.
    Reply(Reply),
    /// None that counts, or none yet.
    Rest(Rest),
}

/// A question whose first attempt was not enough.
pub(crate) struct Rest {
    group: Arc<Group>,
    question: Question,
    outstanding: Outstanding,
    counters: Arc<Counters>,
    begun_at: Instant,
    first: Option<(usize, First)>,
}

/// An attempt that was begun without a task.
#[derive(Debug)]
struct Begun {
    first: First,
    at: Instant,
}

/// How far it is.
#[derive(Debug)]
enum First {
    /// A datagram that answers, or an error.
    Heard(io::Result<Vec<u8>>),
    /// It waits.
    Slow(Place),
}

impl Rest {
    fn hear(mut self, number: usize, heard: Heard<'_>) -> Started {
        let first = match heard {
            Heard::Answer(datagram) => match self.group.servers[number].judge(datagram, &self.question) {
                Some(reply) => return Started::Reply(reply),
                None => First::Heard(Ok(datagram.to_vec())),
            },
            Heard::Failed(error) => First::Heard(Err(error)),
            Heard::Slow(place) => First::Slow(place),
            Heard::Never => return Started::Rest(self),
        };
        self.first = Some((number, first));
        Started::Rest(self)
    }

    /// Asks until one answers, as [`Group::ask`] does.
    pub(crate) async fn go_on(self) -> Result<Reply, UpstreamError> {
        let Self { group, question, outstanding, counters, begun_at: at, first } = self;
        let begun = first.map(|(number, first)| (number, Begun { first, at }));
        let left = DEADLINE.saturating_sub(at.elapsed());
        match timeout(left, group.ask_all(&question, &outstanding, &counters, begun)).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::Silent { servers: group.names() }),
        }
    }
}
