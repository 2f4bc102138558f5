//! The feed over TCP: TLS 1.3, both sides with certificates of one authority, or nothing is said.
//!
//! Certificates come from files that somebody else replaces; what is in force is read again when they have changed.
//! What does not fit together (a new certificate beside an old key) changes nothing until it does. Which node a
//! certificate speaks for is asked here, and decided by the resolver.

mod accept;

use std::fs::Metadata;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

pub use self::accept::{Accepted, Peer};

/// Application protocol of gRPC.
const PROTOCOL: &[u8] = b"h2";
/// From the first packet to a proven name, both ways.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);

/// PEM, for those who make certificates.
pub mod pem {
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};

    /// The request for a certificate in a text, in DER form.
    pub fn certificate_request(text: &str) -> Option<Vec<u8>> {
        CertificateSigningRequestDer::from_pem_slice(text.as_bytes())
            .ok()
            .map(|request| request.as_ref().to_vec())
    }
}

/// Where the certificates of one side are (PEM).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our own certificate, and those between it and the authority's.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority that both sides' certificates come from.
    pub authority: PathBuf,
}

/// Certificates that cannot be used, or a side that did not prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("cannot read {path}: {detail}; it has to hold {what} in PEM form")]
    Read {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why.
        detail: String,
    },
    /// Files that do not fit together.
    #[error("the certificate {certificate} cannot be used with its key and authority: {detail}")]
    Unusable {
        /// Which.
        certificate: PathBuf,
        /// Why.
        detail: String,
    },
    /// The other side.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// gRPC.
    #[error("the feed at {address} cannot be used: {source}")]
    Channel {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// One side's certificates, read from its files, and again when they change.
#[derive(Debug)]
pub struct Credentials {
    files: TlsFiles,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Of the last attempt to read, whether it was good or not.
    stamps: Stamps,
    current: Arc<Current>,
}

/// What tells a file from the one that was there before.
type Stamps = [Option<(u64, u64, i64, i64, u64)>; 3];

#[derive(Debug)]
struct Current {
    number: u64,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Credentials {
    /// Reads the files, which must be good now.
    ///
    /// # Errors
    /// [`TlsError::Read`], [`TlsError::Unusable`].
    pub fn read(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let stamps = files.stamps();
        let current = Arc::new(files.load(1)?);
        Ok(Arc::new(Self { files, known: Mutex::new(Known { stamps, current }) }))
    }

    /// Grows each time other certificates come into force. Looks at the files.
    pub fn number(&self) -> u64 {
        self.current().number
    }

    /// Connects to a resolver that has to prove this name.
    ///
    /// # Errors
    /// [`TlsError::Connect`], [`TlsError::Channel`].
    pub async fn connect(&self, address: SocketAddr, name: ServerName<'static>) -> Result<Channel, TlsError> {
        let connector = TlsConnector::from(Arc::clone(&self.current().client));
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        };
        let connected = timeout(HANDSHAKE_WITHIN, connecting).await.unwrap_or_else(|_| Err(timed_out()));
        let stream = connected.map_err(|source| TlsError::Connect { address, source })?;
        // One stream is there already: a second one is never asked for, the caller connects anew.
        let mut stream = Some(TokioIo::new(stream));
        let give = tower::service_fn(move |_| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        });
        // The name is proven; this one is only what HTTP/2 wants to see.
        let channel = Endpoint::from_static("http://feed.nameward").connect_with_connector(give).await;
        channel.map_err(|source| TlsError::Channel { address, source })
    }

    /// Connections of who has a certificate of our authority. Never ends.
    ///
    /// # Errors
    /// When the listener cannot be watched.
    pub fn accept(
        self: Arc<Self>,
        listener: StdTcpListener,
    ) -> io::Result<ReceiverStream<io::Result<Accepted>>> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let (accepted, incoming) = mpsc::channel(1);
        tokio::spawn(accept::all(self, listener, accepted));
        Ok(ReceiverStream::new(incoming))
    }

    fn current(&self) -> Arc<Current> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = self.files.stamps();
        if known.stamps != stamps {
            known.stamps = stamps;
            match self.files.load(known.current.number + 1) {
                Ok(current) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates of the feed read again");
                    known.current = Arc::new(current);
                }
                Err(error) => {
                    tracing::error!(%error, "new certificates of the feed cannot be used; the old ones stay in force");
                }
            }
        }
        Arc::clone(&known.current)
    }
}

impl TlsFiles {
    fn stamps(&self) -> Stamps {
        let stamp =
            |found: Metadata| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size());
        [&self.certificate, &self.key, &self.authority].map(|path| std::fs::metadata(path).ok().map(stamp))
    }

    fn load(&self, number: u64) -> Result<Current, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unreadable(&self.key, "a private key"))?;
        let mut roots = RootCertStore::empty();
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable {
            certificate: self.certificate.clone(),
            detail: error.to_string(),
        };
        for authority in certificates(&self.authority)? {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(rustls::crypto::ring::default_provider()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        // A session that is resumed would not show its certificate to an authority that is new.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Current { number, server: Arc::new(server), client: Arc::new(client), verifier })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "at least one certificate";
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable(path, what))?;
    match found.is_empty() {
        true => Err(TlsError::Read { path: path.to_owned(), what, detail: "there is none".into() }),
        false => Ok(found),
    }
}

fn unreadable<E: std::fmt::Display>(path: &Path, what: &'static str) -> impl FnOnce(E) -> TlsError {
    move |error| TlsError::Read { path: path.to_owned(), what, detail: error.to_string() }
}

fn timed_out() -> io::Error {
    let text = format!("no TLS connection within {} ms", HANDSHAKE_WITHIN.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// A place on the network where a resolver's feed is, as it is written: `tls://ADDR:PORT#NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that it has to prove; its address where none was given.
    pub name: ServerName<'static>,
}

impl Remote {
    /// What a place on the network begins with.
    pub const SCHEME: &str = "tls://";

    /// Reads what follows [`SCHEME`](Self::SCHEME).
    ///
    /// # Errors
    /// What to write instead.
    pub fn read(text: &str) -> Result<Self, String> {
        let (address, name) =
            text.split_once('#').map_or((text, None), |(address, name)| (address, Some(name)));
        let address: SocketAddr = address.parse().map_err(|_| {
            String::from("write an address and a port, such as tls://192.0.2.1:9853#resolver.example")
        })?;
        let name = match name {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| format!("`{name}` is no name that a certificate can have"))?,
            None => ServerName::from(address.ip()),
        };
        Ok(Self { address, name })
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}#{}", Self::SCHEME, self.address, self.name.to_str())
    }
}

#[cfg(test)]
mod tests;
