//! Making the message that a client gets from a checked answer: flags, TTLs, what was taken out and why.

use std::{net::IpAddr, time::Duration};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HickoryQuery, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::check::Checked;
use crate::wire::query::Query;
use crate::wire::reply::ExtendedError;
use crate::wire::{UDP_OCTETS, ede};

/// The bounds of TTLs that clients are given, in seconds (A5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TtlBounds {
    pub(crate) least: u32,
    pub(crate) most: u32,
}

impl TtlBounds {
    /// The TTL for the client of a record that is `age` seconds old here.
    pub(crate) fn clamp(self, ttl: u32, age: u32) -> u32 {
        ttl.saturating_sub(age).max(self.least).min(self.most)
    }
}

/// The name of a query for `hickory-proto`, in lower case.
pub(crate) fn name_of(query: &Query<'_>) -> Option<Name> {
    let mut labels = Vec::new();
    let mut rest = query.name;
    while let [length @ 1..=63, tail @ ..] = rest {
        labels.push(tail.get(..usize::from(*length))?);
        rest = &tail[usize::from(*length)..];
    }
    let mut name = Name::from_labels(labels).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}

/// The addresses that an answer names, with their TTLs.
pub(crate) fn addresses_of(checked: &Checked) -> Vec<(IpAddr, Duration)> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some((address.0.into(), Duration::from_secs(u64::from(record.ttl)))),
        RData::AAAA(address) => Some((address.0.into(), Duration::from_secs(u64::from(record.ttl)))),
        _ => None,
    };
    checked.answers.iter().filter_map(address).collect()
}

/// Sets the TTLs of all records to what this client is given.
pub(crate) fn clamp(checked: &mut Checked, bounds: TtlBounds, age: u32) {
    let records = checked.answers.iter_mut().chain(&mut checked.authorities);
    records.for_each(|record| record.ttl = bounds.clamp(record.ttl, age));
    checked.addresses.iter_mut().for_each(|(_, ttl)| *ttl = bounds.clamp(*ttl, age));
}

/// Bounds the TTLs by what the grant lasts (A5).
pub(crate) fn bound_by_grant(checked: &mut Checked, seconds: u32) {
    checked.answers.iter_mut().for_each(|record| record.ttl = record.ttl.min(seconds));
}

/// The whole message. None when it cannot be written, which is then SERVFAIL.
pub(crate) fn build(query: &Query<'_>, name: &Name, checked: Checked, authentic: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(query.id, MessageType::Response, OpCode::Query);
    let wants_authentic = query.wants_authentic || query.dnssec_ok();
    message.metadata.recursion_desired = query.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.checking_disabled = query.checking_disabled;
    message.metadata.authentic_data = authentic && wants_authentic && !checked.removed.edited();
    if checked.not_found {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message.add_query(HickoryQuery::query(name.clone(), RecordType::from(query.record_type)));
    if let Some(edns) = query.edns {
        let mut own = Edns::new();
        own.set_max_payload(UDP_OCTETS).set_dnssec_ok(edns.dnssec_ok);
        if let Some(error) = why(&checked) {
            own.options_mut().insert(EdnsOption::Unknown(15, error.data()));
        }
        message.set_edns(own);
    }
    message.answers = checked.answers;
    message.authorities = checked.authorities;
    message.to_vec().ok()
}

/// A4: why an answer is less than the upstream's.
fn why(checked: &Checked) -> Option<ExtendedError> {
    let removed = &checked.removed;
    let text = if let Some(target) = &removed.forbidden_target {
        format!("nameward: the rule has strictChain, and no rule allows {target} on the way")
    } else if removed.bad_chain {
        "nameward: the chain of names is endless".to_owned()
    } else if !removed.private.is_empty() {
        let addresses: Vec<_> = removed.private.iter().take(4).map(ToString::to_string).collect();
        format!(
            "nameward: private-address {} removed; privateAddresses: true allows it",
            addresses.join(", ")
        )
    } else {
        return None;
    };
    Some(ExtendedError::new(ede::FILTERED, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    // A5
    #[test]
    fn ttls_stay_within_their_bounds() {
        let bounds = TtlBounds { least: 5, most: 3600 };
        assert_eq!(
            [(0, 0), (60, 10), (60, 58), (86_400, 0), (3, 9)].map(|(t, a)| bounds.clamp(t, a)),
            [5, 50, 5, 3600, 5]
        );
    }
}
