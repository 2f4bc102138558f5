//! `--uninstall`: takes Nameward off the nodes of a cluster, in the one order that leaves no node without new pods. The
//! chart's hook runs it once, before Helm removes what the chart has installed.
//!
//! ```text
//! DaemonSet nameward-cni is deleted   -> on each node the removal takes our CNI configuration away
//! on all live nodes it is away        -> DaemonSet nameward is deleted
//!                                     -> on each node the removal takes programs, pins and files away
//! on all nodes they are away          -> DaemonSet nameward-removal is deleted; else it stays for nodes that are down
//! ```
//!
//! What is done on a node is done there, by pods of `nameward-removal` that wait for the processes of the other two to end.
//! This only deletes the sets and looks at how far those pods are.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ContainerStatus, Node, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use super::cluster::connect;
use crate::options::Options;

/// Names of the chart's DaemonSets.
const ENFORCER: &str = "nameward";
const CNI: &str = "nameward-cni";
const REMOVAL: &str = "nameward-removal";
/// What a pod of the removal is known by.
const LABEL: &str = "app.kubernetes.io/component=removal";
/// Its containers that run before the last one, each of which stands for a step.
const CONFIGURATION: &str = "configuration";
const PROGRAMS: &str = "programs";
/// Below the five minutes that Helm waits, so that it is us who say what is missing.
const WITHIN: Duration = Duration::from_secs(240);
const STEP: Duration = Duration::from_millis(500);

/// Does it, or says which nodes are not clean.
pub(super) fn uninstall(options: &Options) -> Result<()> {
    let namespace = options.own_namespace.as_deref().context("--own-namespace is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Removal::new(connect(options).await?, namespace).perform().await })
}

struct Removal {
    sets: Api<DaemonSet>,
    pods: Api<Pod>,
    nodes: Api<Node>,
    end: Instant,
}

/// How far a step has come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Live nodes on which it is not done.
    waiting: Vec<String>,
    /// Nodes that are down, on which it is not done.
    down: Vec<String>,
    /// Nodes whose pod is not there yet.
    missing: usize,
}

impl Removal {
    fn new(client: Client, namespace: &str) -> Self {
        Self {
            sets: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            nodes: Api::all(client),
            end: Instant::now() + WITHIN,
        }
    }

    async fn perform(&self) -> Result<()> {
        self.delete(CNI).await?;
        self.wait_for(CONFIGURATION).await?;
        tracing::info!("no live node has our CNI configuration any more");
        self.delete(ENFORCER).await?;
        let down = self.wait_for(PROGRAMS).await?;
        if down.is_empty() {
            tracing::info!("nothing of ours is left on any node");
            return self.delete(REMOVAL).await;
        }
        tracing::warn!(
            nodes = down.join(" "),
            "these nodes are down: the DaemonSet {REMOVAL} stays, and cleans them when they are back; delete it then"
        );
        Ok(())
    }

    async fn delete(&self, set: &str) -> Result<()> {
        match self.sets.delete(set, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => result.map(drop).with_context(|| format!("cannot delete the DaemonSet {set}")),
        }
    }

    /// Returns the nodes that are down, when a step is done on all others.
    async fn wait_for(&self, step: &str) -> Result<Vec<String>> {
        let mut progress;
        loop {
            // An API server that is away for a moment is asked again, too.
            match self.look(step).await {
                Ok(seen) if seen.missing == 0 && seen.waiting.is_empty() => return Ok(seen.down),
                Ok(seen) => {
                    progress =
                        format!("{} pods are missing, waiting for {}", seen.missing, seen.waiting.join(" "))
                }
                Err(error) => progress = format!("{error:#}"),
            }
            if Instant::now() > self.end {
                bail!(
                    "the step `{step}` is not done on all live nodes after {} s ({progress}); see the pods of the DaemonSet \
                     {REMOVAL}, and uninstall again",
                    WITHIN.as_secs()
                );
            }
            tokio::time::sleep(STEP).await;
        }
    }

    async fn look(&self, step: &str) -> Result<Progress> {
        let set = self.sets.get(REMOVAL).await.context("cannot read the DaemonSet of the removal")?;
        let pods =
            self.pods.list(&ListParams::default().labels(LABEL)).await.context("cannot list its pods")?;
        let nodes = self.nodes.list(&ListParams::default()).await.context("cannot list nodes")?;
        Ok(progress(&set, &pods.items, &nodes.items, step))
    }
}

/// How far `step` has come on the nodes that the removal is for.
fn progress(set: &DaemonSet, pods: &[Pod], nodes: &[Node], step: &str) -> Progress {
    let status = set.status.clone().unwrap_or_default();
    if status.observed_generation != set.metadata.generation {
        // Nobody has looked at it yet, so that it wants no pod anywhere.
        return Progress { missing: 1, ..Progress::default() };
    }
    let live: BTreeSet<String> =
        nodes.iter().filter(|node| is_ready(node)).map(ResourceExt::name_any).collect();
    let placed = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
    let wanted = usize::try_from(status.desired_number_scheduled).unwrap_or_default();
    let mut progress = Progress {
        missing: wanted.saturating_sub(pods.iter().filter(placed).count()),
        ..Progress::default()
    };
    for pod in pods.iter().filter(placed).filter(|pod| !is_done(pod, step)) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        if live.contains(&node) {
            progress.waiting.push(node);
        } else {
            progress.down.push(node);
        }
    }
    progress.waiting.sort();
    progress.down.sort();
    progress
}

fn is_done(pod: &Pod, step: &str) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
    let ended = |status: &ContainerStatus| {
        let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
        status.name == step && end.is_some_and(|end| end.exit_code == 0)
    };
    statuses.unwrap_or_default().iter().any(ended)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn set(observed: i64, wanted: i32) -> DaemonSet {
        read(json!({"metadata": {"generation": 1}, "status": {
            "observedGeneration": observed, "desiredNumberScheduled": wanted, "currentNumberScheduled": wanted,
            "numberMisscheduled": 0, "numberReady": 0}}))
    }

    fn node(name: &str, ready: &str) -> Node {
        read(
            json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}),
        )
    }

    fn pod(node: &str, ended: &[(&str, i32)]) -> Pod {
        let status = |(name, code): &(&str, i32)| {
            json!({"name": name, "image": "", "imageID": "", "ready": true,
            "restartCount": 0, "state": {"terminated": {"exitCode": code}}})
        };
        let statuses: Vec<Value> = ended.iter().map(status).collect();
        read(json!({"metadata": {"name": node}, "spec": {"nodeName": node, "containers": []},
            "status": {"initContainerStatuses": statuses}}))
    }

    #[test]
    fn a_step_is_done_when_it_is_on_every_live_node() {
        let nodes = [node("a", "True"), node("b", "True"), node("c", "Unknown")];
        let seen = |pods: &[Pod]| progress(&set(1, 3), pods, &nodes, CONFIGURATION);
        let (a, b) = (pod("a", &[(CONFIGURATION, 0)]), pod("b", &[(CONFIGURATION, 1)]));
        let seen = seen(&[a, b, pod("c", &[])]);
        assert_eq!(seen, Progress { waiting: vec!["b".into()], down: vec!["c".into()], missing: 0 });
    }

    #[test]
    fn nodes_without_their_pod_are_waited_for() {
        let nodes = [node("a", "True")];
        let done = [pod("a", &[(CONFIGURATION, 0), (PROGRAMS, 0)])];
        assert_eq!(progress(&set(1, 2), &done, &nodes, PROGRAMS).missing, 1);
        assert_eq!(progress(&set(1, 1), &done, &nodes, PROGRAMS), Progress::default());
        // A set that its controller has not seen wants none, which says nothing.
        assert_eq!(progress(&set(0, 0), &[], &nodes, PROGRAMS).missing, 1);
    }
}
