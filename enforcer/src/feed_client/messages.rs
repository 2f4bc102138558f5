//! Between the feed's messages and the enforcer's types.

use std::{net::IpAddr, sync::Arc, time::Duration};

use nameward_feed::{
    Identity, MalformedAddress, addresses, from_addresses, ip_to_bytes,
    proto::{self, Refusal, ack::Outcome},
};

use crate::{GrantRequest, Granted, Refused};

/// An endpoint as resolvers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// Its identifier.
    pub uid: Arc<str>,
    /// What people call it.
    pub name: String,
    /// Generation of its rules.
    pub generation: u32,
    /// What tells its queries from others' at the sockets that are handed over.
    pub identity: Vec<Identity>,
    /// Its own addresses: what a forwarder elsewhere says of its clients.
    pub addresses: Vec<IpAddr>,
    /// `policy::DnsRules` as JSON.
    pub rules: Arc<[u8]>,
}

/// Addresses of a name that an endpoint may use already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingView {
    /// Identifier of the endpoint.
    pub endpoint: Arc<str>,
    /// The name.
    pub name: String,
    /// Addresses, and how long they stay usable.
    pub addresses: Vec<(IpAddr, Duration)>,
}

/// Where a resolver is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distance {
    /// On this node: it serves the sockets that are handed over.
    Near,
    /// Elsewhere: ports and identity addresses of this node mean nothing there.
    Far,
}

impl EndpointView {
    pub(super) fn to_message(&self, distance: Distance) -> proto::Endpoint {
        let identity = match distance {
            Distance::Near => self.identity.iter().copied().map(Into::into).collect(),
            Distance::Far => self.addresses.iter().map(|one| Identity::Source(*one).into()).collect(),
        };
        proto::Endpoint {
            uid: self.uid.to_string(),
            name: self.name.clone(),
            generation: self.generation,
            identity,
            rules: self.rules.to_vec().into(),
        }
    }
}

impl BindingView {
    pub(super) fn to_message(&self) -> proto::Binding {
        proto::Binding {
            endpoint: self.endpoint.to_string(),
            name: self.name.clone(),
            addresses: addresses(&self.addresses),
        }
    }
}

pub(super) fn forwarders(addresses: &[IpAddr]) -> proto::Forwarders {
    proto::Forwarders { addresses: addresses.iter().copied().map(ip_to_bytes).collect() }
}

pub(super) fn request(grant: &proto::Grant) -> Result<GrantRequest, MalformedAddress> {
    Ok(GrantRequest {
        endpoint: grant.endpoint.as_str().into(),
        generation: grant.generation,
        name: grant.name.clone(),
        chain: grant.chain.clone(),
        addresses: from_addresses(&grant.addresses)?,
        grace: Duration::from_millis(grant.grace_millis),
    })
}

pub(super) fn ack(sequence: u64, outcome: &Result<Granted, Refused>) -> proto::Ack {
    let outcome = match outcome {
        Ok(granted) => {
            let usable_millis = u64::try_from(granted.usable_for.as_millis()).unwrap_or(u64::MAX);
            Outcome::Granted(proto::Granted { usable_millis })
        }
        Err(refused) => {
            Outcome::Refused(proto::Refused { reason: refusal(refused).into(), detail: refused.to_string() })
        }
    };
    proto::Ack { sequence, outcome: Some(outcome) }
}

fn refusal(refused: &Refused) -> Refusal {
    match refused {
        Refused::StaleGeneration { .. } => Refusal::StaleGeneration,
        Refused::NoSuchEndpoint { .. } => Refusal::NoSuchEndpoint,
        Refused::Limit { .. } => Refusal::Limit,
        Refused::Kernel { .. } => Refusal::Kernel,
        Refused::NotAllowed { .. } => Refusal::NotAllowed,
    }
}
