//! A certificate authority of a test, and the files that it writes.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::Scratch;

/// Of a test that cannot go on then.
const CANNOT: &str = "no certificates for the test";

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    folder: Scratch,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, known to nobody.
    pub fn new() -> Self {
        let mut params = CertificateParams::new([]).expect(CANNOT);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate whose name is its issuer's for one that is its own issuer.
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect(CANNOT);
        let certificate = params.self_signed(&key).expect(CANNOT).pem();
        let folder = Scratch::new("authority").expect(CANNOT);
        Self { issuer: Issuer::new(params, key), certificate, folder }
    }

    /// Its own certificate, as a file.
    pub fn file(&self) -> PathBuf {
        self.folder.file("ca.pem", &self.certificate).expect(CANNOT)
    }

    /// A certificate for a name, good for servers and clients, in files that begin with `file`.
    pub fn sign(&self, file: &str, name: &str) -> Signed {
        let mut params = CertificateParams::new([name.to_owned()]).expect(CANNOT);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect(CANNOT);
        let certificate = params.signed_by(&key, &self.issuer).expect(CANNOT);
        Signed {
            certificate: self.folder.file(&format!("{file}.pem"), &certificate.pem()).expect(CANNOT),
            key: self.folder.file(&format!("{file}.key"), &key.serialize_pem()).expect(CANNOT),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
