//! One server to ask: where it is, how it is spoken to, and whether it has been well lately.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::plain;
use super::question::{Outstanding, Question};
use super::reply::Reply;
use super::stream::StreamClient;
use super::tls::Tls;
use super::udp::{Departing, Told, UdpClient};
use super::{Begun, HEDGE_AFTER, UpstreamError};
use crate::counters::Counters;

/// Failures in a row after which a server is tried last.
const FAILURES: u32 = 3;
/// How long it is.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// A server as it is configured.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is asked.
    pub over: Over,
}

/// How a server is asked.
#[derive(Clone, Debug)]
pub enum Over {
    /// UDP, and TCP where an answer does not fit.
    Udp,
    /// TCP alone.
    Tcp,
    /// TLS alone.
    Tls(Tls),
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self { address, over: Over::Udp }
    }
}

/// As it is written on a command line.
impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.over {
            Over::Udp => write!(f, "{}", self.address),
            Over::Tcp => write!(f, "tcp://{}", self.address),
            Over::Tls(tls) => write!(f, "tls://{}#{}", self.address, tls.name.to_str()),
        }
    }
}

/// A server in use.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    client: Client,
    health: Mutex<Health>,
}

#[derive(Debug)]
enum Client {
    Udp(UdpClient),
    Stream(StreamClient),
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    failed_at: Option<Instant>,
}

/// How one attempt ended.
pub(super) enum Attempt {
    Answer(Reply),
    Failed(UpstreamError),
}

impl Server {
    pub(super) fn new(upstream: Upstream) -> Self {
        let Upstream { address, over } = upstream;
        let client = match over {
            Over::Udp => Client::Udp(UdpClient::new(address)),
            Over::Tcp => Client::Stream(StreamClient::new(address, None)),
            Over::Tls(tls) => Client::Stream(StreamClient::new(address, Some(tls))),
        };
        Self { address, client, health: Mutex::default() }
    }

    pub(super) fn is_well(&self, now: Instant) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.failures < FAILURES
            || health.failed_at.is_none_or(|at| now.saturating_duration_since(at) > LEFT_ALONE)
    }

    /// Asks when `departing` is sent, without waiting; `told` is called once, and must not block. Gives it back where this
    /// needs a task of its own.
    pub(super) fn begin(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
        departing: &mut Departing,
        told: Told,
    ) -> Result<(), Told> {
        match &self.client {
            Client::Udp(udp) => {
                counters.forwarded.count();
                udp.begin(question.ask(outstanding), told, counters, departing);
                Ok(())
            }
            Client::Stream(_) => Err(told),
        }
    }

    /// The answer that a datagram is, if it is one that needs no other attempt.
    pub(super) fn judge(&self, datagram: &[u8], question: &Question) -> Option<Reply> {
        let reply = plain::read(datagram, question).filter(Reply::is_answer)?;
        self.answered();
        Some(reply)
    }

    /// One attempt, or the rest of one that was begun.
    pub(super) async fn attempt(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Arc<Counters>,
        begun: Option<Begun>,
    ) -> Attempt {
        let (first, since) = match begun {
            Some(Begun { first, at }) => (Some(first), at),
            None => {
                counters.forwarded.count();
                (None, Instant::now())
            }
        };
        let mut patience = Patience { server: self, since: Some(since) };
        let result = match &self.client {
            Client::Udp(udp) => {
                plain::exchange(self.address, udp, question, outstanding, counters, first).await
            }
            Client::Stream(stream) => stream.exchange(question, outstanding, counters).await,
        };
        patience.since = None;
        match result {
            Ok(reply) if reply.is_answer() => {
                self.answered();
                Attempt::Answer(reply)
            }
            Ok(reply) => Attempt::Failed(UpstreamError::Code { server: self.address, code: reply.code() }),
            Err(error) => {
                self.failed(&error.to_string());
                let detail = error.to_string();
                Attempt::Failed(UpstreamError::Unreachable { server: self.address, detail })
            }
        }
    }

    fn answered(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failures >= FAILURES {
            tracing::info!(upstream = %self.address, "the upstream answers again");
        }
        health.failures = 0;
    }

    fn failed(&self, error: &str) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.failures = health.failures.saturating_add(1);
        health.failed_at = Some(Instant::now());
        if health.failures == FAILURES {
            tracing::warn!(upstream = %self.address, error, "the upstream fails; others are asked first");
        }
    }
}

/// Counts an attempt that was dropped before it ended, because another was faster or time was up. One that had little
/// time says nothing about its server.
struct Patience<'a> {
    server: &'a Server,
    since: Option<Instant>,
}

impl Drop for Patience<'_> {
    fn drop(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() >= HEDGE_AFTER) {
            self.server.failed("no answer in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server::new(SocketAddr::from(([192, 0, 2, 1], 53)).into())
    }

    #[test]
    fn a_server_that_fails_is_left_alone_for_a_while() {
        let server = server();
        (0..FAILURES - 1).for_each(|_| server.failed("test"));
        assert!(server.is_well(Instant::now()));
        server.failed("test");
        assert!(!server.is_well(Instant::now()));
        assert!(server.is_well(Instant::now() + LEFT_ALONE + Duration::from_secs(1)));
        server.answered();
        assert!(server.is_well(Instant::now()));
    }

    #[test]
    fn an_attempt_without_time_is_no_failure() {
        let server = server();
        let now = Instant::now();
        drop(Patience { server: &server, since: Some(now) });
        assert_eq!(server.health.lock().unwrap().failures, 0);
        drop(Patience { server: &server, since: now.checked_sub(HEDGE_AFTER) });
        assert_eq!(server.health.lock().unwrap().failures, 1);
    }
}
