//! Any bytes as an upstream's answer. The first octet says what was asked; what reaches the client is what was granted.
#![no_main]

use std::sync::{Arc, LazyLock};

use hickory_proto::op::Message;
use libfuzzer_sys::fuzz_target;
use nameward_policy::{AddressClass, DnsRules, address::judge};
use nameward_resolver::probe;

#[path = "rules.rs"]
mod rules;

/// A, CNAME, TXT, AAAA, DNAME, SVCB, HTTPS, any other.
const TYPES: [u16; 8] = [1, 5, 16, 28, 39, 64, 65, 999];

static RULES: LazyLock<[Arc<DnsRules>; 2]> = LazyLock::new(|| [rules::rules(), rules::strict_rules()]);

fuzz_target!(|data: &[u8]| {
    let Some((first, answer)) = data.split_first() else { return };
    let rules = &RULES[usize::from(first >> 4 & 1)];
    let query = query(TYPES[usize::from(first & 7)], first & 8 != 0);
    let Some(passed) = probe::upstream_answer(&query, answer, rules) else { return };
    assert!(passed.ungranted().is_empty(), "passed on, and not granted: {:?}", passed.ungranted());
    for address in &passed.granted {
        assert_eq!(judge(*address), AddressClass::Global, "{address}");
    }
    // Records of rare types may be written in a form that the library does not read again.
    let Ok(message) = Message::from_vec(&passed.bytes) else { return };
    assert_eq!((message.queries.len(), message.additionals.len()), (1, 0));
});

fn query(record_type: u16, dnssec_ok: bool) -> Vec<u8> {
    let mut query = b"\x4e\x57\x01\0\0\x01\0\0\0\0\0\x01\x07allowed\x07example\0".to_vec();
    query.extend(record_type.to_be_bytes());
    query.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    query
}
