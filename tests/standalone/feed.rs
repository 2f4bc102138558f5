//! The feed of a real resolver process, with a scripted enforcer (DESIGN 6, S4).

use std::{
    net::UdpSocket,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use nameward_feed::{
    VERSION, addresses, folder,
    proto::{Binding, EndpointRemoved, Revoke, SnapshotEnd, from_enforcer::Message, from_resolver},
};
use nameward_test_support::{Asked, FakeDns, Reply, address_record, privileged, wait_until_async};
use nix::sys::signal::Signal;

use crate::{
    client::Client,
    enforcer::{Enforcer, endpoint},
    resolver::Resolver,
};

const SOON: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
/// G1's bound, and what a busy machine adds.
const GRANT_WITHIN: Duration = Duration::from_millis(250);

async fn upstream(ttl: u32) -> FakeDns {
    let answer = move |asked: &Asked| {
        Reply::Records(vec![address_record(&asked.name, ttl, [198, 51, 100, 10].into())])
    };
    FakeDns::start(answer).await.unwrap()
}

/// A client of the endpoint behind this socket.
fn client(server: std::net::SocketAddr) -> Client {
    Client::new("127.0.0.1", server)
}

// G1, promise 1
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_leaves_before_its_grant_is_acknowledged() {
    let (upstream, mut resolver) = scene(60).await;
    let mut enforcer = Enforcer::connect(resolver.sockets()).await;
    let server = enforcer.announce("node-1", "runner", &["a.example", "b.example"]);
    let waiting = tokio::spawn(async move { client(server).ask("a.example").await });
    let grant = enforcer.hear_grant("a.example").await;
    assert_eq!((grant.endpoint.as_str(), grant.generation), ("runner", 1));
    assert_eq!(upstream.count("a.example"), 1, "the upstream has answered long ago");
    tokio::time::sleep(GRANT_WITHIN / 3).await;
    assert!(!waiting.is_finished(), "an answer before its grant");
    enforcer.acknowledge(&grant, MINUTE);
    let answer = waiting.await.unwrap();
    assert_eq!(answer.addresses, ["198.51.100.10".parse::<std::net::IpAddr>().unwrap()]);
    // Known now: neither upstream nor enforcer are asked.
    assert_eq!(client(server).ask("a.example").await.addresses, answer.addresses);
    // One that is never acknowledged is never answered with an address.
    let asked = Instant::now();
    let waiting = tokio::spawn(async move { client(server).ask("b.example").await });
    let late = enforcer.hear_grant("b.example").await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.code, answer.addresses.len()), (ResponseCode::ServFail, 0));
    assert!(asked.elapsed() >= GRANT_WITHIN && asked.elapsed() < GRANT_WITHIN * 10, "{:?}", asked.elapsed());
    enforcer.acknowledge(&late, MINUTE);
    resolver.process.stop().unwrap();
}

async fn scene(ttl: u32) -> (FakeDns, Resolver) {
    let upstream = upstream(ttl).await;
    let resolver = Resolver::with_feed(upstream.address(), &[]);
    (upstream, resolver)
}

/// Asks, and grants what is asked for.
async fn learn(enforcer: &mut Enforcer, server: std::net::SocketAddr, name: &'static str) {
    let waiting = tokio::spawn(async move { client(server).ask(name).await });
    let grant = enforcer.hear_grant(name).await;
    enforcer.acknowledge(&grant, MINUTE);
    assert_eq!(waiting.await.unwrap().code, ResponseCode::NoError);
}

// R9, DESIGN 6: forgotten before the kernel switches
#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_not_answered_from_memory() {
    let (_upstream, resolver) = scene(60).await;
    let mut enforcer = Enforcer::connect(resolver.sockets()).await;
    let server = enforcer.announce("node-1", "runner", &["a.example", "b.example"]);
    learn(&mut enforcer, server, "a.example").await;
    enforcer.say(Message::Revoke(Revoke { endpoint: "runner".into(), generation: 2 }));
    assert!(
        matches!(enforcer.hear().await, from_resolver::Message::Revoked(revoked) if revoked.generation == 2)
    );
    let waiting = tokio::spawn(async move { client(server).ask("a.example").await });
    let grant = enforcer.hear_grant("a.example").await;
    assert_eq!(grant.generation, 1, "granted anew, and the kernel refuses what is stale");
    assert_eq!(waiting.await.unwrap().code, ResponseCode::ServFail);
    enforcer.say(Message::Endpoint(endpoint("runner", server, 2, &["b.example"])));
    wait_until_async("the new rules", SOON, async || {
        (client(server).ask("a.example").await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    // Questions that came before the new rules may have asked for more of the old.
    let waiting = tokio::spawn(async move { client(server).ask("b.example").await });
    let grant = loop {
        let from_resolver::Message::Grant(grant) = enforcer.hear().await else { panic!("no grant") };
        if grant.name == "b.example" {
            break grant;
        }
        assert_eq!((grant.name.as_str(), grant.generation), ("a.example", 1));
    };
    assert_eq!(grant.generation, 2);
    enforcer.acknowledge(&grant, MINUTE);
    assert_eq!(waiting.await.unwrap().code, ResponseCode::NoError);
}

// F1, promise 4
#[tokio::test(flavor = "multi_thread")]
async fn known_names_are_answered_while_the_enforcer_is_dead() {
    let (_upstream, resolver) = scene(5).await;
    let mut enforcer = Enforcer::connect(resolver.sockets()).await;
    let server = enforcer.announce("node-1", "runner", &["a.example", "b.example"]);
    learn(&mut enforcer, server, "a.example").await;
    let silent_since = Instant::now();
    enforcer.fall_silent();
    let status = enforcer.end().await;
    assert!(status.message().contains("2000 ms"), "{status}");
    assert!(silent_since.elapsed() < Duration::from_secs(20), "{:?}", silent_since.elapsed());
    assert_eq!(client(server).ask("b.example").await.code, ResponseCode::ServFail, "new names wait for it");
    // Also when its TTL is over: the grant behind it lives.
    tokio::time::sleep(Duration::from_millis(5_100).saturating_sub(silent_since.elapsed())).await;
    let known = client(server).ask("a.example").await;
    assert_eq!((known.code, known.addresses.len()), (ResponseCode::NoError, 1));
    let mut back = Enforcer::connect(resolver.sockets()).await;
    let server = back.announce("node-1", "runner", &["a.example", "b.example"]);
    learn(&mut back, server, "b.example").await;
}

// DESIGN 6, promise 4: one that crashed is replaced by one that knows what was granted from the snapshot alone
#[tokio::test(flavor = "multi_thread")]
async fn a_new_resolver_answers_what_the_snapshot_says_is_granted() {
    let two = |asked: &Asked| {
        let record = |last| address_record(&asked.name, 60, [198, 51, 100, last].into());
        Reply::Records([10, 11].map(record).into())
    };
    let upstream = FakeDns::start(two).await.unwrap();
    let resolver = Resolver::with_feed(upstream.address(), &[]);
    let enforcer = Enforcer::connect(resolver.sockets()).await;
    let server = enforcer.greet("node-1", VERSION);
    enforcer.say(Message::Endpoint(endpoint("runner", server, 7, &["a.example", "b.example"])));
    let granted = [("198.51.100.10".parse().unwrap(), MINUTE)];
    enforcer.say(Message::Binding(Binding {
        endpoint: "runner".into(),
        name: "a.example".into(),
        addresses: addresses(&granted),
    }));
    enforcer.say(Message::SnapshotEnd(SnapshotEnd {}));
    wait_until_async("it is served", SOON, async || {
        (client(server).ask("c.example").await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    drop(enforcer);
    let known = client(server).ask("a.example").await;
    assert_eq!(known.addresses, [granted[0].0], "only what the kernel holds");
    assert_eq!(client(server).ask("b.example").await.code, ResponseCode::ServFail);
}

// S4: a snapshot replaces; sockets follow
#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_replaces_endpoints_and_sockets() {
    let (_upstream, resolver) = scene(60).await;
    let mut first = Enforcer::connect(resolver.sockets()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap();
    first.greet_with("node-1", VERSION, &socket);
    first.say(Message::Endpoint(endpoint("runner", server, 1, &["a.example"])));
    first.say(Message::SnapshotEnd(SnapshotEnd {}));
    learn(&mut first, server, "a.example").await;
    drop(first);
    // Whoever asks meanwhile waits in the socket, which both processes hold.
    let mut second = Enforcer::connect(resolver.sockets()).await;
    second.greet_with("node-1", VERSION, &socket);
    second.say(Message::Endpoint(endpoint("runner", server, 5, &["b.example"])));
    second.say(Message::SnapshotEnd(SnapshotEnd {}));
    // Until its snapshot is complete, the first one's rules count.
    wait_until_async("the new snapshot counts", SOON, async || {
        (client(server).ask("a.example").await.code == ResponseCode::NXDomain).then_some(())
    })
    .await;
    learn(&mut second, server, "b.example").await;
    second.say(Message::EndpointRemoved(EndpointRemoved { uid: "runner".into() }));
    wait_until_async("nobody answers for it", SOON, async || {
        match client(server).try_ask("b.example", Duration::from_millis(300)).await {
            None => Some(()),
            Some(answer) => (answer.code == ResponseCode::Refused).then_some(()),
        }
    })
    .await;
}

// Promise 6
#[tokio::test(flavor = "multi_thread")]
async fn each_enforcer_is_asked_for_its_own_endpoints() {
    let (_upstream, resolver) = scene(60).await;
    let (mut one, mut two) =
        (Enforcer::connect(resolver.sockets()).await, Enforcer::connect(resolver.sockets()).await);
    let at_one = one.announce("node-1", "runner", &["a.example"]);
    let at_two = two.announce("node-2", "builder", &["a.example"]);
    learn(&mut two, at_two, "a.example").await;
    learn(&mut one, at_one, "a.example").await;
    drop(two);
    assert_eq!(client(at_two).ask("a.example").await.code, ResponseCode::NoError, "it is known");
    assert_eq!(client(at_one).ask("other.example").await.code, ResponseCode::NXDomain);
}

// S4: a version skew of one
#[tokio::test(flavor = "multi_thread")]
async fn neighbouring_versions_work_together() {
    let (_upstream, resolver) = scene(60).await;
    let mut newer = Enforcer::connect(resolver.sockets()).await;
    let server = newer.greet("node-1", VERSION + 1);
    newer.say(Message::Endpoint(endpoint("runner", server, 1, &["a.example"])));
    newer.say(Message::SnapshotEnd(SnapshotEnd {}));
    learn(&mut newer, server, "a.example").await;
    let far = Enforcer::connect(resolver.sockets()).await;
    far.greet("node-2", VERSION + 2);
    assert!(far.end().await.message().contains("upgrade one of them"));
}

// S4: the kernel's word on the peer counts, not the modes of files
#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_turned_away() {
    if !privileged() {
        return;
    }
    let (_upstream, resolver) = scene(60).await;
    let sockets = resolver.sockets();
    let modes = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(modes(&resolver.feed()) & 0o007, 0, "others do not even see it");
    for path in [resolver.folder.path(), &resolver.feed(), &sockets.feed, &sockets.sockets] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let greet = |uid| {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--http2-prior-knowledge",
            "--max-time",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ]);
        curl.arg("--unix-socket").arg(&sockets.feed).arg("http://resolver/").uid(uid).gid(uid);
        let output = curl.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (answered, code) = greet(0);
    assert!(answered && code != "000", "root is heard: {code}");
    let (answered, code) = greet(65_534);
    assert!(!answered && code == "000", "{code}");
    resolver.wait_for_log("turned away");
    let server = Enforcer::connect(sockets).await.announce("node-1", "runner", &["a.example"]);
    assert_ne!(server.port(), 0, "root is heard all the same");
}

// S4
#[tokio::test(flavor = "multi_thread")]
async fn it_gives_up_roots_rights() {
    if !privileged() {
        return;
    }
    let upstream = upstream(60).await;
    let resolver = Resolver::with_feed(upstream.address(), &["--user", "nobody"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", resolver.process.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid"), "65534 65534 65534 65534");
    assert_eq!(field("CapPrm").trim_start_matches('0'), "");
    assert_eq!(field("CapEff").trim_start_matches('0'), "");
    assert_eq!(field("NoNewPrivs"), "1");
    assert!(!field("Groups").split(' ').any(|group| group == "0"), "{}", field("Groups"));
    let mut enforcer = Enforcer::connect(resolver.sockets()).await;
    let server = enforcer.announce("node-1", "runner", &["a.example"]);
    learn(&mut enforcer, server, "a.example").await;
}

// S4: each resolver has a socket of its own, and cleans up after those that are gone
#[tokio::test(flavor = "multi_thread")]
async fn killed_resolvers_leave_nothing_for_long() {
    let upstream = upstream(60).await;
    let mut first = Resolver::with_feed(upstream.address(), &[]);
    first.process.signal(Signal::SIGKILL).unwrap();
    first.process.stop().unwrap();
    assert_eq!(folder::resolvers(&first.feed()).unwrap().len(), 1, "nobody could remove it");
    let feed = format!("unix:{}", first.feed().display());
    let mut command = crate::resolver::command();
    command.args(["--feed", &feed, "--upstream", "192.0.2.1"]);
    let log = first.folder.path().join("second");
    let mut second = nameward_test_support::Daemon::start("nameward-resolver", &mut command, &log).unwrap();
    second.wait(SOON, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("serving"))).unwrap();
    let name = folder::resolvers(&first.feed()).unwrap()[0].feed.display().to_string();
    assert!(name.contains(&format!("resolver-{}-", second.id())), "{name}");
    // A hang-up is not the end of it.
    second.signal(Signal::SIGHUP).unwrap();
    second
        .wait(SOON, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("nothing to read")))
        .unwrap();
    assert_eq!(second.stop().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(first.feed()).unwrap().count(), 0);
}
