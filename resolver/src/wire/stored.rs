//! An answer kept as bytes: ID, flags, letter case of the question and TTLs are patched in at remembered places.

use super::query::Query;
use super::{HEADER, skip_name, types, u16_at, u32_at};

/// The bytes of an answer and where they change from one client to the next, with the key that it is kept under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// Key, message, and two octets for the place of each TTL: one allocation, because every answer reads all three.
    octets: Box<[u8]>,
    message_at: u16,
    ttls_at: u32,
    ttl: u32,
}

impl StoredAnswer {
    /// Takes a whole answer with one question. Nothing when it is malformed or longer than a message may be, or the key is.
    pub fn new(key: &[u8], message: &[u8]) -> Option<Self> {
        let records: usize = (3..6).map(|i| u16_at(message, 2 * i).map(usize::from)).sum::<Option<_>>()?;
        let message_at = u16::try_from(key.len()).ok()?;
        let ttls_at = u32::from(message_at) + u32::from(u16::try_from(message.len()).ok()?);
        let mut octets = [key, message].concat();
        let mut at = skip_name(message, HEADER)? + 4;
        let mut ttl = u32::MAX;
        for _ in 0..records {
            let fixed = skip_name(message, at)?;
            if u16_at(message, fixed)? != types::OPT {
                octets.extend(u16::try_from(fixed + 4).ok()?.to_ne_bytes());
                ttl = ttl.min(u32_at(message, fixed + 4)?);
            }
            at = fixed + 10 + usize::from(u16_at(message, fixed + 8)?);
        }
        (at == message.len()).then(|| Self { octets: octets.into(), message_at, ttls_at, ttl })
    }

    /// What it is kept under.
    pub fn key(&self) -> &[u8] {
        &self.octets[..self.message_at.into()]
    }

    /// The shortest TTL of its records in seconds when it was stored; `u32::MAX` without records.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// The message as stored.
    pub fn message(&self) -> &[u8] {
        &self.octets[self.message_at.into()..self.ttls_at as usize]
    }

    /// Memory it takes beside itself.
    pub fn memory(&self) -> usize {
        self.octets.len()
    }

    /// Writes the answer for this query, `age` seconds after it was stored; no TTL falls below `least`.
    pub fn write(&self, query: &Query<'_>, age: u32, least: u32, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(self.message());
        let message = &mut into[start..];
        message[..2].copy_from_slice(&query.id.to_be_bytes());
        message[2] = (message[2] & 0xfe) | u8::from(query.recursion_desired);
        message[HEADER..HEADER + query.name.len()].copy_from_slice(query.name);
        if age == 0 && least == 0 {
            return;
        }
        for place in self.octets[self.ttls_at as usize..].chunks_exact(2) {
            let at = usize::from(u16::from_ne_bytes([place[0], place[1]]));
            let field = &mut message[at..at + 4];
            let ttl = u32::from_be_bytes([field[0], field[1], field[2], field[3]]);
            field.copy_from_slice(&ttl.saturating_sub(age).max(least).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{codes, reply};
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    const QUERY: &[u8] =
        b"\xab\xcd\x01\x00\0\x01\0\0\0\0\0\x01\x03www\x07example\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";
    const OTHER: &[u8] =
        b"\x01\x02\x00\x00\0\x01\0\0\0\0\0\x01\x03wWw\x07exAMPle\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";

    #[test]
    fn id_case_flags_and_ttl_are_the_askers() {
        let stored = StoredAnswer::new(
            b"key",
            &reply::negative(&Query::read(QUERY).unwrap(), codes::NXDOMAIN, true, None),
        )
        .unwrap();
        assert_eq!(stored.key(), b"key");
        assert_eq!(stored.ttl(), reply::POLICY_TTL);
        let mut bytes = Vec::new();
        stored.write(&Query::read(OTHER).unwrap(), 2, 0, &mut bytes);
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(answer.metadata.id, 0x0102);
        assert!(!answer.metadata.recursion_desired);
        assert_eq!(answer.queries[0].name().to_ascii(), "wWw.exAMPle.");
        assert_eq!(answer.authorities[0].ttl, 3);
        bytes.clear();
        stored.write(&Query::read(OTHER).unwrap(), 60, 1, &mut bytes);
        assert_eq!(Message::from_vec(&bytes).unwrap().authorities[0].ttl, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_not_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Some(stored) = StoredAnswer::new(&bytes[..bytes.len() / 2], &bytes) {
                prop_assert_eq!((stored.key(), stored.message()), (&bytes[..bytes.len() / 2], &bytes[..]));
            }
        }
    }
}
