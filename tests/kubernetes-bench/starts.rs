//! How long a pod takes from being made to its first packet's arrival, with and without the CNI plugin.
//!
//! The same pods under the same policy, in turns: the plugin's configuration is put into the node's folder and taken out.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::TcpListener,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nameward_feed::cni::CONFLIST;
use nameward_test_support::{
    SmallInternet,
    cluster::{CNI_CONFIGURATIONS, Cluster, Node},
    wait_until,
};
use serde_json::{Value, json};

use crate::{
    api::Api,
    figures::{Figures, mean, median, percentile},
};

const NAMESPACE: &str = "starts";
const FAR: &str = "203.0.113.12:9000";
/// Says its name as soon as it may; who is not allowed yet tries again.
const SAYS: &str = "until hostname | nc -w 2 203.0.113.12 9000; do sleep 0.01; done; exec sleep 86400";
const BAR_MS: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(300);
/// How long the container runtime takes to see another configuration of its network.
const RELOADED: Duration = Duration::from_millis(500);

/// Pods that are made and measured.
pub(crate) struct Starts<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    api: Api<'a>,
    arrivals: Receiver<(String, Instant)>,
    /// Network namespaces of the node without any of these pods.
    spaces: usize,
}

/// Names of pods as they arrive at the far side.
fn listen(internet: &SmallInternet) -> Result<Receiver<(String, Instant)>> {
    let listener = internet.internet().run(|| TcpListener::bind(FAR))??;
    let (sender, arrivals) = channel();
    thread::Builder::new().name("far side".into()).spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let at = Instant::now();
            let mut name = String::new();
            // One that does not go on holds up no other for long.
            drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
            drop(stream.read_to_string(&mut name));
            if sender.send((name.trim().to_owned(), at)).is_err() {
                return;
            }
        }
    })?;
    Ok(arrivals)
}

impl<'a> Starts<'a> {
    /// A namespace with a policy that allows pods one address, and somebody who listens there.
    pub(crate) fn new(cluster: &'a Cluster, internet: &SmallInternet) -> Result<Self> {
        let policy = json!({
            "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
            "metadata": {"namespace": NAMESPACE, "name": "rules"},
            "spec": {"podSelector": {}, "egress": [{
                "name": "far", "to": [{"ipBlock": {"cidr": "203.0.113.12/32"}}], "ports": [{"protocol": "TCP", "port": 9000}],
            }]},
        });
        cluster.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n{policy}\n"
        ))?;
        let account = ["-n", NAMESPACE, "get", "serviceaccount", "default"];
        wait_until("the namespace's account", LIMIT, || cluster.kubectl(&account).ok());
        let node = cluster.nodes().first().context("there is a node")?;
        let (api, arrivals, spaces) = (Api::new(cluster)?, listen(internet)?, spaces(node)?);
        let starts = Self { cluster, node, api, arrivals, spaces };
        starts.one("warm", true)?;
        Ok(starts)
    }

    /// One pod at a time.
    pub(crate) fn measure(&self, quick: bool, figures: &mut Figures) -> Result<()> {
        let pairs = if quick { 5 } else { 25 };
        println!("-- starts: {pairs} pairs");
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for number in 0..pairs {
            // Who goes first goes second the next time.
            for is_with in [number % 2 == 0, number % 2 != 0] {
                let times = if is_with { &mut with } else { &mut without };
                times.push(self.one(&format!("p{number}-{is_with}"), is_with)?);
            }
        }
        let differences: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
        figures.plain("pod start without the plugin, median", "ms", median(&without));
        figures.plain("pod start with the plugin, median", "ms", median(&with));
        figures.at_most("pod start, difference of pairs, median", "ms", median(&differences), BAR_MS);
        Ok(())
    }

    /// Many at once.
    pub(crate) fn measure_bursts(&self, quick: bool, figures: &mut Figures) -> Result<()> {
        let (pods, rounds) = if quick { (10, 1) } else { (50, 2) };
        println!("-- bursts: {rounds} of {pods} pods with and without the plugin");
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            for is_with in [round % 2 == 0, round % 2 != 0] {
                let times = self.burst(pods, &format!("b{round}-{is_with}-"), is_with)?;
                let into = if is_with { &mut with } else { &mut without };
                into.push((median(&times), percentile(&times, 1.0)));
            }
        }
        for (word, times) in [("without", without), ("with", with)] {
            let (middle, last): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
            figures.plain(&format!("burst of {pods} {word} the plugin, the middle one"), "ms", mean(&middle));
            figures.plain(&format!("burst of {pods} {word} the plugin, the last one"), "ms", mean(&last));
        }
        Ok(())
    }

    /// Takes away what was made.
    pub(crate) fn end(self) -> Result<()> {
        self.use_plugin(true)?;
        self.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).map(drop)
    }

    /// Milliseconds until one pod has arrived. Nothing of it is left when this returns.
    fn one(&self, name: &str, is_with: bool) -> Result<f64> {
        self.use_plugin(is_with)?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec(),
        });
        let begun = Instant::now();
        self.api.create("/api/v1/namespaces/starts/pods", &pod)?;
        let at = loop {
            let (who, at) =
                self.arrivals.recv_timeout(LIMIT).with_context(|| format!("{name} does not arrive"))?;
            if who == name {
                break at;
            }
        };
        self.clear()?;
        Ok((at - begun).as_secs_f64() * 1e3)
    }

    /// The same of each of many that are made at once, whose names begin with `prefix`.
    fn burst(&self, pods: usize, prefix: &str, is_with: bool) -> Result<Vec<f64>> {
        self.use_plugin(is_with)?;
        let all = (0..pods).map(|number| {
            let metadata = json!({"namespace": NAMESPACE, "name": format!("{prefix}{number}")});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec()});
            ("/api/v1/namespaces/starts/pods".to_owned(), pod)
        });
        let begun = Instant::now();
        self.api.create_all(&all.collect::<Vec<_>>())?;
        let (mut names, mut times) = (BTreeSet::new(), Vec::new());
        while names.len() < pods {
            let (name, at) = self.arrivals.recv_timeout(LIMIT).context("not all arrive")?;
            if name.starts_with(prefix) && names.insert(name) {
                times.push((at - begun).as_secs_f64() * 1e3);
            }
        }
        self.clear()?;
        Ok(times)
    }

    /// Deletes all pods, and waits until the node has taken them down: what follows is not to be measured beside that.
    fn clear(&self) -> Result<()> {
        self.cluster.kubectl(&["-n", NAMESPACE, "delete", "pods", "--all", "--wait=false"])?;
        wait_until("the pods are gone from the node", LIMIT, || {
            let is_gone = spaces(self.node).ok()? == self.spaces;
            let endpoints = is_gone.then(|| self.node.rest("/v1/endpoints?limit=1000").ok()).flatten()?;
            let mut names = endpoints["items"].as_array()?.iter().filter_map(|one| one["name"].as_str());
            (!names.any(|name| name.starts_with("starts/"))).then_some(())
        });
        Ok(())
    }

    /// Puts the plugin's configuration into the node's folder, or takes it out.
    fn use_plugin(&self, is_used: bool) -> Result<()> {
        let used = self.node.machine().path(CNI_CONFIGURATIONS).join(CONFLIST);
        // On the same file system, where the runtime does not look.
        let kept = used.with_file_name(format!("{CONFLIST}.kept"));
        if used.exists() != is_used {
            let (from, to) = if is_used { (&kept, &used) } else { (&used, &kept) };
            fs::rename(from, to).with_context(|| format!("cannot move {}", from.display()))?;
            // The runtime does not tell that it has seen it.
            thread::sleep(RELOADED);
        }
        Ok(())
    }
}

/// Network namespaces on a node.
fn spaces(node: &Node) -> Result<usize> {
    Ok(fs::read_dir(node.machine().path("/run/netns"))?.count())
}

fn spec() -> Value {
    json!({
        "nodeName": "n1", "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "c", "image": "nameward.test/tools:1", "imagePullPolicy": "Never", "command": ["sh", "-c", SAYS],
        }],
    })
}
