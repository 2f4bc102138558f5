use std::{
    os::unix::net::UnixListener,
    pin::Pin,
    sync::{Mutex, mpsc as blocking},
};

use futures::Stream;
use nameward_feed::{
    FORGET, Identity, VERSION, addresses,
    proto::{
        self, Forgotten, FromResolver, Grant, Heartbeat, Revoked, Welcome,
        ack::Outcome,
        feed_server::{Feed, FeedServer},
        from_resolver,
    },
    sockets,
};
use tokio::net::UnixListener as AsyncUnixListener;
use tokio_stream::wrappers::{UnboundedReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;

const WAIT: Duration = Duration::from_secs(5);

/// A resolver that says what the test tells it to, and tells the test what it hears.
struct Scripted {
    heard: mpsc::UnboundedSender<Message>,
    says: Mutex<Option<mpsc::UnboundedReceiver<Result<FromResolver, Status>>>>,
}

#[tonic::async_trait]
impl Feed for Scripted {
    type EnforceStream = Pin<Box<dyn Stream<Item = Result<FromResolver, Status>> + Send>>;

    async fn enforce(
        &self,
        request: Request<Streaming<FromEnforcer>>,
    ) -> Result<Response<Self::EnforceStream>, Status> {
        let (heard, mut stream) = (self.heard.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(FromEnforcer { message: Some(message) })) = stream.message().await {
                if heard.send(message).is_err() {
                    return;
                }
            }
        });
        let says = self.says.lock().unwrap().take().ok_or_else(|| Status::unavailable("one stream only"))?;
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(says))))
    }
}

struct Resolver {
    folder: PathBuf,
    heard: mpsc::UnboundedReceiver<Message>,
    say: mpsc::UnboundedSender<Result<FromResolver, Status>>,
    sockets: UnixListener,
}

impl Resolver {
    fn start(name: &str) -> Self {
        Self::of_version(name, VERSION)
    }

    fn of_version(name: &str, version: u32) -> Self {
        let folder = std::env::temp_dir().join(format!("nwt{}-{name}", std::process::id()));
        folder::create(&folder).unwrap();
        let paths = ResolverSockets::of(&folder, "scripted");
        let (tell, heard) = mpsc::unbounded_channel();
        let (say, says) = mpsc::unbounded_channel();
        let sockets = UnixListener::bind(&paths.sockets).unwrap();
        let listener = UnixListenerStream::new(AsyncUnixListener::bind(&paths.feed).unwrap());
        let service = FeedServer::new(Scripted { heard: tell, says: Mutex::new(Some(says)) });
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener));
        let resolver = Self { folder, heard, say, sockets };
        resolver.say(from_resolver::Message::Welcome(Welcome { version }));
        resolver
    }

    fn say(&self, message: from_resolver::Message) {
        self.say.send(Ok(FromResolver { message: Some(message) })).unwrap();
    }

    /// The next message that is no heartbeat; none when the stream ends.
    async fn hear_or_end(&mut self) -> Option<Message> {
        loop {
            let message = tokio::time::timeout(WAIT, self.heard.recv()).await.ok()??;
            if !matches!(message, Message::Heartbeat(_)) {
                return Some(message);
            }
        }
    }

    /// The next message that is no heartbeat.
    async fn hear(&mut self) -> Message {
        loop {
            let message = tokio::time::timeout(WAIT, self.heard.recv()).await.unwrap().unwrap();
            if !matches!(message, Message::Heartbeat(_)) {
                return message;
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// An enforcer that grants what the test lets it.
struct Scene {
    gate: Mutex<blocking::Receiver<Result<Granted, Refused>>>,
    with_sockets: bool,
    refused: mpsc::UnboundedSender<RefusedNames>,
}

fn view() -> EndpointView {
    EndpointView {
        uid: "runner".into(),
        name: "ci/runner".into(),
        generation: 3,
        identity: vec![Identity::Port(5300)],
        addresses: vec!["10.0.0.7".parse().unwrap()],
        rules: Arc::from(&b"{}"[..]),
    }
}

impl Backend for Scene {
    fn endpoints(&self) -> Vec<EndpointView> {
        vec![view()]
    }

    fn bindings(&self) -> Vec<BindingView> {
        let addresses = vec![("198.51.100.7".parse().unwrap(), Duration::from_secs(9))];
        vec![BindingView { endpoint: "runner".into(), name: "example.com".into(), addresses }]
    }

    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused> {
        assert_eq!((request.name.as_str(), request.generation), ("example.com", 3));
        self.gate.lock().unwrap().recv_timeout(WAIT).unwrap()
    }

    fn refused_names(&self, names: &RefusedNames) {
        let _not_every_test_listens = self.refused.send(names.clone());
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        if !self.with_sockets {
            return Ok(Vec::new());
        }
        let socket = std::net::UdpSocket::bind("127.0.0.1:0")?.into();
        Ok(vec![DnsSocket { transport: sockets::Transport::Udp, server: None, socket }])
    }
}

fn client(
    resolver: &Resolver,
    with_sockets: bool,
) -> (Arc<FeedClient>, blocking::Sender<Result<Granted, Refused>>, tokio::task::JoinHandle<()>) {
    client_that_tells(resolver, with_sockets, mpsc::unbounded_channel().0)
}

fn client_that_tells(
    resolver: &Resolver,
    with_sockets: bool,
    refused: mpsc::UnboundedSender<RefusedNames>,
) -> (Arc<FeedClient>, blocking::Sender<Result<Granted, Refused>>, tokio::task::JoinHandle<()>) {
    let (open, gate) = blocking::channel();
    let scene = Scene { gate: Mutex::new(gate), with_sockets, refused };
    let client =
        FeedClient::new(vec![Place::Folder(resolver.folder.clone())], "node-1".into(), Arc::new(scene));
    let task = tokio::spawn(Arc::clone(&client).run());
    (client, open, task)
}

async fn hear_snapshot(resolver: &mut Resolver) -> u64 {
    let Message::Hello(hello) = resolver.hear().await else { panic!("no hello") };
    assert_eq!((hello.version, hello.node.as_str()), (VERSION, "node-1"));
    let Message::Endpoint(endpoint) = resolver.hear().await else { panic!("no endpoint") };
    assert_eq!((endpoint.uid.as_str(), endpoint.generation, &endpoint.rules[..]), ("runner", 3, &b"{}"[..]));
    let Message::Binding(binding) = resolver.hear().await else { panic!("no binding") };
    assert_eq!((binding.name.as_str(), binding.addresses[0].ttl_millis), ("example.com", 9_000));
    assert!(matches!(resolver.hear().await, Message::SnapshotEnd(_)));
    hello.sockets
}

fn grant(sequence: u64) -> from_resolver::Message {
    from_resolver::Message::Grant(Grant {
        sequence,
        endpoint: "runner".into(),
        generation: 3,
        name: "example.com".into(),
        addresses: addresses(&[("198.51.100.7".parse().unwrap(), Duration::from_secs(60))]),
        ..Grant::default()
    })
}

// G1
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_before_it_is_granted() {
    let mut resolver = Resolver::start("feed-grant");
    let (client, open, task) = client(&resolver, false);
    assert_eq!(hear_snapshot(&mut resolver).await, 0);
    resolver.say(grant(8));
    resolver.say(grant(9));
    // The kernel is not written yet: silence, however long we listen.
    assert!(tokio::time::timeout(Duration::from_millis(300), resolver.hear()).await.is_err());
    open.send(Ok(Granted { usable_for: Duration::from_secs(660) })).unwrap();
    let Message::Ack(ack) = resolver.hear().await else { panic!("no ack") };
    assert_eq!(ack.sequence, 8);
    assert!(matches!(ack.outcome, Some(Outcome::Granted(granted)) if granted.usable_millis == 660_000));
    open.send(Err(Refused::Limit { what: "names" })).unwrap();
    let Message::Ack(ack) = resolver.hear().await else { panic!("no ack") };
    assert_eq!(ack.sequence, 9);
    let Some(Outcome::Refused(refused)) = ack.outcome else { panic!("not refused") };
    assert_eq!(refused.reason(), nameward_feed::proto::Refusal::Limit);
    assert!(client.is_alive());
    task.abort();
}

// Q9, DESIGN 5: many at once, each granted before one word for all of them
#[tokio::test(flavor = "multi_thread")]
async fn grants_that_come_together_are_acknowledged_together() {
    let mut resolver = Resolver::start("feed-grants");
    let (_client, open, task) = client(&resolver, false);
    hear_snapshot(&mut resolver).await;
    let one = |sequence| match grant(sequence) {
        from_resolver::Message::Grant(grant) => grant,
        _ => panic!("no grant"),
    };
    let grants = proto::Grants { grants: vec![one(8), one(9)] };
    resolver.say(from_resolver::Message::Grants(grants));
    open.send(Ok(Granted { usable_for: Duration::from_secs(660) })).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), resolver.hear()).await.is_err(), "half is none");
    open.send(Err(Refused::Limit { what: "names" })).unwrap();
    let Message::Acks(acks) = resolver.hear().await else { panic!("no acks") };
    let granted: Vec<_> = acks
        .acks
        .iter()
        .map(|ack| (ack.sequence, matches!(ack.outcome, Some(Outcome::Granted(_)))))
        .collect();
    assert_eq!(granted, [(8, true), (9, false)]);
    task.abort();
}

// Issue 8: also while a grant waits for the kernel
#[tokio::test(flavor = "multi_thread")]
async fn refused_names_are_told_beside_grants() {
    // What a resolver of the next version says beside it is passed over.
    let mut resolver = Resolver::of_version("feed-refused", VERSION + 1);
    let (told, mut tells) = mpsc::unbounded_channel();
    let (_client, _open, task) = client_that_tells(&resolver, false, told);
    hear_snapshot(&mut resolver).await;
    resolver.say(grant(8));
    let name = proto::RefusedName { name: "x.example".into(), count: 2, ..proto::RefusedName::default() };
    let names = RefusedNames { names: vec![name], ..RefusedNames::default() };
    resolver.say.send(Ok(FromResolver { message: None })).unwrap();
    resolver.say(from_resolver::Message::RefusedNames(names.clone()));
    assert_eq!(tokio::time::timeout(WAIT, tells.recv()).await.unwrap(), Some(names));
    task.abort();
}

// S4: version skew of one
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_of_a_neighbouring_version_is_understood() {
    for (version, understood) in [(VERSION - 1, true), (VERSION + 1, true), (VERSION + 2, false)] {
        let mut resolver = Resolver::of_version(&format!("feed-version{version}"), version);
        let (_client, open, task) = client(&resolver, false);
        hear_snapshot(&mut resolver).await;
        open.send(Ok(Granted { usable_for: Duration::from_secs(660) })).unwrap();
        // Who is not understood may find the stream ended already.
        let said = resolver.say.send(Ok(FromResolver { message: Some(grant(8)) }));
        assert!(said.is_ok() || !understood, "version {version}");
        let heard = tokio::time::timeout(Duration::from_secs(1), resolver.heard.recv()).await;
        let acknowledged = match heard {
            Ok(Some(Message::Ack(_))) => true,
            Ok(Some(Message::Heartbeat(_))) => matches!(resolver.hear_or_end().await, Some(Message::Ack(_))),
            _ => false,
        };
        assert_eq!(acknowledged, understood, "version {version}");
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_forgotten_when_the_resolver_says_so() {
    let mut resolver = Resolver::start("feed-forget");
    let (client, _open, task) = client(&resolver, false);
    hear_snapshot(&mut resolver).await;
    let names = [Name::parse("a.example").unwrap(), Name::parse("b.example").unwrap()];
    let forgetting = tokio::spawn(async move { client.forget("runner", 3, &names).await });
    let Message::Forget(forget) = resolver.hear().await else { panic!("nothing to forget") };
    assert_eq!(
        (forget.endpoint.as_str(), forget.names.join(" ").as_str()),
        ("runner", "a.example b.example")
    );
    assert!(!forgetting.is_finished());
    resolver.say(from_resolver::Message::Forgotten(Forgotten { sequence: forget.sequence }));
    assert_eq!(forgetting.await.unwrap(), [] as [String; 0]);
    task.abort();
}

// S4: version skew of one. Its rules go and come back, and with them what was remembered
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_of_the_version_before_forgets_the_endpoint() {
    let mut resolver = Resolver::of_version("feed-forget-old", FORGET - 1);
    let (client, _open, task) = client(&resolver, false);
    hear_snapshot(&mut resolver).await;
    let names = [Name::parse("a.example").unwrap()];
    let forgetting = tokio::spawn(async move { client.forget("runner", 3, &names).await });
    let Message::Revoke(revoke) = resolver.hear().await else { panic!("no revoke") };
    assert_eq!((revoke.endpoint.as_str(), revoke.generation), ("runner", 4));
    resolver.say(from_resolver::Message::Revoked(Revoked { endpoint: "runner".into(), generation: 4 }));
    let Message::Endpoint(endpoint) = resolver.hear().await else { panic!("its rules do not come back") };
    assert_eq!((endpoint.uid.as_str(), endpoint.generation), ("runner", 3));
    let said = forgetting.await.unwrap();
    assert!(said.len() == 1 && said[0].contains("older version"), "{said:?}");
    task.abort();
}

// DESIGN 6: a tightening waits for the resolver, but not for ever
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_waits_until_the_resolver_has_forgotten() {
    let mut resolver = Resolver::start("feed-revoke");
    let (client, _open, task) = client(&resolver, false);
    hear_snapshot(&mut resolver).await;
    resolver.say(from_resolver::Message::Heartbeat(Heartbeat { sequence: 1 }));
    let waiting = {
        let client = Arc::clone(&client);
        tokio::spawn(async move { client.revoke("runner", 4).await })
    };
    let Message::Revoke(revoke) = resolver.hear().await else { panic!("no revoke") };
    assert_eq!((revoke.endpoint.as_str(), revoke.generation), ("runner", 4));
    assert!(!waiting.is_finished());
    resolver.say(from_resolver::Message::Revoked(Revoked { endpoint: "runner".into(), generation: 4 }));
    tokio::time::timeout(REVOKE_WITHIN, waiting).await.unwrap().unwrap();
    // One that never answers holds nobody up for longer than the bound.
    tokio::time::timeout(WAIT, client.revoke("runner", 5)).await.unwrap();
    client.publish(&view());
    assert!(matches!(resolver.hear().await, Message::Revoke(_)));
    assert!(matches!(resolver.hear().await, Message::Endpoint(_)));
    client.publish_removed("runner");
    assert!(matches!(resolver.hear().await, Message::EndpointRemoved(_)));
    task.abort();
}

// S4
#[tokio::test(flavor = "multi_thread")]
async fn dns_sockets_are_handed_over_under_the_number_of_the_stream() {
    let mut resolver = Resolver::start("feed-sockets");
    let (_client, _open, task) = client(&resolver, true);
    let accepting = resolver.sockets.try_clone().unwrap();
    let received = tokio::task::spawn_blocking(move || {
        let (stream, _) = accepting.accept().unwrap();
        sockets::receive(&stream).unwrap()
    });
    let number = hear_snapshot(&mut resolver).await;
    let (theirs, handed) = received.await.unwrap();
    assert_eq!(theirs, number);
    assert_eq!(handed.len(), 1);
    task.abort();
}

// DESIGN 6: a dead peer is known in 2 s
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_resolver_is_dead() {
    let mut resolver = Resolver::start("feed-silent");
    let (client, _open, task) = client(&resolver, false);
    hear_snapshot(&mut resolver).await;
    let until = Instant::now() + WAIT;
    while !client.is_alive() {
        assert!(Instant::now() < until, "never alive");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begin = Instant::now();
    while client.is_alive() {
        assert!(begin.elapsed() < Duration::from_secs(20), "still alive");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    task.abort();
}
