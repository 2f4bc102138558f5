//! The feed over TLS: real resolver processes, and enforcers with the enforcer's own client (DESIGN 6).

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use nameward_enforcer::{
    GrantRequest, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView, FeedClient, Place},
};
use nameward_feed::{
    Identity, VERSION,
    proto::{FromEnforcer, Hello, SnapshotEnd, feed_client::FeedClient as Raw, from_enforcer::Message},
    sockets::DnsSocket,
    tls::{self, Credentials, Remote, TlsFiles},
};
use nameward_test_support::{Authority, Daemon, FakeDns, Scratch, wait_until, wait_until_async};
use tokio::{net::TcpSocket, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{
    client::Client,
    enforcer::endpoint,
    lab::{SOON, address, well},
    resolver::command,
};

const NAME: &str = "resolver.example";

/// A resolver process that listens for enforcers and for a forwarder.
struct Resolver {
    process: Daemon,
    feed: SocketAddr,
    dns: SocketAddr,
    _folder: Scratch,
}

impl Resolver {
    fn start(files: &TlsFiles, upstream: &FakeDns) -> Self {
        Self::trusting("127.0.0.1", files, upstream)
    }

    fn trusting(forwarder: &str, files: &TlsFiles, upstream: &FakeDns) -> Self {
        let folder = Scratch::new("resolver").unwrap();
        let mut command = command();
        command.args(["--feed", "tls://127.0.0.1:0", "--listen", "127.0.0.1:0"]);
        command.args(["--trusted-forwarder", forwarder, "--upstream", &upstream.address().to_string()]);
        command.arg("--feed-certificate").arg(&files.certificate);
        command.arg("--feed-key").arg(&files.key).arg("--feed-ca").arg(&files.authority);
        let log = folder.path().join("log");
        let mut process = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
        process
            .wait(SOON, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("serving")))
            .unwrap();
        let said = process.log();
        let after = |field: &str| {
            let (_, rest) = said.split_once(field).unwrap_or_else(|| panic!("no {field} in {said}"));
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self { feed: after("feed="), dns: after("address="), process, _folder: folder }
    }

    fn remote(&self) -> Remote {
        Remote::read(&format!("{}#{NAME}", self.feed)).unwrap()
    }

    async fn ask(&self, client: IpAddr, name: &str) -> (ResponseCode, Vec<IpAddr>) {
        let answer = Client::new("127.0.0.1", self.dns).ask_for(client, name).await;
        (answer.code, answer.addresses)
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        wait_until(text, SOON, || self.process.log().contains(text).then_some(()));
    }
}

/// What an enforcer has, and was asked to grant.
struct Node {
    endpoint: EndpointView,
    granted: Mutex<Vec<GrantRequest>>,
}

impl Backend for Node {
    fn endpoints(&self) -> Vec<EndpointView> {
        vec![self.endpoint.clone()]
    }

    fn bindings(&self) -> Vec<BindingView> {
        Vec::new()
    }

    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused> {
        self.granted.lock().unwrap().push(request);
        Ok(Granted { usable_for: Duration::from_secs(600) })
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        // Never asked for by a stream over the network.
        Err(std::io::Error::other("DNS sockets for a resolver elsewhere"))
    }
}

/// An enforcer of one workload that may ask for `*.example`.
struct Enforcer {
    node: Arc<Node>,
    client: Arc<FeedClient>,
    task: JoinHandle<()>,
    workload: IpAddr,
}

impl Enforcer {
    fn start(name: &str, number: u8, files: &TlsFiles, resolvers: &[&Resolver]) -> Self {
        let workload = IpAddr::from([10, number, 0, 1]);
        let endpoint = EndpointView {
            uid: format!("pod-{number}").into(),
            name: format!("ci/pod-{number}"),
            generation: 1,
            // The same on all nodes: it must not tell anybody apart elsewhere.
            identity: vec![Identity::Address([127, 0, 0, 1].into()), Identity::Port(53)],
            addresses: vec![workload],
            rules: endpoint("x", ([127, 0, 0, 1], 53).into(), 1, &["*.example"]).rules.to_vec().into(),
        };
        let node = Arc::new(Node { endpoint, granted: Mutex::default() });
        let credentials = tls::credentials(files.clone()).unwrap();
        let places =
            resolvers.iter().map(|one| Place::Remote(one.remote(), Arc::clone(&credentials))).collect();
        let client = FeedClient::new(places, name.into(), Arc::clone(&node) as Arc<dyn Backend>);
        let task = tokio::spawn(Arc::clone(&client).run());
        Self { node, client, task, workload }
    }

    async fn wait_until_served(&self, resolver: &Resolver) {
        wait_until_async("the workload is known", SOON, async || {
            (resolver.ask(self.workload, "served.example").await.0 == ResponseCode::NoError).then_some(())
        })
        .await;
    }

    fn was_asked_for(&self, name: &str) -> usize {
        self.node.granted.lock().unwrap().iter().filter(|request| request.name == name).count()
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn files(authority: &Authority, file: &str, name: &str) -> TlsFiles {
    let signed = authority.sign(file, name);
    TlsFiles { certificate: signed.certificate, key: signed.key, authority: authority.file() }
}

// DESIGN 6: several enforcers to one resolver, several resolvers to one enforcer; Q1, promise 6
#[tokio::test(flavor = "multi_thread")]
async fn enforcers_and_resolvers_of_many_nodes_meet() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let served = files(&authority, "resolver", NAME);
    let resolvers = [Resolver::start(&served, &upstream), Resolver::start(&served, &upstream)];
    let all = [&resolvers[0], &resolvers[1]];
    let nodes = [1, 2].map(|number| {
        let name = format!("node-{number}");
        Enforcer::start(&name, number, &files(&authority, &name, &name), &all)
    });
    for resolver in all {
        for node in &nodes {
            node.wait_until_served(resolver).await;
        }
    }
    for (number, resolver) in resolvers.iter().enumerate() {
        for (node, other) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
            let name = format!("at{number}-{}.example", node.workload.to_string().replace('.', "-"));
            assert_eq!(resolver.ask(node.workload, &name).await, (ResponseCode::NoError, vec![address(1)]));
            assert_eq!((node.was_asked_for(&name), other.was_asked_for(&name)), (1, 0));
            assert_eq!(resolver.ask(node.workload, "elsewhere.test").await.0, ResponseCode::NXDomain);
        }
        let stranger = resolver.ask([10, 9, 0, 1].into(), "a.example").await;
        assert_eq!(stranger.0, ResponseCode::Refused, "a workload of nobody");
        let itself = Client::new("127.0.0.1", resolver.dns).ask("a.example").await;
        assert_eq!(itself.code, ResponseCode::Refused, "identity addresses and ports of nodes are not ours");
    }
    assert!(nodes.iter().all(|node| node.client.is_alive()));
}

// Q1: a source address alone is nobody's word
#[tokio::test(flavor = "multi_thread")]
async fn a_bare_source_address_is_refused() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let resolver = Resolver::start(&files(&authority, "resolver", NAME), &upstream);
    let node = Enforcer::start("node-1", 1, &files(&authority, "node-1", "node-1"), &[&resolver]);
    node.wait_until_served(&resolver).await;
    // The workload of this node has this address, and asks without the forwarder.
    let credentials = tls::credentials(files(&authority, "node-3", "node-3")).unwrap();
    let say =
        raw(&credentials, &resolver, Hello { version: VERSION, node: "node-3".into(), sockets: 0 }).await;
    let mut local = endpoint("local", ([127, 0, 0, 1], 53).into(), 1, &["*.example"]);
    local.identity = vec![Identity::Source([127, 0, 0, 2].into()).into()];
    say.0.send(FromEnforcer { message: Some(Message::Endpoint(local)) }).unwrap();
    say.0.send(FromEnforcer { message: Some(Message::SnapshotEnd(SnapshotEnd {})) }).unwrap();
    wait_until_async("it is known to the forwarder", SOON, async || {
        (resolver.ask([127, 0, 0, 2].into(), "a.example").await.0 != ResponseCode::Refused).then_some(())
    })
    .await;
    assert_eq!(Client::new("127.0.0.2", resolver.dns).ask("a.example").await.code, ResponseCode::Refused);
}

// Q1: the servers of the cluster's DNS, as enforcers name them
#[tokio::test(flavor = "multi_thread")]
async fn enforcers_name_the_forwarders() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let resolver = Resolver::trusting("feed", &files(&authority, "resolver", NAME), &upstream);
    let node = Enforcer::start("node-1", 1, &files(&authority, "node-1", "node-1"), &[&resolver]);
    resolver.wait_for_log("an enforcer is connected");
    assert_eq!(resolver.ask(node.workload, "a.example").await.0, ResponseCode::Refused, "nobody named us");
    node.client.publish_forwarders(vec![[127, 0, 0, 9].into(), [127, 0, 0, 1].into()]);
    node.wait_until_served(&resolver).await;
    node.client.publish_forwarders(vec![[127, 0, 0, 9].into()]);
    let refused =
        async || (resolver.ask(node.workload, "a.example").await.0 == ResponseCode::Refused).then_some(());
    wait_until_async("we are named no more", SOON, refused).await;
    // Another one says so in its snapshot, for as long as it is there.
    let other = Enforcer::start("node-2", 2, &files(&authority, "node-2", "node-2"), &[]);
    let credentials = tls::credentials(files(&authority, "node-2", "node-2")).unwrap();
    let (found, places) = tokio::sync::watch::channel(Vec::new());
    let backend = Arc::clone(&other.node) as Arc<dyn Backend>;
    let client = FeedClient::new(vec![Place::Found(places)], "node-2".into(), backend);
    client.publish_forwarders(vec![[127, 0, 0, 1].into()]);
    let task = tokio::spawn(Arc::clone(&client).run());
    found.send(vec![(resolver.remote(), credentials)]).unwrap();
    other.wait_until_served(&resolver).await;
    task.abort();
    wait_until_async("its word counts no more", SOON, refused).await;
}

type Said = (mpsc::UnboundedSender<FromEnforcer>, tonic::Streaming<nameward_feed::proto::FromResolver>);

/// A stream that has said Hello.
async fn raw(credentials: &Credentials, resolver: &Resolver, hello: Hello) -> Said {
    let remote = resolver.remote();
    let channel = tls::connect(credentials, remote.address, remote.name).await.unwrap();
    let (say, says) = mpsc::unbounded_channel();
    say.send(FromEnforcer { message: Some(Message::Hello(hello)) }).unwrap();
    let stream = Raw::new(channel).enforce(UnboundedReceiverStream::new(says)).await.unwrap();
    (say, stream.into_inner())
}

/// The word that the stream ends with.
async fn end(mut said: Said) -> String {
    let ended = async {
        loop {
            match said.1.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => return status.message().to_owned(),
            }
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("the stream goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_certificate_gets_nothing() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let resolver = Resolver::start(&files(&authority, "resolver", NAME), &upstream);
    // HTTP/2 without TLS, and TLS without a certificate.
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", resolver.feed)).unwrap();
    let (_say, says) = mpsc::unbounded_channel::<FromEnforcer>();
    let asked = async {
        Raw::new(plain.connect().await?).enforce(UnboundedReceiverStream::new(says)).await.map_err(Into::into)
    };
    let asked: Result<_, Box<dyn std::error::Error>> = asked.await;
    assert!(asked.is_err(), "the feed is served without TLS");
    resolver.wait_for_log("turned away from the feed");
    let stranger = Authority::new();
    let mut strange = files(&stranger, "node-1", "node-1");
    strange.authority = authority.file();
    let enforcer = Enforcer::start("node-1", 1, &strange, &[&resolver]);
    resolver.wait_for_log("invalid peer certificate");
    assert_eq!(resolver.ask(enforcer.workload, "a.example").await.0, ResponseCode::Refused);
    assert!(!enforcer.client.is_alive());
    // Nor does a resolver that an enforcer cannot trust get anything.
    let false_resolver = Resolver::start(&files(&stranger, "resolver", NAME), &upstream);
    let enforcer = Enforcer::start("node-2", 2, &files(&authority, "node-2", "node-2"), &[&false_resolver]);
    false_resolver.wait_for_log("turned away from the feed");
    assert!(!enforcer.client.is_alive());
    assert_eq!(false_resolver.ask(enforcer.workload, "a.example").await.0, ResponseCode::Refused);
}

// Promise 6
#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_for_another_node() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let resolver = Resolver::start(&files(&authority, "resolver", NAME), &upstream);
    let first = Enforcer::start("node-1", 1, &files(&authority, "node-1", "node-1"), &[&resolver]);
    first.wait_until_served(&resolver).await;
    let credentials = tls::credentials(files(&authority, "node-2", "node-2")).unwrap();
    let hello = |node: &str, sockets| Hello { version: VERSION, node: node.into(), sockets };
    let word = end(raw(&credentials, &resolver, hello("node-1", 0)).await).await;
    assert!(word.contains("not for node node-1") && word.contains("--node"), "{word}");
    let word = end(raw(&credentials, &resolver, hello("node-2", 7)).await).await;
    assert!(word.contains("cannot be handed over"), "{word}");
    // What another has announced is not taken over either.
    let said = raw(&credentials, &resolver, hello("node-2", 0)).await;
    let mut claimed = endpoint("mine", ([127, 0, 0, 1], 53).into(), 1, &["*"]);
    claimed.identity = vec![Identity::Source(first.workload).into()];
    said.0.send(FromEnforcer { message: Some(Message::Endpoint(claimed)) }).unwrap();
    said.0.send(FromEnforcer { message: Some(Message::SnapshotEnd(SnapshotEnd {})) }).unwrap();
    let word = end(said).await;
    assert!(word.contains("already served for node node-1"), "{word}");
    assert_eq!(resolver.ask(first.workload, "b.example").await.0, ResponseCode::NoError);
    assert_eq!(first.was_asked_for("b.example"), 1);
}

// Certificates from files, read again when they change
#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_under_a_running_feed() {
    let (first, second, upstream) = (Authority::new(), Authority::new(), well(1).await);
    let folder = Scratch::new("certificates").unwrap();
    let give = |side: &str, authority: &Authority, name: &str| {
        let signed = authority.sign(side, name);
        let put = |kind: &str, from: &std::path::Path| {
            let fresh = folder.path().join("fresh");
            std::fs::copy(from, &fresh).unwrap();
            let path = folder.path().join(format!("{side}.{kind}"));
            std::fs::rename(&fresh, &path).unwrap();
            path
        };
        let (certificate, key) = (put("pem", &signed.certificate), put("key", &signed.key));
        TlsFiles { certificate, key, authority: put("ca", &authority.file()) }
    };
    let resolver = Resolver::start(&give("resolver", &first, NAME), &upstream);
    let enforcer = Enforcer::start("node-1", 1, &give("node", &first, "node-1"), &[&resolver]);
    enforcer.wait_until_served(&resolver).await;
    // The resolver trusts another authority from now on: the stream that stands ends, and no new one begins.
    give("resolver", &second, NAME);
    wait_until("the feed ends", SOON, || (!enforcer.client.is_alive()).then_some(()));
    resolver.wait_for_log("not good any more");
    assert_eq!(resolver.ask(enforcer.workload, "served.example").await.0, ResponseCode::NoError, "known");
    assert_eq!(resolver.ask(enforcer.workload, "new.example").await.0, ResponseCode::ServFail, "new");
    give("node", &second, "node-1");
    wait_until("the feed is back", SOON, || enforcer.client.is_alive().then_some(()));
    wait_until_async("new names are granted", SOON, async || {
        (resolver.ask(enforcer.workload, "newer.example").await.0 == ResponseCode::NoError).then_some(())
    })
    .await;
}

// Promise 8: strangers cannot keep others out
#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_say_nothing_hold_nobody_up() {
    let (authority, upstream) = (Authority::new(), well(1).await);
    let resolver = Resolver::start(&files(&authority, "resolver", NAME), &upstream);
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(resolver.feed).await.unwrap());
    }
    let (started, node) = (Instant::now(), files(&authority, "node-1", "node-1"));
    let enforcer = Enforcer::start("node-1", 1, &node, &[&resolver]);
    wait_until("the enforcer is heard", SOON, || enforcer.client.is_alive().then_some(()));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(silent);
}
