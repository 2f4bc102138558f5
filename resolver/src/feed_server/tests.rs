//! A scripted enforcer at the real sockets.

mod by_name;

use std::{
    collections::HashMap,
    net::{IpAddr, UdpSocket},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Mutex, OnceLock, atomic::AtomicU32, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nameward_feed::{
    HEARTBEAT_MILLIS, Identity, VERSION, addresses, folder,
    proto::{
        self, Ack, Binding, Endpoint, EndpointRemoved, Forget, Grant, Heartbeat, Hello, Revoke, SnapshotEnd,
        ack::Outcome, feed_client::FeedClient, from_enforcer::Message, from_resolver,
    },
    sockets::{Transport, send},
};
use nameward_policy::{ClusterRanges, Isolation, RuleSet, Settings};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use super::*;
use crate::decisions::{Decision, DecisionSink, Outcome::Denied, Reason};
use crate::endpoints::Endpoints;
use crate::grants::{GrantRequest, Granted, Grantor, Refused, Scope};
use crate::refused::{Batch, Loss, RefusedNames};

const WAIT: Duration = Duration::from_secs(5);
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Counts what it is given, by node.
#[derive(Default)]
struct Taken {
    sockets: Mutex<HashMap<String, Vec<DnsSocket>>>,
    gone: Mutex<Vec<u16>>,
    forgotten: Mutex<Vec<String>>,
}

impl SocketTaker for Taken {
    fn replace(&self, node: &str, sockets: Vec<DnsSocket>) {
        self.sockets.lock().unwrap().insert(node.into(), sockets);
    }

    fn let_go(&self, _node: &str, ports: &[u16]) {
        self.gone.lock().unwrap().extend(ports);
    }

    fn forget(&self, names: &[Name]) {
        self.forgotten.lock().unwrap().extend(names.iter().map(ToString::to_string));
    }
}

impl Taken {
    fn count(&self, node: &str) -> Option<usize> {
        self.sockets.lock().unwrap().get(node).map(Vec::len)
    }
}

struct Resolver {
    folder: PathBuf,
    endpoints: Arc<Endpoints>,
    enforcers: Arc<Enforcers>,
    taken: Arc<Taken>,
    task: JoinHandle<Result<(), FeedSocketsError>>,
}

impl Resolver {
    fn start() -> Self {
        Self::with_scope(Scope::Endpoint)
    }

    fn with_scope(scope: Scope) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nwt{}x{number}tfeed", std::process::id()));
        let (endpoints, taken) = (Arc::new(Endpoints::with_scope(scope)), Arc::new(Taken::default()));
        let enforcers = Arc::new(Enforcers::new(Arc::clone(&endpoints)));
        let server = FeedServer::new(Arc::clone(&enforcers), Arc::clone(&taken) as Arc<dyn SocketTaker>);
        let task = tokio::spawn(server.serve(FeedSockets::open(&folder).unwrap()));
        Self { folder, endpoints, enforcers, taken, task }
    }

    async fn enforcer(&self) -> Enforcer {
        let sockets = folder::resolvers(&self.folder).unwrap().remove(0);
        let uri = format!("unix://{}", sockets.feed.display());
        let channel = tonic::transport::Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        let (say, says) = mpsc::unbounded_channel();
        let stream = FeedClient::new(channel).enforce(UnboundedReceiverStream::new(says)).await;
        let stream = stream.unwrap().into_inner();
        Enforcer { say, stream, hand_over: sockets.sockets, beating: OnceLock::new() }
    }

    async fn grant(&self, uid: &str, name: &str) -> Result<Granted, Refused> {
        self.enforcers.grant(request(uid, name)).await
    }

    fn granting(&self, uid: &str, name: &str) -> JoinHandle<Result<Granted, Refused>> {
        let (enforcers, request) = (Arc::clone(&self.enforcers), request(uid, name));
        tokio::spawn(async move { enforcers.grant(request).await })
    }

    fn uids(&self) -> Vec<String> {
        let mut uids: Vec<_> = self.endpoints.all().iter().map(|one| one.view.uid.to_string()).collect();
        uids.sort();
        uids
    }

    fn is_granted(&self, uid: &str, name: &str) -> bool {
        let endpoint = self.endpoints.get(uid).unwrap();
        endpoint.granted.usable_until(name, address(), Instant::now()).is_some()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

struct Enforcer {
    say: mpsc::UnboundedSender<FromEnforcer>,
    stream: Streaming<FromResolver>,
    hand_over: PathBuf,
    /// From its greeting on: a slow machine must not make it count as dead.
    beating: OnceLock<JoinHandle<()>>,
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        self.fall_silent();
    }
}

impl Enforcer {
    fn say(&self, message: Message) {
        self.say.send(FromEnforcer { message: Some(message) }).unwrap();
    }

    fn hello(&self, node: &str, sockets: u64) {
        self.say(Message::Hello(Hello { version: VERSION, node: node.into(), sockets }));
        self.beating.get_or_init(|| tokio::spawn(beat(self.say.clone())));
    }

    /// Does not say any more that it lives.
    fn fall_silent(&self) {
        if let Some(beating) = self.beating.get() {
            beating.abort();
        }
    }

    /// Says all of a snapshot, and returns when the resolver has heard it.
    async fn snapshot(&mut self, node: &str, endpoints: &[Endpoint]) {
        self.hello(node, 0);
        endpoints.iter().for_each(|endpoint| self.say(Message::Endpoint(endpoint.clone())));
        self.say(Message::SnapshotEnd(SnapshotEnd {}));
        self.settle().await;
    }

    /// Returns when the resolver has done all that it was told before.
    async fn settle(&mut self) {
        let mark = Revoke { endpoint: "mark".into(), generation: 1 };
        self.say(Message::Revoke(mark));
        loop {
            if matches!(self.hear().await, from_resolver::Message::Revoked(revoked) if revoked.endpoint == "mark")
            {
                return;
            }
        }
    }

    /// The next message that is neither greeting nor heartbeat.
    async fn hear(&mut self) -> from_resolver::Message {
        loop {
            let next = tokio::time::timeout(WAIT, self.stream.message()).await.unwrap().unwrap().unwrap();
            match next.message.unwrap() {
                from_resolver::Message::Heartbeat(_) | from_resolver::Message::Welcome(_) => {}
                message => return message,
            }
        }
    }

    async fn hear_grant(&mut self) -> Grant {
        let from_resolver::Message::Grant(grant) = self.hear().await else { panic!("no grant") };
        grant
    }

    /// The status that the stream ends with.
    async fn end(mut self) -> Status {
        loop {
            match tokio::time::timeout(WAIT, self.stream.message()).await.unwrap() {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a word"),
                Err(status) => return status,
            }
        }
    }

    fn acknowledge(&self, sequence: u64, millis: u64) {
        let outcome = Some(Outcome::Granted(proto::Granted { usable_millis: millis }));
        self.say(Message::Ack(Ack { sequence, outcome }));
    }
}

async fn beat(say: mpsc::UnboundedSender<FromEnforcer>) {
    loop {
        tokio::time::sleep(Duration::from_millis(HEARTBEAT_MILLIS / 2)).await;
        let beat = Message::Heartbeat(Heartbeat { sequence: 0 });
        if say.send(FromEnforcer { message: Some(beat) }).is_err() {
            return;
        }
    }
}

fn address() -> IpAddr {
    IpAddr::from([198, 51, 100, 7])
}

fn request(uid: &str, name: &str) -> GrantRequest {
    GrantRequest {
        endpoint: uid.into(),
        generation: 3,
        name: name.into(),
        chain: vec!["cdn.example".into()],
        addresses: vec![(address(), Duration::from_secs(60))],
        grace: Duration::from_secs(600),
    }
}

fn rules() -> Vec<u8> {
    let (settings, cluster) = (Settings::default(), ClusterRanges::default());
    let compiled = RuleSet::compile(Isolation::Isolated, &[], &settings, &cluster, Timestamp::UNIX_EPOCH);
    serde_json::to_vec(&*compiled.unwrap().dns).unwrap()
}

fn endpoint(uid: &str, port: u16, generation: u32) -> Endpoint {
    Endpoint {
        uid: uid.into(),
        name: format!("ci/{uid}"),
        generation,
        identity: vec![Identity::Port(port).into()],
        rules: rules().into(),
    }
}

// DESIGN 6: a snapshot replaces, it never merges
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_replaces_all_that_the_node_announced() {
    let resolver = Resolver::start();
    let mut first = resolver.enforcer().await;
    first.hello("node-1", 0);
    first.say(Message::Endpoint(endpoint("a", 5301, 3)));
    let binding = addresses(&[(address(), Duration::from_secs(60))]);
    let binding = Binding { endpoint: "a".into(), name: "known.example".into(), addresses: binding };
    first.say(Message::Binding(binding));
    first.settle().await;
    assert!(resolver.uids().is_empty(), "half a snapshot is none");
    first.say(Message::Endpoint(endpoint("b", 5302, 3)));
    first.say(Message::SnapshotEnd(SnapshotEnd {}));
    first.settle().await;
    assert_eq!(resolver.uids(), ["a", "b"]);
    assert!(resolver.is_granted("a", "known.example"));
    drop(first);
    let mut second = resolver.enforcer().await;
    second.snapshot("node-1", &[endpoint("a", 5301, 4), endpoint("c", 5303, 1)]).await;
    assert_eq!(resolver.uids(), ["a", "c"]);
    assert_eq!(resolver.endpoints.get("a").unwrap().view.generation, 4);
    assert!(!resolver.is_granted("a", "known.example"), "what the snapshot does not say is forgotten");
    second.say(Message::Endpoint(endpoint("c", 5303, 2)));
    second.say(Message::EndpointRemoved(EndpointRemoved { uid: "a".into() }));
    second.settle().await;
    assert_eq!(resolver.uids(), ["c"]);
    assert_eq!(resolver.endpoints.get("c").unwrap().view.generation, 2);
    assert_eq!(*resolver.taken.gone.lock().unwrap(), [5301]);
}

// G1
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_ends_with_its_own_acknowledgement() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    let one = resolver.granting("a", "one.example");
    let first = enforcer.hear_grant().await;
    let two = resolver.granting("a", "two.example");
    let second = enforcer.hear_grant().await;
    assert_eq!((first.name.as_str(), first.generation, first.grace_millis), ("one.example", 3, 600_000));
    assert_eq!(first.chain, ["cdn.example"]);
    assert_eq!(first.addresses[0].ttl_millis, 60_000);
    assert_ne!(first.sequence, second.sequence);
    enforcer.acknowledge(second.sequence, 7_000);
    assert_eq!(two.await.unwrap(), Ok(Granted { usable_for: Duration::from_secs(7) }));
    enforcer.acknowledge(second.sequence + 99, 7_000);
    enforcer.settle().await;
    assert!(!one.is_finished(), "nobody has acknowledged it");
    let refused = proto::Refused { reason: proto::Refusal::StaleGeneration.into(), detail: String::new() };
    enforcer.say(Message::Ack(Ack { sequence: first.sequence, outcome: Some(Outcome::Refused(refused)) }));
    assert_eq!(one.await.unwrap(), Err(Refused::StaleGeneration));
    assert_eq!(resolver.grant("nobody", "one.example").await, Err(Refused::NoSuchEndpoint));
}

// DESIGN 6: forgotten before it is acknowledged, also what a snapshot under way brings
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_done_when_it_is_confirmed() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    let remember = || {
        let endpoint = resolver.endpoints.get("a").unwrap();
        let addresses = [(address(), Duration::from_secs(60))];
        endpoint.granted.record(&"x.example".into(), &addresses, Instant::now(), Duration::from_secs(60));
    };
    remember();
    enforcer.say(Message::Revoke(Revoke { endpoint: "a".into(), generation: 3 }));
    assert!(
        matches!(enforcer.hear().await, from_resolver::Message::Revoked(revoked) if revoked.generation == 3)
    );
    assert!(resolver.is_granted("a", "x.example"), "only what is older is forgotten");
    enforcer.say(Message::Revoke(Revoke { endpoint: "a".into(), generation: 4 }));
    assert!(
        matches!(enforcer.hear().await, from_resolver::Message::Revoked(revoked) if revoked.generation == 4)
    );
    assert!(!resolver.is_granted("a", "x.example"));
    enforcer.hello("node-1", 0);
    let known = addresses(&[(address(), Duration::from_secs(60))]);
    enforcer.say(Message::Endpoint(endpoint("a", 5301, 4)));
    enforcer.say(Message::Binding(Binding {
        endpoint: "a".into(),
        name: "x.example".into(),
        addresses: known,
    }));
    enforcer.say(Message::Revoke(Revoke { endpoint: "a".into(), generation: 5 }));
    enforcer.say(Message::SnapshotEnd(SnapshotEnd {}));
    enforcer.settle().await;
    assert!(!resolver.is_granted("a", "x.example"));
}

// Forgotten before it is confirmed; what was asked before is granted anew, too
#[tokio::test(flavor = "multi_thread")]
async fn names_are_forgotten_when_it_is_confirmed() {
    for scope in [Scope::Endpoint, Scope::Name] {
        let resolver = Resolver::with_scope(scope);
        let mut enforcer = resolver.enforcer().await;
        enforcer.snapshot("node-1", &[endpoint("a", 5301, 3), endpoint("b", 5302, 3)]).await;
        let everyone = (scope == Scope::Name).then(|| resolver.endpoints.everyone().unwrap());
        let before: Vec<_> = ["a", "b"].into_iter().map(|uid| resolver.endpoints.get(uid).unwrap()).collect();
        let addresses = [(address(), Duration::from_secs(60))];
        for endpoint in before.iter().chain(&everyone) {
            endpoint.granted.record(&"x.example".into(), &addresses, Instant::now(), Duration::from_secs(60));
        }
        let names = vec!["x.example".to_owned()];
        enforcer.say(Message::Forget(Forget { sequence: 7, endpoint: "a".into(), names }));
        let heard = enforcer.hear().await;
        assert!(matches!(heard, from_resolver::Message::Forgotten(one) if one.sequence == 7));
        assert_eq!(*resolver.taken.forgotten.lock().unwrap(), ["x.example"]);
        assert!(!resolver.is_granted("a", "x.example") && resolver.is_granted("b", "x.example"), "{scope:?}");
        let in_flight = |endpoint: &crate::endpoints::Endpoint| {
            endpoint.granted.usable_until("x.example", address(), Instant::now()).is_some()
        };
        assert!(!in_flight(&before[0]), "who was asked before");
        if let Some(before) = everyone {
            let everyone = resolver.endpoints.everyone().unwrap();
            assert!(!in_flight(&before) && !in_flight(&everyone), "{scope:?}");
        }
        assert_eq!(resolver.endpoints.get("a").unwrap().view.generation, 3, "its rules stay");
    }
}

// F1
#[tokio::test(flavor = "multi_thread")]
async fn an_enforcer_that_is_away_keeps_its_endpoints() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    let lost = resolver.granting("a", "lost.example");
    enforcer.hear_grant().await;
    drop(enforcer);
    assert_eq!(lost.await.unwrap(), Err(Refused::Absent), "an answer that never comes is none");
    assert_eq!(resolver.uids(), ["a"]);
    // One that is back at once is waited for.
    let asked = Instant::now();
    let waiting = resolver.granting("a", "new.example");
    let mut back = resolver.enforcer().await;
    back.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    if asked.elapsed() < Duration::from_millis(150) {
        let grant = back.hear_grant().await;
        back.acknowledge(grant.sequence, 1_000);
        assert_eq!(waiting.await.unwrap(), Ok(Granted { usable_for: Duration::from_secs(1) }));
    }
    let later = resolver.granting("a", "later.example");
    let grant = loop {
        let grant = back.hear_grant().await;
        if grant.name == "later.example" {
            break grant;
        }
    };
    back.acknowledge(grant.sequence, 2_000);
    assert_eq!(later.await.unwrap(), Ok(Granted { usable_for: Duration::from_secs(2) }));
}

// DESIGN 6: a dead peer is known in 2 s
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_enforcer_is_dead() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    enforcer.fall_silent();
    let silent_since = Instant::now();
    let status = enforcer.end().await;
    assert!(status.message().contains("2000 ms"), "{status}");
    assert!(silent_since.elapsed() < Duration::from_secs(20), "{:?}", silent_since.elapsed());
    let asked = Instant::now();
    assert_eq!(resolver.grant("a", "new.example").await, Err(Refused::Absent));
    assert!(asked.elapsed() < Duration::from_millis(2_500), "known names need an answer before G1's bound");
    assert_eq!(resolver.uids(), ["a"]);
}

// DESIGN 6: both sides say that they are there
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_keep_a_quiet_stream_alive() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.snapshot("node-1", &[]).await;
    enforcer.fall_silent();
    let (mut beats, begin) = (0, Instant::now());
    while begin.elapsed() < Duration::from_millis(2_600) {
        enforcer.say(Message::Heartbeat(Heartbeat { sequence: beats }));
        let next = tokio::time::timeout(WAIT, enforcer.stream.message()).await.unwrap().unwrap().unwrap();
        beats += u64::from(matches!(next.message, Some(from_resolver::Message::Heartbeat(_))));
    }
    assert!((4..=8).contains(&beats), "{beats}");
}

// S4: version skew of one
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbouring_version_is_understood() {
    let resolver = Resolver::start();
    let versions = [(VERSION - 1, true), (VERSION + 1, true), (VERSION + 2, false), (0, false)];
    for (version, understood) in versions {
        let mut enforcer = resolver.enforcer().await;
        enforcer.say(Message::Hello(Hello { version, node: format!("node-{version}"), sockets: 0 }));
        if understood {
            enforcer.settle().await;
            continue;
        }
        let status = enforcer.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("upgrade one of them"), "{status}");
    }
    let nameless = resolver.enforcer().await;
    nameless.hello("", 0);
    assert!(nameless.end().await.message().contains("--node"));
}

// Issue 8, S4: each enforcer hears of its own endpoints, that of the version before, too
#[tokio::test(flavor = "multi_thread")]
async fn refused_names_go_to_the_enforcer_of_who_asked() {
    let resolver = Resolver::start();
    let (mut new, mut old) = (resolver.enforcer().await, resolver.enforcer().await);
    new.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    old.say(Message::Hello(Hello { version: VERSION - 1, node: "node-2".into(), sockets: 0 }));
    old.say(Message::Endpoint(endpoint("b", 5302, 3)));
    old.say(Message::SnapshotEnd(SnapshotEnd {}));
    old.settle().await;
    let names = Arc::new(RefusedNames::default());
    for (uid, name) in [("a", "x.example"), ("a", "x.example"), ("b", "y.example"), ("gone", "z.example")] {
        let outcome = Denied { reason: Reason::Filtered, detail: String::new() };
        let (endpoint, name) = (uid.into(), name.into());
        names.decided(Decision { endpoint, name, record_type: 1, code: 3, policy: None, outcome });
    }
    let loss = Loss { endpoint: "a".into(), dropped: 0, unsent: 7 };
    names.unsent(&Batch { names: vec![], losses: vec![loss] }, Instant::now());
    let (enforcers, telling) = (Arc::clone(&resolver.enforcers), Arc::clone(&names));
    let task = tokio::spawn(async move { enforcers.tell_refused(&telling).await });
    let from_resolver::Message::RefusedNames(told) = new.hear().await else { panic!("no names") };
    let [one] = &told.names[..] else { panic!("{told:?}") };
    assert_eq!((&*one.endpoint, &*one.name, &*one.reason, one.count), ("a", "x.example", "filtered", 2));
    assert_eq!(one.response_code, Some(3));
    assert_eq!((told.untold.len(), told.untold[0].count), (1, 7));
    let from_resolver::Message::RefusedNames(told) = old.hear().await else { panic!("no names") };
    let [one] = &told.names[..] else { panic!("{told:?}") };
    assert_eq!((&*one.endpoint, &*one.name), ("b", "y.example"));
    task.abort();
}

// Promise 6
#[tokio::test(flavor = "multi_thread")]
async fn enforcers_answer_for_their_own_endpoints() {
    let resolver = Resolver::start();
    let (mut one, mut two) = (resolver.enforcer().await, resolver.enforcer().await);
    one.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    two.snapshot("node-2", &[endpoint("b", 5302, 3)]).await;
    let (granting_a, granting_b) = (resolver.granting("a", "a.example"), resolver.granting("b", "b.example"));
    let (grant_a, grant_b) = (one.hear_grant().await, two.hear_grant().await);
    assert_eq!((grant_a.endpoint.as_str(), grant_b.endpoint.as_str()), ("a", "b"));
    // The sequence numbers of another stream are nobody's.
    one.acknowledge(grant_b.sequence, 1);
    one.acknowledge(grant_a.sequence, 1_000);
    two.acknowledge(grant_b.sequence, 2_000);
    granting_a.await.unwrap().unwrap();
    assert_eq!(granting_b.await.unwrap().unwrap().usable_for, Duration::from_secs(2));
    two.say(Message::EndpointRemoved(EndpointRemoved { uid: "a".into() }));
    two.say(Message::Revoke(Revoke { endpoint: "a".into(), generation: 9 }));
    two.settle().await;
    assert_eq!(resolver.uids(), ["a", "b"]);
    // The identity of another's endpoint would make one workload's lookups the other's.
    let thief = resolver.enforcer().await;
    thief.hello("node-3", 0);
    thief.say(Message::Endpoint(endpoint("c", 5301, 1)));
    thief.say(Message::SnapshotEnd(SnapshotEnd {}));
    let status = thief.end().await;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("--feed"), "{status}");
    assert_eq!(resolver.uids(), ["a", "b"]);
    drop(one);
    two.snapshot("node-2", &[]).await;
    assert_eq!(resolver.uids(), ["a"], "only its own are replaced");
}

// S4
#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_a_stream_are_served_after_its_snapshot() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    let hand_over = |number| {
        let stream = UnixStream::connect(&enforcer.hand_over).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        send(&stream, number, &[DnsSocket { transport: Transport::Udp, server: None, socket }]).unwrap();
    };
    hand_over(77);
    enforcer.hello("node-1", 77);
    enforcer.say(Message::Endpoint(endpoint("a", 5301, 3)));
    enforcer.settle().await;
    assert_eq!(resolver.taken.count("node-1"), None, "nobody is known yet whose queries could come");
    enforcer.say(Message::SnapshotEnd(SnapshotEnd {}));
    enforcer.settle().await;
    assert_eq!(resolver.taken.count("node-1"), Some(1));
    drop(enforcer);
    assert_eq!(resolver.taken.count("node-1"), Some(1), "questions are answered while it is away");
    let mut back = resolver.enforcer().await;
    back.snapshot("node-1", &[endpoint("a", 5301, 3)]).await;
    assert_eq!(resolver.taken.count("node-1"), Some(0));
    let without = resolver.enforcer().await;
    without.hello("node-2", 78);
    without.say(Message::SnapshotEnd(SnapshotEnd {}));
    assert!(without.end().await.message().contains("did not arrive"));
}

// F2
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_read_changes_nothing() {
    let resolver = Resolver::start();
    let mut enforcer = resolver.enforcer().await;
    enforcer.say(Message::Endpoint(endpoint("early", 5309, 1)));
    enforcer.snapshot("node-1", &[endpoint("a", 5301, 3), endpoint("b", 5302, 3)]).await;
    assert_eq!(resolver.uids(), ["a", "b"], "what comes before Hello is in the snapshot, or gone");
    let broken = Endpoint { rules: b"{\"no\": 1}".as_slice().into(), ..endpoint("a", 5301, 4) };
    enforcer.say(Message::Endpoint(broken.clone()));
    enforcer.settle().await;
    assert_eq!(resolver.endpoints.get("a").unwrap().view.generation, 3);
    let left_out = Endpoint { rules: Vec::new().into(), ..endpoint("b", 5302, 3) };
    enforcer.snapshot("node-1", &[broken, left_out]).await;
    assert_eq!(resolver.uids(), ["a", "b"]);
    assert_eq!(resolver.endpoints.get("a").unwrap().view.generation, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sockets_go_with_the_resolver() {
    let resolver = Resolver::start();
    drop(resolver.enforcer().await);
    resolver.task.abort();
    let end = Instant::now() + WAIT;
    while std::fs::read_dir(&resolver.folder).unwrap().next().is_some() {
        assert!(Instant::now() < end, "its files stay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
