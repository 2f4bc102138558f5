//! Asking other servers (A8, A9): several of them, UDP with ports, IDs and letter case that cannot be guessed, TCP when an
//! answer is cut, DNS over TLS where it is asked for, a second attempt beside a slow first one, and servers that fail
//! left alone for a while.
//!
//! What may be asked, and what an answer may hold, is decided elsewhere.

mod plain;
pub mod question;
mod routes;
mod server;
mod stream;
mod tls;
mod udp;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};
use hickory_proto::op::{Message, ResponseCode};

pub use self::question::{Outstanding, Question};
pub use self::routes::Routes;
use self::server::{Attempt, Server};
pub use self::server::{Over, Upstream};
pub use self::tls::{Tls, Trust, TrustError};
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

    /// Asks until one answers. NXDOMAIN is an answer; SERVFAIL and the like make it ask the next.
    pub async fn ask(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
    ) -> Result<Message, UpstreamError> {
        let all = self.ask_all(question, outstanding, counters);
        match tokio::time::timeout(DEADLINE, all).await {
            Ok(result) => result,
            Err(_) => Err(UpstreamError::Silent { servers: self.names() }),
        }
    }

    async fn ask_all(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
    ) -> Result<Message, UpstreamError> {
        let order = self.order();
        let mut next = order.iter().cycle().take(if order.is_empty() { 0 } else { ATTEMPTS });
        let mut running = FuturesUnordered::new();
        let mut last = UpstreamError::Nobody;
        let mut failed = 0;
        loop {
            if let Some(server) = next.next() {
                running.push(server.attempt(question, outstanding, counters));
            }
            let hedge = tokio::time::sleep(HEDGE_AFTER);
            tokio::select! {
                Some(attempt) = running.next() => match attempt {
                    Attempt::Answer(message) => return Ok(message),
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

    fn order(&self) -> Vec<&Server> {
        let now = Instant::now();
        let (well, ill): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| server.is_well(now));
        well.into_iter().chain(ill).collect()
    }

    fn names(&self) -> String {
        self.addresses().map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
    }
}
