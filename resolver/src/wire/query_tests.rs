use super::*;
use proptest::prelude::*;

fn message(flags: u16, name: &[u8], record_type: u16, class: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34];
    bytes.extend(flags.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    bytes.extend(name);
    bytes.extend(record_type.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

fn with_opt(mut bytes: Vec<u8>, octets: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    bytes[11] += 1;
    bytes.extend([0, 0, 41]);
    bytes.extend(octets.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

const NAME: &[u8] = b"\x03WwW\x07example\x00";

fn code(bytes: &[u8]) -> Option<u16> {
    match Query::read(bytes) {
        Err(Unanswerable::Code { code, .. }) => Some(code),
        Err(Unanswerable::Silent) | Ok(_) => None,
    }
}

// N1, N2: names are lower-cased, letters, digits, - and _.
#[test]
fn reads_a_plain_question() {
    let bytes = message(0x0110, NAME, 28, 1);
    let query = Query::read(&bytes).unwrap();
    assert_eq!((query.id, query.record_type, query.name), (0x1234, 28, NAME));
    assert!(query.recursion_desired && query.checking_disabled && query.edns.is_none());
    assert_eq!(query.name_text(), "www.example");
    assert_eq!(query.udp_limit(), 512);
}

// Q5
#[test]
fn other_operations_classes_and_counts() {
    assert_eq!(code(&message(0x2800, NAME, 1, 1)), Some(codes::NOTIMP));
    assert_eq!(code(&message(0x0100, NAME, 1, 3)), Some(codes::REFUSED));
    assert_eq!(code(&message(0x0100, NAME, 252, 1)), Some(codes::REFUSED));
    for questions in [0, 2] {
        let mut bytes = message(0x0100, NAME, 1, 1);
        bytes[5] = questions;
        assert_eq!(code(&bytes), Some(codes::FORMERR), "{questions} questions");
    }
    assert_eq!(Query::read(&message(0x8100, NAME, 1, 1)), Err(Unanswerable::Silent));
}

// N1
#[test]
fn names_that_are_not_host_names() {
    assert_eq!(code(&message(0x0100, b"\x03a b\x00", 1, 1)), Some(codes::REFUSED));
    assert_eq!(code(&message(0x0100, b"\x03a.b\x00", 1, 1)), Some(codes::REFUSED));
    assert_eq!(code(&message(0x0100, b"\x00", 2, 1)), Some(codes::REFUSED));
    assert_eq!(code(&message(0x0100, b"\xc0\x0c", 1, 1)), Some(codes::FORMERR));
    assert_eq!(code(&message(0x0100, b"\x41aa\x00", 1, 1)), Some(codes::FORMERR));
    let longest: Vec<u8> = [&[61_u8][..], &[b'a'; 61]]
        .concat()
        .repeat(4)
        .into_iter()
        .chain([4, b'a', b'a', b'a', b'a', 0])
        .collect();
    assert_eq!(longest.len(), 254);
    assert!(Query::read(&message(0x0100, &longest, 1, 1)).is_ok());
    let too_long: Vec<u8> = [&[63_u8][..], &[b'a'; 63]].concat().repeat(4).into_iter().chain([0]).collect();
    assert_eq!(too_long.len(), 257);
    assert_eq!(code(&message(0x0100, &too_long, 1, 1)), Some(codes::FORMERR));
}

// Q5, Q7
#[test]
fn edns_is_read() {
    let bytes = with_opt(message(0x0100, NAME, 1, 1), 4096, 0x8000, &[]);
    let query = Query::read(&bytes).unwrap();
    assert!(query.dnssec_ok());
    assert_eq!(query.udp_limit(), 1232);
    let small = with_opt(message(0x0100, NAME, 1, 1), 100, 0, &[]);
    assert_eq!(Query::read(&small).unwrap().udp_limit(), 512);
    assert_eq!(code(&with_opt(message(0x0100, NAME, 1, 1), 1232, 1 << 16, &[])), Some(codes::BADVERS));
    let twice = with_opt(bytes.clone(), 1232, 0, &[]);
    assert_eq!(code(&twice), Some(codes::FORMERR));
    assert_eq!(code(&with_opt(message(0x0100, NAME, 1, 1), 1232, 0, &[0, 8, 0, 9, 1])), Some(codes::FORMERR));
}

// Q1
#[test]
fn the_forwarders_option_is_read_once() {
    let option = [0xff, 0xee, 0, 4, 10, 0, 0, 9];
    let bytes = with_opt(message(0x0100, NAME, 1, 1), 1232, 0, &option);
    let edns = Query::read(&bytes).unwrap().edns.unwrap();
    assert_eq!(edns.client, Some("10.0.0.9".parse().unwrap()));
    let twice = with_opt(message(0x0100, NAME, 1, 1), 1232, 0, &[option, option].concat());
    assert_eq!(code(&twice), Some(codes::FORMERR));
}

#[test]
fn every_cut_is_malformed_or_silent() {
    let bytes = with_opt(message(0x0100, NAME, 1, 1), 4096, 0x8000, &[0, 10, 0, 2, 1, 2]);
    for length in 0..bytes.len() {
        match Query::read(&bytes[..length]) {
            Err(Unanswerable::Silent) => assert!(length < HEADER),
            Err(Unanswerable::Code { code, .. }) => assert_eq!(code, codes::FORMERR, "{length}"),
            Ok(query) => panic!("{length} octets were read as {query:?}"),
        }
    }
    assert_eq!(code(&[&bytes[..], &[0]].concat()), Some(codes::FORMERR));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(query) = Query::read(&bytes) {
            prop_assert!(!query.name_text().is_empty());
        }
    }

    #[test]
    fn a_query_with_any_change_is_read_without_panic(at in 0_usize..60, value in any::<u8>()) {
        let mut bytes = with_opt(message(0x0100, NAME, 1, 1), 4096, 0x8000, &[0, 10, 0, 2, 1, 2]);
        if let Some(octet) = bytes.get_mut(at) {
            *octet = value;
        }
        if let Ok(query) = Query::read(&bytes) {
            prop_assert!(query.name_text().len() <= 253);
        }
    }
}
