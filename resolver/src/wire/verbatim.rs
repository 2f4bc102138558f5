//! Answers that can be passed on as the octets that came: addresses, and the CNAMEs that lead to them, in order.
//!
//! Nearly all answers to workloads are of this kind, and reading them into records only to write the same records again
//! costs more than everything else. What is anything else is not judged here: `hickory-proto` reads it, and
//! [`check`](crate::check) says what of it may be passed on. An answer is taken here only when that would pass on the
//! same records.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    CLASS_IN, HEADER, LONGEST_NAME, codes, query::Query, read_name, reply, skip_name, types, u16_at, u32_at,
};
use crate::check::LONGEST_CHAIN;

/// Longer answers are rare, and looking for duplicates takes the square of it.
const MOST_RECORDS: usize = 64;
/// RFC 2181, section 8.
const LARGEST_TTL: u32 = i32::MAX as u32;
const AUTHENTIC: u8 = 0x20;

/// Such an answer: header, question and answer records, and nothing behind them. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verbatim {
    octets: Box<[u8]>,
    addresses: Box<[(IpAddr, u32)]>,
    chain: Box<[Arc<str>]>,
    ttl: u32,
}

impl Verbatim {
    /// Takes an answer to this question, whose name is in lower case. None: it is of another kind, or malformed.
    pub fn read(message: &[u8], name: &[u8], record_type: u16) -> Option<Self> {
        if !matches!(record_type, types::A | types::AAAA) {
            return None;
        }
        let counts: [usize; 4] = std::array::from_fn(|i| u16_at(message, 4 + 2 * i).unwrap_or(0).into());
        // A response to a plain query, not cut, NOERROR.
        let plain = message.get(2)? & 0xfa == 0x80 && message.get(3)? & 0xf == codes::NOERROR as u8;
        if !plain || counts[0] != 1 || counts[1] == 0 || counts[1..].iter().sum::<usize>() > MOST_RECORDS {
            return None;
        }
        let question = message.get(HEADER..HEADER + name.len() + 4)?;
        let (asked, kind) = question.split_at(name.len());
        if !asked.eq_ignore_ascii_case(name) || kind[..2] != record_type.to_be_bytes() || kind[2..] != [0, 1]
        {
            return None;
        }
        let end = answers_end(message, HEADER + question.len(), counts)?;
        let octets = message.get(..end)?.to_vec();
        let mut walk =
            Walk { octets, labels: Vec::with_capacity(16), chain: Vec::new(), addresses: Vec::new() };
        let current = walk.name(HEADER)?.0;
        let ttl = walk.records(current, HEADER + question.len(), counts[1], record_type)?;
        let Walk { mut octets, chain, addresses, .. } = walk;
        octets[8..HEADER].fill(0);
        Some(Self { octets: octets.into(), addresses: addresses.into(), chain: chain.into(), ttl })
    }

    /// The addresses, each with its TTL in seconds, in order. At least one.
    pub fn addresses(&self) -> &[(IpAddr, u32)] {
        &self.addresses
    }

    /// The names after the question's, in order, as text.
    pub fn chain(&self) -> &[Arc<str>] {
        &self.chain
    }

    /// The shortest TTL, in seconds.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// A whole message with the same records.
    pub fn message(&self) -> &[u8] {
        &self.octets
    }

    /// Memory it takes beside itself.
    pub fn memory(&self) -> usize {
        let names: usize = self.chain.iter().map(|name| name.len() + 32).sum();
        self.octets.len() + size_of_val(&*self.addresses) + names
    }

    /// Writes the answer for the one who asks, whose question differs in ID, flags and letter case alone. `ttl` says
    /// what becomes of each TTL.
    pub fn write(&self, query: &Query<'_>, ttl: impl Fn(u32) -> u32) -> Option<Vec<u8>> {
        let records = HEADER + query.question.len();
        let mut message = Vec::with_capacity(self.octets.len() + 16);
        message.extend_from_slice(&self.octets);
        message[..2].copy_from_slice(&query.id.to_be_bytes());
        message[2] = 0x80 | u8::from(query.recursion_desired);
        let authentic = if query.wants_authentic { self.octets[3] & AUTHENTIC } else { 0 };
        message[3] = 0x80 | authentic | u8::from(query.checking_disabled) << 4;
        message.get_mut(HEADER..records)?.copy_from_slice(query.question);
        let mut at = records;
        while at < self.octets.len() {
            let fixed = skip_name(&message, at)?;
            let given = ttl(u32_at(&message, fixed + 4)?);
            message.get_mut(fixed + 4..fixed + 8)?.copy_from_slice(&given.to_be_bytes());
            at = fixed + 10 + usize::from(u16_at(&message, fixed + 8)?);
        }
        if let Some(edns) = query.edns {
            message[11] = 1;
            message.extend(reply::opt_record(codes::NOERROR, edns.dnssec_ok, &[]));
        }
        Some(message)
    }
}

/// Where the answer records end, if all records can be read and none of them says that this is an error.
fn answers_end(
    message: &[u8],
    mut at: usize,
    [_, answers, authorities, additionals]: [usize; 4],
) -> Option<usize> {
    let mut end = at;
    for number in 0..answers + authorities + additionals {
        let fixed = read_name(message, at)?;
        let is_opt = u16_at(message, fixed)? == types::OPT;
        // The upper half of an extended code.
        if is_opt && (number < answers + authorities || *message.get(fixed + 4)? != 0) {
            return None;
        }
        at = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
        if number + 1 == answers {
            end = at;
        }
    }
    (at == message.len()).then_some(end)
}

/// A name in lower case, as it would be without compression.
#[derive(Clone, Copy)]
struct WholeName {
    octets: [u8; LONGEST_NAME],
    length: usize,
}

impl WholeName {
    fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    fn push(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.length + octets.len();
        self.octets.get_mut(self.length..end)?.copy_from_slice(octets);
        self.length = end;
        Some(())
    }

    /// Without the final dot.
    fn text(&self) -> Option<Arc<str>> {
        let mut text = String::with_capacity(self.length);
        let mut rest = self.octets();
        while let [length @ 1..=63, tail @ ..] = rest {
            let (label, behind) = tail.split_at_checked(usize::from(*length))?;
            if !text.is_empty() {
                text.push('.');
            }
            text.push_str(str::from_utf8(label).ok()?);
            rest = behind;
        }
        Some(text.into())
    }
}

fn address(record_type: u16, octets: &[u8]) -> Option<IpAddr> {
    match record_type {
        types::A => <[u8; 4]>::try_from(octets).ok().map(|v4| Ipv4Addr::from(v4).into()),
        types::AAAA => <[u8; 16]>::try_from(octets).ok().map(|v6| Ipv6Addr::from(v6).into()),
        _ => None,
    }
}

struct Walk {
    octets: Vec<u8>,
    /// Where labels of names begin. Pointers lead there and nowhere else: what looks like a name in the middle of other
    /// octets would be another one when TTLs have changed.
    labels: Vec<u16>,
    chain: Vec<Arc<str>>,
    addresses: Vec<(IpAddr, u32)>,
}

impl Walk {
    /// Takes so many records, the first of which has to be `current`'s. Returns the shortest TTL.
    fn records(&mut self, mut current: WholeName, mut at: usize, count: usize, wanted: u16) -> Option<u32> {
        let (asked, mut shortest) = (current, LARGEST_TTL);
        for _ in 0..count {
            let (owner, fixed) = self.name(at)?;
            let (record_type, class) = (u16_at(&self.octets, fixed)?, u16_at(&self.octets, fixed + 2)?);
            let ttl = u32_at(&self.octets, fixed + 4)?;
            let data = fixed + 10;
            at = data + usize::from(u16_at(&self.octets, fixed + 8)?);
            if class != CLASS_IN || ttl > LARGEST_TTL || owner.octets() != current.octets() {
                return None;
            }
            shortest = shortest.min(ttl);
            if record_type == types::CNAME && self.addresses.is_empty() {
                let (target, end) = self.name(data)?;
                let text = target.text()?;
                let again = target.octets() == asked.octets() || self.chain.contains(&text);
                if again || end != at || self.chain.len() == LONGEST_CHAIN {
                    return None;
                }
                self.chain.push(text);
                current = target;
            } else if record_type == wanted {
                let address = address(wanted, self.octets.get(data..at)?)?;
                if self.addresses.iter().any(|(known, _)| *known == address) {
                    return None;
                }
                self.addresses.push((address, ttl));
            } else {
                return None;
            }
        }
        (!self.addresses.is_empty()).then_some(shortest)
    }

    /// The name at `at` and where it ends. Its own labels become lower case.
    fn name(&mut self, at: usize) -> Option<(WholeName, usize)> {
        let mut name = WholeName { octets: [0; LONGEST_NAME], length: 0 };
        let (mut at, mut end, known) = (at, None, self.labels.len());
        loop {
            let length = *self.octets.get(at)?;
            match length {
                0 => {
                    name.push(&[0])?;
                    return (name.length > 1).then_some((name, end.unwrap_or(at + 1)));
                }
                1..=63 => {
                    let next = at + 1 + usize::from(length);
                    let label = self.octets.get_mut(at..next)?;
                    label[1..].make_ascii_lowercase();
                    if !label[1..]
                        .iter()
                        .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'))
                    {
                        return None;
                    }
                    name.push(label)?;
                    if end.is_none() {
                        self.labels.push(u16::try_from(at).ok()?);
                    }
                    at = next;
                }
                192..=255 => {
                    end = end.or(Some(at + 2));
                    let to = u16_at(&self.octets, at)? & 0x3fff;
                    // Of names before this one: so none goes in a circle.
                    self.labels.get(..known)?.contains(&to).then_some(())?;
                    at = to.into();
                }
                64..=191 => return None,
            }
        }
    }
}

#[cfg(test)]
#[path = "verbatim_tests.rs"]
mod tests;
