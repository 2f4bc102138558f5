//! CoreDNS with its cache: names are granted to every workload that may use them, on all nodes, before the answer leaves (Q9).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use nameward_test_support::{FakeDns, wait_until_async};

use crate::{
    client::Answer,
    coredns::{CoreDns, OPTION},
    nodes::{Node, SOON},
    pods::{ADDRESS, client, resolver, upstream, wait_for_denials, wait_until_known},
    resolver::Resolver,
};

/// What a Corefile has to say where it caches.
pub(crate) const CACHE: &str = "cache 3600 {\n        servfail 0\n    }";

struct Cluster {
    upstream: FakeDns,
    coredns: CoreDns,
    resolver: Resolver,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Two nodes with a pod each that may ask for `*.shared.example` and something of its own.
    async fn new() -> Self {
        let upstream = upstream(60).await;
        let (resolver, address) = resolver(&upstream, &["--scope", "name"]);
        let coredns = CoreDns::start(address, &[OPTION, CACHE]);
        let mut cluster = Self { upstream, coredns, resolver, nodes: Vec::new() };
        for number in [1, 2] {
            cluster.add(number);
            let own = format!("ready.own{number}.example");
            wait_until_async("the node is there", SOON, async || {
                (cluster.ask(0, &own).await.addresses == [ADDRESS]).then_some(())
            })
            .await;
        }
        wait_until_known(cluster.nodes[0].pod(1), cluster.coredns.address).await;
        cluster
    }

    fn add(&mut self, number: u8) {
        let own = format!("*.own{number}.example");
        self.nodes.push(Node::start(number, &self.resolver.feed(), &[&["*.shared.example", &own]]));
    }

    fn pod(&self, node: usize) -> IpAddr {
        self.nodes[node].pod(1)
    }

    async fn ask(&self, node: usize, name: &str) -> Answer {
        client(self.pod(node), self.coredns.address).ask(name).await
    }
}

// Promise 1, Q9: an answer that is cached a moment later is usable everywhere before
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_nodes_that_did_not_ask() {
    let cluster = Cluster::new().await;
    let [one, two] = &cluster.nodes[..] else { panic!("two nodes") };
    two.hold();
    let (from, server) = (one.pod(1), cluster.coredns.address);
    let waiting = tokio::spawn(async move { client(from, server).ask("a.shared.example").await });
    one.wait_until_granted("a.shared.example");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished(), "it left before node-2 had it");
    assert_eq!(two.granted("a.shared.example"), [] as [&str; 0]);
    two.let_go();
    let answer = waiting.await.unwrap();
    // The machine may be so busy that the grant came too late: then it is asked for again.
    if answer.code == ResponseCode::ServFail {
        assert!(answer.why.contains("grant-timeout"), "{answer:?}");
        assert_eq!(cluster.ask(0, "a.shared.example").await.addresses, [ADDRESS]);
    } else {
        assert_eq!(answer.addresses, [ADDRESS]);
    }
    two.wait_until_granted("a.shared.example");
    assert!(two.granted("a.shared.example").iter().all(String::is_empty), "for every workload");
    // The other node's pod gets the copy of CoreDNS: nobody else is asked.
    let asked = cluster.upstream.asked().len();
    assert_eq!(cluster.ask(1, "a.shared.example").await.addresses, [ADDRESS]);
    assert_eq!(cluster.upstream.asked().len(), asked);
}

// Q9: the union of all policies
#[tokio::test(flavor = "multi_thread")]
async fn what_no_policy_allows_is_filtered_and_what_one_allows_is_answered_to_all() {
    let cluster = Cluster::new().await;
    let other = cluster.ask(0, "a.own2.example").await;
    assert_eq!(
        other.addresses,
        [ADDRESS],
        "allowed for node-2's pod; the enforcer of node-1 grants it to nobody"
    );
    let filtered = cluster.ask(0, "a.elsewhere.example").await;
    assert_eq!(filtered.code, ResponseCode::NXDomain);
    assert_eq!(cluster.upstream.count("a.elsewhere.example"), 0);
    // CoreDNS's cache leaves out why, and does not keep it: the resolver itself answers each time.
    let again = cluster.ask(1, "a.elsewhere.example").await;
    assert_eq!(again.code, ResponseCode::NXDomain);
    wait_for_denials(&cluster.resolver, "a.elsewhere.example", 2).await;
}

// DESIGN 5: cut off for 2 s, it is waited for no more; back, it has what it missed before anything else
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_holds_up_nobody_for_long_and_misses_nothing() {
    let mut cluster = Cluster::new().await;
    cluster.nodes[1].cut_off();
    let since = Instant::now();
    let early = cluster.ask(0, "early.shared.example").await;
    assert!(
        early.code == ResponseCode::ServFail || since.elapsed() >= Duration::from_secs(2),
        "an answer without node-2, which may be alive: {early:?}"
    );
    assert_eq!(cluster.ask(0, "ready.own1.example").await.addresses, [ADDRESS], "known names go on");
    wait_until_async("node-2 is given up", SOON, async || {
        (cluster.ask(0, "late.shared.example").await.addresses == [ADDRESS]).then_some(())
    })
    .await;
    assert!(since.elapsed() >= Duration::from_millis(1_500), "given up too early: {:?}", since.elapsed());
    assert_eq!(cluster.nodes[1].granted("late.shared.example"), [] as [&str; 0]);
    cluster.nodes.pop();
    cluster.add(2);
    let back = &cluster.nodes[1];
    back.wait_until_granted("late.shared.example");
    back.wait_until_granted("ready.own1.example");
    assert_eq!(cluster.ask(1, "late.shared.example").await.addresses, [ADDRESS]);
}

// R9: a policy counts at once, whatever CoreDNS keeps
#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_policies() {
    let cluster = Cluster::new().await;
    let one = &cluster.nodes[0];
    assert_eq!(cluster.ask(0, "new.example").await.code, ResponseCode::NXDomain);
    one.publish(1, 2, &["new.example"]);
    wait_until_async("the new rule counts", SOON, async || {
        (cluster.ask(0, "new.example").await.addresses == [ADDRESS]).then_some(())
    })
    .await;
    one.publish(1, 3, &["*.shared.example"]);
    wait_until_async("what nobody may ask any more is filtered", SOON, async || {
        (cluster.ask(0, "other.own1.example").await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
}
