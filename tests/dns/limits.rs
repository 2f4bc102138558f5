//! Bounds of the whole server, beside those of each workload (Q8, promises 6 and 8).

use std::time::Duration;

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::TXT},
};
use nameward_test_support::{Reply, Transport, wait_until_async};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    client::{addresses, query, read, why, write},
    lab::{Lab, SOON, external, one},
};

// Q8: questions of all workloads that wait for an upstream
#[tokio::test(flavor = "multi_thread")]
async fn waiting_questions_of_all_are_bounded() {
    const PENDING: usize = 4;
    let lab = Lab::with(
        |asked| match asked.name.to_lowercase().starts_with("never") {
            true => Reply::Silence,
            false => one(asked),
        },
        |config| config.pending = PENDING,
    );
    let lab = lab.await;
    let (first, second) = (lab.workload(), lab.workload_with("other", |_| {}));
    assert_eq!(addresses(&second.ask("allowed.example").await), [external(1)]);
    let mut waiting = JoinSet::new();
    for number in 0..PENDING {
        waiting.spawn(async move { first.ask(&format!("never{number}.wild.example")).await });
    }
    let upstream = || (lab.upstream.asked().len() > PENDING).then_some(());
    wait_until_async("all wait", SOON, async || upstream()).await;
    let refused = second.ask("new.wild.example").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::ServFail);
    assert!(why(&refused).unwrap().1.contains("limit"), "{:?}", why(&refused));
    assert_eq!(lab.server.counters().limit.value(), 1);
    // What is known is answered all the same.
    assert_eq!(addresses(&second.ask("allowed.example").await), [external(1)]);
    assert_eq!(waiting.join_all().await.len(), PENDING);
    assert_eq!(addresses(&second.ask("new.wild.example").await), [external(1)], "places come back");
}

/// Whether a question over it is answered; a connection that is closed is no failure.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let question = query("allowed.example", RecordType::A).to_vec().unwrap();
    let length = u16::try_from(question.len()).unwrap().to_be_bytes();
    let asked = stream.write_all(&[&length[..], &question].concat()).await.is_ok();
    asked && tokio::time::timeout(SOON, stream.read_u16()).await.is_ok_and(|length| length.is_ok())
}

// Q8: connections of all workloads
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_all_are_bounded() {
    const CONNECTIONS: usize = 3;
    let lab = Lab::with(one, |config| config.connections = CONNECTIONS).await;
    let (first, second) = (lab.workload(), lab.workload_with("other", |_| {}));
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = first.connect().await;
        assert!(is_answered(&mut stream).await);
        held.push(stream);
    }
    let mut refused = second.connect().await;
    let end = tokio::time::timeout(SOON, refused.read_u8()).await.expect("one more is held");
    assert!(end.is_err(), "closed without a word");
    assert_eq!(lab.server.counters().limit.value(), 1);
    assert_eq!(addresses(&second.ask("allowed.example").await), [external(1)], "UDP is not concerned");
    held.pop();
    wait_until_async("a place came back", SOON, async || {
        let mut stream = second.connect().await;
        is_answered(&mut stream).await.then_some(())
    })
    .await;
}

// Promise 8: the shared cache is bounded in octets; what had to go is asked for again, and nothing else happens
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_upstreams_are_bounded_in_octets() {
    const ANSWERS: usize = 40;
    let text = |name: &str| {
        let text = TXT::new(vec!["x".repeat(250); 80]);
        Record::from_rdata(hickory_proto::rr::Name::from_ascii(name).unwrap(), 60, RData::TXT(text))
    };
    let lab = Lab::with(
        move |asked| match asked.transport {
            Transport::Udp => Reply::Truncated,
            Transport::Tcp => Reply::Records(vec![text(&asked.name)]),
        },
        // Some of the answers of 20,000 octets fit, each counted with what it takes in memory.
        |config| config.cache_octets = 400_000,
    );
    let lab = lab.await;
    let (first, second) = (lab.workload(), lab.workload_with("other", |_| {}));
    let ask = async |client: &crate::client::Client, number| {
        let mut stream = client.connect().await;
        write(&mut stream, &query(&format!("a{number}.wild.example"), RecordType::TXT)).await;
        read(&mut stream).await
    };
    for number in 0..ANSWERS {
        assert_eq!(ask(&first, number).await.answers.len(), 1);
    }
    let before = lab.upstream.asked().len();
    // From the last to the first: what is asked for anew drives out none of those that are still to be found.
    for number in (0..ANSWERS).rev() {
        assert_eq!(ask(&second, number).await.answers.len(), 1);
    }
    // Each asked for anew is a question over UDP and one over TCP.
    let kept = ANSWERS - (lab.upstream.asked().len() - before) / 2;
    assert!((2..=20).contains(&kept), "{kept} of {ANSWERS} were kept");
}

// Promise 8: who sends a message octet by octet has as long for all of it as others have for the first
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_trickles_in_is_not_waited_for() {
    let lab = Lab::new(one).await;
    let mut stream = lab.workload().connect().await;
    let started = std::time::Instant::now();
    let trickling = async {
        // 1,000 octets are said to come.
        stream.write_all(&[3, 232]).await?;
        loop {
            stream.write_all(&[0]).await?;
            if let Ok(end) = tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await {
                return end;
            }
        }
    };
    let end: std::io::Result<u8> =
        tokio::time::timeout(SOON * 2, trickling).await.expect("it is still waited for");
    assert!(end.is_err(), "nothing was said");
    assert!(started.elapsed() > Duration::from_secs(5), "others have 10 s, too");
}
