//! Bounds of one workload and of the whole process, with a resolver process and clients that do their worst
//! (Q8, promises 6 and 8).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};
use nameward_test_support::{Asked, FakeDns, Reply, Transport};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    client::Client,
    lab::{SOON, address, records, scripted, well},
    resolver::Resolver,
};

const ONE: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";
const STRANGER: &str = "127.0.0.9";
/// Connections of one endpoint.
const EACH: usize = 64;
/// Questions of one endpoint that wait, in these tests.
const PENDING: usize = 20;

fn endpoints() -> String {
    format!(
        "endpoints:
- {{name: one, namespace: ci, labels: {{app: one}}, addresses: [{ONE}]}}
- {{name: other, namespace: ci, labels: {{app: other}}, addresses: [{OTHER}]}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: all, namespace: ci}}
  spec:
    podSelector: {{}}
    egress:
    - name: web
      to: [{{domainNames: [\"*.example\"]}}]
      ports: [{{protocol: TCP, port: 443}}]
settings:
  limits: {{pendingQueries: {PENDING}, queriesPerSecond: 100000}}
"
    )
}

fn start(upstream: &FakeDns) -> (Resolver, SocketAddr) {
    Resolver::with_endpoints(&endpoints(), upstream.address(), &[])
}

async fn connect(from: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(server).await.unwrap()
}

fn framed(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    let message = message.to_vec().unwrap();
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

// Q8
#[tokio::test(flavor = "multi_thread")]
async fn one_workload_cannot_take_all_waiting_places() {
    let upstream = scripted(|asked| match asked.name.to_lowercase().starts_with("never") {
        true => Reply::Silence,
        false => records(asked, 1),
    });
    let upstream = upstream.await;
    let (_resolver, server) = start(&upstream);
    let mut waiting = JoinSet::new();
    for number in 0..PENDING * 5 {
        waiting.spawn(async move {
            let started = Instant::now();
            let answer = Client::new(ONE, server).ask(&format!("never{number}.example")).await;
            (answer, started.elapsed())
        });
    }
    // The other notices nothing, all the while.
    let other = Client::new(OTHER, server);
    for number in 0..50 {
        assert_eq!(other.ask(&format!("a{number}.example")).await.addresses, [address(1)]);
    }
    let mut refused = 0;
    while let Some(done) = waiting.join_next().await {
        let (answer, took) = done.unwrap();
        assert_eq!(answer.code, ResponseCode::ServFail);
        if answer.why.contains("limit") {
            assert!(took < Duration::from_secs(3), "a refusal that waits: {took:?}");
            refused += 1;
        } else {
            assert!(took < Duration::from_secs(6), "A8: {took:?}");
        }
    }
    assert_eq!(refused, PENDING * 4);
    assert_eq!(Client::new(ONE, server).ask("a.example").await.addresses, [address(1)], "places come back");
}

// Q8
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_workload_and_of_strangers_are_bounded() {
    let upstream = well(1).await;
    let (_resolver, server) = start(&upstream);
    for from in [ONE, STRANGER] {
        let mut held = Vec::new();
        for _ in 0..EACH * 2 {
            held.push(connect(from, server).await);
        }
        let mut closed = JoinSet::new();
        for mut stream in held {
            closed.spawn(async move {
                let end = tokio::time::timeout(Duration::from_secs(3), stream.read_u8()).await;
                (end.is_ok(), stream)
            });
        }
        let all = closed.join_all().await;
        assert_eq!(all.iter().filter(|(closed, _)| *closed).count(), EACH, "of {from}");
        assert_eq!(Client::new(OTHER, server).ask_tcp("a.example").await.addresses, [address(1)]);
        drop(all);
        wait_until_asked(from, server).await;
    }
}

/// Waits until a connection of `from` is served again.
async fn wait_until_asked(from: &str, server: SocketAddr) {
    let until = Instant::now() + SOON;
    let client = Client::new(from, server);
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(6), client.try_ask_tcp("a.example"));
        if answer.await.ok().flatten().is_some() {
            return;
        }
        assert!(Instant::now() < until, "places are not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A text of this many octets, over TCP only.
fn text(asked: &Asked, octets: usize) -> Reply {
    if asked.transport == Transport::Udp {
        return Reply::Truncated;
    }
    let text = TXT::new(vec!["x".repeat(250); octets / 250]);
    let name = Name::from_ascii(&asked.name).unwrap();
    Reply::Records(vec![Record::from_rdata(name, 300, RData::TXT(text))])
}

// Promise 8
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_let_go() {
    let upstream = scripted(|asked| text(asked, 50_000)).await;
    let (resolver, server) = start(&upstream);
    let mut silent = connect(ONE, server).await;
    let question = framed("large.example", RecordType::TXT);
    // Far more than buffers of sockets hold. Writing ends when the resolver has stopped to read.
    let writing = async {
        for _ in 0..5_000 {
            silent.write_all(&question).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let written = tokio::time::timeout(Duration::from_secs(2), writing).await;
    assert_eq!(Client::new(OTHER, server).ask("a.example").await.code, ResponseCode::NoError);
    assert!(resident(&resolver) < 200 << 20, "{} octets for one who does not read", resident(&resolver));
    // The connection ends by itself: a read finds what was sent, and then its end.
    let mut rest = Vec::new();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let end = tokio::time::timeout(SOON, silent.read_to_end(&mut rest)).await;
    assert!(end.is_ok(), "it is still served; written: {written:?}");
    assert!(rest.len() < 5_000 * 50_000, "all was answered");
}

/// Memory of the process, in octets.
fn resident(resolver: &Resolver) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", resolver.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

// Promise 8: the shared memory is bounded in octets, not in answers
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_do_not_fill_memory() {
    const ANSWERS: usize = 2_400;
    const OCTETS: usize = 60_000;
    let upstream = scripted(|asked| text(asked, OCTETS)).await;
    let (resolver, server) = start(&upstream);
    let before = resident(&resolver);
    let mut clients = JoinSet::new();
    for client in 0..8 {
        clients.spawn(async move {
            let mut stream = connect(if client % 2 == 0 { ONE } else { OTHER }, server).await;
            for number in 0..ANSWERS / 8 {
                let question = framed(&format!("a{client}-{number}.example"), RecordType::TXT);
                stream.write_all(&question).await.unwrap();
                let length = stream.read_u16().await.unwrap();
                assert!(usize::from(length) > OCTETS / 2, "a short answer: {length}");
                stream.read_exact(&mut vec![0; length.into()]).await.unwrap();
            }
        });
    }
    tokio::time::timeout(Duration::from_secs(90), clients.join_all()).await.expect("answers are slow");
    let grown = resident(&resolver).saturating_sub(before);
    // 64 MiB of shared answers, 4 MiB for each endpoint, and what an allocator keeps.
    assert!(grown < 110 << 20, "{} MiB after {} MiB of answers", grown >> 20, (ANSWERS * OCTETS) >> 20);
    assert_eq!(Client::new(ONE, server).ask("x.example").await.code, ResponseCode::NoError);
}
