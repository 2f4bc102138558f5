//! DNS over TLS (RFC 7858): who has to prove which name, and who may vouch for it. Certificates are read once, at the start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Application protocol of DNS over TLS (RFC 7858 has none; servers of several protocols on one port ask for it).
const PROTOCOL: &[u8] = b"dot";

/// Who may vouch for the names of servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

/// What DNS over TLS needs beside an address.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The name that the server has to prove.
    pub name: ServerName<'static>,
    /// Who vouches for it.
    pub trust: Trust,
}

/// No certificates to trust.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The system's own.
    #[error(
        "this system trusts no certificate authority ({detail}): install the package ca-certificates, or name a file \
         with --upstream-ca"
    )]
    System {
        /// What was wrong with those that could not be read.
        detail: String,
    },
    /// A file.
    #[error("cannot read certificates of {path}: {detail}; it has to hold at least one in PEM form")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// TLS itself.
    #[error("TLS cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl Trust {
    /// Those that the system trusts.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let detail = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(TrustError::System { detail });
        }
        Self::new(roots)
    }

    /// Those of a file, and nobody else.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_file(path: &Path) -> Result<Self, TrustError> {
        let failed = |detail: String| TrustError::File { path: path.to_owned(), detail };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is none".into()));
        }
        Self::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

impl Tls {
    /// The stream, once the server has proven its name.
    pub(super) async fn shake_hands(self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(self.trust.0).connect(self.name, stream).await
    }
}
