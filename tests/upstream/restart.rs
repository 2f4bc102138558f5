//! Restarts without a lost query: real resolver processes on sockets that an enforcer holds, under load (DESIGN 4, 10).

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::op::ResponseCode;
use nameward_enforcer::{
    GrantRequest, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView, FeedClient, Place},
};
use nameward_feed::{
    Identity,
    sockets::{DnsSocket, Transport},
};
use nameward_test_support::{Asked, Daemon, FakeDns, Reply, Scratch, wait_until};
use nix::sys::signal::Signal;
use tokio::{
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

use crate::{
    client::{Answer, Client},
    enforcer::endpoint,
    lab::{SOON, address, records, scripted},
    resolver::command,
};

/// Clients that ask one question after the other: as many over UDP as over TCP.
const CLIENTS: usize = 8;
/// A client of glibc waits as long.
const PATIENCE: Duration = Duration::from_secs(5);

/// An enforcer that holds the sockets of one workload, and grants everything.
struct Node {
    udp: UdpSocket,
    tcp: TcpListener,
    rules: Arc<[u8]>,
}

impl Node {
    fn new() -> Self {
        // A port that is free for both.
        let both = || {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            TcpListener::bind(udp.local_addr().unwrap()).ok().map(|tcp| (udp, tcp))
        };
        let (udp, tcp) = std::iter::repeat_with(both).take(20).flatten().next().unwrap();
        let rules = endpoint("x", udp.local_addr().unwrap(), 1, &["*.example"]).rules.to_vec().into();
        Self { udp, tcp, rules }
    }

    fn address(&self) -> SocketAddr {
        self.udp.local_addr().unwrap()
    }
}

impl Backend for Node {
    fn endpoints(&self) -> Vec<EndpointView> {
        vec![EndpointView {
            uid: "runner".into(),
            name: "ci/runner".into(),
            generation: 1,
            identity: vec![Identity::Port(self.address().port())],
            addresses: Vec::new(),
            rules: self.rules.clone(),
        }]
    }

    fn bindings(&self) -> Vec<BindingView> {
        Vec::new()
    }

    fn grant(&self, _request: GrantRequest) -> Result<Granted, Refused> {
        Ok(Granted { usable_for: Duration::from_secs(600) })
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        let one = |transport, socket: OwnedFd| DnsSocket { transport, server: None, socket };
        let (udp, tcp) = (self.udp.try_clone()?, self.tcp.try_clone()?);
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(vec![one(Transport::Udp, udp.into()), one(Transport::Tcp, tcp.into())])
    }
}

/// A node with its enforcer, and clients that ask all the time.
struct Scene {
    folder: Scratch,
    upstream: FakeDns,
    server: SocketAddr,
    load: Option<Load>,
    feed: JoinHandle<()>,
    started: usize,
}

impl Scene {
    async fn new() -> Self {
        // So slow that questions are on their way at any time.
        let slow = |asked: &Asked| Reply::After(Duration::from_millis(20), Box::new(records(asked, 1)));
        let (folder, upstream) = (Scratch::new("restart").unwrap(), scripted(slow).await);
        let node = Node::new();
        let server = node.address();
        let place = Place::Folder(folder.path().join("feed"));
        let feed = FeedClient::new(vec![place], "node-1".into(), Arc::new(node));
        let feed = tokio::spawn(feed.run());
        Self { folder, upstream, server, load: Some(Load::start(server)), feed, started: 0 }
    }

    async fn answered(&self, more: usize) {
        self.load.as_ref().unwrap().wait_for(more).await;
    }

    /// Ends the load.
    async fn end(&mut self) -> (Vec<String>, usize) {
        self.load.take().unwrap().end().await
    }

    /// A resolver that has the enforcer's sockets.
    fn start(&mut self) -> Daemon {
        self.started += 1;
        let log = self.folder.path().join(format!("log{}", self.started));
        let mut command = command();
        command.arg("--feed").arg(format!("unix:{}", self.folder.path().join("feed").display()));
        command.args(["--upstream", &self.upstream.address().to_string()]);
        let mut process = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
        process.wait(SOON, || read(&log).contains("an enforcer is connected")).unwrap();
        process
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// Clients, until they are asked what they got.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn start(server: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS * 2 {
            clients.spawn(ask_all_the_time(server, number, Arc::clone(&stop), Arc::clone(&answered)));
        }
        Self { stop, answered, clients }
    }

    /// Returns when so many more have been answered.
    async fn wait_for(&self, answers: usize) {
        let (end, until) = (self.answered.load(Ordering::Relaxed) + answers, Instant::now() + SOON);
        while self.answered.load(Ordering::Relaxed) < end {
            assert!(Instant::now() < until, "questions are not answered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What went wrong, and how many were answered.
    async fn end(mut self) -> (Vec<String>, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        while let Some(done) = self.clients.join_next().await {
            lost.extend(done.unwrap());
        }
        (lost, self.answered.load(Ordering::Relaxed))
    }
}

async fn ask_all_the_time(
    server: SocketAddr,
    number: usize,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> Vec<String> {
    let client = Client::new("127.0.0.1", server);
    let mut lost = Vec::new();
    for question in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Every fourth name is new: upstream and enforcer are asked.
        let name = match question % 4 {
            0 => format!("new{number}-{question}.example"),
            _ => format!("known{}.example", question % 50),
        };
        let asked = Instant::now();
        let mut answer = ask(client, number, &name).await;
        // On a busy machine a grant may take longer than it is waited for (G1): libraries ask again then.
        if answer.as_ref().is_some_and(|answer| answer.why.contains("grant-timeout")) {
            answer = ask(client, number, &name).await;
        }
        match answer {
            Some(answer) if answer.code == ResponseCode::NoError && answer.addresses == [address(1)] => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            other => lost.push(format!("client {number}, {name}, after {:?}: {other:?}", asked.elapsed())),
        }
    }
    lost
}

/// Half of the clients use TCP.
async fn ask(client: Client, number: usize, name: &str) -> Option<Answer> {
    match number % 2 {
        0 => client.try_ask(name, PATIENCE).await,
        _ => tokio::time::timeout(PATIENCE, client.try_ask_tcp(name)).await.ok().flatten(),
    }
}

#[track_caller]
fn assert_none_lost((lost, answered): (Vec<String>, usize)) {
    assert!(lost.is_empty(), "{} of {answered} lost: {:#?}", lost.len(), &lost[..lost.len().min(5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn overlapping_restarts_lose_nothing() {
    let mut scene = Scene::new().await;
    let mut serving = scene.start();
    for _ in 0..5 {
        scene.answered(500).await;
        let next = scene.start();
        scene.answered(50).await;
        let stopping = tokio::task::spawn_blocking(move || serving.stop().unwrap());
        assert_eq!(stopping.await.unwrap().code(), Some(0));
        serving = next;
    }
    scene.answered(500).await;
    assert_none_lost(scene.end().await);
}

// Questions wait in the sockets while nobody reads them
#[tokio::test(flavor = "multi_thread")]
async fn restarts_with_a_gap_lose_nothing() {
    let mut scene = Scene::new().await;
    for _ in 0..3 {
        let mut serving = scene.start();
        scene.answered(500).await;
        let stopping = tokio::task::spawn_blocking(move || serving.stop().unwrap());
        assert_eq!(stopping.await.unwrap().code(), Some(0));
    }
    let _serving = scene.start();
    scene.answered(500).await;
    assert_none_lost(scene.end().await);
}

// A connection that stands is not cut under a question
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_on_an_open_connection_is_answered() {
    let mut scene = Scene::new().await;
    let mut serving = scene.start();
    // Nothing else keeps it from ending.
    scene.end().await;
    let mut stream = TcpStream::connect(scene.server).await.unwrap();
    let client = Client::new("127.0.0.1", scene.server);
    assert_eq!(client.ask_on(&mut stream, "first.example").await.unwrap().addresses, [address(1)]);
    serving.signal(Signal::SIGTERM).unwrap();
    wait_until("it stops", SOON, || serving.log().contains("no more questions").then_some(()));
    let last = client.ask_on(&mut stream, "last.example").await;
    assert_eq!(last.expect("the connection was cut").addresses, [address(1)]);
    let stopping = tokio::task::spawn_blocking(move || serving.stop().unwrap());
    assert_eq!(stopping.await.unwrap().code(), Some(0));
}
