//! The question to the enforcer: make these addresses usable for that workload. What answers it (the feed, a
//! direct call, or nobody) is not known here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Whom the addresses of an answer are granted to, where a forwarder asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// The workload that asked: whoever stands in between must not answer from memory.
    #[default]
    Endpoint,
    /// Every workload whose rules allow the name: whoever stands in between may answer any of them from memory (Q9).
    Name,
}

/// The endpoint of requests that are for every workload whose rules allow the name.
pub const EVERYONE: &str = "";

/// Addresses that an allowed name gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    /// Unique ID of the endpoint, or [`EVERYONE`].
    pub endpoint: Arc<str>,
    /// Generation of the rules that allowed the name; another one is refused.
    pub generation: u32,
    /// The name that was asked for.
    pub name: Arc<str>,
    /// Names that the question led through, in order.
    pub chain: Vec<Arc<str>>,
    /// Addresses, each with the TTL that the client is given for it.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// How long a grant outlives the TTL or the last use.
    pub grace: Duration,
}

/// The addresses are usable now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The shortest time that any of them stays so.
    pub usable_for: Duration,
}

/// The addresses are not all usable; the answer is SERVFAIL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The rules have changed: judge again with the new ones.
    #[error("the rules have changed meanwhile")]
    StaleGeneration,
    /// The endpoint is gone.
    #[error("no such endpoint")]
    NoSuchEndpoint,
    /// The rules in force do not allow the name.
    #[error("the rules in force do not allow it")]
    NotAllowed,
    /// The endpoint holds as many names or addresses as it may.
    #[error("{0}")]
    Limit(String),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
    /// No enforcer is connected for this endpoint.
    #[error("no enforcer is connected")]
    Absent,
}

/// Makes addresses usable. The caller bounds the wait.
pub trait Grantor: Send + Sync {
    /// Ends when every address is usable, or will not be.
    fn grant(&self, request: GrantRequest) -> BoxFuture<'_, Result<Granted, Refused>>;
}

/// Acknowledges in the process, for serving without an enforcer: nothing is enforced.
#[derive(Clone, Copy, Debug, Default)]
pub struct Acknowledge;

impl Grantor for Acknowledge {
    fn grant(&self, request: GrantRequest) -> BoxFuture<'_, Result<Granted, Refused>> {
        let shortest = request.addresses.iter().map(|(_, ttl)| *ttl).min().unwrap_or_default();
        Box::pin(std::future::ready(Ok(Granted { usable_for: shortest + request.grace })))
    }
}
