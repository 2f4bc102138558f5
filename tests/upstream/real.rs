//! Real servers, and the resolver as a process between them and real clients.

use std::{
    fmt::Write,
    net::{SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use hickory_proto::{op::ResponseCode, rr::RecordType, rr::rdata::opt::EdnsCode};
use nameward_resolver::upstream::{Group, Outstanding};
use nameward_test_support::{Authority, Daemon, Reply, Scratch, output_within};
use tokio::task::JoinSet;

use crate::{
    client::Client,
    lab::{Asker, SOON, address, addresses, own_address, question, records, scripted, well},
    resolver::Resolver,
};

/// More addresses than a datagram holds.
const MANY: u8 = 200;
/// A question for the name that all servers know.
const PROBE: &[u8] = b"\x4e\x57\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x01\x00\x01";

/// A server that ends with the test.
struct Real {
    address: SocketAddr,
    _process: Daemon,
    _folder: Scratch,
}

impl Real {
    fn start(name: &str, address: SocketAddr, folder: Scratch, command: &mut Command) -> Self {
        let mut process = Daemon::start(name, command, &folder.path().join("log")).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 4096];
        let ready = || socket.send_to(PROBE, address).is_ok() && socket.recv(&mut buffer).is_ok();
        process.wait(Duration::from_secs(30), ready).unwrap();
        Self { address, _process: process, _folder: folder }
    }

    fn nsd() -> Self {
        let (folder, address) = (Scratch::new("nsd").unwrap(), own_address(5300));
        folder.file("zone", &zone()).unwrap();
        let path = folder.path().display();
        let text = format!(
            "server:\n  ip-address: {}@{}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{path}\"\n  database: \"\"\n  \
             pidfile: \"\"\n  xfrdir: \"{path}\"\n  xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/zones\"\n  \
             cookie-secret-file: \"{path}/cookies\"\n  server-count: 1\n  rrl-ratelimit: 0\n\
             remote-control:\n  control-enable: no\nzone:\n  name: \"example\"\n  zonefile: zone\n",
            address.ip(),
            address.port()
        );
        let file = folder.file("nsd.conf", &text).unwrap();
        Self::start("nsd", address, folder, Command::new("nsd").arg("-d").arg("-c").arg(file))
    }

    /// On UDP and TCP, and on another port over TLS.
    fn unbound(authority: &Authority, tls_port: u16) -> Self {
        let (folder, address) = (Scratch::new("unbound").unwrap(), own_address(5300));
        let files = authority.sign("unbound", "dns.example");
        let mut text = format!(
            "server:\n  interface: {ip}@{port}\n  interface: {ip}@{tls_port}\n  tls-port: {tls_port}\n  \
             tls-service-pem: \"{}\"\n  tls-service-key: \"{}\"\n  username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  do-daemonize: no\n  num-threads: 1\n  access-control: 127.0.0.0/8 allow\n  \
             module-config: \"iterator\"\n  local-zone: \"example.\" static\n",
            files.certificate.display(),
            files.key.display(),
            folder.path().display(),
            ip = address.ip(),
            port = address.port(),
        );
        for (name, number) in names() {
            writeln!(text, "  local-data: \"{name}. 300 IN A {}\"", address_of(number)).unwrap();
        }
        text.push_str("remote-control:\n  control-enable: no\n");
        let file = folder.file("unbound.conf", &text).unwrap();
        Self::start("unbound", address, folder, Command::new("unbound").arg("-d").arg("-c").arg(file))
    }

    fn dnsmasq() -> Self {
        let (folder, address) = (Scratch::new("dnsmasq").unwrap(), own_address(5300));
        let mut command = Command::new("dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-hosts",
            "--no-resolv",
            "--user=root",
        ]);
        command.args(["--bind-interfaces", "--local=/example/", "--pid-file", "--log-facility=-"]);
        command.arg(format!("--listen-address={}", address.ip())).arg(format!("--port={}", address.port()));
        for (name, number) in names() {
            command.arg(format!("--host-record={name},{}", address_of(number)));
        }
        Self::start("dnsmasq", address, folder, &mut command)
    }
}

fn address_of(number: u8) -> String {
    address(number).to_string()
}

/// One name with an address, and one with many.
fn names() -> impl Iterator<Item = (&'static str, u8)> {
    std::iter::once(("a.example", 1)).chain((1..=MANY).map(|number| ("many.example", number)))
}

/// The same, signed, though by nobody: what travels is looked at, not whether it is true.
fn zone() -> String {
    let mut zone = String::from(
        "$ORIGIN example.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 198.51.100.53\n",
    );
    for (name, number) in names() {
        writeln!(zone, "{name}. A {}", address_of(number)).unwrap();
    }
    // nsd gives signatures of a zone that signs its keys.
    zone.push_str("@ DNSKEY 257 3 13 AAAA\n");
    for (owner, kind, labels) in [("@", "DNSKEY", 1), ("a", "A", 2)] {
        let times = "300 20330101000000 20230101000000";
        writeln!(zone, "{owner} RRSIG {kind} 13 {labels} {times} 12345 example. AAAA").unwrap();
    }
    zone
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_keep_letter_case_and_give_long_answers_over_tcp() {
    let unbound = Real::unbound(&Authority::new(), 8853);
    for (server, name) in [(Real::nsd(), "nsd"), (unbound, "unbound"), (Real::dnsmasq(), "dnsmasq")] {
        let asker = Asker::new([server.address]);
        for _ in 0..16 {
            assert_eq!(asker.addresses("a.example").await, [address(1)], "{name}");
        }
        assert_eq!(asker.addresses("many.example").await.len(), usize::from(MANY), "{name}");
        let absent = asker.ask("absent.example").await.unwrap();
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(asker.counters.mismatched.value(), 0, "{name}");
    }
}

pub(crate) fn endpoints() -> &'static str {
    "endpoints:
- {name: one, namespace: ci, labels: {app: one}, addresses: [127.0.0.1]}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {name: one, namespace: ci}
  spec:
    podSelector: {}
    egress:
    - name: web
      to: [{domainNames: [\"*.example\"]}]
      ports: [{protocol: TCP, port: 443}]
"
}

fn kdig(server: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("kdig");
    command.arg(format!("@{}", server.ip())).args(["-p", &server.port().to_string(), "+time=6", "+retry=0"]);
    let output = output_within(command.args(arguments), SOON).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_asks_unbound_over_tls() {
    let authority = Authority::new();
    let unbound = Real::unbound(&authority, 8853);
    let (ip, ca) = (unbound.address.ip(), authority.file().display().to_string());
    let over = |name: &str| format!("tls://{ip}:8853#{name}");
    let more = ["--upstream", &over("dns.example"), "--upstream-ca", &ca];
    // The first cannot be reached.
    let (_resolver, server) =
        Resolver::with_endpoints(endpoints(), SocketAddr::from(([127, 0, 0, 1], 9)), &more);
    let answer = Client::new("127.0.0.1", server).ask("a.example").await;
    assert_eq!((answer.code, answer.addresses), (ResponseCode::NoError, vec![address(1)]));
    let (_liar, server) = Resolver::with_endpoints(
        endpoints(),
        SocketAddr::from(([127, 0, 0, 1], 9)),
        &["--upstream", &over("other.example"), "--upstream-ca", &ca],
    );
    let answer = Client::new("127.0.0.1", server).ask("a.example").await;
    assert_eq!((answer.code, answer.addresses.len()), (ResponseCode::ServFail, 0));
    assert!(answer.why.contains("upstream"), "{}", answer.why);
}

// Q10: signatures go to who asks for them
#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_passed_on_when_asked_for() {
    let nsd = Real::nsd();
    let group = std::sync::Arc::new(Group::new([nsd.address]));
    for dnssec_ok in [false, true] {
        let question = nameward_resolver::upstream::Question { dnssec_ok, ..question("a.example") };
        let reply = group.ask(&question, &Outstanding::default(), &Default::default()).await.unwrap();
        let answer = reply.into_message().unwrap();
        let signed = answer.answers.iter().any(|record| record.record_type() == RecordType::RRSIG);
        assert_eq!((addresses(&answer), signed), (vec![address(1)], dnssec_ok));
    }
    let (_resolver, server) = Resolver::with_endpoints(endpoints(), nsd.address, &[]);
    let signed = kdig(server, &["+dnssec", "a.example", "A"]);
    assert!(signed.contains("RRSIG") && signed.contains("198.51.100.1"), "{signed}");
    let plain = kdig(server, &["+edns", "a.example", "A"]);
    assert!(!plain.contains("RRSIG") && plain.contains("198.51.100.1"), "{plain}");
}

// Q5
#[tokio::test(flavor = "multi_thread")]
async fn the_client_subnet_stays_here() {
    let upstream = well(1).await;
    let (_resolver, server) = Resolver::with_endpoints(endpoints(), upstream.address(), &[]);
    let answer = kdig(server, &["+subnet=203.0.113.0/24", "+cookie", "+nsid", "a.example", "A"]);
    assert!(answer.contains("198.51.100.1"), "{answer}");
    assert!(!answer.contains("203.0.113.0"), "{answer}");
    let asked = upstream.asked();
    let edns = asked[0].message.edns.as_ref().unwrap();
    assert!(edns.option(EdnsCode::Subnet).is_none());
    assert!(edns.options().as_ref().is_empty(), "{edns:?}");
}

// Q6
#[tokio::test(flavor = "multi_thread")]
async fn domains_have_servers_of_their_own() {
    let (default, corp, lab) = (well(1).await, well(2).await, well(3).await);
    let authority = Authority::new();
    let unbound = Real::unbound(&authority, 8853);
    let routes = [
        format!("corp.example={}", corp.address()),
        format!("lab.corp.example={}", lab.address()),
        format!("a.example=tls://{}:8853#dns.example", unbound.address.ip()),
    ];
    let ca = authority.file().display().to_string();
    let more = ["--route", &routes[0], "--route", &routes[1], "--route", &routes[2], "--upstream-ca", &ca];
    let (_resolver, server) = Resolver::with_endpoints(endpoints(), default.address(), &more);
    let client = Client::new("127.0.0.1", server);
    for (name, last) in [
        ("b.example", 1),
        ("notcorp.example", 1),
        ("corp.example", 2),
        ("x.corp.example", 2),
        ("lab.corp.example", 3),
        ("x.lab.corp.example", 3),
        ("a.example", 1),
    ] {
        assert_eq!(client.ask(name).await.addresses, [address(last)], "{name}");
    }
    assert_eq!((default.count("a.example"), default.asked().len()), (0, 2));
}

// A8, promise 8
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_ask_again_do_not_multiply_questions() {
    let slow = Duration::from_millis(300);
    let upstream = scripted(move |asked| Reply::After(slow, Box::new(records(asked, 1)))).await;
    let (_resolver, server) = Resolver::with_endpoints(endpoints(), upstream.address(), &[]);
    let mut clients = JoinSet::new();
    let started = Instant::now();
    for _ in 0..100 {
        clients.spawn(async move { Client::new("127.0.0.1", server).ask("a.example").await });
    }
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap().addresses, [address(1)]);
    }
    assert!(started.elapsed() >= slow);
    assert_eq!(upstream.count("a.example"), 1);
    // Nor do they when nobody answers: each attempt of ours is one question, whatever clients do.
    let silent = scripted(|_| Reply::Silence).await;
    let (_resolver, server) = Resolver::with_endpoints(endpoints(), silent.address(), &[]);
    for _ in 0..100 {
        clients.spawn(async move { Client::new("127.0.0.1", server).ask("b.example").await });
    }
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap().code, ResponseCode::ServFail);
    }
    assert!(silent.count("b.example") <= 5, "{} questions for one", silent.count("b.example"));
}
