//! Messages that are no questions, or hardly: each has an answer by an RFC or silence, and is counted; nothing hangs.
//!
//! What a fuzzer has found interesting (`fuzz/corpus`) is tried here as well, without the fuzzer.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use hickory_proto::op::{Message, ResponseCode};
use nameward_policy::DnsRules;
use nameward_resolver::{endpoints::Identity, probe};
use nameward_test_support::{Asked, Reply, Transport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use crate::{
    client::{Client, addresses, receive},
    lab::{Lab, SOON, external, one, view},
};

const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;
const QUESTION: &[u8] = b"\x07allowed\x07example\0\0\x01\0\x01";
/// Octets of a header, and where the question of these tests ends.
const HEADER: usize = 12;
const QUESTION_END: usize = HEADER + QUESTION.len();
const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
const LONGEST: usize = 65_535;

/// What a message deserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deserves {
    Silence,
    Code(u16),
    Answer,
}

use Deserves::{Answer, Code, Silence};

struct Case {
    what: String,
    octets: Vec<u8>,
    deserves: Deserves,
}

fn case(what: impl Into<String>, deserves: Deserves, octets: impl Into<Vec<u8>>) -> Case {
    Case { what: what.into(), octets: octets.into(), deserves }
}

fn message(flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
    let mut octets = vec![0x4e, 0x57];
    octets.extend(flags.to_be_bytes());
    counts.iter().for_each(|count| octets.extend(count.to_be_bytes()));
    octets.extend(rest);
    octets
}

fn asking(rest: &[u8]) -> Vec<u8> {
    message(0x0100, [1, 0, 0, 0], rest)
}

/// A question with these records behind it.
fn with(records: u16, octets: &[u8]) -> Vec<u8> {
    message(0x0100, [1, 0, 0, records], &[QUESTION, octets].concat())
}

/// A record of type 999 with this owner.
fn record(owner: &[u8]) -> Vec<u8> {
    [owner, &[3, 231, 0, 1, 0, 0, 0, 0, 0, 0]].concat()
}

fn typed(record_type: u16, class: u16) -> Vec<u8> {
    let name = &QUESTION[..QUESTION.len() - 4];
    asking(&[name, &record_type.to_be_bytes(), &class.to_be_bytes()].concat())
}

fn pointer(to: usize) -> [u8; 2] {
    (0xc000 | u16::try_from(to).unwrap()).to_be_bytes()
}

fn option(octets: &[u8]) -> Vec<u8> {
    let mut opt = OPT.to_vec();
    *opt.last_mut().unwrap() = u8::try_from(octets.len()).unwrap();
    [&opt[..], octets].concat()
}

/// A query with everything that one can have.
fn whole() -> Vec<u8> {
    with(1, &option(&[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]))
}

fn cut() -> Vec<Case> {
    let whole = whole();
    let mut cases: Vec<_> = (0..whole.len())
        .map(|end| {
            let deserves = if end < HEADER { Silence } else { Code(FORMERR) };
            case(format!("cut to {end} octets"), deserves, &whole[..end])
        })
        .collect();
    cases.push(case("whole", Answer, whole.clone()));
    cases.push(case("an octet too many", Code(FORMERR), [&whole[..], &[0]].concat()));
    cases
}

fn names() -> Vec<Case> {
    let question = |name: &[u8]| asking(&[name, &[0, 1, 0, 1]].concat());
    let label = |length: u8| [&[length][..], &vec![b'a'; length.into()]].concat();
    let long = [label(63), label(63), label(63)].concat();
    let name = |fourth: u8| question(&[&long[..], &label(fourth), b"\x04wild\x07example\0"].concat());
    let owner = |octets: &[u8]| with(1, &record(octets));
    let two = |octets: &[u8]| with(2, &[record(octets), record(&pointer(QUESTION_END))].concat());
    let end = QUESTION_END;
    vec![
        case("a question that points at itself", Code(FORMERR), question(&pointer(HEADER))),
        case("a question that points behind itself", Code(FORMERR), question(&pointer(HEADER + 4))),
        case("a question that points past the end", Code(FORMERR), question(&pointer(0x3fff))),
        case("a label, then a circle", Code(FORMERR), question(&[&b"\x01a"[..], &pointer(HEADER)].concat())),
        case("labels of types that do not exist", Code(FORMERR), question(b"\x41a\0")),
        case("labels of another type that does not exist", Code(FORMERR), question(b"\x81a\0")),
        case("253 octets of text", Answer, name(48)),
        case("254 octets of text", Code(FORMERR), name(49)),
        case("a name that has no end", Code(FORMERR), asking(&long.repeat(5))),
        case("the root", Code(REFUSED), question(b"\0")),
        case("a space", Code(REFUSED), question(b"\x03a b\0")),
        case("a dot within a label", Code(REFUSED), question(b"\x03a.b\0")),
        case("octets above 127", Code(REFUSED), question(b"\x04\xc3\xa4\xff\x80\0")),
        case("a zero within a label", Code(REFUSED), question(b"\x03a\0b\0")),
        case("an owner that points at itself", Code(FORMERR), owner(&pointer(end))),
        case("two owners in a circle", Code(FORMERR), two(&pointer(end + 12))),
        case("an owner that points forward", Code(FORMERR), owner(&pointer(end + 4))),
        case("an owner that points past the end", Code(FORMERR), owner(&pointer(0x3fff))),
        case("an owner that points into the header", Code(FORMERR), owner(&pointer(2))),
        case("an owner that points at the question", Answer, owner(&pointer(HEADER))),
        case("EDNS that is not at the root", Code(FORMERR), with(1, &[&pointer(HEADER), &OPT[1..]].concat())),
    ]
}

fn counts() -> Vec<Case> {
    let many = |section: usize| {
        let mut counts = [1, 0, 0, 0];
        counts[section] = u16::MAX;
        message(0x0100, counts, QUESTION)
    };
    let all = message(0x0100, [u16::MAX; 4], QUESTION);
    let nine = with(9, &record(&[0]).repeat(9));
    vec![
        case("no question", Code(FORMERR), message(0x0100, [0; 4], &[])),
        case("no question, and EDNS", Code(FORMERR), message(0x0100, [0, 0, 0, 1], OPT)),
        case("two questions", Code(FORMERR), message(0x0100, [2, 0, 0, 0], &QUESTION.repeat(2))),
        case("65,535 questions", Code(FORMERR), many(0)),
        case("65,535 answers", Code(FORMERR), many(1)),
        case("65,535 authorities", Code(FORMERR), many(2)),
        case("65,535 additional records", Code(FORMERR), many(3)),
        case("65,535 of everything", Code(FORMERR), all),
        case("more records than a query has", Code(FORMERR), nine),
        case("a record longer than the message", Code(FORMERR), with(1, b"\0\x03\xe7\0\x01\0\0\0\0\xff\xff")),
        case("EDNS twice", Code(FORMERR), with(2, &OPT.repeat(2))),
        case("EDNS of version 1", Code(BADVERS), with(1, b"\0\0\x29\x04\xd0\0\x01\0\0\0\0")),
        case("an option without its length", Code(FORMERR), with(1, &option(&[0, 8, 0]))),
        case("an option longer than EDNS", Code(FORMERR), with(1, &option(&[0, 8, 0, 9, 1]))),
    ]
}

fn kinds() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in 0..16_u16 {
        let flags = opcode << 11 | 0x0100;
        let question = |flags| message(flags, [1, 0, 0, 0], QUESTION);
        cases.push(case(format!("a response with opcode {opcode}"), Silence, question(flags | 0x8000)));
        if opcode > 0 {
            cases.push(case(format!("opcode {opcode}"), Code(NOTIMP), question(flags)));
        }
    }
    for class in [0, 2, 3, 4, 254, 255, 256, u16::MAX] {
        cases.push(case(format!("class {class}"), Code(REFUSED), typed(1, class)));
    }
    for record_type in [0, 41, 249, 250, 251, 252] {
        cases.push(case(format!("type {record_type}"), Code(REFUSED), typed(record_type, 1)));
    }
    for record_type in [3, 11, 99, 128, 255, 256, 999, 32_769, 65_280, 65_534, u16::MAX] {
        cases.push(case(format!("type {record_type}"), Answer, typed(record_type, 1)));
    }
    cases.push(case("all bits", Silence, [0xff; 512]));
    cases.push(case("no bits", Code(FORMERR), [0; 512]));
    cases
}

fn all() -> Vec<Case> {
    [cut(), names(), counts(), kinds()].into_iter().flatten().collect()
}

/// RFC 1035, section 4.1.1, RFC 6891: what holds for every answer, whatever was asked.
fn assert_answers(case: &Case, answer: &[u8]) {
    let what = &case.what;
    assert!(answer.len() >= HEADER, "{what}: {answer:?}");
    assert_eq!(answer[..2], case.octets[..2], "{what}: ID");
    assert_eq!(answer[2] & 0xf8, case.octets[2] & 0x78 | 0x80, "{what}: a response with the same opcode");
    let parsed = Message::from_vec(answer).unwrap_or_else(|error| panic!("{what}: {error}"));
    let code = u16::from(parsed.metadata.response_code);
    match case.deserves {
        Code(expected) => assert_eq!((code, parsed.answers.len()), (expected, 0), "{what}"),
        Answer => assert_eq!(code, 0, "{what}"),
        Silence => panic!("{what}: answered with {answer:?}"),
    }
}

/// A question that is answered from memory, in order: what comes before its answer came for what was sent before it.
fn marker() -> Vec<u8> {
    let mut octets = asking(QUESTION);
    octets[..2].copy_from_slice(&[0xee, 0xee]);
    octets
}

fn is_marker(answer: &[u8]) -> bool {
    answer.starts_with(&[0xee, 0xee])
}

/// A server that knows the marker's answer by heart.
async fn lab() -> (Lab, Client) {
    let lab = Lab::new(one).await;
    let client = lab.workload_with("w", |rules| rules.limits.queries_per_second = u32::MAX);
    client.send_octets(&marker()).await;
    (lab, client)
}

// Q5, Q7, N1: over UDP
#[tokio::test(flavor = "multi_thread")]
async fn each_datagram_has_an_answer_or_none() {
    let (lab, client) = lab().await;
    let socket = client.socket().await;
    for case in all() {
        let before = lab.server.counters().malformed.value();
        socket.send(&case.octets).await.unwrap();
        let mut said = match case.deserves {
            Answer => Some(receive(&socket, SOON).await.expect("no answer")),
            Silence | Code(_) => None,
        };
        socket.send(&marker()).await.unwrap();
        loop {
            let answer =
                receive(&socket, SOON).await.unwrap_or_else(|| panic!("silence after {}", case.what));
            if is_marker(&answer) {
                break;
            }
            assert!(said.replace(answer).is_none(), "{}: two answers", case.what);
        }
        assert_eq!(said.is_none(), case.deserves == Silence, "{}", case.what);
        said.iter().for_each(|answer| assert_answers(&case, answer));
        let counted = lab.server.counters().malformed.value() - before;
        assert_eq!(counted, u64::from(case.deserves != Answer), "{}: counted", case.what);
    }
}

// Q7: over TCP silence is the end of the connection (RFC 7766, section 8)
#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_stream_has_an_answer_or_is_its_end() {
    let (lab, client) = lab().await;
    let mut stream = client.connect().await;
    for case in all() {
        let before = lab.server.counters().malformed.value();
        let length = u16::try_from(case.octets.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &case.octets].concat()).await.unwrap();
        let read = async {
            let mut answer = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut answer).await.map(|_| answer)
        };
        match tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("{}: hangs", case.what)) {
            Ok(answer) => assert_answers(&case, &answer),
            Err(error) => {
                assert_eq!(case.deserves, Silence, "{}: {error}", case.what);
                stream = client.connect().await;
            }
        }
        let counted = lab.server.counters().malformed.value() - before;
        assert_eq!(counted, u64::from(case.deserves != Answer), "{}: counted", case.what);
    }
}

// Q7, promise 8: the longest messages there are
#[tokio::test(flavor = "multi_thread")]
async fn the_longest_messages_cost_no_more_than_others() {
    let (lab, client) = lab().await;
    let records = (LONGEST - QUESTION_END) / record(&[0]).len();
    let full = with(u16::try_from(records).unwrap(), &record(&[0]).repeat(records));
    let mut stream = client.connect().await;
    for octets in [full, vec![0; LONGEST]] {
        let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &octets].concat()).await.unwrap();
        let length = tokio::time::timeout(SOON, stream.read_u16()).await.expect("a hang").unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer[3] & 0xf, answer.len() <= QUESTION_END), (1, true), "{answer:?}");
    }
    // Longer than any query: not read, and counted.
    let before = lab.server.counters().malformed.value();
    let socket = client.socket().await;
    socket.send(&[0; 60_000]).await.unwrap();
    socket.send(&marker()).await.unwrap();
    assert!(is_marker(&receive(&socket, SOON).await.unwrap()));
    assert_eq!(lab.server.counters().malformed.value(), before + 1);
}

/// Answers of an upstream that are wrong in one way each, made of the query that they answer.
fn wrong_answers(asked: &Asked) -> Vec<(&'static str, Vec<u8>)> {
    let query = asked.message.to_vec().unwrap();
    let end = HEADER + asked.name.len() + 1 + 4;
    let question = &query[HEADER..end];
    let answer = |counts: [u16; 4], rest: &[u8]| {
        let mut octets = message(0x8180, counts, &[question, rest].concat());
        octets[..2].copy_from_slice(&query[..2]);
        octets
    };
    let address = |owner: &[u8]| [owner, b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x01"].concat();
    let alias = |target: &[u8]| {
        let length = u16::try_from(target.len()).unwrap().to_be_bytes();
        [&pointer(HEADER)[..], b"\0\x05\0\x01\0\0\0\x3c", &length, target].concat()
    };
    let many = address(&pointer(HEADER)).repeat(4_000);
    vec![
        ("an owner that points at itself", answer([1, 1, 0, 0], &address(&pointer(end)))),
        ("an owner that points past the end", answer([1, 1, 0, 0], &address(&pointer(0x3fff)))),
        ("a target that points at itself", answer([1, 1, 0, 0], &alias(&pointer(end + 12)))),
        ("labels of a type that does not exist", answer([1, 1, 0, 0], &address(b"\x80a\0"))),
        (
            "an address of three octets",
            answer([1, 1, 0, 0], b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x03\xc6\x33\x64"),
        ),
        (
            "a record longer than the message",
            answer([1, 1, 0, 0], b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\xc6"),
        ),
        ("65,535 records that are not there", answer([1, u16::MAX, u16::MAX, u16::MAX], &[])),
        ("fewer records than counted", answer([1, 5_000, 0, 0], &many)),
        ("a query", [&query[..2], &[1, 0], &query[4..]].concat()),
        ("no question", [&query[..2], &[0x81, 0x80], &[0; 8]].concat()),
        ("two questions", answer([2, 0, 0, 0], question)),
        ("another opcode", [&query[..2], &[0xa1, 0x80], &query[4..]].concat()),
    ]
}

// A1, A8, A9: whatever an upstream sends, the client has an answer in time, and nothing of it is granted
#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_of_an_upstream_are_failures_in_time() {
    // What is not to our question is waited past for 4.5 s; all are asked for at once.
    let which = |asked: &Asked| {
        let number = asked.name.trim_start_matches(['w', 'W']).split('.').next().unwrap();
        number.parse::<usize>().unwrap()
    };
    let lab = Lab::new(move |asked| Reply::Bytes(wrong_answers(asked).swap_remove(which(asked)).1)).await;
    let client = lab.workload();
    let mut asking = JoinSet::new();
    for number in 0..12 {
        let name = format!("w{number}.wild.example");
        asking.spawn(async move { (number, client.ask(&name).await) });
    }
    while let Some(done) = asking.join_next().await {
        let (number, answer) = done.unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "wrong answer {number}");
        assert!(addresses(&answer).is_empty(), "wrong answer {number}");
    }
    assert!(lab.enforcer.asked().is_empty(), "nothing of it is granted");
    assert!(lab.server.counters().mismatched.value() >= 4);
}

fn rules() -> std::sync::Arc<DnsRules> {
    view("w", 1, Identity::Port(1), |_| {}).rules
}

// A9, promise 7: an answer that ends anywhere is no answer
#[test]
fn an_answer_that_is_cut_grants_nothing() {
    let query = whole();
    let (rules, records) = (rules(), b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x33\x64\x01");
    let answer = message(0x8180, [1, 2, 0, 1], &[QUESTION, records, &records[..15], &[2], OPT].concat());
    let granted = |octets: &[u8]| probe::upstream_answer(&query, octets, &rules).map(|passed| passed.granted);
    assert_eq!(granted(&answer), Some(vec![external(1), external(2)]));
    for end in 0..answer.len() {
        assert_eq!(granted(&answer[..end]), None, "cut to {end} octets");
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = files.map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

// Promise 7: what the fuzzer begins with, by the whole way of a message
#[tokio::test]
async fn the_corpus_of_queries_does_no_harm() {
    let lab = Lab::new(one).await;
    let client = lab.workload_with("w", |rules| rules.limits.queries_per_second = u32::MAX);
    let files = corpus("query");
    assert!(files.len() >= 10);
    for (file, octets) in files {
        let peer = IpAddr::from([127, 0, 0, 1]);
        let answering = lab.server.answer(&octets, peer, client.server);
        let answer =
            tokio::time::timeout(SOON, answering).await.unwrap_or_else(|_| panic!("{}", file.display()));
        let silent = octets.len() < HEADER || octets[2] & 0x80 != 0;
        assert_eq!(answer.is_none(), silent, "{}", file.display());
    }
}

// Promises 1 and 7: what is passed on is what is granted
#[test]
fn the_corpus_of_answers_grants_what_it_passes_on() {
    let (rules, query) = (rules(), whole());
    let files = corpus("upstream");
    assert!(files.len() >= 10);
    let mut passed = 0;
    for (file, octets) in files {
        let started = std::time::Instant::now();
        if let Some(answer) = probe::upstream_answer(&query, &octets[1..], &rules) {
            assert!(answer.ungranted().is_empty(), "{}", file.display());
            passed += 1;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{}", file.display());
    }
    assert!(passed > 0, "no file of the corpus is an answer");
}

/// Answers come over TCP as well, where the upstream cuts those over UDP.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_upstream_that_ends_early_is_a_failure_in_time() {
    let lab = Lab::new(|asked| match asked.transport {
        Transport::Udp => Reply::Truncated,
        Transport::Tcp => Reply::Silence,
    });
    let answer = lab.await.workload().ask("allowed.example").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}
