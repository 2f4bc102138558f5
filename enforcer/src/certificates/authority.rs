//! The authority of one installation: makes certificates for resolvers (servers) and nodes (clients). Pure: time is an argument, and
//! where its key is kept is somebody else's business.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData,
};
use thiserror::Error;

use super::{BACKDATED, GOOD_FOR, public_key};

/// How long the authority itself is good for: ten years.
const AUTHORITY_GOOD_FOR: Duration = Duration::from_secs(3_652 * 24 * 3_600);

/// What cannot be made.
#[derive(Debug, Error)]
pub enum AuthorityError {
    /// The authority's own certificate and key.
    #[error("the authority's certificate and key cannot be used: {0}")]
    Unusable(#[source] rcgen::Error),
    /// A request that has no key that we take.
    #[error("the request for {0} cannot be read: only PKCS #10 with a key on the curve P-256 is signed")]
    Request(String),
    /// A request.
    #[error("the request for {name} cannot be signed: {source}")]
    Sign {
        /// Whom the certificate is for.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
}

/// What somebody proves with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That it is a resolver of this name.
    Resolver,
    /// That it is the enforcer of the node of this name.
    Node,
}

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    /// A new one, and its private key in PEM form.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`].
    pub fn new(now: SystemTime) -> Result<(Self, String), AuthorityError> {
        let mut params = authority_params();
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + AUTHORITY_GOOD_FOR).into();
        let key = KeyPair::generate().map_err(AuthorityError::Unusable)?;
        let (text, private) =
            (params.self_signed(&key).map_err(AuthorityError::Unusable)?.pem(), key.serialize_pem());
        Ok((Self { issuer: Issuer::new(params, key), certificate: text }, private))
    }

    /// One that [`new`](Self::new) made.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`].
    pub fn read(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key).map_err(AuthorityError::Unusable)?;
        Ok(Self { issuer: Issuer::new(authority_params(), key), certificate: certificate.to_owned() })
    }

    /// Its own certificate, in PEM form.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for whoever made the request, under `name`: what else the request says does not count.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`].
    pub fn sign_request(&self, request: &str, name: &str, now: SystemTime) -> Result<String, AuthorityError> {
        let key = public_key::of_request(request).ok_or_else(|| AuthorityError::Request(name.into()))?;
        self.sign(&key, name, Side::Node, now)
    }

    /// A key and a certificate for a resolver of this name, in PEM form.
    ///
    /// # Errors
    /// [`AuthorityError::Sign`].
    pub fn resolver(&self, name: &str, now: SystemTime) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate().map_err(|source| AuthorityError::Sign { name: name.into(), source })?;
        Ok((self.sign(&key, name, Side::Resolver, now)?, key.serialize_pem()))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: &str,
        side: Side,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let failed = |source| AuthorityError::Sign { name: name.into(), source };
        let mut params = CertificateParams::new([name.to_owned()]).map_err(failed)?;
        params.distinguished_name = named(name);
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + GOOD_FOR).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A node that has the name of a resolver is still none.
        params.extended_key_usages = vec![match side {
            Side::Resolver => ExtendedKeyUsagePurpose::ServerAuth,
            Side::Node => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer).map_err(failed)?.pem())
    }
}

/// All that certificates which it signs say of it; its own times are in its certificate.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Nameward feed");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut all = DistinguishedName::new();
    all.push(DnType::CommonName, name);
    all
}
