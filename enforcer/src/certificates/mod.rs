//! Certificates of the feed between nodes: who makes them, and how a node gets one.
//!
//! A node's enforcer makes a key and asks for its certificate by a `CertificateSigningRequest` of the signer [`SIGNER`]
//! ([`request`]). The API server writes into the request who asks: the account, and the node of the pod that its token is bound
//! to. The signer ([`signer`]), which runs beside resolvers and alone has the authority's key ([`authority`]), believes that and nothing of what
//! the request itself says but its public key. So a node gets certificates of its own name only.
//!
//! What certificates are good for is the feed's business.

pub mod authority;
mod public_key;
pub mod request;
pub mod signer;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nameward_feed::tls::TlsFiles;

/// Name of the signer.
pub const SIGNER: &str = "nameward.io/feed";
/// Account of the enforcers.
pub const ACCOUNT: &str = "nameward-enforcer";
/// How long a certificate is good for.
pub const GOOD_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How old a certificate becomes before the next one is asked for.
pub const RENEW_AFTER: Duration = Duration::from_secs(24 * 3_600);
/// How far clocks may be behind the signer's.
pub const BACKDATED: Duration = Duration::from_secs(2 * 3_600);

/// The files of a folder of certificates. Certificate and key are one file, so that they change at once.
pub fn files(folder: &Path) -> TlsFiles {
    let own = folder.join("tls.pem");
    TlsFiles { certificate: own.clone(), key: own, authority: folder.join("ca.pem") }
}

/// Name that the resolvers behind a service prove.
pub fn resolver_name(namespace: &str, service: &str) -> String {
    format!("{service}.{namespace}.svc")
}

/// Writes a certificate (with those between it and the authority, if any), its key and the authority's certificate, in PEM form.
///
/// # Errors
/// When a file cannot be written; then those before are still there.
pub fn write(folder: &Path, certificate: &str, key: &str, authority: &str) -> io::Result<()> {
    let files = files(folder);
    replace(&files.authority, authority)?;
    replace(&files.certificate, &format!("{certificate}\n{key}"))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let fresh = PathBuf::from(format!("{}.new", path.display()));
    drop(fs::remove_file(&fresh));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)
}
