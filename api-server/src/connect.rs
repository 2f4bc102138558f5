//! The client of a cluster's API server.

use std::path::Path;

use anyhow::{Context, Result};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};

/// By a kubeconfig; else by what the environment says.
///
/// # Errors
/// When nobody says where the API server is, or how to speak to it.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client> {
    let config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("the kubeconfig {} names no API server", file.display()))?
        }
        None => kube::Config::infer().await.context(
            "cannot tell how to reach the API server; name a file with --kubeconfig, or run in a pod with a service account",
        )?,
    };
    let server = config.cluster_url.to_string();
    tracing::info!(server, "the cluster's API server");
    Client::try_from(config).context("cannot make a client of the API server")
}
