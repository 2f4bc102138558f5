//! DNS messages as bytes: reading a query without copying it ([`query`]), writing the answers that need no
//! records from elsewhere ([`reply`]), passing on those that need no change ([`verbatim`]), and patching stored answers
//! ([`stored`]).
//!
//! Every function takes any bytes: what is malformed is an error or silence, never a panic. Records of other
//! servers are read and written by `hickory-proto`, not here.

pub mod query;
pub mod reply;
pub mod stored;
pub mod verbatim;

/// Octets of a message header.
pub const HEADER: usize = 12;
/// The longest name on the wire, with its final zero.
pub const LONGEST_NAME: usize = 255;
/// The class of the Internet.
pub(crate) const CLASS_IN: u16 = 1;
/// Octets that we send over UDP at most, and say that we take (Q7).
pub const UDP_OCTETS: u16 = 1232;
/// What a client without EDNS takes over UDP.
pub const PLAIN_UDP_OCTETS: u16 = 512;

/// Record types that are handled by number.
pub mod types {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Canonical name.
    pub const CNAME: u16 = 5;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// EDNS.
    pub const OPT: u16 = 41;
    /// Everything there is (RFC 8482).
    pub const ANY: u16 = 255;

    /// Whether a type stands for no records that could be asked for (RFC 6895): EDNS, keys and signatures of messages (249,
    /// 250), transfers (251 IXFR, 252 AXFR).
    pub const fn is_no_question(record_type: u16) -> bool {
        matches!(record_type, 0 | OPT | 249..=252)
    }
}

/// Response codes, the EDNS extended ones included.
pub mod codes {
    /// No error.
    pub const NOERROR: u16 = 0;
    /// The query cannot be understood.
    pub const FORMERR: u16 = 1;
    /// It could not be answered now.
    pub const SERVFAIL: u16 = 2;
    /// There is no such name.
    pub const NXDOMAIN: u16 = 3;
    /// The operation is unknown.
    pub const NOTIMP: u16 = 4;
    /// Refused.
    pub const REFUSED: u16 = 5;
    /// Unknown EDNS version.
    pub const BADVERS: u16 = 16;
}

/// Extended DNS errors (RFC 8914) that we give.
pub mod ede {
    /// Other.
    pub const OTHER: u16 = 0;
    /// A stale answer.
    pub const STALE_ANSWER: u16 = 3;
    /// Blocked: a deny rule.
    pub const BLOCKED: u16 = 15;
    /// Filtered: no rule allows it.
    pub const FILTERED: u16 = 17;
    /// Prohibited: nobody may ask this.
    pub const PROHIBITED: u16 = 18;
    /// No upstream could be reached.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// An upstream answered with an error of its own.
    pub const NETWORK_ERROR: u16 = 23;
}

/// Two octets at `at`, in network order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Four octets at `at`, in network order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Where the name that starts at `start` ends, if all of it can be read: pointers lead back to an earlier place (RFC 1035,
/// section 4.1.4), so that none goes in a circle, and the whole has at most 255 octets.
pub(crate) fn read_name(bytes: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut earliest, mut octets, mut end) = (start, start, 1, None);
    loop {
        match *bytes.get(at)? {
            0 => return Some(end.unwrap_or(at + 1)),
            length @ 1..=63 => {
                at += 1 + usize::from(length);
                octets += 1 + usize::from(length);
            }
            64..=191 => return None,
            192..=255 => {
                end = end.or(Some(at + 2));
                at = usize::from(u16_at(bytes, at)? & 0x3fff);
                if !(HEADER..earliest).contains(&at) {
                    return None;
                }
                earliest = at;
            }
        }
        if octets > LONGEST_NAME {
            return None;
        }
    }
}

/// Where the name that starts at `at` ends. A pointer ends it; where it points is not looked at: for messages of our own.
pub(crate) fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            192..=255 => return bytes.get(at + 1).map(|_| at + 2),
            64..=191 => return None,
        }
        if at - start > LONGEST_NAME {
            return None;
        }
    }
}
