//! Certificates and keys in files (PEM), and what tells a file from the one that was there before.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use crate::{Both, Current, Service};

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

/// Certificates that cannot be used.
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
}

/// The same, where a side that only serves has no authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: Option<PathBuf>,
}

/// Of certificate, key and authority; none of a file that is not there.
pub(crate) type Stamps = [Option<(u64, u64, i64, i64, u64)>; 3];

impl Files {
    pub(crate) fn of_both(files: TlsFiles) -> Self {
        let TlsFiles { certificate, key, authority } = files;
        Self { certificate, key, authority: Some(authority) }
    }

    pub(crate) fn stamps(&self) -> Stamps {
        let stamp =
            |found: Metadata| (found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size());
        let all = [Some(&self.certificate), Some(&self.key), self.authority.as_ref()];
        all.map(|path| path.and_then(|path| std::fs::metadata(path).ok()).map(stamp))
    }

    pub(crate) fn load(&self, service: Service, number: u64) -> Result<Current, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(unreadable(&self.key, "a private key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable {
            certificate: self.certificate.clone(),
            detail: error.to_string(),
        };
        let versions = &[&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?;
        let Some(authority) = &self.authority else {
            let server = server.with_no_client_auth().with_single_cert(chain, key);
            let server = finish(server.map_err(|error| unusable(&error))?, service);
            return Ok(Current { number, server, both: None });
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(authority)? {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable(&error))?;
        let server = server
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| unusable(&error))?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        client.alpn_protocols = vec![service.protocol.to_vec()];
        let both = Both { client: Arc::new(client), verifier };
        Ok(Current { number, server: finish(server, service), both: Some(both) })
    }
}

fn finish(mut server: ServerConfig, service: Service) -> Arc<ServerConfig> {
    server.alpn_protocols = vec![service.protocol.to_vec()];
    // A session that is resumed would not show its certificate to an authority that is new.
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Arc::new(server)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
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
