//! Who may ask what, and what is answered without anybody else.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, RecordType,
        rdata::opt::{ClientSubnet, EdnsCode, EdnsOption},
    },
};
use nameward_policy::{DnsAnswer, DnsMode};
use nameward_resolver::{decisions::Reason, endpoints::Identity};
use nameward_test_support::{FakeDns, Reply, wait_until_async};
use tokio::task::JoinSet;

use crate::{
    client::{addresses, plain_query, query, read, why, write},
    lab::{Lab, SOON, alias, allow, at, external, one},
};

/// Extended DNS errors.
const BLOCKED: u16 = 15;
const FILTERED: u16 = 17;
const PROHIBITED: u16 = 18;

fn code(answer: &Message) -> ResponseCode {
    answer.metadata.response_code
}

// Q1
#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let lab = Lab::new(one).await;
    let (known, unknown) = (lab.workload(), lab.listen(None));
    // A bare source address is no identity here, nor is what a stranger says of itself.
    lab.apply("source", 1, Identity::Source([127, 0, 0, 1].into()), |_| {});
    assert_eq!(addresses(&known.ask("allowed.example").await), [external(1)]);
    let mut claims = query("allowed.example", RecordType::A);
    let client = EdnsOption::Unknown(0xffee, vec![127, 0, 0, 1]);
    claims.edns.as_mut().unwrap().options_mut().insert(client);
    for question in [query("allowed.example", RecordType::A), claims] {
        for answer in [unknown.send(&question).await, unknown.ask_tcp(&question).await] {
            assert_eq!((code(&answer), addresses(&answer)), (ResponseCode::Refused, vec![]));
            assert_eq!(why(&answer).unwrap().0, PROHIBITED);
        }
    }
    assert_eq!(lab.server.counters().unknown_endpoint.value(), 4);
    assert_eq!(lab.upstream.asked().len(), 1);
}

// Q1, Q9, Q3: behind a forwarder its word counts; no SOA and no NODATA, which its cache would give to others
#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_forwarder_says_who_asks() {
    let lab = Lab::with(one, |config| config.trusted_forwarders = vec![[127, 0, 0, 1].into()]).await;
    let forwarder = lab.listen(None);
    let pod: IpAddr = [10, 1, 2, 3].into();
    lab.apply("pod", 1, Identity::Source(pod), |_| {});
    let for_client = |name: &str, client: &[u8]| {
        let mut question = query(name, RecordType::A);
        let option = EdnsOption::Unknown(0xffee, client.to_vec());
        question.edns.as_mut().unwrap().options_mut().insert(option);
        question
    };
    let answer = forwarder.send(&for_client("allowed.example", &[10, 1, 2, 3])).await;
    assert_eq!(addresses(&answer), [external(1)]);
    for name in ["evil.example", "below.example"] {
        let answer = forwarder.send(&for_client(name, &[10, 1, 2, 3])).await;
        assert_eq!((code(&answer), answer.authorities.len()), (ResponseCode::NXDomain, 0), "{name}");
    }
    let other = forwarder.send(&for_client("allowed.example", &[10, 1, 2, 4])).await;
    assert_eq!(code(&other), ResponseCode::Refused);
    let nobody = forwarder.send(&query("allowed.example", RecordType::A)).await;
    assert_eq!(code(&nobody), ResponseCode::Refused);
}

// Q2, Q3
#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_is_answered_here() {
    let lab = Lab::new(one).await;
    let client = lab.workload();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::HTTPS, RecordType::ANY] {
        let answer = client.ask_for("evil.example", kind).await;
        assert_eq!(code(&answer), ResponseCode::NXDomain, "{kind}");
        let RData::SOA(soa) = &answer.authorities[0].data else { panic!("no SOA: {answer:?}") };
        assert_eq!((answer.authorities[0].ttl, soa.minimum), (5, 5));
        let (number, text) = why(&answer).unwrap();
        assert!(number == FILTERED && text.contains("ci/runners"), "{text}");
    }
    // A name below is allowed (RFC 8020).
    let answer = client.ask("below.example").await;
    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!((answer.authorities.len(), why(&answer).unwrap().0), (1, FILTERED));
    // A deny wins over `*.wild.example` (R2).
    let answer = client.ask("denied.wild.example").await;
    let (number, text) = why(&answer).unwrap();
    assert_eq!((code(&answer), number), (ResponseCode::NXDomain, BLOCKED));
    assert!(text.contains("ClusterEgressPolicy guardrails"), "{text}");
    assert_eq!(lab.log.last(), (3, Some("ClusterEgressPolicy guardrails".into())));
    let refusing = lab.workload_with("r", |rules| rules.settings.answer = DnsAnswer::Refused);
    let answer = refusing.ask("evil.example").await;
    assert_eq!((code(&answer), answer.authorities.len()), (ResponseCode::Refused, 0));
    assert_eq!(lab.log.last(), (5, Some("EgressPolicy ci/runners".into())));
    client.ask("below.example").await;
    assert_eq!(lab.log.last(), (0, Some("EgressPolicy ci/runners".into())), "as NODATA");
    assert_eq!(lab.upstream.asked().len(), 0);
    assert_eq!(lab.log.denials("below.example"), [Reason::Filtered; 2]);
    // R6: answered, and told with the policy that would have denied it.
    let audited = lab.workload_with("a", |rules| rules.mode = DnsMode::Audit);
    assert_eq!(code(&audited.ask("denied.wild.example").await), ResponseCode::NoError);
    assert_eq!(lab.log.last(), (0, Some("ClusterEgressPolicy guardrails".into())));
}

// Q2 `false`, R6, A3 (what grants nothing is passed on as it is)
#[tokio::test(flavor = "multi_thread")]
async fn unfiltered_names_are_answered_and_not_granted() {
    let private: IpAddr = [10, 0, 0, 1].into();
    let lab = Lab::new(move |asked| at(asked, 60, [private])).await;
    let open = lab.workload_with("open", |rules| rules.settings.filter = false);
    assert_eq!(addresses(&open.ask("any.example").await), [private]);
    assert_eq!(lab.enforcer.asked().len(), 0);
}

// R11: what nothing isolates is answered as it is, and the enforcer hears of it for rules that may come.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_workloads_that_nothing_isolates_are_told() {
    let private: IpAddr = [10, 0, 0, 1].into();
    let lab = Lab::new(move |asked| at(asked, 60, [private])).await;
    let pass = lab.workload_with("pass", |rules| rules.mode = DnsMode::Pass);
    assert_eq!(addresses(&pass.ask("any.example").await), [private]);
    let told = lab.enforcer.asked();
    assert_eq!(told.iter().map(|request| &*request.name).collect::<Vec<_>>(), ["any.example"]);
}

// N1, N2, N3
#[tokio::test(flavor = "multi_thread")]
async fn names_are_compared_without_letter_case_and_dots() {
    let lab = Lab::new(one).await;
    let client = lab.workload();
    let cases = [
        ("ALLOWED.eXample", ResponseCode::NoError),
        ("a.wild.example", ResponseCode::NoError),
        ("A.b.WILD.example", ResponseCode::NoError),
        ("x_y-z.wild.example", ResponseCode::NoError),
        ("notwild.example", ResponseCode::NXDomain),
        ("a.allowed.example", ResponseCode::NXDomain),
        ("allowed.example.evil", ResponseCode::NXDomain),
    ];
    for (name, expected) in cases {
        for _ in 0..2 {
            let question = query(name, RecordType::A).to_vec().unwrap();
            let octets = client.send_octets(&question).await;
            let answer = Message::from_vec(&octets).unwrap();
            assert_eq!(code(&answer), expected, "{name}");
            // In the asker's letter case, from memory, too.
            let end = 12 + name.len() + 2;
            assert_eq!(&octets[12..end], &question[12..end], "{name}");
        }
    }
    // `*.wild.example` is not `wild.example` itself.
    assert_eq!(addresses(&client.ask("wild.example").await), Vec::<IpAddr>::new());
    for label in ["a b", "a*", "ä", "a.b\0"] {
        let octets = raw_question(&[label.as_bytes(), b"wild", b"example"]);
        let answer = Message::from_vec(&client.send_octets(&octets).await).unwrap();
        assert_eq!(code(&answer), ResponseCode::Refused, "{label:?}");
    }
    // A dot within a label is not a dot between labels.
    let octets = raw_question(&[b"allowed.example"]);
    assert_eq!(client.send_octets(&octets).await[3] & 0xf, 5);
}

fn raw_question(labels: &[&[u8]]) -> Vec<u8> {
    let mut octets = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(*label);
    }
    octets.extend([0, 0, 1, 0, 1]);
    octets
}

// Q4
#[tokio::test(flavor = "multi_thread")]
async fn the_question_name_decides_unless_the_chain_is_strict() {
    let lab = Lab::new(|asked| {
        let end = nameward_test_support::address_record("cdn.evil.example.", 60, external(1));
        Reply::Records(vec![alias(&asked.name, "cdn.evil.example."), end])
    });
    let lab = lab.await;
    let strict = |entry: &str| allow(entry, |rule| rule.strict_chain = true);
    let loose = lab.workload();
    let closed = lab.workload_with("c", |rules| rules.allowed = vec![strict("allowed.example")]);
    let open = lab.workload_with("o", |rules| {
        rules.allowed = vec![strict("allowed.example"), strict("cdn.evil.example")];
    });
    for client in [loose, open] {
        assert_eq!(addresses(&client.ask("allowed.example").await), [external(1)]);
    }
    assert_eq!(&*lab.enforcer.asked()[0].chain[0], "cdn.evil.example");
    let answer = closed.ask("allowed.example").await;
    assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 0));
    assert!(why(&answer).unwrap().1.contains("strictChain"));
    assert_eq!(lab.enforcer.asked().len(), 2);
}

// Q5
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_of_ours_is_answered_by_its_code() {
    let lab = Lab::new(one).await;
    let client = lab.workload();
    let usual = || query("allowed.example", RecordType::A);
    let name = || Name::from_ascii("allowed.example.").unwrap();
    let mut two = usual();
    two.add_query(Query::query(name(), RecordType::AAAA));
    let mut none = usual();
    none.queries.clear();
    let mut update = usual();
    update.metadata.op_code = OpCode::Update;
    let mut chaos = usual();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut version = usual();
    version.edns.as_mut().unwrap().set_version(1);
    let cases = [
        (two, ResponseCode::FormErr),
        (none, ResponseCode::FormErr),
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (version, ResponseCode::BADVERS),
        (query("allowed.example", RecordType::AXFR), ResponseCode::Refused),
        (query("allowed.example", RecordType::IXFR), ResponseCode::Refused),
    ];
    for (question, expected) in cases {
        // By number: 16 has two names.
        for answer in [client.send(&question).await, client.ask_tcp(&question).await] {
            assert_eq!(u16::from(code(&answer)), u16::from(expected), "{question:?}");
        }
    }
    let any = client.ask_for("allowed.example", RecordType::ANY).await;
    assert!(matches!(any.answers[..], [ref only] if matches!(only.data, RData::HINFO(_))), "{any:?}");
    assert_eq!(lab.upstream.asked().len(), 0);
    let mut subnet = usual();
    let option = EdnsOption::Subnet(ClientSubnet::new([203, 0, 113, 0].into(), 24, 0));
    subnet.edns.as_mut().unwrap().options_mut().insert(option);
    let answer = client.send(&subnet).await;
    assert_eq!(addresses(&answer), [external(1)]);
    assert!(answer.edns.unwrap().option(EdnsCode::Subnet).is_none());
    let forwarded = lab.upstream.asked().remove(0).message.edns.unwrap();
    assert!(forwarded.option(EdnsCode::Subnet).is_none());
}

// Q5, promise 7: bytes that are nearly a question
#[tokio::test(flavor = "multi_thread")]
async fn damaged_questions_do_no_harm() {
    let lab = Lab::new(one).await;
    let client = lab.workload();
    let whole = query("allowed.example", RecordType::A).to_vec().unwrap();
    let socket = client.socket().await;
    for end in 0..whole.len() {
        socket.send(&whole[..end]).await.unwrap();
    }
    for at in 0..whole.len() {
        for value in [0, 0x3f, 0x40, 0xc0, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            socket.send(&damaged).await.unwrap();
        }
    }
    socket.send(&[0xff; 4096]).await.unwrap();
    assert_eq!(addresses(&client.ask("allowed.example").await), [external(1)]);
    // Only names that are allowed went on.
    for asked in lab.upstream.asked() {
        assert_eq!(asked.name.to_ascii_lowercase(), "allowed.example.", "{asked:?}");
    }
}

// Q6
#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_was_meant_is_asked() {
    let lab = Lab::new(one).await;
    let meant = FakeDns::start(|asked| at(asked, 60, [external(2)])).await.unwrap();
    let client = lab.workload();
    let other = lab.listen(Some(meant.address()));
    let mut both = crate::lab::view("w", 2, Identity::Port(client.server.port()), |_| {});
    both.identity.push(Identity::Port(other.server.port()));
    lab.endpoints.apply(both);
    // From memory as well.
    for _ in 0..2 {
        assert_eq!(addresses(&client.ask("allowed.example").await), [external(1)]);
        assert_eq!(addresses(&other.ask("allowed.example").await), [external(2)]);
    }
    assert_eq!((lab.upstream.asked().len(), meant.asked().len()), (1, 1));
}

// Q6
#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_cluster_are_not_filtered_and_search_lists_are_short() {
    let lab = Lab::new(one).await;
    let client = lab.workload_with("w", |rules| {
        rules.settings.cluster_domain = Some("cluster.local".parse().unwrap());
        rules.allowed = vec![allow("registry.npmjs.org", |_| {})];
    });
    assert_eq!(addresses(&client.ask("web.prod.svc.cluster.local").await), [external(1)]);
    assert_eq!(lab.enforcer.asked().len(), 0);
    for search in ["ci.svc.cluster.local", "svc.cluster.local", "cluster.local"] {
        let answer = client.ask(&format!("registry.npmjs.org.{search}")).await;
        assert_eq!((code(&answer), why(&answer)), (ResponseCode::NXDomain, None));
    }
    assert_eq!(lab.upstream.asked().len(), 1);
    let strict = lab.workload_with("s", |rules| {
        rules.settings.cluster_domain = Some("cluster.local".parse().unwrap());
        rules.settings.filter_cluster_domain = true;
    });
    assert_eq!(code(&strict.ask("web.prod.svc.cluster.local").await), ResponseCode::NXDomain);
}

// Q7
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_for_a_datagram_comes_over_tcp() {
    let many = |asked: &nameward_test_support::Asked| {
        let count = if asked.name.to_ascii_lowercase().starts_with("few") { 40 } else { 200 };
        at(asked, 60, (1..=count).map(external))
    };
    let lab = Lab::new(many).await;
    let client = lab.workload();
    let sized = |octets| {
        let mut question = plain_query("few.wild.example", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(octets);
        question.set_edns(edns);
        question
    };
    let plain = plain_query("few.wild.example", RecordType::A);
    // 40 addresses are some 700 octets; twice, the second time from memory.
    for (question, limit, whole) in
        [(plain, 512, false), (sized(512), 512, false), (sized(600), 600, false), (sized(1232), 1232, true)]
    {
        for _ in 0..2 {
            let octets = client.send_octets(&question.to_vec().unwrap()).await;
            assert!(octets.len() <= limit, "{} octets of {limit}", octets.len());
            let answer = Message::from_vec(&octets).unwrap();
            assert_eq!((answer.metadata.truncation, addresses(&answer).len() == 40), (!whole, whole));
            assert_eq!(addresses(&client.ask_tcp(&question).await).len(), 40);
        }
    }
    // However much the client takes, a datagram of ours has 1232 octets at most.
    let mut large = query("many.wild.example", RecordType::A);
    large.edns.as_mut().unwrap().set_max_payload(65_535);
    assert!(client.send(&large).await.metadata.truncation);
    assert_eq!(addresses(&client.ask_tcp(&large).await).len(), 200);
}

// Q7: answers come as they are ready
#[tokio::test(flavor = "multi_thread")]
async fn questions_on_one_connection_do_not_wait_for_each_other() {
    let lab = Lab::new(|asked| match asked.name.to_ascii_lowercase().starts_with("slow") {
        true => Reply::After(Duration::from_millis(500), Box::new(one(asked))),
        false => one(asked),
    });
    let lab = lab.await;
    let mut stream = lab.workload().connect().await;
    let names = ["slow.wild.example", "a.wild.example", "evil.example"];
    for (id, name) in (1..).zip(names) {
        let mut question = query(name, RecordType::A);
        question.metadata.id = id;
        write(&mut stream, &question).await;
    }
    let mut order = Vec::new();
    for _ in names {
        let answer = read(&mut stream).await;
        let name = answer.queries[0].name().to_ascii();
        assert_eq!(name.trim_end_matches('.'), names[usize::from(answer.metadata.id) - 1]);
        order.push(answer.metadata.id);
    }
    assert_eq!(order.last(), Some(&1), "{order:?}");
}

// Q8, promise 6
#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_a_limit_is_told_and_others_notice_nothing() {
    let lab = Lab::new(|asked| match asked.name.to_ascii_lowercase().starts_with("never") {
        true => Reply::Silence,
        false => one(asked),
    });
    let lab = lab.await;
    let fast = lab.workload_with("fast", |rules| rules.limits.queries_per_second = 5);
    let waits = lab.workload_with("waits", |rules| rules.limits.pending_queries = 3);
    let other = lab.workload_with("other", |_| {});
    let mut codes = Vec::new();
    for _ in 0..30 {
        let answer = fast.ask("allowed.example").await;
        codes.push(code(&answer));
        if code(&answer) == ResponseCode::ServFail {
            assert!(why(&answer).unwrap().1.contains("limit; more than 5"), "{answer:?}");
        }
    }
    assert_eq!(codes[..5], [ResponseCode::NoError; 5]);
    assert!(codes.contains(&ResponseCode::ServFail));
    let mut waiting = JoinSet::new();
    for number in 0..3 {
        waiting.spawn(async move { waits.ask(&format!("never{number}.wild.example")).await });
    }
    wait_until_async("three questions wait", SOON, async || {
        let asked = lab.upstream.asked();
        let never = asked.iter().filter(|asked| asked.name.to_lowercase().starts_with("never"));
        (never.count() >= 3).then_some(())
    })
    .await;
    let answer = waits.ask("a.wild.example").await;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(why(&answer).unwrap().1.contains("limit; more than 3"), "{answer:?}");
    assert_eq!(addresses(&other.ask("a.wild.example").await), [external(1)]);
    // A8: and those that wait get an answer.
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(code(&answer.unwrap()), ResponseCode::ServFail);
    }
    assert_eq!(addresses(&waits.ask("a.wild.example").await), [external(1)]);
}

// Q8, promise 8: however many are over a limit, each second of a workload is told once
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_does_not_fill_the_log() {
    let lab = Lab::new(one).await;
    let flood = lab.workload_with("flood", |rules| rules.limits.queries_per_second = 1);
    let started = std::time::Instant::now();
    for _ in 0..300 {
        flood.ask("allowed.example").await;
    }
    let seconds = usize::try_from(started.elapsed().as_secs()).unwrap();
    let told = lab.log.denials("allowed.example").len();
    assert!((1..=seconds + 2).contains(&told), "{told} decisions in {seconds} seconds");
    assert!(lab.server.counters().limit.value() > 200);
}

// Q10
#[tokio::test(flavor = "multi_thread")]
async fn an_edited_answer_is_not_called_authentic() {
    let lab = Lab::new(|asked| {
        let mut message = Message::new(0, hickory_proto::op::MessageType::Response, OpCode::Query);
        message.metadata.authentic_data = true;
        message.metadata.recursion_available = true;
        let mut last = vec![external(1)];
        if asked.name.to_ascii_lowercase().starts_with("mixed") {
            last.push([10, 0, 0, 1].into());
        }
        for address in last {
            message.add_answer(nameward_test_support::address_record(&asked.name, 60, address));
        }
        Reply::Message(Box::new(message))
    });
    let lab = lab.await;
    let client = lab.workload();
    for (name, authentic) in [("allowed.example", true), ("mixed.wild.example", false)] {
        let mut question = query(name, RecordType::A);
        question.metadata.authentic_data = true;
        let answer = client.send(&question).await;
        assert_eq!((addresses(&answer), answer.metadata.authentic_data), (vec![external(1)], authentic));
    }
    // Who did not ask for the bit does not get it.
    let answer = client.ask("allowed.example").await;
    assert!(!answer.metadata.authentic_data);
}

// A8: nobody there at all
#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_is_a_failure_in_time() {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    let lab = Lab::with(one, |config| config.upstreams = vec![nowhere.into()]).await;
    let started = std::time::Instant::now();
    let answer = lab.workload().ask("allowed.example").await;
    assert_eq!(code(&answer), ResponseCode::ServFail);
    assert!(why(&answer).unwrap().1.contains("upstream"), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(lab.log.denials("allowed.example"), [Reason::Upstream]);
}
