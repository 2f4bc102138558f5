//! DNS over TLS: whom it believes, and how it uses a connection (A9).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nameward_resolver::upstream::{Over, Tls, Trust, Upstream, UpstreamError};
use nameward_test_support::{Authority, Reply, Signed, Transport, wait_until};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::lab::{Asker, SOON, address, records, scripted, well};

const NAME: &str = "dns.example";

/// TLS in front of a server.
struct Front {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    hang_up: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Passes everything on to a server on TCP.
    async fn before(server: SocketAddr, files: &Signed) -> Self {
        Self::serve(files, move |mut stream: TlsStream<TcpStream>| async move {
            let mut inner = TcpStream::connect(server).await.unwrap();
            copy_bidirectional(&mut stream, &mut inner).await.ok();
        })
        .await
    }

    async fn serve<F>(
        files: &Signed,
        serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Clone + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, acceptor) = (listener.local_addr().unwrap(), acceptor(files));
        let (connections, closed, hang_up): (Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<Notify>) =
            Default::default();
        let (count, ended, leave) = (connections.clone(), closed.clone(), hang_up.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, serve) = (acceptor.clone(), serve.clone());
                let (count, ended, leave) = (count.clone(), ended.clone(), leave.clone());
                all.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    tokio::select! {
                        () = serve(stream) => {}
                        () = leave.notified() => {}
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        Self { address, connections, closed, hang_up, _tasks: tasks }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn upstream(&self, authority: &Authority, name: &str) -> Upstream {
        upstream(self.address, authority, name)
    }
}

fn acceptor(files: &Signed) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&files.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"dot".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

fn upstream(address: SocketAddr, authority: &Authority, name: &str) -> Upstream {
    let trust = Trust::of_file(&authority.file()).unwrap();
    Upstream { address, over: Over::Tls(Tls { name: ServerName::try_from(name.to_owned()).unwrap(), trust }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_many_questions() {
    let (authority, server) = (Authority::new(), well(1).await);
    let front = Front::before(server.address(), &authority.sign("server", NAME)).await;
    let asker = Arc::new(Asker::new([front.upstream(&authority, NAME)]));
    let mut all = JoinSet::new();
    for number in 0..200 {
        let asker = asker.clone();
        all.spawn(async move { asker.addresses(&format!("a{number}.example")).await });
    }
    while let Some(addresses) = all.join_next().await {
        assert_eq!(addresses.unwrap(), [address(1)]);
    }
    assert_eq!(front.connections(), 1);
    for asked in server.asked() {
        assert_eq!(asked.transport, Transport::Tcp);
        assert_eq!(asked.message.to_vec().unwrap().len() % 128, 0, "padded (RFC 8467)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_prove_the_name_is_not_asked() {
    let (authority, stranger, server) = (Authority::new(), Authority::new(), well(1).await);
    let front = Front::before(server.address(), &authority.sign("server", NAME)).await;
    for (upstream, why) in [
        (front.upstream(&authority, "other.example"), "not valid for name"),
        (front.upstream(&stranger, NAME), "invalid peer certificate"),
    ] {
        let error = Asker::new([upstream]).ask("a.example").await.unwrap_err();
        assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(server.asked().len(), 0);
    // Never without encryption instead, though the server would answer.
    let error =
        Asker::new([upstream(server.address(), &authority, NAME)]).ask("a.example").await.unwrap_err();
    assert!(matches!(error, UpstreamError::Unreachable { .. }), "{error}");
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_is_opened_again() {
    let (authority, server) = (Authority::new(), well(1).await);
    let front = Front::before(server.address(), &authority.sign("server", NAME)).await;
    let asker = Asker::new([front.upstream(&authority, NAME)]);
    for number in 1..=5 {
        assert_eq!(asker.addresses("a.example").await, [address(1)]);
        assert_eq!(front.connections(), number);
        front.hang_up.notify_waiters();
        let gone = || (front.closed.load(Ordering::Relaxed) == number).then_some(());
        wait_until("the connection is closed", SOON, gone);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_gets_company() {
    let (authority, other) = (Authority::new(), well(2).await);
    // The kernel accepts, nobody shakes hands.
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = upstream(hanging.local_addr().unwrap(), &authority, NAME);
    let asker = Asker::new([hanging, other.address().into()]);
    let started = Instant::now();
    assert_eq!(asker.addresses("a.example").await, [address(2)]);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // One that shakes hands, and says nothing.
    let silent = scripted(|_| Reply::After(Duration::from_secs(60), Box::new(Reply::Silence))).await;
    let front = Front::before(silent.address(), &authority.sign("server", NAME)).await;
    let asker = Asker::new([front.upstream(&authority, NAME), other.address().into()]);
    assert_eq!(asker.addresses("a.example").await, [address(2)]);
}

// RFC 7858, section 3.3: answers come in any order. So many questions have the same ID at times.
#[tokio::test(flavor = "multi_thread")]
async fn answers_find_their_questions_in_any_order() {
    const QUESTIONS: usize = 1_500;
    let authority = Authority::new();
    let serve = |mut stream: TlsStream<TcpStream>| async move {
        let mut answers = Vec::new();
        while let Ok(length) = stream.read_u16().await {
            let mut message = vec![0; length.into()];
            stream.read_exact(&mut message).await.unwrap();
            answers.push(echo_address(&message));
            if answers.len() < QUESTIONS {
                continue;
            }
            for answer in answers.iter().rev() {
                stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
            stream.flush().await.unwrap();
        }
    };
    let front = Front::serve(&authority.sign("server", NAME), serve).await;
    let asker = Arc::new(Asker::new([front.upstream(&authority, NAME)]));
    let mut all = JoinSet::new();
    for number in 0..QUESTIONS {
        let (asker, last) = (asker.clone(), u8::try_from(number % 256).unwrap());
        all.spawn(async move { (asker.addresses(&format!("{last}.a{number}.example")).await, last) });
    }
    while let Some(done) = all.join_next().await {
        let (addresses, last) = done.unwrap();
        assert_eq!(addresses, [address(last)]);
    }
    assert_eq!(front.connections(), 1);
}

/// The answer whose last octet is the first label.
fn echo_address(question: &[u8]) -> Vec<u8> {
    use hickory_proto::{op::Message, op::MessageType, rr::RData, rr::Record};
    let mut message = Message::from_vec(question).unwrap();
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    let last = name.to_ascii().split('.').next().unwrap().parse().unwrap();
    let std::net::IpAddr::V4(v4) = address(last) else { unreachable!() };
    message.answers = vec![Record::from_rdata(name, 60, RData::A(v4.into()))];
    message.edns = None;
    message.to_vec().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_over_tls_is_no_answer() {
    let authority = Authority::new();
    let server = scripted(|asked| {
        let Reply::Records(lie) = records(asked, 66) else { unreachable!() };
        let mut answer = asked.message.clone();
        answer.metadata.message_type = hickory_proto::op::MessageType::Response;
        answer.answers = lie;
        answer.queries[0].set_name(hickory_proto::rr::Name::from_ascii("other.example.").unwrap());
        Reply::Bytes(answer.to_vec().unwrap())
    });
    let server = server.await;
    let front = Front::before(server.address(), &authority.sign("server", NAME)).await;
    let asker = Asker::new([front.upstream(&authority, NAME)]);
    let error = asker.ask("a.example").await.unwrap_err();
    assert!(error.to_string().contains("not to the question"), "{error}");
    assert_eq!(asker.counters.mismatched.value(), 1);
}
