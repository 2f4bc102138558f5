//! An enforcer that does what a test tells it, at the feed of a real resolver.

use std::{
    net::{SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    time::Duration,
};

use nameward_feed::{
    HEARTBEAT_MILLIS, Identity, VERSION,
    folder::ResolverSockets,
    proto::{
        Ack, Endpoint, FromEnforcer, FromResolver, Grant, Granted, Heartbeat, Hello, SnapshotEnd,
        ack::Outcome, feed_client::FeedClient, from_enforcer::Message, from_resolver,
    },
    sockets::{DnsSocket, Transport, send},
};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleSet,
    Settings,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

const WAIT: Duration = Duration::from_secs(10);

/// One stream, kept alive by heartbeats until it is dropped or [`fall_silent`](Self::fall_silent).
pub(crate) struct Enforcer {
    say: mpsc::UnboundedSender<FromEnforcer>,
    stream: Streaming<FromResolver>,
    sockets: ResolverSockets,
    beating: JoinHandle<()>,
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.beating.abort();
    }
}

/// A connection to the feed at this path.
pub(crate) async fn connect(sockets: &ResolverSockets) -> Channel {
    let uri = format!("unix://{}", sockets.feed.display());
    tonic::transport::Endpoint::from_shared(uri).unwrap().connect().await.unwrap()
}

impl Enforcer {
    pub(crate) async fn connect(sockets: ResolverSockets) -> Self {
        let (say, says) = mpsc::unbounded_channel();
        let stream =
            FeedClient::new(connect(&sockets).await).enforce(UnboundedReceiverStream::new(says)).await;
        let beating = tokio::spawn(beat(say.clone()));
        Self { say, stream: stream.unwrap().into_inner(), sockets, beating }
    }

    pub(crate) fn say(&self, message: Message) {
        self.say.send(FromEnforcer { message: Some(message) }).unwrap();
    }

    /// Says that it is `node`, with a DNS socket of its own; returns where to ask.
    pub(crate) fn greet(&self, node: &str, version: u32) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        self.greet_with(node, version, &socket);
        socket.local_addr().unwrap()
    }

    /// Says that it is `node`, and hands this socket over.
    pub(crate) fn greet_with(&self, node: &str, version: u32, socket: &UdpSocket) {
        let number = rand_number();
        let handing = UnixStream::connect(&self.sockets.sockets).unwrap();
        let copy = socket.try_clone().unwrap();
        copy.set_nonblocking(true).unwrap();
        let socket = DnsSocket { transport: Transport::Udp, server: None, socket: copy.into() };
        send(&handing, number, &[socket]).unwrap();
        self.say(Message::Hello(Hello { version, node: node.into(), sockets: number }));
    }

    /// A whole snapshot with one endpoint that asks at the socket it returns.
    pub(crate) fn announce(&self, node: &str, uid: &str, names: &[&str]) -> SocketAddr {
        let server = self.greet(node, VERSION);
        self.say(Message::Endpoint(endpoint(uid, server, 1, names)));
        self.say(Message::SnapshotEnd(SnapshotEnd {}));
        server
    }

    pub(crate) fn fall_silent(&self) {
        self.beating.abort();
    }

    /// The next message that is neither greeting, heartbeat nor a refused name.
    pub(crate) async fn hear(&mut self) -> from_resolver::Message {
        let heard = async {
            loop {
                match self.stream.message().await.unwrap().unwrap().message.unwrap() {
                    from_resolver::Message::Heartbeat(_)
                    | from_resolver::Message::Welcome(_)
                    | from_resolver::Message::RefusedNames(_) => {}
                    message => return message,
                }
            }
        };
        tokio::time::timeout(WAIT, heard).await.expect("the resolver says nothing but heartbeats")
    }

    /// The next grant, which must be for this name.
    pub(crate) async fn hear_grant(&mut self, name: &str) -> Grant {
        let from_resolver::Message::Grant(grant) = self.hear().await else { panic!("no grant") };
        assert_eq!(grant.name, name);
        grant
    }

    pub(crate) fn acknowledge(&self, grant: &Grant, usable: Duration) {
        let usable_millis = u64::try_from(usable.as_millis()).unwrap();
        let outcome = Some(Outcome::Granted(Granted { usable_millis }));
        self.say(Message::Ack(Ack { sequence: grant.sequence, outcome }));
    }

    /// The status that the stream ends with.
    pub(crate) async fn end(mut self) -> Status {
        let ended = async {
            loop {
                match self.stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("ended without a word"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(WAIT, ended).await.expect("the stream does not end")
    }
}

async fn beat(say: mpsc::UnboundedSender<FromEnforcer>) {
    let mut interval = tokio::time::interval(Duration::from_millis(HEARTBEAT_MILLIS));
    for sequence in 1.. {
        interval.tick().await;
        let message = Some(Message::Heartbeat(Heartbeat { sequence }));
        if say.send(FromEnforcer { message }).is_err() {
            return;
        }
    }
}

/// An isolated endpoint that may ask these names, and is known by the port of its DNS socket.
pub(crate) fn endpoint(uid: &str, server: SocketAddr, generation: u32, names: &[&str]) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        name: format!("ci/{uid}"),
        generation,
        identity: vec![Identity::Port(server.port()).into()],
        rules: rules(names).into(),
    }
}

fn rules(names: &[&str]) -> Vec<u8> {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
    let peers = vec![Peer::Names(names.iter().map(|name| name.parse().unwrap()).collect())];
    let ports = vec![PortSpec::all(Protocol::Tcp)];
    let rule = Rule { peers, ports, ..Rule::new(policy, "web", Effect::Allow) };
    let (settings, cluster, now) =
        (Settings::default(), ClusterRanges::default(), jiff::Timestamp::UNIX_EPOCH);
    let compiled = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &cluster, now).unwrap();
    serde_json::to_vec(&*compiled.dns).unwrap()
}

/// Numbers of hand-overs only have to differ within one resolver.
fn rand_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
