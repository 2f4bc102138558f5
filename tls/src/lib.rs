//! TLS 1.3 between our own processes, and certificates on disk: the feed between hosts, and the API.
//!
//! Certificates come from files that somebody else replaces; what is in force is read again when they have changed.
//! What does not fit together (a new certificate beside an old key) changes nothing until it does. [`Credentials`] of both
//! sides have an authority, and then each side shows a certificate or nothing is said; those that only serve have none. Who
//! a certificate speaks for is asked here ([`Peer::is`]), and decided by whoever listens.
//!
//! Used by `nameward-feed`, and by `nameward-api` and whatever serves it.

mod accept;
mod files;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdTcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig, server::danger::ClientCertVerifier};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream as ClientStream;
use tokio_stream::wrappers::ReceiverStream;

use self::files::{Files, Stamps};
pub use self::{
    accept::{Accepted, Peer},
    files::{TlsError, TlsFiles},
};

/// From the first packet to a proven name, both ways.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at files that are not there yet.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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

/// Connections whose handshakes are done, as they come.
pub type Incoming = ReceiverStream<io::Result<Accepted>>;

/// What is spoken over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// What the log calls it.
    pub name: &'static str,
    /// Its application protocol (RFC 7301).
    pub protocol: &'static [u8],
}

/// One side's certificates, read from its files, and again when they change.
#[derive(Debug)]
pub struct Credentials {
    service: Service,
    files: Files,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// Of the last attempt to read, whether it was good or not.
    stamps: Stamps,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current {
    number: u64,
    server: Arc<ServerConfig>,
    /// None without an authority.
    both: Option<Both>,
}

/// What needs an authority.
#[derive(Clone, Debug)]
struct Both {
    client: Arc<ClientConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl Credentials {
    /// Reads the files of a side whose peers have to show a certificate, too. They must be good now.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn read(files: TlsFiles, service: Service) -> Result<Arc<Self>, TlsError> {
        Self::load(Files::of_both(files), service)
    }

    /// The same for a side that serves whoever trusts its certificate.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn serving(
        certificate: std::path::PathBuf,
        key: std::path::PathBuf,
        service: Service,
    ) -> Result<Arc<Self>, TlsError> {
        Self::load(Files { certificate, key, authority: None }, service)
    }

    /// Like [`read`](Self::read), and waits until the files are good. Why they are not is told once.
    pub async fn await_files(files: TlsFiles, service: Service) -> Arc<Self> {
        let mut told = None;
        loop {
            match Self::read(files.clone(), service) {
                Ok(credentials) => return credentials,
                Err(error) => {
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(error = text, "{} waits for its certificates", service.name);
                    }
                    told = Some(text);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn load(files: Files, service: Service) -> Result<Arc<Self>, TlsError> {
        let stamps = files.stamps();
        let current = Arc::new(files.load(service, 1)?);
        Ok(Arc::new(Self { service, files, known: Mutex::new(Known { stamps, current }) }))
    }

    /// Grows each time other certificates come into force. Looks at the files.
    pub fn number(&self) -> u64 {
        self.current().number
    }

    /// Connects to a server that has to prove this name.
    ///
    /// # Errors
    /// When it cannot be reached, or does not prove it.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: ServerName<'static>,
    ) -> io::Result<ClientStream<TcpStream>> {
        let both = self.current().both.clone();
        let both = both.ok_or_else(|| io::Error::other("no authority is known that vouches for servers"))?;
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(both.client).connect(name, stream).await
        };
        timeout(HANDSHAKE_WITHIN, connecting).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Connections whose handshakes are done. Never ends.
    ///
    /// # Errors
    /// When the listener cannot be watched.
    pub fn accept(self: Arc<Self>, listener: StdTcpListener) -> io::Result<Incoming> {
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
            let name = self.service.name;
            match self.files.load(self.service, known.current.number + 1) {
                Ok(current) => {
                    tracing::info!(certificate = %self.files.certificate.display(), "certificates of {name} read again");
                    known.current = Arc::new(current);
                }
                Err(error) => {
                    tracing::error!(%error, "new certificates of {name} cannot be used; the old ones stay in force");
                }
            }
        }
        Arc::clone(&known.current)
    }
}

fn timed_out() -> io::Error {
    let text = format!("no TLS connection within {} ms", HANDSHAKE_WITHIN.as_millis());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests;
