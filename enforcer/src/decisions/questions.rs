//! Names that a resolver did not answer, as decisions.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use nameward_api::types::{Decision, Direction, Verdict};
use nameward_feed::proto::RefusedName;
use nameward_policy::Reason;

use super::Asker;

/// Octets of a name's text at most: every one of a name can be two in UTF-8.
const LONGEST_NAME: usize = 512;

/// The words for names that are not answered (G5).
pub(crate) const DNS_REASONS: [Reason; 6] = [
    Reason::Filtered,
    Reason::PrivateAddress,
    Reason::Limit,
    Reason::Loop,
    Reason::Upstream,
    Reason::GrantTimeout,
];

/// Equal questions that a resolver did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    name: String,
    record_type: u16,
    reason: Reason,
    policy: Option<String>,
    count: u64,
    age: Duration,
    answered: bool,
    response_code: Option<u16>,
}

impl Refusal {
    /// None when it is no question of a name, or its reason none of ours.
    pub(crate) fn read(message: &RefusedName) -> Option<Self> {
        Some(Self {
            name: Some(&message.name).filter(|name| name.len() <= LONGEST_NAME)?.clone(),
            record_type: u16::try_from(message.record_type).ok()?,
            reason: Reason::from_word(&message.reason).filter(|reason| DNS_REASONS.contains(reason))?,
            policy: (!message.policy.is_empty()).then(|| message.policy.clone()),
            count: message.count,
            age: Duration::from_millis(message.age_millis),
            answered: message.answered,
            response_code: message.response_code.and_then(|code| u16::try_from(code).ok()),
        })
    }

    /// The name that was asked for, and why it was not answered.
    pub(crate) fn question(&self) -> (&str, Reason) {
        (&self.name, self.reason)
    }

    /// For whom how many questions are counted.
    pub(super) fn counted(&self) -> (Reason, u64) {
        (self.reason, self.count)
    }

    pub(super) fn decision(self, sequence: u64, asker: Asker) -> Decision {
        let age = SignedDuration::try_from(self.age).unwrap_or(SignedDuration::ZERO);
        let now = Timestamp::now();
        Decision {
            sequence,
            at: now.checked_sub(age).unwrap_or(now),
            endpoint: asker.endpoint,
            workload: asker.workload,
            verdict: if self.answered { Verdict::WouldDeny } else { Verdict::Deny },
            reason: self.reason.word().into(),
            direction: Direction::Egress,
            protocol: 17,
            local: asker.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            local_port: 0,
            remote: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote_port: 53,
            name: Some(self.name),
            query_type: Some(query_type(self.record_type)),
            response_code: self.response_code.map(response_code),
            policy: self.policy,
            packets: self.count,
            bytes: 0,
            generation: asker.generation,
            staged: asker.staged,
        }
    }
}

/// Mnemonics of response codes by number (RFC 1035 and its followers).
pub(crate) const RESPONSE_CODES: [&str; 6] =
    ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];

/// The mnemonic, else the number.
fn response_code(number: u16) -> Cow<'static, str> {
    match RESPONSE_CODES.get(usize::from(number)) {
        Some(known) => (*known).into(),
        None => format!("RCODE{number}").into(),
    }
}

/// The type's mnemonic where many know it, else RFC 3597's.
fn query_type(number: u16) -> String {
    let known = match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        257 => "CAA",
        other => return format!("TYPE{other}"),
    };
    known.into()
}
