use super::*;
use hickory_proto::op::{MessageType, OpCode};
use hickory_proto::rr::rdata::svcb::{EchConfigList, IpHint};
use hickory_proto::rr::rdata::{A, AAAA, NS, NULL, SOA};
use proptest::prelude::*;

#[derive(Default)]
struct Rules {
    forbidden: Option<&'static str>,
    hints: bool,
}

impl Terms for Rules {
    fn admission(&self, address: IpAddr) -> Admission {
        match address {
            IpAddr::V4(v4) if v4.is_private() => Admission::Remove(nameward_policy::address::judge(address)),
            IpAddr::V4(v4) if v4.is_loopback() => Admission::PassOnly,
            IpAddr::V4(_) | IpAddr::V6(_) => Admission::Grant,
        }
    }
    fn forbids_target(&self, name: &Name) -> bool {
        self.forbidden.is_some_and(|forbidden| name.to_ascii() == forbidden)
    }
    fn learns_hints(&self) -> bool {
        self.hints
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn a(owner: &str, address: [u8; 4]) -> Record {
    Record::from_rdata(name(owner), 60, RData::A(A::from(std::net::Ipv4Addr::from(address))))
}

fn cname(owner: &str, target: &str) -> Record {
    Record::from_rdata(name(owner), 30, RData::CNAME(CNAME(name(target))))
}

fn message(answers: Vec<Record>) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.answers = answers;
    message
}

fn asked(record_type: RecordType) -> Asked {
    Asked { name: name("www.example."), record_type, dnssec_ok: false }
}

fn checked(answers: Vec<Record>) -> Checked {
    check(&message(answers), &asked(RecordType::A), Some(&Rules::default()))
}

const PUBLIC: [u8; 4] = [198, 51, 100, 7];
const PRIVATE: [u8; 4] = [10, 0, 0, 1];

// A1
#[test]
fn the_chain_is_followed_in_any_order_and_case() {
    let result =
        checked(vec![a("c.test.", PUBLIC), cname("B.test.", "c.TEST."), cname("WWW.example.", "b.test.")]);
    assert_eq!(result.addresses, [(PUBLIC.into(), 60)]);
    assert_eq!(result.chain, [name("b.test."), name("c.test.")]);
    assert_eq!((result.answers.len(), result.removed.foreign), (3, 0));
}

// A9: our random letter case, which servers repeat by pointing into the question, is nobody else's affair
#[test]
fn names_of_answers_are_in_lower_case() {
    let records = vec![cname("WwW.exAMPle.", "Cdn.exAMPle."), a("Cdn.exAMPle.", PUBLIC)];
    let answers = checked(records).answers;
    let text: Vec<String> = answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(text, ["www.example. cdn.example.", "cdn.example. 198.51.100.7"]);
}

// A1
#[test]
fn foreign_owners_and_types_are_dropped_and_counted() {
    let ns = Record::from_rdata(name("www.example."), 60, RData::NS(NS(name("ns.test."))));
    let result = checked(vec![a("www.example.", PUBLIC), a("bank.test.", [203, 0, 113, 9]), ns]);
    assert_eq!(result.addresses, [(PUBLIC.into(), 60)]);
    assert_eq!((result.answers.len(), result.removed.foreign), (1, 2));
}

// A1
#[test]
fn loops_and_long_chains_leave_nothing() {
    let result = checked(vec![
        cname("www.example.", "b.test."),
        cname("b.test.", "www.example."),
        a("b.test.", PUBLIC),
    ]);
    assert!(result.removed.bad_chain && result.answers.is_empty() && result.addresses.is_empty());
    let chain = |hops: usize| {
        let mut records: Vec<_> =
            (1..hops).map(|i| cname(&format!("n{i}.test."), &format!("n{}.test.", i + 1))).collect();
        records.push(cname("www.example.", "n1.test."));
        records.push(a(&format!("n{hops}.test."), PUBLIC));
        checked(records)
    };
    assert_eq!(chain(LONGEST_CHAIN).addresses.len(), 1);
    let longer = chain(LONGEST_CHAIN + 1);
    assert!(longer.removed.bad_chain && longer.addresses.is_empty());
}

// A1
#[test]
fn dname_is_followed_without_trusting_the_cname_beside_it() {
    let target = NULL::with(b"\x03new\x04test\x00".to_vec());
    let code = RecordType::from(39);
    let dname = Record::from_rdata(name("example."), 60, RData::Unknown { code, rdata: target });
    let result = checked(vec![cname("www.example.", "elsewhere.test."), dname, a("www.new.test.", PUBLIC)]);
    assert_eq!(result.chain, [name("www.new.test.")]);
    assert_eq!(result.addresses, [(PUBLIC.into(), 60)]);
}

// A3, A4
#[test]
fn private_addresses_are_removed_from_what_is_granted_only() {
    let records = vec![a("www.example.", PRIVATE), a("www.example.", PUBLIC)];
    let result = checked(records.clone());
    assert_eq!(result.addresses, [(PUBLIC.into(), 60)]);
    assert_eq!(result.removed.private, [IpAddr::from(PRIVATE)]);
    let passed = check(&message(records), &asked(RecordType::A), None);
    assert_eq!((passed.answers.len(), passed.addresses.len()), (2, 0));
}

// A3: an address that a block covers is passed on, not granted through the name.
#[test]
fn covered_addresses_are_passed_on_only() {
    let result = checked(vec![a("www.example.", [127, 0, 0, 1])]);
    assert_eq!((result.answers.len(), result.addresses.len()), (1, 0));
}

// Q4
#[test]
fn a_strict_chain_stops_at_a_forbidden_target() {
    let records = vec![cname("www.example.", "b.test."), a("b.test.", PUBLIC)];
    let rules = Rules { forbidden: Some("b.test."), hints: false };
    let result = check(&message(records), &asked(RecordType::A), Some(&rules));
    assert_eq!(result.removed.forbidden_target, Some(name("b.test.")));
    assert!(result.answers.is_empty() && result.addresses.is_empty());
}

fn https() -> Record {
    let params = vec![
        (
            SvcParamKey::Mandatory,
            SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Port, SvcParamKey::Ipv4Hint])),
        ),
        (SvcParamKey::Port, SvcParamValue::Port(8443)),
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A::from(std::net::Ipv4Addr::from(PUBLIC))])),
        ),
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2]))),
        (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)])),
        ),
    ];
    let service = SVCB::new(1, name("svc.example."), params);
    Record::from_rdata(name("www.example."), 60, RData::HTTPS(HTTPS(service)))
}

fn keys(result: &Checked) -> Vec<SvcParamKey> {
    let RData::HTTPS(https) = &result.answers[0].data else { panic!("no HTTPS record") };
    https.0.svc_params.iter().map(|(key, _)| *key).collect()
}

// A2
#[test]
fn hints_and_ech_are_removed_and_priority_target_port_stay() {
    let result = check(&message(vec![https()]), &asked(RecordType::HTTPS), Some(&Rules::default()));
    assert_eq!(keys(&result), [SvcParamKey::Mandatory, SvcParamKey::Port]);
    assert!(result.addresses.is_empty() && result.removed.hints);
    let RData::HTTPS(https) = &result.answers[0].data else { panic!("no HTTPS record") };
    assert_eq!((https.0.svc_priority, &https.0.target_name), (1, &name("svc.example.")));
    assert_eq!(https.0.svc_params[0].1, SvcParamValue::Mandatory(Mandatory(vec![SvcParamKey::Port])));
}

// A2: `hints: learn`
#[test]
fn learned_hints_are_granted() {
    let rules = Rules { hints: true, ..Rules::default() };
    let result = check(&message(vec![https()]), &asked(RecordType::HTTPS), Some(&rules));
    assert_eq!(result.addresses.len(), 2);
    assert!(!keys(&result).contains(&SvcParamKey::EchConfigList));
}

// Q10: signatures go with the records that they cover, for those who ask.
#[test]
fn signatures_are_for_those_who_ask() {
    let covering = |covered: u16| {
        let mut data = covered.to_be_bytes().to_vec();
        data.extend([0; 20]);
        let rdata = NULL::with(data);
        Record::from_rdata(name("www.example."), 60, RData::Unknown { code: RecordType::RRSIG, rdata })
    };
    let records = vec![a("www.example.", PUBLIC), covering(1), covering(16)];
    assert_eq!(checked(records.clone()).answers.len(), 1);
    let asked = Asked { dnssec_ok: true, ..asked(RecordType::A) };
    assert_eq!(check(&message(records), &asked, Some(&Rules::default())).answers.len(), 2);
}

#[test]
fn a_negative_answer_keeps_its_own_soa_only() {
    let soa = |owner: &str| {
        let data = SOA::new(name(owner), name(owner), 1, 1, 1, 1, 60);
        Record::from_rdata(name(owner), 60, RData::SOA(data))
    };
    let mut message = message(Vec::new());
    message.authorities = vec![soa("example."), soa("bank.test.")];
    let result = check(&message, &asked(RecordType::A), Some(&Rules::default()));
    assert_eq!(result.authorities.len(), 1);
    assert_eq!(result.authorities[0].name, name("example."));
}

proptest! {
    // A1: whatever the answer, every address granted is at the end of a chain that starts at the question.
    #[test]
    fn nothing_unreachable_is_granted(edges in proptest::collection::vec((0_usize..6, 0_usize..6), 0..12),
                                      owners in proptest::collection::vec(0_usize..6, 0..6)) {
        let label = |node: usize| if node == 0 { "www.example.".to_owned() } else { format!("n{node}.test.") };
        let mut records: Vec<_> = edges.iter().map(|(from, to)| cname(&label(*from), &label(*to))).collect();
        records.extend(owners.iter().map(|owner| a(&label(*owner), [198, 51, 100, *owner as u8])));
        let result = checked(records);
        let mut reachable = vec![0];
        for _ in 0..6 {
            for (from, to) in &edges {
                if reachable.contains(from) && !reachable.contains(to) {
                    reachable.push(*to);
                }
            }
        }
        for (address, _) in result.addresses {
            let IpAddr::V4(v4) = address else { unreachable!("only IPv4 was made") };
            prop_assert!(reachable.contains(&usize::from(v4.octets()[3])));
        }
    }
}
