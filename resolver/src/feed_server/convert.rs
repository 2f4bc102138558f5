//! Between the feed's messages and the resolver's types.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use nameward_feed::{
    Identity, MalformedAddress, addresses, from_addresses,
    proto::{self, Refusal, ack::Outcome},
};
use nameward_policy::DnsRules;
use thiserror::Error;

use crate::{
    endpoints::EndpointView,
    grants::{GrantRequest, Granted, Refused},
};

/// An endpoint that cannot be read; what is in force stays (F2).
#[derive(Debug, Error)]
pub(super) enum Unreadable {
    #[error(transparent)]
    Identity(#[from] MalformedAddress),
    #[error("its rules cannot be read: {0}")]
    Rules(#[from] serde_json::Error),
    #[error("it has no rules, and none of this generation are known")]
    NoRules,
    #[error("it has no identifier")]
    NoUid,
}

/// What is already granted to an endpoint under a name.
#[derive(Debug)]
pub(super) struct Binding {
    pub(super) endpoint: String,
    pub(super) name: Arc<str>,
    pub(super) addresses: Vec<(IpAddr, Duration)>,
}

/// Rules by what is written, so that endpoints with the same rules share them.
#[derive(Debug, Default)]
pub(super) struct SharedRules(Mutex<HashMap<Box<[u8]>, Weak<DnsRules>>>);

impl SharedRules {
    fn read(&self, json: &[u8]) -> Result<Arc<DnsRules>, serde_json::Error> {
        if let Some(rules) = self.known().get(json).and_then(Weak::upgrade) {
            return Ok(rules);
        }
        // Large ones take their time, in which others need not wait.
        let rules = Arc::new(serde_json::from_slice(json)?);
        let mut known = self.known();
        if known.len() == known.capacity() {
            known.retain(|_, rules| rules.strong_count() > 0);
        }
        known.insert(json.into(), Arc::downgrade(&rules));
        Ok(rules)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Weak<DnsRules>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The view of a message. `known` gives rules that were left out because they have not changed.
pub(super) fn endpoint(
    message: &proto::Endpoint,
    shared: &SharedRules,
    known: impl FnOnce(&str, u32) -> Option<Arc<DnsRules>>,
) -> Result<EndpointView, Unreadable> {
    if message.uid.is_empty() {
        return Err(Unreadable::NoUid);
    }
    let identity = message.identity.iter().map(Identity::try_from).collect::<Result<_, _>>()?;
    let rules = if message.rules.is_empty() {
        known(&message.uid, message.generation).ok_or(Unreadable::NoRules)?
    } else {
        shared.read(&message.rules)?
    };
    Ok(EndpointView {
        uid: message.uid.as_str().into(),
        name: message.name.as_str().into(),
        generation: message.generation,
        rules,
        identity,
    })
}

pub(super) fn binding(message: &proto::Binding) -> Result<Binding, MalformedAddress> {
    Ok(Binding {
        endpoint: message.endpoint.clone(),
        name: message.name.as_str().into(),
        addresses: from_addresses(&message.addresses)?,
    })
}

pub(super) fn grant(sequence: u64, request: &GrantRequest) -> proto::Grant {
    proto::Grant {
        sequence,
        endpoint: request.endpoint.to_string(),
        generation: request.generation,
        name: request.name.to_string(),
        chain: request.chain.iter().map(ToString::to_string).collect(),
        addresses: addresses(&request.addresses),
        grace_millis: u64::try_from(request.grace.as_millis()).unwrap_or(u64::MAX),
    }
}

/// What an acknowledgement says. One without an outcome grants nothing.
pub(super) fn outcome(ack: proto::Ack) -> Result<Granted, Refused> {
    match ack.outcome {
        Some(Outcome::Granted(granted)) => {
            Ok(Granted { usable_for: Duration::from_millis(granted.usable_millis) })
        }
        Some(Outcome::Refused(refused)) => Err(match refused.reason() {
            Refusal::StaleGeneration => Refused::StaleGeneration,
            Refusal::NoSuchEndpoint => Refused::NoSuchEndpoint,
            Refusal::Limit => Refused::Limit(refused.detail),
            Refusal::NotAllowed => Refused::NotAllowed,
            Refusal::Kernel | Refusal::Unspecified => Refused::Kernel(refused.detail),
        }),
        None => Err(Refused::Kernel("the enforcer's acknowledgement says nothing".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // DESIGN 6: nothing but Granted is a grant
    #[test]
    fn every_refusal_is_one() {
        let refused = |reason: Refusal| {
            let refused = proto::Refused { reason: reason.into(), detail: "why".into() };
            outcome(proto::Ack { sequence: 1, outcome: Some(Outcome::Refused(refused)) }).unwrap_err()
        };
        assert_eq!(refused(Refusal::StaleGeneration), Refused::StaleGeneration);
        assert_eq!(refused(Refusal::NoSuchEndpoint), Refused::NoSuchEndpoint);
        assert_eq!(refused(Refusal::NotAllowed), Refused::NotAllowed);
        assert_eq!(refused(Refusal::Limit), Refused::Limit("why".into()));
        assert_eq!(refused(Refusal::Kernel), Refused::Kernel("why".into()));
        assert_eq!(refused(Refusal::Unspecified), Refused::Kernel("why".into()));
        assert!(outcome(proto::Ack { sequence: 1, outcome: None }).is_err());
        let unknown = proto::Refused { reason: 99, detail: "newer".into() };
        let ack = proto::Ack { sequence: 1, outcome: Some(Outcome::Refused(unknown)) };
        assert_eq!(outcome(ack), Err(Refused::Kernel("newer".into())));
    }

    // F2
    #[test]
    fn an_endpoint_that_cannot_be_read_is_refused() {
        let read = |message: &proto::Endpoint| endpoint(message, &SharedRules::default(), |_, _| None);
        let whole = proto::Endpoint { uid: "a".into(), generation: 3, ..proto::Endpoint::default() };
        assert!(matches!(read(&whole), Err(Unreadable::NoRules)));
        // Its name would stand for all endpoints.
        let nameless = proto::Endpoint { uid: String::new(), ..whole.clone() };
        assert!(matches!(read(&nameless), Err(Unreadable::NoUid)));
        let broken = proto::Endpoint { rules: b"{".as_slice().into(), ..whole.clone() };
        assert!(matches!(read(&broken), Err(Unreadable::Rules(_))));
        let identity = vec![proto::Identity { kind: None }];
        let nobody = proto::Endpoint { identity, ..whole };
        assert!(matches!(read(&nobody), Err(Unreadable::Identity(_))));
    }
}
