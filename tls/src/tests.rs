//! Certificates on disk, and connections on loopback.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use rustls::{RootCertStore, pki_types::ServerName};
use tokio_stream::StreamExt;

use super::{files::certificates, *};

const NAME: &str = "resolver.example";
const SERVICE: Service = Service { name: "the feed", protocol: b"h2" };

/// A folder with the files of both sides.
struct Scene(PathBuf);

struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), certificate)
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

impl Scene {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nwt{}x0ttls-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn files(&self, side: &str) -> TlsFiles {
        let path = |kind: &str| self.0.join(format!("{side}.{kind}"));
        TlsFiles { certificate: path("pem"), key: path("key"), authority: path("ca") }
    }

    /// Gives a side a certificate, the way Kubernetes does: by renaming.
    fn give(&self, side: &str, authority: &Authority, name: &str) -> TlsFiles {
        let files = self.files(side);
        let (certificate, key) = authority.sign(name);
        replace(&files.certificate, &certificate);
        replace(&files.key, &key);
        replace(&files.authority, &authority.1);
        files
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

struct Served {
    address: SocketAddr,
    accepted: ReceiverStream<io::Result<Accepted>>,
}

impl Served {
    fn new(credentials: &Arc<Credentials>) -> Self {
        let listener = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, accepted: Arc::clone(credentials).accept(listener).unwrap() }
    }

    async fn next(&mut self) -> Accepted {
        let next = timeout(Duration::from_secs(5), self.accepted.next());
        next.await.expect("nobody was accepted").unwrap().unwrap()
    }
}

/// Whether a client's hands are shaken, and an octet comes through.
async fn meets(client: &Credentials, name: &str, served: &mut Served) -> io::Result<()> {
    let connector = TlsConnector::from(Arc::clone(&client.current().both.as_ref().unwrap().client));
    let stream = TcpStream::connect(served.address).await?;
    let mut stream = connector.connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await?;
    stream.write_all(b"x").await?;
    stream.flush().await?;
    // A server that refuses a certificate says so after the client's part is done (RFC 8446).
    let refused = async {
        let mut octet = [0];
        stream.read_exact(&mut octet).await.map(drop)
    };
    tokio::select! {
        refused = refused => refused,
        mut accepted = served.next() => {
            assert_eq!(accepted.read_u8().await?, b'x');
            Ok(())
        }
    }
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let scene = Scene::new("prove");
    let (ours, strange) = (Authority::new(), Authority::new());
    let server = Credentials::read(scene.give("server", &ours, NAME), SERVICE).unwrap();
    let client = Credentials::read(scene.give("client", &ours, "node-1"), SERVICE).unwrap();
    let mut served = Served::new(&server);
    meets(&client, NAME, &mut served).await.unwrap();
    assert!(meets(&client, "other.example", &mut served).await.is_err(), "another name");
    let mut files = scene.give("stranger", &strange, "node-1");
    let stranger = Credentials::read(files.clone(), SERVICE).unwrap();
    assert!(meets(&stranger, NAME, &mut served).await.is_err(), "a server of another authority");
    // It trusts our authority, but has no certificate of it.
    files.authority = scene.files("client").authority;
    let stranger = Credentials::read(files, SERVICE).unwrap();
    let refused = meets(&stranger, NAME, &mut served).await.unwrap_err();
    assert!(refused.to_string().contains("alert"), "{refused}");
}

#[tokio::test]
async fn who_shows_no_certificate_is_turned_away() {
    let scene = Scene::new("none");
    let authority = Authority::new();
    let server = Credentials::read(scene.give("server", &authority, NAME), SERVICE).unwrap();
    let mut served = Served::new(&server);
    let mut roots = RootCertStore::empty();
    roots.add(certificates(&scene.files("server").authority).unwrap().remove(0)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    let answer = timeout(Duration::from_secs(5), stream.read_u8()).await.expect("the server says nothing");
    let refused = answer.unwrap_err();
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
    assert!(timeout(Duration::from_millis(50), served.accepted.next()).await.is_err(), "it was accepted");
}

#[tokio::test]
async fn a_peer_speaks_for_its_own_name_only() {
    let scene = Scene::new("peer");
    let authority = Authority::new();
    let server = Credentials::read(scene.give("server", &authority, NAME), SERVICE).unwrap();
    let client = Credentials::read(scene.give("client", &authority, "node-1"), SERVICE).unwrap();
    let mut served = Served::new(&server);
    let connector = TlsConnector::from(Arc::clone(&client.current().both.as_ref().unwrap().client));
    let stream = TcpStream::connect(served.address).await.unwrap();
    let connecting = connector.connect(ServerName::try_from(NAME).unwrap(), stream);
    let both = timeout(Duration::from_secs(5), async { tokio::join!(served.next(), connecting) });
    let (accepted, _stream) = both.await.expect("no connection");
    let peer = accepted.peer().clone();
    assert!(peer.is("node-1") && peer.is("NODE-1"));
    assert!(!peer.is("node-2") && !peer.is("") && !peer.is("node-1.example") && !peer.is("no such name"));
    peer.check().unwrap();
    // Another authority counts from now on.
    scene.give("server", &Authority::new(), NAME);
    assert!(peer.check().is_err());
}

#[tokio::test]
async fn files_are_read_again_when_they_change() {
    let scene = Scene::new("again");
    let (first, second) = (Authority::new(), Authority::new());
    let server = Credentials::read(scene.give("server", &first, NAME), SERVICE).unwrap();
    let client = Credentials::read(scene.give("client", &first, "node-1"), SERVICE).unwrap();
    let mut served = Served::new(&server);
    meets(&client, NAME, &mut served).await.unwrap();
    scene.give("server", &second, NAME);
    assert!(meets(&client, NAME, &mut served).await.is_err(), "the client does not know the new authority");
    scene.give("client", &second, "node-1");
    meets(&client, NAME, &mut served).await.unwrap();
    assert_eq!((server.number(), server.number()), (2, 2));
    // Half of a change, and nonsense: what was good stays in force.
    let (certificate, key) = second.sign(NAME);
    for text in [&certificate[..], "nonsense", ""] {
        replace(&scene.files("server").certificate, text);
        meets(&client, NAME, &mut served).await.unwrap();
    }
    assert_eq!(server.number(), 2);
    replace(&scene.files("server").certificate, &certificate);
    replace(&scene.files("server").key, &key);
    meets(&client, NAME, &mut served).await.unwrap();
    assert_eq!(server.number(), 3);
}

#[test]
fn files_that_cannot_be_used_say_why() {
    let scene = Scene::new("why");
    let says = |files: &TlsFiles| Credentials::read(files.clone(), SERVICE).unwrap_err().to_string();
    assert!(says(&scene.files("absent")).contains("absent.pem"));
    let files = scene.give("server", &Authority::new(), NAME);
    let other = scene.give("other", &Authority::new(), NAME);
    let mixed = TlsFiles { key: other.key.clone(), ..files.clone() };
    assert!(says(&mixed).contains("cannot be used with its key"), "{}", says(&mixed));
    let swapped = TlsFiles { key: files.certificate.clone(), ..files };
    assert!(says(&swapped).contains("a private key"), "{}", says(&swapped));
    let keyless = TlsFiles { authority: other.key.clone(), ..other };
    assert!(says(&keyless).contains("there is none"), "{}", says(&keyless));
}

#[tokio::test]
async fn who_only_serves_asks_for_no_certificate() {
    let scene = Scene::new("serves");
    let authority = Authority::new();
    let TlsFiles { certificate, key, .. } = scene.give("server", &authority, NAME);
    let server = Credentials::serving(certificate, key, SERVICE).unwrap();
    let client = Credentials::read(scene.give("client", &authority, "node-1"), SERVICE).unwrap();
    let mut served = Served::new(&server);
    meets(&client, NAME, &mut served).await.unwrap();
    // It knows no authority, so that it believes nobody.
    let name = ServerName::try_from(NAME).unwrap();
    assert!(
        server.connect(served.address, name.clone()).await.unwrap_err().to_string().contains("authority")
    );
    let address = served.address;
    let (accepted, _stream) = tokio::join!(served.next(), client.connect(address, name));
    assert!(accepted.peer().check().is_err() && !accepted.peer().is("node-1"));
}

#[tokio::test]
async fn files_that_come_later_are_waited_for() {
    let scene = Scene::new("later");
    let waiting = tokio::spawn(Credentials::await_files(scene.files("server"), SERVICE));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    scene.give("server", &Authority::new(), NAME);
    let read = timeout(Duration::from_secs(10), waiting).await.expect("they are not read").unwrap();
    assert_eq!(read.number(), 1);
}
