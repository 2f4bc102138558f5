//! A node of a Kubernetes cluster, from top to bottom: credentials, watches, the CNI plugin's socket, the node's task.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, anyhow};
use kube::{
    Client,
    config::{KubeConfigOptions, Kubeconfig},
};
use nameward_crds::ServiceName;
use nameward_daemon::Tasks;
use nameward_policy::Settings;

use super::{
    node::{self, Node, NodeParts},
    resolvers,
};
use crate::{
    Enforcer,
    config::Config,
    feed_client::{FeedClient, FoundResolver},
    guardian::Guardian,
    options::Options,
    pods::{
        Sandboxes, Verdicts,
        cni::{self, CniServer},
    },
    policies::{
        Index, IndexOptions,
        watch::{self, Health},
    },
    status::{reporter, writer},
};

/// Where the Lease of the status writer is, when Nameward's own namespace is not known.
const STATUS_NAMESPACE: &str = "kube-system";

/// Settings below those of the cluster's configuration: the file's and the command line's.
pub(super) fn settings(options: &Options, config: Option<&Config>, trusted: Vec<SocketAddr>) -> Settings {
    let mut settings = config.map(|config| config.settings().clone()).unwrap_or_default();
    settings.dns.trusted = trusted;
    if options.cluster_domain.is_some() {
        settings.dns.cluster_domain.clone_from(&options.cluster_domain);
    }
    settings
}

/// Starts the tasks of a node. Returns when what an earlier process knew is in force; what the API server says follows.
pub(super) async fn begin(
    options: &Options,
    file: Option<Config>,
    settings: Settings,
    guardian: Guardian,
    enforcer: &Enforcer,
    (feed, found): (&Arc<FeedClient>, tokio::sync::watch::Sender<Vec<FoundResolver>>),
    tasks: &mut Tasks,
) -> Result<()> {
    let client = connect(options).await?;
    let node = options.node();
    let health = Arc::new(Health::default());
    let (dns, cluster_dns) = tokio::sync::watch::channel(ServiceName::default());
    enforcer.show_cluster(Arc::clone(&health));
    let (mut watches, changes) = watch::start(&client, &node, cluster_dns, Arc::clone(&health));
    tasks.spawn("watches", async move {
        match watches.join_next().await {
            Some(Err(error)) => Err(anyhow!("a watch broke off: {error}")),
            Some(Ok(())) | None => Err(anyhow!("a watch ended by itself")),
        }
    });
    let sandboxes = Arc::new(Sandboxes::default());
    let verdicts = Arc::new(Verdicts::new(&settings));
    let server = CniServer::new(enforcer.clone(), Arc::clone(&sandboxes), Arc::clone(&verdicts));
    let keeper = (enforcer.clone(), Arc::clone(&sandboxes), Arc::clone(&verdicts));
    let guardian =
        guardian.keeping(Box::new(move |endpoint| node::is_kept(&keeper.0, &keeper.1, &keeper.2, endpoint)));
    let index = Index::new(IndexOptions {
        node: node.as_str().into(),
        own_namespace: options.own_namespace.clone(),
        settings,
        forwards: options.forwarded,
    });
    resolvers::start(options, &client, found, &health, tasks)?;
    let state = options.state();
    let enforcer = enforcer.clone();
    let (reports, reported) = tokio::sync::watch::channel(None);
    let name = node.clone();
    let mut node = Node::new(NodeParts {
        index,
        guardian,
        enforcer,
        sandboxes,
        verdicts,
        changes,
        state,
        node,
        file,
        reports,
        dns,
        feed: Arc::clone(feed),
        health,
    })?;
    node.begin().await;
    let socket = options.cni_socket();
    let listener = cni::listen(&socket)
        .with_context(|| format!("cannot listen for the CNI plugin at {}", socket.display()))?;
    tasks.spawn("CNI", async { Ok(server.serve(listener).await?) });
    tasks.spawn("node", node.follow());
    let reporter = reporter::run(client.clone(), name.clone(), options.reported_api(), reported);
    tasks.spawn("report", async {
        reporter.await;
        Ok(())
    });
    let namespace = options.own_namespace.clone().unwrap_or_else(|| STATUS_NAMESPACE.into());
    let status = writer::run(client, namespace, name);
    tasks.spawn("status", async {
        status.await;
        Ok(())
    });
    Ok(())
}

pub(super) async fn connect(options: &Options) -> Result<Client> {
    let config = match &options.kubeconfig {
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
