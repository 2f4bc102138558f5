//! CoreDNS without its cache: each pod is known by what CoreDNS says of it (Q1), and granted for itself.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use hickory_proto::op::ResponseCode;
use nameward_test_support::{Asked, FakeDns, Reply, address_record, wait_until_async};

use crate::{
    client::Client,
    coredns::{CoreDns, OPTION, free_port, pod},
    nodes::{Node, SOON, uid},
    resolver::Resolver,
};

/// What the upstream gives for every name.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

pub(crate) async fn upstream(ttl_seconds: u32) -> FakeDns {
    let answer = move |asked: &Asked| Reply::Records(vec![address_record(&asked.name, ttl_seconds, ADDRESS)]);
    FakeDns::start(answer).await.unwrap()
}

/// A resolver that believes what comes from 127.0.0.1, and where it listens.
pub(crate) fn resolver(upstream: &FakeDns, more: &[&str]) -> (Resolver, SocketAddr) {
    let forwarder = ["--listen", "127.0.0.1:0", "--trusted-forwarder", "127.0.0.1"];
    let resolver = Resolver::with_feed(upstream.address(), &[&forwarder, more].concat());
    let address = SocketAddr::from(([127, 0, 0, 1], resolver.port()));
    (resolver, address)
}

pub(crate) fn client(from: IpAddr, server: SocketAddr) -> Client {
    Client { from, server }
}

/// How many questions the resolver's log tells with this field. It folds what is alike, and says of how many.
fn told(resolver: &Resolver, field: &str) -> u64 {
    let log = resolver.process.log();
    let lines = log.lines().filter(|line| line.contains("audit") && line.contains(field));
    let count = |line: &str| line.split_once(" count=")?.1.split_whitespace().next()?.parse::<u64>().ok();
    lines.filter_map(count).sum()
}

/// Waits until the resolver's log says that a name was denied so often.
pub(crate) async fn wait_for_denials(resolver: &Resolver, name: &str, times: u64) {
    let field = format!("name={name:?} ");
    let is_told = async || (told(resolver, &field) == times).then_some(());
    wait_until_async(&format!("{name} is told as denied {times} times"), SOON, is_told).await;
}

/// Waits until the pod's questions are judged.
pub(crate) async fn wait_until_known(pod: IpAddr, server: SocketAddr) {
    wait_until_async("the pod is known", SOON, async || {
        let answer = client(pod, server).ask("no-rule.test").await;
        (answer.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
}

// Q1, Q9, promise 6
#[tokio::test(flavor = "multi_thread")]
async fn each_pod_is_judged_and_granted_by_its_own_rules() {
    let upstream = upstream(60).await;
    let (resolver, address) = resolver(&upstream, &[]);
    let coredns = CoreDns::start(address, &[OPTION]);
    let node = Node::start(1, &resolver.feed(), &[&["a.example"], &["b.example"]]);
    wait_until_known(node.pod(1), coredns.address).await;
    let ask = async |from: IpAddr, name: &str| client(from, coredns.address).ask(name).await;
    assert_eq!(ask(node.pod(1), "a.example").await.addresses, [ADDRESS]);
    assert_eq!(node.granted("a.example"), [uid(1, 1)], "one pod's lookup opens nothing for another");
    let filtered = ask(node.pod(2), "a.example").await;
    assert_eq!((filtered.code, filtered.addresses.len()), (ResponseCode::NXDomain, 0));
    assert!(filtered.why.contains("no rule allows a.example"), "{filtered:?}");
    assert_eq!(ask(node.pod(2), "b.example").await.addresses, [ADDRESS]);
    assert_eq!(ask(pod(9, 9), "a.example").await.code, ResponseCode::Refused, "a client that nobody knows");
    assert_eq!(upstream.count("a.example"), 1);
    let over_tcp = client(node.pod(1), coredns.address).ask_tcp("a.example").await;
    assert_eq!(over_tcp.addresses, [ADDRESS]);
}

// Q1: what a workload says of itself does not count
#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_for_another_pod() {
    let upstream = upstream(60).await;
    let (resolver, address) = resolver(&upstream, &[]);
    let coredns = CoreDns::start(address, &[OPTION]);
    let node = Node::start(1, &resolver.feed(), &[&["a.example"], &["b.example"]]);
    wait_until_known(node.pod(1), coredns.address).await;
    // CoreDNS puts the real client in place of the one that the option names.
    let forged = client(node.pod(2), coredns.address).ask_for(node.pod(1), "a.example").await;
    assert_eq!(forged.code, ResponseCode::NXDomain, "{forged:?}");
    // Twice, so that one of them stays: refused.
    assert_ne!(ask_twice(node.pod(2), node.pod(1), coredns.address), Some(0), "answered");
    // Without CoreDNS: the resolver believes its address alone.
    let direct = client(node.pod(2), address).ask_for(node.pod(1), "a.example").await;
    assert_eq!(direct.code, ResponseCode::Refused);
    let bare = client(node.pod(1), address).ask("a.example").await;
    assert_eq!(bare.code, ResponseCode::Refused, "a source address vouches for nobody");
    assert_eq!((upstream.count("a.example"), node.granted("a.example").len()), (0, 0));
}

// What nobody guards is answered where that is wanted, and opens nothing to anybody
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_nobody_guards_pass_where_they_may() {
    for scope in ["endpoint", "name"] {
        let upstream = upstream(60).await;
        let (resolver, address) = resolver(&upstream, &["--unknown-clients", "pass", "--scope", scope]);
        let coredns = CoreDns::start(address, &[OPTION]);
        let (free, ask) =
            (pod(9, 9), async |from: IpAddr, name: &str| client(from, coredns.address).ask(name).await);
        assert_eq!(
            ask(free, "first.example").await.addresses,
            [ADDRESS],
            "{scope}: there is no workload at all"
        );
        let node = Node::start(1, &resolver.feed(), &[&["a.example"]]);
        wait_until_known(node.pod(1), coredns.address).await;
        for _ in 0..2 {
            assert_eq!(ask(free, "elsewhere.example").await.addresses, [ADDRESS], "{scope}");
            let filtered = ask(node.pod(1), "elsewhere.example").await;
            assert_eq!((filtered.code, filtered.addresses.len()), (ResponseCode::NXDomain, 0), "{scope}");
        }
        assert_eq!(node.granted("elsewhere.example"), [] as [&str; 0]);
        assert_eq!(ask(free, "a.example").await.addresses, [ADDRESS]);
        // By name a cache in front gives it to those that may use it.
        let granted: &[&str] = if scope == "name" { &[""] } else { &[] };
        assert_eq!(node.granted("a.example"), granted, "{scope}");
        // A forwarder that does not say whom it asks for gets nothing of that.
        let silent = CoreDns::start(address, &[]);
        let answer = client(free, silent.address).ask("other.example").await;
        assert_eq!(answer.addresses.len(), 0, "{scope}: {answer:?}");
    }
}

// R10: CoreDNS asks us, and we ask CoreDNS
#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_comes_back_ends_the_loop() {
    let meant = free_port();
    let forwarder = ["--listen", "127.0.0.1:0", "--trusted-forwarder", "127.0.0.1", "--scope", "name"];
    let resolver = Resolver::with_feed(meant, &forwarder);
    let address = SocketAddr::from(([127, 0, 0, 1], resolver.port()));
    let node = Node::start(1, &resolver.feed(), &[&["*.example"]]);
    let coredns = CoreDns::start_at(meant, address, &[OPTION]).expect("the port was taken meanwhile");
    wait_until_known(node.pod(1), coredns.address).await;
    // Short names are known by their ID, too, which CoreDNS changes: those wait for themselves, and end in time.
    for name in ["known-by-its-letters.example", "ab.example"] {
        let answer = client(node.pod(1), coredns.address).ask(name).await;
        assert_eq!((answer.code, answer.addresses.len()), (ResponseCode::ServFail, 0), "{answer:?}");
        assert_eq!(node.granted(name).len(), 0);
    }
    let loops = wait_until_async("the loop is told", SOON, async || {
        Some(told(&resolver, r#"reason="loop""#)).filter(|rounds| *rounds > 0)
    });
    let rounds = loops.await;
    assert!(rounds <= 10, "{rounds} rounds");
}

/// The response code of a question for `a.example` with the option twice; none without an answer.
fn ask_twice(from: IpAddr, claimed: IpAddr, server: SocketAddr) -> Option<u8> {
    let IpAddr::V4(claimed) = claimed else { panic!("an IPv4 address") };
    let mut message =
        b"\x4e\x57\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01a\x07example\x00\x00\x01\x00\x01".to_vec();
    message.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x10");
    for _ in 0..2 {
        message.extend([0xff, 0xee, 0, 4]);
        message.extend(claimed.octets());
    }
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(6))).unwrap();
    socket.send_to(&message, server).unwrap();
    let mut buffer = [0; 512];
    socket.recv(&mut buffer).ok().map(|_| buffer[3] & 0xf)
}

// Q3: what is policy's is not kept by CoreDNS, should it cache after all
#[tokio::test(flavor = "multi_thread")]
async fn policys_answers_are_not_kept() {
    let private = |asked: &Asked| Reply::Records(vec![address_record(&asked.name, 60, [10, 0, 0, 1].into())]);
    let upstream = FakeDns::start(private).await.unwrap();
    let (resolver, address) = resolver(&upstream, &["--scope", "name"]);
    let coredns = CoreDns::start(address, &[OPTION, "cache 3600"]);
    let node = Node::start(1, &resolver.feed(), &[&["a.example", "deep.below.example"]]);
    wait_until_known(node.pod(1), coredns.address).await;
    let ask = async |name: &str| client(node.pod(1), coredns.address).ask(name).await;
    for name in ["a.example", "below.example", "c.example"] {
        for _ in 0..2 {
            let answer = ask(name).await;
            assert_eq!((answer.code, answer.addresses.len()), (ResponseCode::NXDomain, 0), "{name}");
        }
        // The resolver itself answers each time.
        wait_for_denials(&resolver, name, 2).await;
    }
    // As soon as a policy allows it, it is answered.
    node.publish(1, 2, &["c.example", "a.example"]);
    wait_until_async("the new rule counts", SOON, async || {
        ask("c.example").await;
        (upstream.count("c.example") > 0).then_some(())
    })
    .await;
}
