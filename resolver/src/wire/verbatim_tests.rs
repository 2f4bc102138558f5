use hickory_proto::op::{Message, MessageType, OpCode, Query as Asked, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::answer;
use crate::check::{self, check};

const NAME: &[u8] = b"\x03www\x07example\x04test\x00";
const QUERY: &[u8] =
    b"\xab\xcd\x01\x00\0\x01\0\0\0\0\0\x01\x03WWw\x07example\x04tesT\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, last: u8, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(198, 51, 100, last)))
}

fn cname(owner: &str, target: &str, ttl: u32) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

fn message(answers: Vec<Record>) -> Message {
    let mut message = Message::new(7, MessageType::Response, OpCode::Query);
    message.add_query(Asked::query(name("wWw.exAMPle.test."), RecordType::A));
    message.answers = answers;
    message
}

fn octets(answers: Vec<Record>) -> Vec<u8> {
    message(answers).to_vec().unwrap()
}

fn read(message: &[u8]) -> Option<Verbatim> {
    Verbatim::read(message, NAME, types::A)
}

/// Message, addresses with their TTLs, aliases.
type ByRecords = (Message, Vec<(IpAddr, u32)>, Vec<Arc<str>>);

/// What the way by records passes on, of the same answer to the same client.
fn by_records(message: &[u8]) -> Option<ByRecords> {
    let (query, message) = (Query::read(QUERY).unwrap(), Message::from_vec(message).ok()?);
    let name = answer::name_of(&query)?;
    let asked = check::Asked { name: name.clone(), record_type: RecordType::A, dnssec_ok: false };
    let checked = check(&message, &asked, None);
    let chain = checked.chain.iter().map(|name| name.to_ascii().trim_end_matches('.').into()).collect();
    let addresses = answer::addresses_of(&checked);
    let addresses = addresses.into_iter().map(|(address, ttl)| (address, ttl.as_secs() as u32)).collect();
    let built = answer::build(&query, &name, checked, message.metadata.authentic_data)?;
    Some((Message::from_vec(&built).ok()?, addresses, chain))
}

/// Both ways pass on the same.
fn same(octets: &[u8]) -> bool {
    let Some(verbatim) = read(octets) else { return true };
    let Some((message, addresses, chain)) = by_records(octets) else { return false };
    let written = verbatim.write(&Query::read(QUERY).unwrap(), |ttl| ttl).unwrap();
    let written = Message::from_vec(&written).unwrap();
    (verbatim.addresses(), verbatim.chain()) == (&addresses[..], &chain[..])
        && (&written.answers, &written.authorities) == (&message.answers, &message.authorities)
        && written.metadata == message.metadata
        && written.edns == message.edns
}

// A1, A2
#[test]
fn addresses_and_the_chain_that_leads_to_them_are_taken() {
    let octets = octets(vec![
        cname("www.example.test.", "CDN.example.test.", 30),
        cname("cdn.example.test.", "edge.test.", 20),
        a("EDGE.test.", 1, 60),
        a("edge.test.", 2, 10),
    ]);
    let verbatim = read(&octets).unwrap();
    let address = |last| IpAddr::from([198, 51, 100, last]);
    assert_eq!(verbatim.addresses(), [(address(1), 60), (address(2), 10)]);
    assert_eq!(
        verbatim.chain().iter().map(|name| &**name).collect::<Vec<_>>(),
        ["cdn.example.test", "edge.test"]
    );
    assert_eq!(verbatim.ttl(), 10);
    assert!(same(&octets));
}

// A5, A9: the client's ID, flags and letter case, and the TTLs it is given
#[test]
fn the_client_gets_its_own_question_and_ttls_back() {
    let verbatim = read(&octets(vec![a("www.example.test.", 1, 60)])).unwrap();
    let query = Query::read(QUERY).unwrap();
    let written = verbatim.write(&query, |ttl| ttl - 50).unwrap();
    let message = Message::from_vec(&written).unwrap();
    assert_eq!(
        (message.metadata.id, message.queries[0].name().to_ascii().as_str()),
        (0xabcd, "WWw.example.tesT.")
    );
    assert!(
        message.metadata.recursion_desired && message.metadata.recursion_available && message.edns.is_some()
    );
    assert_eq!((message.answers[0].ttl, &message.answers[0].name), (10, &name("www.example.test.")));
}

// A1, A3, A4: what is anything else is judged elsewhere
#[test]
fn other_answers_are_left_to_others() {
    let good = || vec![a("www.example.test.", 1, 60)];
    assert!(read(&octets(good())).is_some());
    let others = [
        vec![],
        vec![cname("www.example.test.", "cdn.test.", 60)],
        vec![a("other.test.", 1, 60)],
        vec![a("www.example.test.", 1, 60), a("other.test.", 2, 60)],
        vec![a("www.example.test.", 1, 60), a("www.example.test.", 1, 60)],
        vec![a("cdn.test.", 1, 60), cname("www.example.test.", "cdn.test.", 60)],
        vec![cname("www.example.test.", "www.example.test.", 60), a("www.example.test.", 1, 60)],
        vec![Record::from_rdata(
            name("www.example.test."),
            60,
            RData::AAAA(AAAA::new(1, 0, 0, 0, 0, 0, 0, 1)),
        )],
        vec![Record::from_rdata(name("www.example.test."), 60, RData::NS(NS(name("ns.test."))))],
        vec![a("www.example.test.", 1, u32::MAX)],
    ];
    for (number, answers) in others.into_iter().enumerate() {
        assert_eq!(read(&octets(answers)), None, "answer {number}");
    }
    let changed = |change: fn(&mut Message)| {
        let mut message = message(good());
        change(&mut message);
        read(&message.to_vec().unwrap())
    };
    assert_eq!(changed(|message| message.metadata.response_code = ResponseCode::NXDomain), None);
    assert_eq!(changed(|message| message.metadata.truncation = true), None);
    assert_eq!(changed(|message| message.metadata.message_type = MessageType::Query), None);
    assert_eq!(changed(|message| message.queries.clear()), None);
    // An error code whose lower half is zero.
    let bad_version = |message: &mut Message| {
        message.edns = Some(hickory_proto::op::Edns::new());
        message.metadata.response_code = ResponseCode::BADVERS;
    };
    assert_eq!(changed(bad_version), None);
}

// A1: additional and authority records stay behind
#[test]
fn what_stands_behind_the_answer_stays_behind() {
    let mut whole = message(vec![a("www.example.test.", 1, 60)]);
    whole.add_authority(Record::from_rdata(name("test."), 60, RData::NS(NS(name("ns.test.")))));
    whole.add_additional(a("ns.test.", 9, 60));
    whole.edns = Some(hickory_proto::op::Edns::new());
    let verbatim = read(&whole.to_vec().unwrap()).unwrap();
    assert_eq!(verbatim.message(), read(&octets(vec![a("www.example.test.", 1, 60)])).unwrap().message());
}

#[test]
fn names_lead_only_to_names() {
    // The owner points into its own TTL, where a name stands until the TTL is changed.
    let mut pointing = octets(vec![a("x.", 1, 60)]);
    let at = HEADER + NAME.len() + 4;
    pointing.splice(at..at + 3, [0xc0, at as u8 + 6]);
    pointing[at + 6..at + 10].copy_from_slice(&[1, b'x', 0, 0]);
    assert_eq!(read(&pointing), None);
    let itself = {
        let mut octets = octets(vec![a("x.", 1, 60)]);
        octets.splice(at..at + 3, [0xc0, at as u8]);
        octets
    };
    assert_eq!(read(&itself), None);
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let names =
        || prop::sample::select(vec!["www.example.test.", "Cdn.test.", "EDGE.example.test.", "x.Cdn.test."]);
    let record = (names(), names(), 0..4_u8, 0..100_u32).prop_map(|(owner, target, kind, ttl)| match kind {
        0 => cname(owner, target, ttl),
        1 => {
            Record::from_rdata(name(owner), ttl, RData::SOA(SOA::new(name("ns."), name("h."), 1, 1, 1, 1, 1)))
        }
        last => a(owner, last, ttl),
    });
    prop::collection::vec(record, 0..6)
}

/// A chain in order, with addresses at its end.
fn chain() -> impl Strategy<Value = Vec<Record>> {
    let names = ["www.example.test.", "Cdn.test.", "EDGE.example.test.", "x.Cdn.test."];
    (0..names.len(), prop::collection::vec((any::<u8>(), 0..100_u32), 1..5)).prop_map(
        move |(length, addresses)| {
            let mut records: Vec<_> = (0..length).map(|at| cname(names[at], names[at + 1], 30)).collect();
            records.extend(addresses.into_iter().map(|(last, ttl)| a(names[length], last, ttl)));
            records
        },
    )
}

proptest! {
    // A1
    #[test]
    fn any_records_are_passed_on_as_the_way_by_records_does(answers in records()) {
        prop_assert!(same(&octets(answers)));
    }

    #[test]
    fn damaged_answers_are_passed_on_as_the_way_by_records_does(
        answers in chain(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut octets = octets(answers);
        for (at, value) in changes {
            let at = at.index(octets.len());
            octets[at] = value;
        }
        prop_assert!(same(&octets));
    }
}
