//! The signer: has the authority's key, signs what nodes ask for, and makes the certificate of the resolver beside it. Several may
//! run at one time; the first to sign a request has signed it.

use std::{collections::BTreeMap, path::Path, pin::pin, time::SystemTime};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::{
    ByteString,
    api::{
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use tokio::time::sleep;

use super::{ACCOUNT, RENEW_AFTER, SIGNER, authority::Authority, resolver_name, write};

/// The Secret of the authority, in Nameward's own namespace.
pub const SECRET: &str = "nameward-feed-authority";
/// The service of the resolvers, in the same.
pub const SERVICE: &str = "nameward-resolver";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
/// What the API server writes into a request that comes with a token bound to a pod: the pod's node.
const NODE: &str = "authentication.kubernetes.io/node-name";

/// A signer of one installation.
#[derive(Debug)]
pub struct Signer {
    authority: Authority,
    namespace: String,
}

impl Signer {
    /// One with the authority that is kept in the cluster; it is made where there is none.
    ///
    /// # Errors
    /// When it can neither be read nor made.
    pub async fn open(client: &Client, namespace: &str) -> Result<Self> {
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let namespace = namespace.to_owned();
        if let Some(secret) =
            secrets.get_opt(SECRET).await.context("cannot read the Secret of the authority")?
        {
            return Ok(Self { authority: read(&secret)?, namespace });
        }
        let (authority, key) = Authority::new(SystemTime::now())?;
        let data = [(CERTIFICATE, authority.certificate()), (KEY, &key)];
        let data = data.map(|(name, text)| (name.to_owned(), ByteString(text.as_bytes().to_vec())));
        let secret = Secret {
            metadata: ObjectMeta { name: Some(SECRET.into()), ..ObjectMeta::default() },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(BTreeMap::from(data)),
            ..Secret::default()
        };
        match secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(secret = SECRET, "made an authority for the feed");
                Ok(Self { authority, namespace })
            }
            // Another one was quicker: its authority counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let secret = secrets.get(SECRET).await.context("cannot read the Secret of the authority")?;
                Ok(Self { authority: read(&secret)?, namespace })
            }
            Err(error) => Err(error).context("cannot make the Secret of the authority"),
        }
    }

    /// Makes the certificate of the resolver beside us.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn prepare_resolver(&self, folder: &Path) -> Result<()> {
        let name = resolver_name(&self.namespace, SERVICE);
        let (certificate, key) = self.authority.resolver(&name, SystemTime::now())?;
        write(folder, &certificate, &key, self.authority.certificate())
            .with_context(|| format!("cannot write certificates to {}", folder.display()))
    }

    /// Signs, and renews the resolver's certificate. Never ends by itself.
    ///
    /// # Errors
    /// When the resolver's certificate cannot be written.
    pub async fn serve(&self, client: Client, folder: &Path) -> Result<()> {
        tokio::select! {
            ended = self.renew(folder) => ended,
            () = self.sign_all(client) => bail!("requests are not watched any more"),
        }
    }

    async fn renew(&self, folder: &Path) -> Result<()> {
        loop {
            sleep(RENEW_AFTER).await;
            self.prepare_resolver(folder)?;
        }
    }

    async fn sign_all(&self, client: Client) {
        let api = Api::<CertificateSigningRequest>::all(client);
        let config = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
        let mut requests = pin!(watcher::watcher(api.clone(), config).default_backoff().applied_objects());
        tracing::info!(signer = SIGNER, "signing certificates of nodes");
        while let Some(next) = requests.next().await {
            match next {
                Ok(request) => {
                    let name = request.name_any();
                    if let Err(error) = self.sign(&api, &request).await {
                        // Another signer may have been quicker; who asked asks again otherwise.
                        tracing::warn!(request = name, error = format!("{error:#}"), "not signed");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "requests for certificates are not watched; it is tried again")
                }
            }
        }
    }

    async fn sign(
        &self,
        api: &Api<CertificateSigningRequest>,
        request: &CertificateSigningRequest,
    ) -> Result<()> {
        let status = request.status.clone().unwrap_or_default();
        let is_over = |kind: &str| kind == "Denied" || kind == "Failed";
        if status.certificate.is_some() || status.conditions.iter().flatten().any(|one| is_over(&one.type_)) {
            return Ok(());
        }
        let name = request.name_any();
        let node = match node_of(&request.spec, &self.namespace) {
            Ok(node) => node,
            Err(why) => {
                tracing::warn!(request = name, user = request.spec.username, why, "refused");
                return decide(api, &name, "Denied", &why).await;
            }
        };
        let text = String::from_utf8_lossy(&request.spec.request.0);
        let signed = match self.authority.sign_request(&text, &node, SystemTime::now()) {
            Ok(signed) => signed,
            Err(error) => return decide(api, &name, "Denied", &error.to_string()).await,
        };
        decide(api, &name, "Approved", &format!("the enforcer of node {node}")).await?;
        let chain = ByteString(format!("{signed}{}", self.authority.certificate()).into_bytes());
        let patch = Patch::Merge(json!({"status": {"certificate": chain}}));
        api.patch_status(&name, &PatchParams::default(), &patch).await.context("cannot hand it over")?;
        tracing::info!(request = name, node, "signed");
        Ok(())
    }
}

fn read(secret: &Secret) -> Result<Authority> {
    let text = |name: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(name));
        let data = data.with_context(|| format!("the Secret {SECRET} has no {name}"))?;
        String::from_utf8(data.0.clone()).with_context(|| format!("{name} of the Secret {SECRET}"))
    };
    Authority::read(&text(CERTIFICATE)?, &text(KEY)?)
        .with_context(|| format!("delete the Secret {SECRET} and restart the resolvers to have another one"))
}

async fn decide(api: &Api<CertificateSigningRequest>, name: &str, word: &str, message: &str) -> Result<()> {
    let condition = json!({"type": word, "status": "True", "reason": "NamewardFeed", "message": message});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    api.patch_approval(name, &PatchParams::default(), &patch).await.context("cannot decide on it")?;
    Ok(())
}

/// The node that a request is for, by what the API server says of who made it; else why there is none.
fn node_of(spec: &CertificateSigningRequestSpec, namespace: &str) -> Result<String, String> {
    let account = format!("system:serviceaccount:{namespace}:{ACCOUNT}");
    if spec.username.as_deref() != Some(account.as_str()) {
        return Err(format!("only {account} may ask for a node's certificate"));
    }
    let nodes = spec.extra.as_ref().and_then(|extra| extra.get(NODE)).map(Vec::as_slice);
    match nodes {
        Some([node]) if !node.is_empty() => Ok(node.clone()),
        _ => Err(format!(
            "the token is bound to no pod on a node ({NODE} is missing); Kubernetes 1.30 and later say it of tokens of pods"
        )),
    }
}

#[cfg(test)]
#[path = "signer_tests.rs"]
mod tests;
