//! Resolvers of the cluster: who is behind their service, and what this node proves itself with to them.
//!
//! Both are found while everything else runs: a node without them enforces, and its new names wait. Resolvers are dropped
//! when their service drops them, a stream that stands ends by itself.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, anyhow};
use kube::Client;
use nameward_daemon::Tasks;
use nameward_feed::tls::{Credentials, Remote, credentials};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    certificates::{self, request},
    feed_client::FoundResolver,
    options::Options,
    policies::watch::{self as objects, Health, ResolverService},
};

/// Lists that wait to be looked at.
const QUEUE: usize = 4;

/// Starts to look for them, where a service is named.
pub(super) fn start(
    options: &Options,
    client: &Client,
    found: watch::Sender<Vec<FoundResolver>>,
    health: &Arc<Health>,
    tasks: &mut Tasks,
) -> Result<()> {
    let services = options.services();
    if services.is_empty() {
        return Ok(());
    }
    let [service] = services.as_slice() else {
        return Err(anyhow!("one service of resolvers is possible, --feed names {}", services.len()));
    };
    let signed = Arc::new(Notify::new());
    if let Some(folder) = &options.feed_certificates {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {} for certificates", folder.display()))?;
        let (client, node, folder) = (client.clone(), options.node(), folder.clone());
        let signed = Arc::clone(&signed);
        tasks.spawn("certificates", async move {
            request::keep(client, &node, &folder, || signed.notify_one()).await;
            Ok(())
        });
    }
    let (sender, addresses) = mpsc::channel(QUEUE);
    let watching = objects::resolvers(client.clone(), service.clone(), sender, Arc::clone(health));
    tasks.spawn("resolvers", async move {
        watching.await;
        Err(anyhow!("the service of the resolvers is not watched any more"))
    });
    let search = Search {
        service: service.clone(),
        folder: options.feed_certificates.clone(),
        credentials: options.credentials()?,
        addresses: BTreeSet::new(),
        found,
    };
    tasks.spawn("resolvers and certificates", search.follow(addresses, signed));
    Ok(())
}

struct Search {
    service: ResolverService,
    folder: Option<PathBuf>,
    credentials: Option<Arc<Credentials>>,
    addresses: BTreeSet<SocketAddr>,
    found: watch::Sender<Vec<FoundResolver>>,
}

impl Search {
    async fn follow(
        mut self,
        mut changes: mpsc::Receiver<BTreeSet<SocketAddr>>,
        signed: Arc<Notify>,
    ) -> Result<()> {
        // Those that an earlier process left are good for a while.
        self.read_certificates();
        loop {
            self.tell()?;
            tokio::select! {
                addresses = changes.recv() => {
                    self.addresses = addresses.context("nobody watches the resolvers any more")?;
                    tracing::info!(resolvers = ?self.addresses, "resolvers of the cluster");
                }
                () = signed.notified() => self.read_certificates(),
            }
        }
    }

    /// Once; from then on the files are read again as they change.
    fn read_certificates(&mut self) {
        let Some(folder) = self.folder.as_deref().filter(|_| self.credentials.is_none()) else { return };
        match credentials(certificates::files(folder)) {
            Ok(read) => self.credentials = Some(read),
            Err(error) => tracing::debug!(%error, "no certificates yet"),
        }
    }

    fn tell(&self) -> Result<()> {
        let name = certificates::resolver_name(&self.service.namespace, &self.service.name);
        let far = |address: &SocketAddr| {
            let remote = Remote::read(&format!("{address}#{name}")).map_err(|error| anyhow!(error))?;
            Ok(self.credentials.as_ref().map(|credentials| (remote, Arc::clone(credentials))))
        };
        let all: Vec<Option<FoundResolver>> = self.addresses.iter().map(far).collect::<Result<_>>()?;
        self.found.send_replace(all.into_iter().flatten().collect());
        Ok(())
    }
}
