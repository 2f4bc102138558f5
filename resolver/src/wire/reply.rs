//! Answers that need no records from elsewhere: errors, what policy answers, the answer to ANY.

use super::query::Query;
use super::{HEADER, UDP_OCTETS, codes, types};

/// Seconds that clients may keep what policy answered (Q3).
pub const POLICY_TTL: u32 = 5;

/// An extended DNS error (RFC 8914).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    /// One of [`super::ede`].
    pub code: u16,
    /// For people; at most 200 octets are sent.
    pub text: String,
}

impl ExtendedError {
    /// An error with its text.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The data of the option: the code and at most 200 octets of text.
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut end = self.text.len().min(200);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        [&self.code.to_be_bytes()[..], &self.text.as_bytes()[..end]].concat()
    }

    fn option(&self) -> Vec<u8> {
        let data = self.data();
        [&[0, 15][..], &(data.len() as u16).to_be_bytes(), &data].concat()
    }
}

/// An answer with a code and no records of its own, except a SOA that bounds how long a client keeps it.
pub fn negative(query: &Query<'_>, code: u16, soa: bool, error: Option<&ExtendedError>) -> Vec<u8> {
    let mut message = start(query, code);
    if soa {
        message[9] = 1;
        message.extend(soa_record());
    }
    finish(message, query, code, error)
}

/// RFC 8482: ANY is answered with one HINFO record.
pub fn any(query: &Query<'_>) -> Vec<u8> {
    let mut message = start(query, codes::NOERROR);
    message[7] = 1;
    message.extend([0xc0, HEADER as u8, 0, 13, 0, 1]);
    message.extend(3600_u32.to_be_bytes());
    message.extend([0, 9, 7]);
    message.extend(b"RFC8482\0");
    finish(message, query, codes::NOERROR, None)
}

/// The answer to a message that is no query we take; `message` has at least a header.
pub fn unanswerable(message: &[u8], code: u16, question: &[u8], edns: bool) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(message.get(..2).unwrap_or(&[0, 0]));
    let opcode_and_rd = message.get(2).map_or(0, |octet| octet & 0x79);
    answer[2] = 0x80 | opcode_and_rd;
    answer[3] = (code & 0xf) as u8;
    answer[5] = u8::from(!question.is_empty());
    answer.extend(question);
    if edns {
        answer[11] = 1;
        answer.extend(opt_record(code, false, &[]));
    }
    answer
}

/// What of an answer a client gets over UDP that does not take all of it (Q7): header, question, OPT, TC.
pub fn truncated(answer: &[u8], query: &Query<'_>) -> Vec<u8> {
    let code = answer.get(3).map_or(codes::SERVFAIL, |octet| u16::from(octet & 0xf));
    let mut message = start(query, code);
    message[2] |= 0x02;
    finish(message, query, code, None)
}

fn start(query: &Query<'_>, code: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(UDP_OCTETS.into());
    message.extend(query.id.to_be_bytes());
    message.push(0x80 | u8::from(query.recursion_desired));
    message.push(0x80 | (u8::from(query.checking_disabled) << 4) | (code & 0xf) as u8);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(query.question);
    message
}

fn finish(mut message: Vec<u8>, query: &Query<'_>, code: u16, error: Option<&ExtendedError>) -> Vec<u8> {
    if let Some(edns) = query.edns {
        message[11] = 1;
        let option = error.map(ExtendedError::option).unwrap_or_default();
        message.extend(opt_record(code, edns.dnssec_ok, &option));
    }
    message
}

/// A SOA of the name asked for, so that it is below no zone cut, kept for [`POLICY_TTL`].
fn soa_record() -> Vec<u8> {
    let mut record = vec![0xc0, HEADER as u8, 0, 6, 0, 1];
    record.extend(POLICY_TTL.to_be_bytes());
    record.extend([0, 24, 0xc0, HEADER as u8, 0xc0, HEADER as u8]);
    for value in [1, 3600, 600, 86400, POLICY_TTL] {
        record.extend(u32::to_be_bytes(value));
    }
    record
}

pub(super) fn opt_record(code: u16, dnssec_ok: bool, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0];
    record.extend(types::OPT.to_be_bytes());
    record.extend(UDP_OCTETS.to_be_bytes());
    record.extend([(code >> 4) as u8, 0, u8::from(dnssec_ok) << 7, 0]);
    record.extend((options.len() as u16).to_be_bytes());
    record.extend(options);
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ede;
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RData;

    const QUERY: &[u8] =
        b"\xab\xcd\x01\x00\0\x01\0\0\0\0\0\x01\x03WwW\x07example\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";

    // Q3: SOA of 5 s, extended error with its text.
    #[test]
    fn a_policy_answer_is_a_message_others_can_read() {
        let query = Query::read(QUERY).unwrap();
        let error = ExtendedError::new(ede::FILTERED, "no rule allows www.example");
        let answer = Message::from_vec(&negative(&query, codes::NXDOMAIN, true, Some(&error))).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.queries[0].name().to_ascii(), "WwW.example.");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("no SOA") };
        assert_eq!((answer.authorities[0].ttl, soa.minimum), (POLICY_TTL, POLICY_TTL));
        let bytes = negative(&query, codes::NXDOMAIN, true, Some(&error));
        assert!(bytes.ends_with(b"no rule allows www.example"));
    }

    // Q5: RFC 8482, BADVERS.
    #[test]
    fn any_and_extended_codes() {
        let query = Query::read(QUERY).unwrap();
        let answer = Message::from_vec(&any(&query)).unwrap();
        assert!(matches!(answer.answers[0].data, RData::HINFO(_)));
        let bytes = unanswerable(QUERY, codes::BADVERS, query.question, true);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(u16::from(answer.metadata.response_code), codes::BADVERS);
    }

    // Q7
    #[test]
    fn a_truncated_answer_keeps_code_and_question() {
        let query = Query::read(QUERY).unwrap();
        let whole = negative(&query, codes::NXDOMAIN, true, None);
        let answer = Message::from_vec(&truncated(&whole, &query)).unwrap();
        assert!(answer.metadata.truncation && answer.authorities.is_empty());
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    }
}
