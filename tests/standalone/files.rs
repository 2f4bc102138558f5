//! Serving from a file, without an enforcer (S1, S2).

use std::{net::SocketAddr, time::Duration};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use nameward_test_support::{Asked, FakeDns, Reply, address_record, wait_until_async};
use nix::sys::signal::Signal;

use crate::{client::Client, resolver::Resolver};

const SOON: Duration = Duration::from_secs(10);

/// Two endpoints by source address, each with one name of its own.
fn endpoints(name: &str, more: &str) -> String {
    format!(
        "endpoints:
- {{name: one, namespace: ci, labels: {{app: one}}, addresses: [127.0.0.2]}}
- {{name: two, namespace: shop, labels: {{app: two}}, addresses: [127.0.0.3]}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: one, namespace: ci}}
  spec:
    podSelector: {{matchLabels: {{app: one}}}}
    egress:
    - name: web
      to: [{{domainNames: [{name}]}}]
      ports: [{{protocol: TCP, port: 443}}]
{more}
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: two, namespace: shop}}
  spec:
    podSelector: {{}}
    egress:
    - name: web
      to: [{{domainNames: [\"*.shop.example\"]}}]
      ports: [{{protocol: TCP}}]
"
    )
}

/// Every name has one address.
async fn upstream() -> FakeDns {
    FakeDns::start(answer).await.unwrap()
}

fn answer(asked: &Asked) -> Reply {
    match asked.kind {
        RecordType::A => Reply::Records(vec![address_record(&asked.name, 60, [198, 51, 100, 10].into())]),
        _ => Reply::Records(Vec::new()),
    }
}

// S2, Q1, Q2
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_by_the_source_address() {
    let upstream = upstream().await;
    let (resolver, server) =
        Resolver::with_endpoints(&endpoints("allowed.example", ""), upstream.address(), &[]);
    let (one, two) = (Client::new("127.0.0.2", server), Client::new("127.0.0.3", server));
    let allowed = one.ask("allowed.example").await;
    assert_eq!(allowed.addresses, ["198.51.100.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(two.ask("a.shop.example").await.code, ResponseCode::NoError);
    let filtered = two.ask("allowed.example").await;
    assert_eq!(filtered.code, ResponseCode::NXDomain);
    assert!(filtered.why.contains("shop/two"), "{}", filtered.why);
    assert_eq!(one.ask_tcp("a.shop.example").await.code, ResponseCode::NXDomain);
    assert_eq!(one.ask_tcp("allowed.example").await.addresses, allowed.addresses);
    assert_eq!(Client::new("127.0.0.9", server).ask("allowed.example").await.code, ResponseCode::Refused);
    let asked: Vec<_> = upstream.asked().into_iter().map(|asked| asked.name.to_lowercase()).collect();
    assert_eq!(asked, ["allowed.example.", "a.shop.example."], "a filtered name never leaves");
    assert!(resolver.process.log().contains("nothing is enforced"), "{}", resolver.process.log());
}

// S1, R9, F2
#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_reads_the_file_again() {
    let upstream = upstream().await;
    let (resolver, server) = Resolver::with_endpoints(&endpoints("old.example", ""), upstream.address(), &[]);
    let one = Client::new("127.0.0.2", server);
    assert_eq!(one.ask("old.example").await.code, ResponseCode::NoError);
    resolver.folder.file("endpoints.yaml", &endpoints("new.example", "")).unwrap();
    resolver.process.signal(Signal::SIGHUP).unwrap();
    resolver.wait_for_log("read again");
    assert_eq!(one.ask("old.example").await.code, ResponseCode::NXDomain, "not even from memory");
    assert_eq!(one.ask("new.example").await.code, ResponseCode::NoError);
    let wrong = endpoints("bad..name", "").replace("port: 443", "prot: 443");
    resolver.folder.file("endpoints.yaml", &wrong).unwrap();
    resolver.process.signal(Signal::SIGHUP).unwrap();
    resolver.wait_for_log("nothing has changed");
    let log = resolver.process.log();
    for place in ["endpoints.yaml:12:", "endpoints.yaml:13:"] {
        assert!(log.contains(place), "{place} is not in {log}");
    }
    assert_eq!(one.ask("new.example").await.code, ResponseCode::NoError);
    assert_eq!(one.ask("old.example").await.code, ResponseCode::NXDomain);
}

// R7
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_ends_at_its_time() {
    let upstream = upstream().await;
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let more = format!("      expiresAt: \"{}\"", end.strftime("%Y-%m-%dT%H:%M:%SZ"));
    let (_resolver, server) =
        Resolver::with_endpoints(&endpoints("allowed.example", &more), upstream.address(), &[]);
    let one = Client::new("127.0.0.2", server);
    assert_eq!(one.ask("allowed.example").await.code, ResponseCode::NoError);
    wait_until_async("the rule ends", SOON, async || {
        (one.ask("allowed.example").await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    let late = jiff::Timestamp::now().duration_since(end).as_millis();
    assert!((-1_000..1_000).contains(&late), "{late} ms after its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_is_answered_before_the_end() {
    let upstream = FakeDns::start(|asked| Reply::After(Duration::from_millis(400), Box::new(answer(asked))))
        .await
        .unwrap();
    let (mut resolver, server) =
        Resolver::with_endpoints(&endpoints("allowed.example", ""), upstream.address(), &[]);
    let one = Client::new("127.0.0.2", server);
    let waiting = tokio::spawn(async move { one.ask("allowed.example").await });
    wait_until_async("the question leaves", SOON, async || {
        (upstream.count("allowed.example") == 1).then_some(())
    })
    .await;
    let status = tokio::task::spawn_blocking(move || resolver.process.stop()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(waiting.await.unwrap().code, ResponseCode::NoError);
}

// Q6
#[tokio::test(flavor = "multi_thread")]
async fn domains_have_servers_of_their_own() {
    let (default, corp) = (upstream().await, upstream().await);
    let route = format!("shop.example={}", corp.address());
    let file = endpoints("allowed.example", "");
    let (_resolver, server) = Resolver::with_endpoints(&file, default.address(), &["--route", &route]);
    Client::new("127.0.0.2", server).ask("allowed.example").await;
    Client::new("127.0.0.3", server).ask("a.shop.example").await;
    assert_eq!((default.asked().len(), corp.asked().len()), (1, 1));
    assert_eq!(corp.count("a.shop.example"), 1);
}

// Q1
#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_forwarder_says_whom_it_asks_for() {
    let upstream = upstream().await;
    let file = endpoints("allowed.example", "");
    let more = ["--trusted-forwarder", "127.0.0.7"];
    let (_resolver, server) = Resolver::with_endpoints(&file, upstream.address(), &more);
    let one = "127.0.0.2".parse().unwrap();
    let trusted = Client::new("127.0.0.7", server);
    assert_eq!(trusted.ask_for(one, "allowed.example").await.code, ResponseCode::NoError);
    assert_eq!(trusted.ask("allowed.example").await.code, ResponseCode::Refused);
    let other = Client::new("127.0.0.3", server);
    assert_eq!(other.ask_for(one, "allowed.example").await.code, ResponseCode::NXDomain, "it is itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_are_served_and_values_are_logged() {
    let upstream = upstream().await;
    let file = endpoints("allowed.example", "").replace("127.0.0.2", "\"::1\"");
    let port = std::net::UdpSocket::bind("[::1]:0").unwrap().local_addr().unwrap().port();
    let listen = format!("[::1]:{port}");
    let (resolver, _) =
        Resolver::with_endpoints(&file, upstream.address(), &["--listen", &listen, "--log", "json"]);
    let server: SocketAddr = listen.parse().unwrap();
    assert_eq!(Client::new("::1", server).ask("allowed.example").await.code, ResponseCode::NoError);
    let log = resolver.process.log();
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{log}");
    assert!(log.contains(&upstream.address().to_string()), "{log}");
}
