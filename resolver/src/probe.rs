//! What would become of an upstream's answer, without sockets and without an enforcer: for tests and fuzzing.
//!
//! The same steps in the same order as [`crate::server`] takes, up to the bytes that a client would get.

use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{RData, RecordType};
use nameward_policy::{DnsRules, Name, QueryDecision};

use crate::answer::{self, TtlBounds};
use crate::check::{Asked, check};
use crate::decide::RuleTerms;
use crate::server::passes_whole;
use crate::upstream::{Outstanding, Question, Reply};
use crate::wire::query::Query;
use crate::wire::stored::StoredAnswer;

/// An answer that would be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// The message, as every client with the same question gets it.
    pub bytes: Vec<u8>,
    /// The addresses that are granted before it leaves.
    pub granted: Vec<IpAddr>,
}

impl Passed {
    /// Addresses in the message that nobody granted: none, if promise 1 is kept. Those of records that cannot be read
    /// again count as none.
    pub fn ungranted(&self) -> Vec<IpAddr> {
        let Ok(message) = Message::from_vec(&self.bytes) else { return Vec::new() };
        let all = message.answers.iter().chain(&message.authorities).chain(&message.additionals);
        let addresses = all.flat_map(|record| addresses_in(&record.data));
        addresses.filter(|address| !self.granted.contains(address)).collect()
    }
}

fn addresses_in(data: &RData) -> Vec<IpAddr> {
    let service = match data {
        RData::A(a) => return vec![a.0.into()],
        RData::AAAA(aaaa) => return vec![aaaa.0.into()],
        RData::HTTPS(https) => &https.0,
        RData::SVCB(svcb) => svcb,
        _ => return Vec::new(),
    };
    let hints = service.svc_params.iter().flat_map(|(_, value)| match value {
        SvcParamValue::Ipv4Hint(hints) => hints.0.iter().map(|hint| hint.0.into()).collect(),
        SvcParamValue::Ipv6Hint(hints) => hints.0.iter().map(|hint| hint.0.into()).collect(),
        _ => Vec::new(),
    });
    hints.collect()
}

/// What a client that asked `query` is given, when an upstream sends `answer` and these rules allow the name. Nothing
/// when one of both cannot be read, or the name is not allowed.
pub fn upstream_answer(query: &[u8], answer: &[u8], rules: &DnsRules) -> Option<Passed> {
    let query = Query::read(query).ok()?;
    let QueryDecision::Allowed(rule) = rules.decide(&Name::parse(&query.name_text()).ok()?) else {
        return None;
    };
    let outstanding = Outstanding::default();
    // Never so, but for one in many million: ID and letter case are chosen at random. It must bear any bytes.
    Question::of(&query).ask(&outstanding).is_answered_by(answer);
    let terms = RuleTerms { rules, rule };
    let bounds = rules.ttl();
    let bounds = TtlBounds { least: bounds.min_seconds, most: bounds.max_seconds };
    let reply = Reply::read(answer, &Question::of(&query)).ok()?;
    let (built, granted) = match &reply {
        Reply::Verbatim(verbatim) if passes_whole(verbatim, &terms) => {
            let granted = verbatim.addresses().iter().map(|(address, _)| *address).collect();
            (verbatim.write(&query, |ttl| bounds.clamp(ttl, 0))?, granted)
        }
        Reply::Verbatim(_) | Reply::Message(_) => {
            by_records(&query, &reply.clone().into_message().ok()?, &terms, bounds)?
        }
    };
    let mut bytes = Vec::new();
    match StoredAnswer::new(&[], &built) {
        Some(stored) => stored.write(&query, 1, 0, &mut bytes),
        None => bytes = built,
    }
    Some(Passed { bytes, granted })
}

/// The message, and the addresses that are granted.
fn by_records(
    query: &Query<'_>,
    message: &Message,
    terms: &RuleTerms<'_>,
    bounds: TtlBounds,
) -> Option<(Vec<u8>, Vec<IpAddr>)> {
    let asked = Asked {
        name: answer::name_of(query)?,
        record_type: RecordType::from(query.record_type),
        dnssec_ok: query.dnssec_ok(),
    };
    let mut checked = check(message, &asked, Some(terms));
    answer::clamp(&mut checked, bounds, 0);
    let granted = checked.addresses.iter().map(|(address, _)| *address).collect();
    Some((answer::build(query, &asked.name, checked, message.metadata.authentic_data)?, granted))
}
