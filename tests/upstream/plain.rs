//! UDP and TCP, several servers, and answers that are none (A8, A9).

use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::op::{Message, ResponseCode};
use nameward_resolver::upstream::{Over, Upstream, UpstreamError};
use nameward_test_support::{Asked, Reply, Transport, wait_until};
use tokio::task::JoinSet;

use crate::lab::{Asker, SOON, address, records, scripted, well};

const HEDGE: Duration = Duration::from_millis(400);

/// A port at which nobody listens.
fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

// A8
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_passed_by_and_then_asked_last() {
    let (silent, other) = (scripted(|_| Reply::Silence).await, well(2).await);
    let asker = Asker::new([silent.address(), other.address()]);
    for number in 0..3 {
        let started = Instant::now();
        assert_eq!(asker.addresses(&format!("a{number}.example")).await, [address(2)]);
        assert!(started.elapsed() >= HEDGE, "the first is waited for");
    }
    let asked = silent.asked().len();
    for number in 3..8 {
        let started = Instant::now();
        assert_eq!(asker.addresses(&format!("a{number}.example")).await, [address(2)]);
        assert!(started.elapsed() < HEDGE, "it fails since long, and is waited for");
    }
    assert_eq!(silent.asked().len(), asked);
}

// A8
#[tokio::test(flavor = "multi_thread")]
async fn an_absent_server_costs_no_time() {
    let other = well(2).await;
    let asker = Asker::new([closed(), other.address()]);
    let started = Instant::now();
    assert_eq!(asker.addresses("a.example").await, [address(2)]);
    assert!(started.elapsed() < HEDGE, "{:?}", started.elapsed());
    let nobody = Asker::new([closed(), closed()]);
    let started = Instant::now();
    assert!(matches!(nobody.ask("a.example").await, Err(UpstreamError::Unreachable { .. })));
    assert!(started.elapsed() < Duration::from_secs(4), "nobody is there: {:?}", started.elapsed());
}

// A8
#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_within_five_seconds() {
    let silent = scripted(|_| Reply::Silence).await;
    let asker = Asker::new([silent.address()]);
    let started = Instant::now();
    assert!(matches!(asker.ask("a.example").await, Err(UpstreamError::Silent { .. })));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(silent.asked().len() <= 5, "asked {} times", silent.asked().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_go_on_to_the_next_but_nxdomain_is_an_answer() {
    let failing = scripted(|asked| match asked.name.to_lowercase().as_str() {
        "absent.example." => Reply::Code(ResponseCode::NXDomain),
        "refused.example." => Reply::Code(ResponseCode::Refused),
        _ => Reply::Code(ResponseCode::ServFail),
    });
    let (failing, other) = (failing.await, well(2).await);
    let asker = Asker::new([failing.address(), other.address()]);
    assert_eq!(asker.addresses("a.example").await, [address(2)]);
    assert_eq!(asker.addresses("refused.example").await, [address(2)]);
    let absent = asker.ask("absent.example").await.unwrap();
    assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(other.count("absent.example"), 0);
    let alone = Asker::new([failing.address()]);
    let error = alone.ask("a.example").await.unwrap_err();
    assert_eq!(
        error,
        UpstreamError::Code { server: failing.address(), code: ResponseCode::ServFail },
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_gets_company() {
    let slow = scripted(|asked| Reply::After(Duration::from_secs(3), Box::new(records(asked, 1)))).await;
    let other = well(2).await;
    let asker = Asker::new([slow.address(), other.address()]);
    let started = Instant::now();
    assert_eq!(asker.addresses("a.example").await, [address(2)]);
    assert!((HEDGE..Duration::from_secs(2)).contains(&started.elapsed()), "{:?}", started.elapsed());
    // Who is fast is asked alone.
    let (first, second) = (well(1).await, well(2).await);
    let asker = Asker::new([first.address(), second.address()]);
    assert_eq!(asker.addresses("a.example").await, [address(1)]);
    assert_eq!(second.asked().len(), 0);
}

/// An answer with address 66 that differs from what would be believed in one place.
fn forged(asked: &Asked, forge: impl Fn(&mut Message)) -> Reply {
    let mut answer = asked.message.clone();
    answer.metadata.message_type = hickory_proto::op::MessageType::Response;
    let Reply::Records(lie) = records(asked, 66) else { unreachable!() };
    answer.answers = lie;
    forge(&mut answer);
    Reply::Bytes(answer.to_vec().unwrap())
}

// A9
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_do_not_fit_are_counted_and_waited_past() {
    let liar = scripted(|asked| {
        let other_name = |answer: &mut Message| {
            let name = hickory_proto::rr::Name::from_ascii("other.example.").unwrap();
            answer.queries[0].set_name(name);
        };
        let other_case = |answer: &mut Message| {
            let name = answer.queries[0].name().to_ascii();
            let turned: String = name
                .chars()
                .map(|letter| {
                    if letter.is_ascii_lowercase() {
                        letter.to_ascii_uppercase()
                    } else {
                        letter.to_ascii_lowercase()
                    }
                })
                .collect();
            answer.queries[0].set_name(hickory_proto::rr::Name::from_ascii(turned).unwrap());
        };
        Reply::Many(vec![
            forged(asked, |answer| answer.metadata.id ^= 1),
            forged(asked, other_name),
            forged(asked, other_case),
            forged(asked, |answer| answer.metadata.message_type = hickory_proto::op::MessageType::Query),
            forged(asked, |answer| answer.queries.clear()),
            Reply::Bytes(Vec::new()),
            Reply::Bytes(vec![0; 3]),
            records(asked, 1),
        ])
    });
    let liar = liar.await;
    let asker = Asker::new([liar.address()]);
    assert_eq!(asker.addresses("where.is.example").await, [address(1)]);
    assert_eq!(asker.counters.mismatched.value(), 7);
}

// A9
#[tokio::test(flavor = "multi_thread")]
async fn only_the_server_that_was_asked_is_heard() {
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = scripted(move |asked| {
        let Reply::Bytes(lie) = forged(asked, |_| {}) else { unreachable!() };
        other.send_to(&lie, asked.from).unwrap();
        Reply::After(Duration::from_millis(50), Box::new(records(asked, 1)))
    });
    let server = server.await;
    let asker = Asker::new([server.address()]);
    assert_eq!(asker.addresses("a.example").await, [address(1)]);
}

// A9
#[tokio::test(flavor = "multi_thread")]
async fn ports_ids_and_letter_case_cannot_be_guessed() {
    const QUESTIONS: usize = 128;
    let server = well(1).await;
    let asker = Asker::new([server.address()]);
    for _ in 0..QUESTIONS {
        asker.addresses("nobody-guesses-this.example").await;
    }
    let asked = server.asked();
    let distinct = |of: fn(&Asked) -> String| asked.iter().map(of).collect::<HashSet<_>>().len();
    assert_eq!(asked.len(), QUESTIONS);
    assert!(distinct(|asked| asked.from.port().to_string()) > QUESTIONS * 9 / 10);
    assert!(distinct(|asked| asked.message.metadata.id.to_string()) > QUESTIONS * 9 / 10);
    assert!(distinct(|asked| asked.name.clone()) > QUESTIONS * 9 / 10);
    let steps: HashSet<i32> = asked
        .windows(2)
        .map(|pair| i32::from(pair[1].from.port()) - i32::from(pair[0].from.port()))
        .collect();
    assert!(steps.len() > QUESTIONS / 2, "ports follow a rule");
}

// Q7, A9
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_is_asked_for_over_tcp() {
    let server = scripted(|asked| match asked.transport {
        Transport::Udp => Reply::Truncated,
        Transport::Tcp if asked.name.eq_ignore_ascii_case("lie.example.") => {
            forged(asked, |answer| answer.metadata.id ^= 1)
        }
        Transport::Tcp => records(asked, 1),
    });
    let server = server.await;
    let asker = Asker::new([server.address()]);
    assert_eq!(asker.addresses("a.example").await, [address(1)]);
    let transports: Vec<_> = server.asked().iter().map(|asked| asked.transport).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
    assert!(matches!(asker.ask("lie.example").await, Err(UpstreamError::Unreachable { .. })));
}

// A8, A9: TCP alone (RFC 7766): one connection for many questions, never a datagram
#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_tcp_gets_no_datagram() {
    let server = well(1).await;
    let asker = Arc::new(Asker::new([Upstream { address: server.address(), over: Over::Tcp }]));
    let mut all = JoinSet::new();
    for number in 0..100 {
        let asker = asker.clone();
        all.spawn(async move { asker.addresses(&format!("a{number}.example")).await });
    }
    while let Some(addresses) = all.join_next().await {
        assert_eq!(addresses.unwrap(), [address(1)]);
    }
    let asked = server.asked();
    assert!(asked.len() == 100 && asked.iter().all(|asked| asked.transport == Transport::Tcp));
    let ports: HashSet<u16> = asked.iter().map(|asked| asked.from.port()).collect();
    assert_eq!(ports.len(), 1, "one connection");
    // Who is not there is passed by at once.
    let absent = Upstream { address: closed(), over: Over::Tcp };
    let asker = Asker::new([absent, server.address().into()]);
    let started = Instant::now();
    assert_eq!(asker.addresses("a.example").await, [address(1)]);
    assert!(started.elapsed() < HEDGE, "{:?}", started.elapsed());
}

// A9: under load questions share ports, and forgeries on one do not disturb the others
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_share_ports_have_their_own_answers() {
    const QUESTIONS: usize = 2_000;
    let server = scripted(|asked| {
        let last =
            asked.name.to_lowercase().trim_start_matches('a').split('.').next().unwrap().parse::<usize>();
        let right = records(asked, u8::try_from(last.unwrap() % 256).unwrap());
        Reply::Many(vec![
            forged(asked, |answer| answer.metadata.id = answer.metadata.id.wrapping_add(1)),
            right,
        ])
    });
    let server = server.await;
    let asker = Arc::new(Asker::new([server.address()]));
    let mut all = JoinSet::new();
    for number in 0..QUESTIONS {
        let asker = asker.clone();
        all.spawn(async move { (asker.addresses(&format!("a{number}.example")).await, number) });
    }
    while let Some(done) = all.join_next().await {
        let (addresses, number) = done.unwrap();
        assert_eq!(addresses, [address(u8::try_from(number % 256).unwrap())]);
    }
    let ports: HashSet<u16> = server.asked().iter().map(|asked| asked.from.port()).collect();
    assert!((100..QUESTIONS / 2).contains(&ports.len()), "{} ports", ports.len());
}

// Promise 8: a port that is not used any more is closed
#[tokio::test(flavor = "multi_thread")]
async fn ports_are_closed_when_they_are_old() {
    let server = well(1).await;
    let asker = Asker::new([server.address()]);
    for number in 0..20 {
        asker.addresses(&format!("a{number}.example")).await;
    }
    let port = server.asked()[0].from;
    wait_until("its port is free", SOON, || UdpSocket::bind(("127.0.0.1", port.port())).ok());
}
