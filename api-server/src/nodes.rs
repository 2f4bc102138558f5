//! Which nodes there are: a list that somebody wrote, or the `EgressNode` objects of a cluster, in which each enforcer says
//! where it can be asked.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, pin_mut};
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use nameward_crds::EgressNode;
use nameward_tls::{Credentials, ServerName};
use tokio::sync::watch;

use crate::{Node, NodePlace};

/// Wait before the watch of the objects begins anew.
const AGAIN: Duration = Duration::from_secs(1);

/// All nodes by name, as they are known now.
pub type NodeMap = BTreeMap<Arc<str>, Arc<Node>>;

/// What is known of the nodes.
#[derive(Clone, Debug)]
pub struct Nodes(watch::Receiver<Option<Arc<NodeMap>>>);

/// How nodes prove who they are.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Our certificate for them, and the authority that theirs come from.
    pub credentials: Arc<Credentials>,
    /// The name that all their certificates have; each node's own where there is none.
    pub name: Option<ServerName<'static>>,
}

impl Proof {
    fn node(&self, name: &str, address: SocketAddr) -> Option<Arc<Node>> {
        let own = || ServerName::try_from(name.to_owned()).ok();
        let proven = self.name.clone().or_else(own)?;
        let place = NodePlace { address, name: proven };
        Some(Node::new(name.into(), place, Arc::clone(&self.credentials)))
    }
}

impl Nodes {
    /// These and no others.
    pub fn fixed(nodes: impl IntoIterator<Item = (String, SocketAddr)>, proof: &Proof) -> Self {
        let nodes = nodes.into_iter().filter_map(|(name, address)| proof.node(&name, address));
        let map: NodeMap = nodes.map(|node| (Arc::clone(node.name()), node)).collect();
        Self(watch::channel(Some(Arc::new(map))).1)
    }

    /// Those of a cluster, and what keeps them up to date: it never ends.
    pub fn of_cluster(client: Client, proof: Proof) -> (Self, impl Future<Output = ()> + Send) {
        let (told, known) = watch::channel(None);
        (Self(known), keep(client, proof, told))
    }

    /// All of them; none while they have not been read yet.
    pub fn all(&self) -> Option<Arc<NodeMap>> {
        self.0.borrow().clone()
    }

    /// Waits until there are others than before.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // These and no others.
            std::future::pending::<()>().await;
        }
    }
}

async fn keep(client: Client, proof: Proof, told: watch::Sender<Option<Arc<NodeMap>>>) {
    let mut nodes = NodeMap::new();
    loop {
        let events = watcher(Api::<EgressNode>::all(client.clone()), watcher::Config::default());
        let events = events.default_backoff();
        pin_mut!(events);
        let mut fresh = NodeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => fresh = NodeMap::new(),
                Ok(watcher::Event::InitApply(object)) => apply(&mut fresh, &nodes, &object, &proof),
                Ok(watcher::Event::InitDone) => {
                    nodes = std::mem::take(&mut fresh);
                    tell(&told, &nodes);
                }
                Ok(watcher::Event::Apply(object)) => {
                    let before = nodes.clone();
                    apply(&mut nodes, &before, &object, &proof);
                    tell(&told, &nodes);
                }
                Ok(watcher::Event::Delete(object)) => {
                    nodes.remove(&*object.name_any());
                    tell(&told, &nodes);
                }
                Err(error) => {
                    tracing::warn!(%error, "the nodes of the cluster cannot be read; those that are known are asked");
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Reports come each minute: only other places are news.
fn tell(told: &watch::Sender<Option<Arc<NodeMap>>>, nodes: &NodeMap) {
    told.send_if_modified(|known| {
        let same = known.as_ref().is_some_and(|known| {
            known.len() == nodes.len()
                && known.iter().zip(nodes).all(|((_, one), (_, other))| Arc::ptr_eq(one, other))
        });
        if !same {
            *known = Some(Arc::new(nodes.clone()));
        }
        !same
    });
}

/// A node that is where it was keeps its connections; one that serves nothing is not asked.
fn apply(nodes: &mut NodeMap, before: &NodeMap, object: &EgressNode, proof: &Proof) {
    let name = object.name_any();
    let address = object.spec.api.as_deref().and_then(|text| text.parse().ok());
    let node = address.and_then(|address| match before.get(&*name) {
        Some(known) if known.place().address == address => Some(Arc::clone(known)),
        _ => proof.node(&name, address),
    });
    match node {
        Some(node) => drop(nodes.insert(name.into(), node)),
        None => drop(nodes.remove(&*name)),
    }
}
