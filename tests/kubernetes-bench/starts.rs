//! How long a pod takes from being made to its first packet's arrival, with and without the CNI plugin.
//!
//! The same pods under the same policy, in turns: the plugin's configuration is put into the node's folder and taken out.

use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    net::TcpListener,
    path::PathBuf,
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nameward_test_support::{SmallInternet, cluster::Cluster, wait_until};
use serde_json::{Value, json};

use crate::{
    api::Api,
    figures::{Figures, median, percentile},
};

const NAMESPACE: &str = "starts";
const FAR: &str = "203.0.113.12:9000";
/// Says its name as soon as it may; who is not allowed yet tries again.
const SAYS: &str = "until hostname | nc -w 2 203.0.113.12 9000; do sleep 0.01; done; exec sleep 86400";
const BAR_MS: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(300);
/// How long the container runtime takes to see another configuration of its network.
const RELOADED: Duration = Duration::from_millis(500);
const CONFLIST: &str = "00-nameward.conflist";

pub(crate) fn measure(
    cluster: &Cluster,
    internet: &SmallInternet,
    quick: bool,
    figures: &mut Figures,
) -> Result<()> {
    let (pairs, burst, rounds) = if quick { (5, 10, 1) } else { (25, 50, 3) };
    println!("-- starts: {pairs} pairs, bursts of {burst}");
    let policy = json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy", "metadata": {"namespace": NAMESPACE, "name": "rules"},
        "spec": {"podSelector": {}, "egress": [{
            "name": "far", "to": [{"ipBlock": {"cidr": "203.0.113.12/32"}}], "ports": [{"protocol": "TCP", "port": 9000}],
        }]},
    });
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n{policy}\n"
    ))?;
    let account = ["-n", NAMESPACE, "get", "serviceaccount", "default"];
    wait_until("the namespace's account", LIMIT, || cluster.kubectl(&account).ok());
    let world = World { cluster, api: Api::new(cluster)?, arrivals: listen(internet)? };
    world.one("warm", true)?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..pairs {
        // Who goes first goes second the next time.
        for is_with in [number % 2 == 0, number % 2 != 0] {
            let times = if is_with { &mut with } else { &mut without };
            times.push(world.one(&format!("p{number}-{is_with}"), is_with)?);
        }
    }
    let differences: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    figures.plain("pod start without the plugin, median", "ms", median(&without));
    figures.plain("pod start with the plugin, median", "ms", median(&with));
    figures.at_most("pod start, difference of pairs, median", "ms", median(&differences), BAR_MS);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for is_with in [round % 2 == 0, round % 2 != 0] {
            let times = world.burst(burst, is_with)?;
            let into = if is_with { &mut with } else { &mut without };
            into.push((median(&times), percentile(&times, 1.0)));
        }
    }
    for (word, times) in [("without", without), ("with", with)] {
        let (middle, last): (Vec<f64>, Vec<f64>) = times.into_iter().unzip();
        figures.plain(&format!("burst of {burst} {word} the plugin, the middle one"), "ms", median(&middle));
        figures.plain(&format!("burst of {burst} {word} the plugin, the last one"), "ms", median(&last));
    }
    world.use_plugin(true)?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    Ok(())
}

/// Names of pods as they arrive at the far side.
fn listen(internet: &SmallInternet) -> Result<Receiver<(String, Instant)>> {
    let listener = internet.internet().run(|| TcpListener::bind(FAR))??;
    let (sender, arrivals) = channel();
    thread::Builder::new().name("far side".into()).spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let at = Instant::now();
            let mut name = String::new();
            drop(stream.read_to_string(&mut name));
            if sender.send((name.trim().to_owned(), at)).is_err() {
                return;
            }
        }
    })?;
    Ok(arrivals)
}

struct World<'a> {
    cluster: &'a Cluster,
    api: Api<'a>,
    arrivals: Receiver<(String, Instant)>,
}

impl World<'_> {
    /// Milliseconds until one pod has arrived. It is gone when this returns.
    fn one(&self, name: &str, is_with: bool) -> Result<f64> {
        self.use_plugin(is_with)?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE, "name": name}, "spec": spec(),
        });
        let begun = Instant::now();
        self.api.create("/api/v1/namespaces/starts/pods", &pod)?;
        let (_, at) = self.arrivals.recv_timeout(LIMIT).with_context(|| format!("{name} does not arrive"))?;
        self.cluster.kubectl(&["-n", NAMESPACE, "delete", "pod", name])?;
        Ok((at - begun).as_secs_f64() * 1e3)
    }

    /// The same of each of many that are made at once.
    fn burst(&self, pods: usize, is_with: bool) -> Result<Vec<f64>> {
        self.use_plugin(is_with)?;
        let all = (0..pods).map(|number| {
            let metadata =
                json!({"namespace": NAMESPACE, "name": format!("b{number}"), "labels": {"burst": "yes"}});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec()});
            ("/api/v1/namespaces/starts/pods".to_owned(), pod)
        });
        let begun = Instant::now();
        self.api.create_all(&all.collect::<Vec<_>>())?;
        let (mut names, mut times) = (BTreeSet::new(), Vec::new());
        while names.len() < pods {
            let (name, at) = self.arrivals.recv_timeout(LIMIT).context("not all arrive")?;
            if names.insert(name) {
                times.push((at - begun).as_secs_f64() * 1e3);
            }
        }
        let words = ["-n", NAMESPACE, "delete", "pods", "-l", "burst=yes", "--wait=false"];
        self.cluster.kubectl(&words)?;
        wait_until("the burst is gone", LIMIT, || {
            self.cluster
                .kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "name"])
                .is_ok_and(|said| said.is_empty())
                .then_some(())
        });
        Ok(times)
    }

    /// Puts the plugin's configuration into the node's folder, or takes it out.
    fn use_plugin(&self, is_used: bool) -> Result<()> {
        let node = self.cluster.nodes().first().context("there is a node")?;
        let place: PathBuf = node.machine().folder();
        let (used, kept) = (place.join("cni").join(CONFLIST), place.join(CONFLIST));
        if used.exists() != is_used {
            let (from, to) = if is_used { (kept, used) } else { (used, kept) };
            fs::rename(from, to)?;
            // The runtime does not tell that it has seen it.
            thread::sleep(RELOADED);
        }
        Ok(())
    }
}

fn spec() -> Value {
    json!({
        "nodeName": "n1", "terminationGracePeriodSeconds": 0, "restartPolicy": "Never",
        "containers": [{
            "name": "c", "image": "nameward.test/tools:1", "imagePullPolicy": "Never", "command": ["sh", "-c", SAYS],
        }],
    })
}
