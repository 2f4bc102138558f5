//! A node's side: makes a key, has its certificate signed, and again before it ends. While the API server or the signer are away
//! it is tried again, and what is there stays in force.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use rcgen::{CertificateParams, KeyPair};
use thiserror::Error;
use tokio::time::sleep;

use super::{GOOD_FOR, RENEW_AFTER, SIGNER, write};

/// How long a request may wait before another one is made.
const WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time before the next try after one that failed; doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// What begins a certificate in PEM form.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// Why there is no certificate.
#[derive(Debug, Error)]
enum RequestError {
    #[error("cannot make a key or a request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("the API server does not take the request: {0}")]
    Api(#[from] kube::Error),
    #[error("the signer refuses: {0}")]
    Denied(String),
    #[error("nobody signed it within {WITHIN:?}; are the resolvers of the cluster there?")]
    Unsigned,
    #[error("what was signed is no certificate with its authority's behind it")]
    Unusable,
    #[error("cannot write it: {0}")]
    Write(#[from] std::io::Error),
}

/// Keeps certificate, key and authority of `node` in the folder. Never ends by itself; `changed` is called each time there are
/// new ones.
pub async fn keep(client: Client, node: &str, folder: &Path, mut changed: impl FnMut() + Send) {
    let api = Api::all(client);
    let mut wait = RETRY_FIRST;
    loop {
        match renew(&api, node, folder).await {
            Ok(()) => {
                tracing::info!(node, "a certificate for the feed was signed");
                changed();
                wait = RETRY_FIRST;
                sleep(RENEW_AFTER).await;
            }
            Err(error) => {
                tracing::warn!(node, %error, "no certificate for the feed; it is tried again, and one that is there stays");
                sleep(wait).await;
                wait = (wait * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew(api: &Api<CertificateSigningRequest>, node: &str, folder: &Path) -> Result<(), RequestError> {
    let key = KeyPair::generate()?;
    let request = CertificateParams::new([node.to_owned()])?.serialize_request(&key)?.pem()?;
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("nameward-feed-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: SIGNER.into(),
            expiration_seconds: i32::try_from(GOOD_FOR.as_secs()).ok(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let name = api.create(&PostParams::default(), &object).await?.name_any();
    let signed = signed(api, &name).await?;
    // The node's own first, the authority's last.
    let authority = signed.rfind(BEGIN).filter(|at| *at > 0).ok_or(RequestError::Unusable)?;
    let (own, authority) = signed.split_at(authority);
    Ok(write(folder, own, &key.serialize_pem(), authority)?)
}

/// Waits until the request is signed or refused.
async fn signed(api: &Api<CertificateSigningRequest>, name: &str) -> Result<String, RequestError> {
    let end = Instant::now() + WITHIN;
    while Instant::now() < end {
        let status = api.get(name).await?.status.unwrap_or_default();
        if let Some(certificate) = status.certificate {
            return String::from_utf8(certificate.0).map_err(|_| RequestError::Unusable);
        }
        let mut conditions = status.conditions.into_iter().flatten();
        if let Some(denied) = conditions.find(|one| one.type_ == "Denied" || one.type_ == "Failed") {
            return Err(RequestError::Denied(denied.message.unwrap_or_default()));
        }
        sleep(LOOK_EVERY).await;
    }
    Err(RequestError::Unsigned)
}
