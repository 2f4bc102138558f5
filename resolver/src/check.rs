//! What of an upstream's answer may be learned and passed on (A1-A4, Q4).
//!
//! Walks from the question name through CNAME and DNAME inside the one answer. What the walk does not reach is
//! dropped, whoever sent it; so are additional records and name server records.

use std::collections::HashSet;
use std::net::IpAddr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::svcb::{Mandatory, SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, HTTPS};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use nameward_policy::Admission;

/// Names between the question and its records at most (A1).
pub(crate) const LONGEST_CHAIN: usize = 16;

/// What the rules say about an answer that grants something.
pub(crate) trait Terms {
    /// What becomes of an address (A3).
    fn admission(&self, address: IpAddr) -> Admission;
    /// Whether a name on the way needs a rule and has none (Q4).
    fn forbids_target(&self, name: &Name) -> bool;
    /// Whether addresses in HTTPS and SVCB records are learned instead of removed (A2).
    fn learns_hints(&self) -> bool;
}

/// The question that is answered.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) name: Name,
    pub(crate) record_type: RecordType,
    pub(crate) dnssec_ok: bool,
}

/// What is left of an answer.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) not_found: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    /// Addresses to grant, with their TTLs in seconds.
    pub(crate) addresses: Vec<(IpAddr, u32)>,
    /// Names after the question name, in order.
    pub(crate) chain: Vec<Name>,
    pub(crate) removed: Removed,
}

/// What was taken out, and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) foreign: usize,
    pub(crate) private: Vec<IpAddr>,
    pub(crate) bad_chain: bool,
    pub(crate) forbidden_target: Option<Name>,
    pub(crate) hints: bool,
}

impl Checked {
    /// Behind a forwarder an answer that policy left nothing of is no NODATA, which its cache would keep (Q3).
    pub(crate) fn hide_from_caches(&mut self) {
        let removed = &self.removed;
        let by_policy =
            !removed.private.is_empty() || removed.bad_chain || removed.forbidden_target.is_some();
        let leads_somewhere =
            self.answers.iter().any(|record| matches!(record.data, RData::A(_) | RData::AAAA(_)));
        if by_policy && !leads_somewhere {
            self.not_found = true;
            self.answers.clear();
            self.authorities.clear();
        }
    }

    /// Servers point from names of an answer into its question, whose letter case we chose at random (A9).
    fn lower_case(&mut self) {
        for record in self.answers.iter_mut().chain(&mut self.authorities) {
            record.name = record.name.to_lowercase();
            if let RData::CNAME(target) = &mut record.data {
                target.0 = target.0.to_lowercase();
            }
        }
        self.chain.iter_mut().for_each(|name| *name = name.to_lowercase());
    }
}

impl Removed {
    /// Whether the client sees something else than the upstream's answer.
    pub(crate) fn edited(&self) -> bool {
        !self.private.is_empty() || self.bad_chain || self.forbidden_target.is_some() || self.hints
    }
}

/// Checks an answer. Without terms nothing is granted, and the records of the walk are passed on as they are.
pub(crate) fn check(message: &Message, asked: &Asked, terms: Option<&dyn Terms>) -> Checked {
    let mut walk = Walk { message, asked, checked: Checked::default(), terms };
    walk.checked.not_found = message.metadata.response_code == ResponseCode::NXDomain;
    if let Some(end) = walk.follow() {
        walk.collect(&end);
    }
    let taken = walk.checked.answers.len() + walk.checked.removed.private.len();
    walk.checked.removed.foreign = message.answers.len().saturating_sub(taken);
    walk.authorities();
    walk.checked.lower_case();
    walk.checked
}

struct Walk<'a> {
    message: &'a Message,
    asked: &'a Asked,
    terms: Option<&'a dyn Terms>,
    checked: Checked,
}

impl Walk<'_> {
    /// Follows the chain to its last name. None when it is broken, endless, or leads where it may not.
    fn follow(&mut self) -> Option<Name> {
        let mut current = self.asked.name.clone();
        while self.asked.record_type != RecordType::CNAME {
            let Some(target) = self.step(&current) else { break };
            let seen = target == self.asked.name || self.checked.chain.contains(&target);
            if seen || self.checked.chain.len() == LONGEST_CHAIN {
                return self.give_up(|removed| removed.bad_chain = true);
            }
            if self.terms.is_some_and(|terms| terms.forbids_target(&target)) {
                return self.give_up(|removed| removed.forbidden_target = Some(target));
            }
            self.checked.chain.push(target.clone());
            current = target;
        }
        Some(current)
    }

    fn give_up(&mut self, note: impl FnOnce(&mut Removed)) -> Option<Name> {
        note(&mut self.checked.removed);
        self.checked.answers.clear();
        self.checked.chain.clear();
        None
    }

    /// One CNAME, or one DNAME with the CNAME that follows from it.
    fn step(&mut self, current: &Name) -> Option<Name> {
        let dname = self.message.answers.iter().find_map(|record| {
            let target = dname_target(record)?;
            let below = record.name != *current && record.name.zone_of(current);
            below.then_some((record, target))
        });
        if let Some((record, target)) = dname {
            if !self.checked.answers.contains(record) {
                self.checked.answers.push(record.clone());
                self.signatures(&record.name, RecordType::from(39));
            }
            let kept = usize::from(current.num_labels()) - usize::from(record.name.num_labels());
            let prefix = Name::from_labels(current.iter().take(kept)).ok()?;
            let mut target = prefix.append_domain(&target).ok()?;
            target.set_fqdn(true);
            let cname = RData::CNAME(CNAME(target.clone()));
            self.checked.answers.push(Record::from_rdata(current.clone(), record.ttl, cname));
            return Some(target);
        }
        let cname = self.message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if is_ours(record, current) => Some((record, target.0.clone())),
            _ => None,
        });
        let (record, target) = cname?;
        self.checked.answers.push(record.clone());
        self.signatures(current, RecordType::CNAME);
        Some(target)
    }

    /// The records that were asked for, at the end of the chain.
    fn collect(&mut self, end: &Name) {
        let (wanted, message) = (self.asked.record_type, self.message);
        // They have one owner and one type. An answer holds thousands: comparing each with each takes too long.
        let mut seen = HashSet::new();
        for record in &message.answers {
            if record.record_type() == wanted && is_ours(record, end) && seen.insert(&record.data) {
                self.take(record);
            }
        }
        self.signatures(end, wanted);
    }

    fn take(&mut self, record: &Record) {
        let Some(terms) = self.terms else { return self.checked.answers.push(record.clone()) };
        let address = match &record.data {
            RData::A(a) => Some(IpAddr::from(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
            _ => None,
        };
        let Some(address) = address else { return self.take_service(record, terms) };
        match terms.admission(address) {
            Admission::Remove(_) => return self.checked.removed.private.push(address),
            Admission::Grant => self.checked.addresses.push((address, record.ttl)),
            Admission::PassOnly => {}
        }
        self.checked.answers.push(record.clone());
    }

    /// HTTPS and SVCB lose what would lead past the grants (A2).
    fn take_service(&mut self, record: &Record, terms: &dyn Terms) {
        let mut record = record.clone();
        record.data = match record.data {
            RData::HTTPS(https) => RData::HTTPS(HTTPS(self.without_hints(https.0, record.ttl, terms))),
            RData::SVCB(svcb) => RData::SVCB(self.without_hints(svcb, record.ttl, terms)),
            other => other,
        };
        self.checked.answers.push(record);
    }

    fn without_hints(&mut self, mut service: SVCB, ttl: u32, terms: &dyn Terms) -> SVCB {
        let before = service.svc_params.len();
        let mut learned = Vec::new();
        service.svc_params.retain_mut(|(key, value)| match (&key, value) {
            (SvcParamKey::EchConfigList, _) => false,
            (_, SvcParamValue::Ipv4Hint(hints)) if terms.learns_hints() => {
                hints.0.retain(|hint| terms.admission(hint.0.into()) == Admission::Grant);
                learned.extend(hints.0.iter().map(|hint| (IpAddr::from(hint.0), ttl)));
                !hints.0.is_empty()
            }
            (_, SvcParamValue::Ipv6Hint(hints)) if terms.learns_hints() => {
                hints.0.retain(|hint| terms.admission(hint.0.into()) == Admission::Grant);
                learned.extend(hints.0.iter().map(|hint| (IpAddr::from(hint.0), ttl)));
                !hints.0.is_empty()
            }
            (SvcParamKey::Ipv4Hint | SvcParamKey::Ipv6Hint, _) => false,
            _ => true,
        });
        self.checked.addresses.append(&mut learned);
        if service.svc_params.len() != before {
            self.checked.removed.hints = true;
            forget_mandatory(&mut service);
        }
        service
    }

    /// Signatures of a set that is passed on, for clients that asked for them.
    fn signatures(&mut self, owner: &Name, covered: RecordType) {
        if !self.asked.dnssec_ok {
            return;
        }
        let wanted = u16::from(covered).to_be_bytes();
        let mut seen = HashSet::new();
        for record in &self.message.answers {
            if let RData::Unknown { code: RecordType::RRSIG, rdata } = &record.data
                && is_ours(record, owner)
                && rdata.anything.get(..2) == Some(&wanted)
                && seen.insert(&rdata.anything)
            {
                self.checked.answers.push(record.clone());
            }
        }
    }

    /// The SOA of a negative answer, and the proof that goes with it.
    fn authorities(&mut self) {
        for record in &self.message.authorities {
            let kept = match record.record_type() {
                RecordType::SOA => true,
                RecordType::NSEC | RecordType::NSEC3 | RecordType::RRSIG => self.asked.dnssec_ok,
                _ => false,
            };
            let above = record.record_type() != RecordType::SOA || self.leads_to(&record.name);
            if kept && above {
                self.checked.authorities.push(record.clone());
            }
        }
    }

    fn leads_to(&self, zone: &Name) -> bool {
        zone.zone_of(&self.asked.name) || self.checked.chain.iter().any(|name| zone.zone_of(name))
    }
}

fn is_ours(record: &Record, owner: &Name) -> bool {
    record.dns_class == DNSClass::IN && record.name == *owner
}

/// The target of a DNAME record (type 39), which hickory leaves as bytes; it is never compressed (RFC 6672).
fn dname_target(record: &Record) -> Option<Name> {
    let RData::Unknown { code, rdata } = &record.data else { return None };
    if u16::from(*code) != 39 {
        return None;
    }
    let mut labels = Vec::new();
    let mut rest = &rdata.anything[..];
    while let [length @ 1..=63, tail @ ..] = rest {
        labels.push(tail.get(..usize::from(*length))?);
        rest = &tail[usize::from(*length)..];
    }
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    (rest == [0]).then_some(name)
}

/// `mandatory` may not name what is not there (RFC 9460, section 8).
fn forget_mandatory(service: &mut SVCB) {
    let present: Vec<SvcParamKey> = service.svc_params.iter().map(|(key, _)| *key).collect();
    for (_, value) in &mut service.svc_params {
        if let SvcParamValue::Mandatory(Mandatory(keys)) = value {
            keys.retain(|key| present.contains(key));
        }
    }
    service
        .svc_params
        .retain(|(_, value)| !matches!(value, SvcParamValue::Mandatory(keys) if keys.0.is_empty()));
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
