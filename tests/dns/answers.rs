//! What of an upstream's answer reaches the workload, and for how long.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{
            A, AAAA, HTTPS, SOA,
            svcb::{Alpn, EchConfigList, IpHint, SVCB, SvcParamKey, SvcParamValue},
        },
    },
};
use nameward_policy::Hints;
use nameward_resolver::decisions::Reason;
use nameward_test_support::{Asked, Reply, address_record, wait_until_async};

use crate::{
    client::{addresses, query, why},
    lab::{Lab, SOON, alias, allow, at, external, one},
};

fn code(answer: &Message) -> ResponseCode {
    answer.metadata.response_code
}

fn first_label(asked: &Asked) -> String {
    asked.name.to_ascii_lowercase().split('.').next().unwrap().to_owned()
}

// A1
#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_chain_leads_to_is_passed_on() {
    let lab = Lab::new(|asked| {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.add_answer(address_record("bank.example.", 60, external(66)));
        message.add_answer(alias("bank.example.", "evil.example."));
        message.add_answer(address_record("end.example.", 60, external(1)));
        message.add_answer(alias(&asked.name, "middle.example."));
        message.add_answer(alias("middle.example.", "end.example."));
        message.add_authority(address_record("ns.example.", 60, external(67)));
        message.add_additional(address_record(&asked.name, 60, external(68)));
        Reply::Message(Box::new(message))
    });
    let lab = lab.await;
    let answer = lab.workload().ask("allowed.example").await;
    let owners: Vec<_> = answer.answers.iter().map(|record| record.name.to_ascii()).collect();
    assert_eq!(owners, ["allowed.example.", "middle.example.", "end.example."]);
    assert_eq!((addresses(&answer), lab.enforcer.addresses()), (vec![external(1)], vec![external(1)]));
    assert_eq!((answer.authorities.len(), answer.additionals.len()), (0, 0));
    let request = lab.enforcer.asked().remove(0);
    let chain: Vec<_> = request.chain.iter().map(|name| &**name).collect();
    assert_eq!(chain, ["middle.example", "end.example"]);
    assert_eq!(lab.server.counters().foreign_records.value(), 2);
}

fn chain(asked: &Asked, hops: usize) -> Reply {
    let mut records = vec![alias(&asked.name, "hop1.example.")];
    records.extend((1..hops).map(|n| alias(&format!("hop{n}.example."), &format!("hop{}.example.", n + 1))));
    records.push(address_record(&format!("hop{hops}.example."), 60, external(1)));
    Reply::Records(records)
}

// A1
#[tokio::test(flavor = "multi_thread")]
async fn chains_have_sixteen_hops_and_an_end() {
    let lab = Lab::new(|asked| match &*first_label(asked) {
        "sixteen" => chain(asked, 16),
        "seventeen" => chain(asked, 17),
        "self" => Reply::Records(vec![alias(&asked.name, &asked.name)]),
        _ => Reply::Records(vec![alias(&asked.name, "b.example."), alias("b.example.", &asked.name)]),
    });
    let lab = lab.await;
    let client = lab.workload();
    assert_eq!(addresses(&client.ask("sixteen.wild.example").await), [external(1)]);
    for name in ["seventeen", "self", "loop"] {
        let answer = client.ask(&format!("{name}.wild.example")).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
        assert!(why(&answer).unwrap().1.contains("endless"), "{name}");
    }
    assert_eq!((lab.enforcer.asked().len(), lab.server.counters().bad_chains.value()), (1, 3));
}

fn service(asked: &Asked) -> Reply {
    let parameters = vec![
        (SvcParamKey::Alpn, SvcParamValue::Alpn(Alpn(vec!["h2".into()]))),
        (SvcParamKey::Port, SvcParamValue::Port(8443)),
        (
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A::new(198, 51, 100, 1), A::new(10, 0, 0, 1)])),
        ),
        (SvcParamKey::EchConfigList, SvcParamValue::EchConfigList(EchConfigList(vec![1, 2, 3]))),
        (
            SvcParamKey::Ipv6Hint,
            SvcParamValue::Ipv6Hint(IpHint(vec![AAAA::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)])),
        ),
    ];
    let target = Name::from_ascii("svc.example.").unwrap();
    let data = RData::HTTPS(HTTPS(SVCB::new(1, target, parameters)));
    Reply::Records(vec![Record::from_rdata(Name::from_ascii(&asked.name).unwrap(), 60, data)])
}

// A2
#[tokio::test(flavor = "multi_thread")]
async fn service_records_lose_their_hints_or_have_them_learned() {
    let lab = Lab::new(service).await;
    let removes = lab.workload();
    let learns = lab.workload_with("l", |rules| rules.settings.hints = Hints::Learn);
    let parameters = |answer: &Message| {
        let RData::HTTPS(https) = &answer.answers[0].data else { panic!("{answer:?}") };
        assert_eq!((https.0.svc_priority, https.0.target_name.to_ascii()), (1, "svc.example.".to_owned()));
        https.0.svc_params.clone()
    };
    let answer = removes.ask_for("allowed.example", RecordType::HTTPS).await;
    let keys: Vec<_> = parameters(&answer).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [SvcParamKey::Alpn, SvcParamKey::Port]);
    assert_eq!(lab.enforcer.asked().len(), 0);
    let answer = learns.ask_for("allowed.example", RecordType::HTTPS).await;
    let left = parameters(&answer);
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(
        left.contains(&(
            SvcParamKey::Ipv4Hint,
            SvcParamValue::Ipv4Hint(IpHint(vec![A::new(198, 51, 100, 1)]))
        ))
    );
    assert_eq!(lab.enforcer.addresses(), [external(1)]);
}

/// Addresses that are not globally reachable, plain and wrapped.
const PRIVATE: [&str; 17] = [
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "127.0.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "198.18.0.1",
    "::1",
    "::",
    "fd00::1",
    "fe80::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "2002:0a00:0001::1",
];

// A3, A4: rebinding
#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_are_removed_and_never_granted() {
    for text in PRIVATE {
        let private: IpAddr = text.parse().unwrap();
        let kind = if private.is_ipv4() { RecordType::A } else { RecordType::AAAA };
        let public: IpAddr = if private.is_ipv4() { external(1) } else { "2001:db8::1".parse().unwrap() };
        let lab = Lab::new(move |asked| match &*first_label(asked) {
            "mixed" => at(asked, 60, [private, public]),
            _ => at(asked, 60, [private]),
        });
        let lab = lab.await;
        let client = lab.workload();
        // The second answer is from memory.
        for _ in 0..2 {
            let answer = client.ask_for("allowed.example", kind).await;
            assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0), "{text}");
            let (number, words) = why(&answer).unwrap();
            assert!(number == 17 && words.contains("private-address"), "{text}: {words}");
            assert_eq!(addresses(&client.ask_for("mixed.wild.example", kind).await), [public], "{text}");
        }
        assert_eq!(lab.enforcer.addresses(), [public], "{text}");
        assert!(lab.log.denials("allowed.example").contains(&Reason::PrivateAddress));
    }
}

// A3: what a rule may permit, and what none can
#[tokio::test(flavor = "multi_thread")]
async fn rules_permit_private_addresses_but_not_our_own() {
    let [private, loopback, metadata, node]: [IpAddr; 4] =
        [[10, 0, 0, 1], [127, 0, 0, 1], [169, 254, 169, 254], [203, 0, 113, 9]].map(IpAddr::from);
    let lab = Lab::new(move |asked| at(asked, 60, [private, loopback, metadata, node])).await;
    let client = lab.workload_with("w", |rules| {
        rules.allowed = vec![allow("allowed.example", |rule| rule.private_addresses = true)];
        rules.own_node = vec!["203.0.113.9/32".parse().unwrap()];
    });
    assert_eq!(addresses(&client.ask("allowed.example").await), [private]);
    assert_eq!(lab.enforcer.addresses(), [private]);
}

// A5
#[tokio::test(flavor = "multi_thread")]
async fn ttls_have_bounds() {
    let lab = Lab::new(|asked| {
        let ttl = match &*first_label(asked) {
            "none" => 0,
            "week" => 604_800,
            "longest" => u32::MAX,
            _ => 60,
        };
        at(asked, ttl, [external(1)])
    });
    let lab = lab.await;
    let client = lab.workload();
    for (name, ttl) in [("none", 5), ("usual", 60), ("week", 3_600), ("longest", 3_600)] {
        let answer = client.ask(&format!("{name}.wild.example")).await;
        assert_eq!(answer.answers[0].ttl, ttl, "{name}");
        let request = lab.enforcer.asked().pop().unwrap();
        assert_eq!(request.addresses, [(external(1), Duration::from_secs(ttl.into()))], "{name}");
    }
    // What is passed on unseen is bounded, too: nothing is remembered for ever.
    let pass = lab.workload_with("p", |rules| rules.mode = nameward_policy::DnsMode::Pass);
    assert_eq!(pass.ask("longest.example").await.answers[0].ttl, 86_400);
}

// A5: a remembered answer grows old
#[tokio::test(flavor = "multi_thread")]
async fn a_remembered_ttl_counts_down_and_ends() {
    let lab = Lab::new(|asked| at(asked, 2, [external(1)])).await;
    let client = lab.workload_with("w", |rules| rules.ttl.min_seconds = 1);
    let first = client.ask("allowed.example").await.answers[0].ttl;
    assert_eq!(first, 2);
    wait_until_async("an older answer", SOON, async || {
        (client.ask("allowed.example").await.answers[0].ttl < first).then_some(())
    })
    .await;
    wait_until_async("a new answer", SOON, async || {
        client.ask("allowed.example").await;
        (lab.upstream.asked().len() == 2).then_some(())
    })
    .await;
    assert_eq!(lab.enforcer.asked().len(), 2);
}

// A6, A7: what changes from answer to answer is all granted
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_addresses_of_one_name_are_granted() {
    let address = |n: u32| IpAddr::from((0xc633_0000 + n).to_be_bytes());
    let lab = Lab::new(move |asked| at(asked, 60, (0..1_000).map(address))).await;
    let answer = lab.workload().ask_tcp(&query("allowed.example", RecordType::A)).await;
    assert_eq!((addresses(&answer).len(), lab.enforcer.addresses().len()), (1_000, 1_000));
}

// A1
#[tokio::test(flavor = "multi_thread")]
async fn records_that_come_twice_are_passed_on_once() {
    let lab = Lab::new(|asked| at(asked, 60, (1..=20).chain(1..=20).map(external))).await;
    let answer = lab.workload().ask("allowed.example").await;
    assert_eq!(addresses(&answer), (1..=20).map(external).collect::<Vec<_>>());
    assert_eq!(lab.enforcer.addresses().len(), 20);
}

fn start_of_authority(zone: &str, ttl: u32, minimum: u32) -> Record {
    let zone = Name::from_ascii(zone).unwrap();
    let data = RData::SOA(SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, minimum));
    Record::from_rdata(zone, ttl, data)
}

// RFC 2308, RFC 2181
#[tokio::test(flavor = "multi_thread")]
async fn absent_names_are_kept_as_their_zone_says() {
    let lab = Lab::new(|asked| {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        match &*first_label(asked) {
            "kept" => drop(message.add_authority(start_of_authority("wild.example.", 300, 60))),
            "foreign" => drop(message.add_authority(start_of_authority("bank.example.", 300, 60))),
            _ => {}
        }
        Reply::Message(Box::new(message))
    });
    let lab = lab.await;
    let client = lab.workload();
    for (name, authorities) in [("kept", 1), ("foreign", 0), ("bare", 0)] {
        let name = format!("{name}.wild.example");
        for _ in 0..3 {
            let answer = client.ask(&name).await;
            assert_eq!((code(&answer), answer.authorities.len()), (ResponseCode::NXDomain, authorities));
            assert_eq!(why(&answer), None);
        }
    }
    assert_eq!((lab.upstream.count("kept.wild.example"), lab.upstream.count("bare.wild.example")), (1, 3));
    // Absent for one type is not absent for another.
    client.ask_for("kept.wild.example", RecordType::AAAA).await;
    assert_eq!(lab.upstream.count("kept.wild.example"), 2);
}

// A8
#[tokio::test(flavor = "multi_thread")]
async fn silence_and_failures_are_answered_in_time() {
    let lab = Lab::new(|asked| match &*first_label(asked) {
        "silent" => Reply::Silence,
        "broken" => Reply::Code(ResponseCode::ServFail),
        "refused" => Reply::Code(ResponseCode::Refused),
        _ => Reply::Bytes(vec![0xff; 64]),
    });
    let lab = lab.await;
    let client = lab.workload();
    for name in ["silent", "broken", "refused", "garbage"] {
        let started = Instant::now();
        let answer = client.ask(&format!("{name}.wild.example")).await;
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::ServFail, 0), "{name}");
        assert!(why(&answer).unwrap().1.contains("upstream"), "{name}: {answer:?}");
        // 5 s, and what a busy machine takes.
        assert!(started.elapsed() < Duration::from_secs(8), "{name}: {:?}", started.elapsed());
    }
    assert_eq!(lab.enforcer.asked().len(), 0);
}

// A8: stale answers only while the grant behind them lives
#[tokio::test(flavor = "multi_thread")]
async fn stale_answers_live_as_long_as_their_grants() {
    let up = Arc::new(AtomicBool::new(true));
    let switch = up.clone();
    let lab = Lab::new(move |asked| match switch.load(Ordering::SeqCst) {
        true => at(asked, 1, [external(1)]),
        false => Reply::Code(ResponseCode::ServFail),
    });
    let lab = lab.await;
    let client = lab.workload_with("w", |rules| {
        rules.ttl.min_seconds = 1;
        rules.allowed = vec![
            allow("long.example", |rule| rule.grace = SOON * 10),
            allow("short.example", |rule| rule.grace = Duration::ZERO),
        ];
    });
    for name in ["long.example", "short.example"] {
        assert_eq!(addresses(&client.ask(name).await), [external(1)]);
    }
    up.store(false, Ordering::SeqCst);
    let over = "the answer without grace is over";
    wait_until_async(over, SOON, async || {
        (code(&client.ask("short.example").await) == ResponseCode::ServFail).then_some(())
    })
    .await;
    let answer = client.ask("long.example").await;
    assert_eq!((addresses(&answer), answer.answers[0].ttl), (vec![external(1)], 5));
    assert!(lab.server.counters().stale.value() > 0);
}

// A9
#[tokio::test(flavor = "multi_thread")]
async fn lies_that_come_first_are_waited_out() {
    let lab = Lab::new(|asked| {
        let lie = |change: &dyn Fn(&mut Message)| {
            let mut message = asked.message.clone();
            message.metadata.message_type = MessageType::Response;
            message.add_answer(address_record(&asked.name, 60, external(66)));
            change(&mut message);
            Reply::Bytes(message.to_vec().unwrap())
        };
        let other_name = |text: &str| Name::from_ascii(text).unwrap();
        let letters: String = asked
            .name
            .chars()
            .map(|c| if c.is_ascii_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() })
            .collect();
        Reply::Many(vec![
            lie(&|message| message.metadata.id ^= 1),
            lie(&|message| {
                message.queries[0].set_name(other_name("bank.example."));
            }),
            lie(&|message| {
                message.queries[0].set_name(other_name(&letters));
            }),
            lie(&|message| message.metadata.message_type = MessageType::Query),
            one(asked),
        ])
    });
    let lab = lab.await;
    assert_eq!(addresses(&lab.workload().ask("allowed.example").await), [external(1)]);
    assert_eq!((lab.enforcer.addresses(), lab.server.counters().mismatched.value()), (vec![external(1)], 4));
}
