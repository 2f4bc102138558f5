//! What a resolver asks for, and what it gets.

use std::{net::IpAddr, sync::Arc, time::Duration};

use thiserror::Error;

/// Addresses of an answer that is waiting to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRequest {
    /// Identifier of the endpoint; empty for all whose rules allow the name (Q9).
    pub endpoint: Arc<str>,
    /// Generation of the rules that the resolver asked.
    pub generation: u32,
    /// The name of the question.
    pub name: String,
    /// The names that its answer went through.
    pub chain: Vec<String>,
    /// Addresses, with the TTL that the client is given.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// What the rule adds to the TTL.
    pub grace: Duration,
}

impl GrantRequest {
    /// Whether it is for every endpoint whose rules allow the name.
    pub fn is_for_everyone(&self) -> bool {
        self.endpoint.is_empty()
    }
}

/// The addresses are in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The shortest time that any of them is usable from now.
    pub usable_for: Duration,
}

/// The addresses are not usable; the answer must not leave.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refused {
    /// The rules have changed since the resolver read them.
    #[error("rules of generation {asked} were asked, {current} are in force")]
    StaleGeneration {
        /// The resolver's.
        asked: u32,
        /// The endpoint's.
        current: u32,
    },
    /// Unknown or removed.
    #[error("there is no endpoint {uid}")]
    NoSuchEndpoint {
        /// As asked.
        uid: String,
    },
    /// No room for more names or addresses.
    #[error("the limit of {what} is reached: raise `settings.limits` or allow fewer names")]
    Limit {
        /// Of what.
        what: &'static str,
    },
    /// A map could not be written.
    #[error("the kernel refused: {detail}")]
    Kernel {
        /// Cause.
        detail: String,
    },
    /// No rule allows the name.
    #[error("no rule allows {name}")]
    NotAllowed {
        /// As asked.
        name: String,
    },
}
