//! Reading a query: one question, EDNS, nothing copied (Q5, N1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    CLASS_IN, HEADER, LONGEST_NAME, PLAIN_UDP_OCTETS, UDP_OCTETS, codes, read_name, types, u16_at, u32_at,
};

/// The option that CoreDNS adds with `rewrite edns0 local set 0xffee {client_ip}`.
const CLIENT_ADDRESS: u16 = 0xffee;
/// Records that a query may have behind its question: EDNS, a signature (TSIG, SIG(0)), the SOA of an IXFR, and some that
/// nobody has thought of.
const MOST_RECORDS: usize = 8;

/// A query that can be judged: one question in class IN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// Message ID.
    pub id: u16,
    /// Recursion desired, copied to the answer.
    pub recursion_desired: bool,
    /// Checking disabled (RFC 4035), copied to upstream query and answer.
    pub checking_disabled: bool,
    /// The client wants the AD bit (RFC 6840).
    pub wants_authentic: bool,
    /// Name, type and class as they were sent.
    pub question: &'a [u8],
    /// The name within `question`, with its final zero, in the client's letter case.
    pub name: &'a [u8],
    /// Type asked for.
    pub record_type: u16,
    /// EDNS of the query, if it had any.
    pub edns: Option<Edns>,
}

/// What an OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Octets that the client takes over UDP, at least 512.
    pub udp_octets: u16,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
    /// The client behind a trusted forwarder.
    pub client: Option<IpAddr>,
}

/// A message that is not such a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswerable<'a> {
    /// Too short for an ID, or itself an answer: nothing is sent.
    Silent,
    /// Answered with this code; the question is repeated when there is one that can be read.
    Code {
        /// Response code, extended ones included.
        code: u16,
        /// Name, type and class, or nothing.
        question: &'a [u8],
        /// Whether the answer carries an OPT record.
        edns: bool,
    },
}

impl<'a> Query<'a> {
    /// Reads a message. Anything but a query with one question is an error that says what to send back.
    pub fn read(message: &'a [u8]) -> Result<Self, Unanswerable<'a>> {
        let flags = match (message.len() >= HEADER, u16_at(message, 2)) {
            (true, Some(flags)) if flags & 0x8000 == 0 => flags,
            _ => return Err(Unanswerable::Silent),
        };
        if (flags >> 11) & 0xf != 0 {
            return Err(Unanswerable::Code { code: codes::NOTIMP, question: &[], edns: false });
        }
        let malformed = Unanswerable::Code { code: codes::FORMERR, question: &[], edns: false };
        let counts: [u16; 4] = std::array::from_fn(|i| u16_at(message, 4 + 2 * i).unwrap_or(0));
        if counts[0] != 1 {
            return Err(malformed);
        }
        let name_end = question_name(message).ok_or(malformed)?;
        let question = message.get(HEADER..name_end + 4).ok_or(malformed)?;
        let malformed = Unanswerable::Code { code: codes::FORMERR, question, edns: false };
        let records = usize::from(counts[1]) + usize::from(counts[2]) + usize::from(counts[3]);
        let edns = match read_records(message, name_end + 4, records) {
            Ok(edns) => edns,
            Err(Bad::Malformed) => return Err(malformed),
            Err(Bad::Version) => {
                return Err(Unanswerable::Code { code: codes::BADVERS, question, edns: true });
            }
        };
        let query = Self {
            id: u16_at(message, 0).unwrap_or(0),
            recursion_desired: flags & 0x0100 != 0,
            checking_disabled: flags & 0x0010 != 0,
            wants_authentic: flags & 0x0020 != 0,
            question,
            name: &question[..question.len() - 4],
            record_type: u16_at(message, name_end).unwrap_or(0),
            edns,
        };
        query.refused(u16_at(message, name_end + 2).unwrap_or(0))
    }

    fn refused(self, class: u16) -> Result<Self, Unanswerable<'a>> {
        if class != CLASS_IN || types::is_no_question(self.record_type) || !is_host_name(self.name) {
            let edns = self.edns.is_some();
            return Err(Unanswerable::Code { code: codes::REFUSED, question: self.question, edns });
        }
        Ok(self)
    }

    /// Whether the client asked for DNSSEC records.
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Octets of an answer over UDP at most (Q7).
    pub fn udp_limit(&self) -> usize {
        usize::from(self.edns.map_or(PLAIN_UDP_OCTETS, |edns| edns.udp_octets.min(UDP_OCTETS)))
    }

    /// The name as text, lower-case, without the final dot.
    pub fn name_text(&self) -> String {
        let mut text = String::with_capacity(self.name.len());
        let mut at = 0;
        while let Some(&length @ 1..) = self.name.get(at) {
            if at > 0 {
                text.push('.');
            }
            let label = &self.name[at + 1..at + 1 + usize::from(length)];
            text.extend(label.iter().map(|octet| char::from(octet.to_ascii_lowercase())));
            at += 1 + usize::from(length);
        }
        text
    }
}

/// End of the question's name. Compression there is malformed: there is nothing before it to point to.
fn question_name(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=63 => at += 1 + usize::from(length),
            64..=255 => return None,
        }
        if at - HEADER >= LONGEST_NAME {
            return None;
        }
    }
    Some(at + 1)
}

/// N1: letters, digits, `-` and `_`, at least one label, at most 253 octets as text.
fn is_host_name(name: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&length @ 1..) = name.get(at) {
        let label = &name[at + 1..at + 1 + usize::from(length)];
        if !label.iter().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')) {
            return false;
        }
        at += 1 + usize::from(length);
    }
    at > 0
}

enum Bad {
    Malformed,
    Version,
}

fn read_records(message: &[u8], mut at: usize, count: usize) -> Result<Option<Edns>, Bad> {
    if count > MOST_RECORDS {
        return Err(Bad::Malformed);
    }
    let mut found = None;
    for _ in 0..count {
        let start = at;
        let fixed = read_name(message, at).ok_or(Bad::Malformed)?;
        let length = usize::from(u16_at(message, fixed + 8).ok_or(Bad::Malformed)?);
        at = fixed + 10 + length;
        let data = message.get(fixed + 10..at).ok_or(Bad::Malformed)?;
        if u16_at(message, fixed) == Some(types::OPT) {
            if found.is_some() || fixed != start + 1 {
                return Err(Bad::Malformed);
            }
            found = Some(read_opt(&message[fixed..fixed + 10], data)?);
        }
    }
    if at == message.len() { Ok(found) } else { Err(Bad::Malformed) }
}

fn read_opt(fixed: &[u8], mut data: &[u8]) -> Result<Edns, Bad> {
    let flags = u32_at(fixed, 4).ok_or(Bad::Malformed)?;
    if (flags >> 16) & 0xff != 0 {
        return Err(Bad::Version);
    }
    let mut client = None;
    while !data.is_empty() {
        let code = u16_at(data, 0).ok_or(Bad::Malformed)?;
        let length = usize::from(u16_at(data, 2).ok_or(Bad::Malformed)?);
        let value = data.get(4..4 + length).ok_or(Bad::Malformed)?;
        if code == CLIENT_ADDRESS {
            // A second one was appended by somebody else: none of them can be believed.
            if client.is_some() {
                return Err(Bad::Malformed);
            }
            client = Some(client_address(value).ok_or(Bad::Malformed)?);
        }
        data = &data[4 + length..];
    }
    let udp_octets = u16_at(fixed, 2).unwrap_or(PLAIN_UDP_OCTETS).max(PLAIN_UDP_OCTETS);
    Ok(Edns { udp_octets, dnssec_ok: flags & 0x8000 != 0, client })
}

fn client_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(value).ok().map(|v6| IpAddr::from(Ipv6Addr::from(v6)).to_canonical())
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
