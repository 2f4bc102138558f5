//! How long it takes from writing a policy to its being enforced, with many pods on the node.
//!
//! A policy gives an address and takes it away, in turns. One sample ends when every pod has been seen to connect, or to
//! be refused; it begins before the request is sent, so that the API server's own part is in it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nameward_test_support::{cluster::Cluster, wait_until};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::{
    api::Api,
    figures::{Figures, median, percentile},
};

const NAMESPACE: &str = "latency";
const OBJECT: &str = "/apis/nameward.io/v1alpha1/namespaces/latency/egresspolicies/rules";
const BAR_MS: f64 = 1_000.0;
/// How long pods may take to be there, and a policy to be enforced.
const READY: Duration = Duration::from_secs(600);
const LIMIT: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_millis(250);
/// Between two tries: more often, and refusals would be too many to be answered.
const STEP: Duration = Duration::from_millis(5);

pub(crate) fn measure(cluster: &Cluster, quick: bool, figures: &mut Figures) -> Result<()> {
    let (pods, samples) = if quick { (10, 20) } else { (100, 200) };
    println!("-- policies: {pods} pods, {samples} samples");
    let api = Api::new(cluster)?;
    let spaces = start(cluster, pods)?;
    let (mut writing, mut first, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..samples {
        let is_given = number % 2 == 0;
        let times = sample(&api, &spaces, is_given)?;
        writing.push(times[0]);
        first.push(times[1]);
        all.push(times[2]);
    }
    figures.plain("of that the request itself, p50", "ms", median(&writing));
    figures.plain("policy to enforced in one pod, p50", "ms", median(&first));
    figures.plain("policy to enforced in one pod, p99", "ms", percentile(&first, 0.99));
    figures.plain(&format!("policy to seen enforced in {pods} pods, p50"), "ms", median(&all));
    figures.at_most(
        &format!("policy to seen enforced in {pods} pods, p99"),
        "ms",
        percentile(&all, 0.99),
        BAR_MS,
    );
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    Ok(())
}

/// Makes the pods under a policy that allows nothing; returns their network namespaces.
fn start(cluster: &Cluster, pods: usize) -> Result<Vec<File>> {
    let policy = json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy", "metadata": {"namespace": NAMESPACE, "name": "rules"},
        "spec": {"podSelector": {"matchLabels": {"app": "runner"}}, "egress": rules(false)},
    });
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---\n{policy}\n"
    ))?;
    let container = json!({
        "name": "c", "image": "nameward.test/tools:1", "imagePullPolicy": "Never", "command": ["sleep", "86400"],
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": NAMESPACE, "name": "many"},
        "spec": {
            "replicas": pods, "selector": {"matchLabels": {"app": "runner"}},
            "template": {
                "metadata": {"labels": {"app": "runner"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
            },
        },
    });
    cluster.apply(&deployment.to_string())?;
    let words = ["-n", NAMESPACE, "get", "deployment", "many", "-o", "jsonpath={.status.readyReplicas}"];
    wait_until("all pods run", READY, || {
        cluster.kubectl(&words).is_ok_and(|ready| ready == pods.to_string()).then_some(())
    });
    let words = ["-n", NAMESPACE, "get", "pods", "-o", "jsonpath={.items[*].status.podIP}"];
    let addresses: BTreeSet<IpAddr> =
        cluster.kubectl(&words)?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let node = cluster.nodes().first().context("there is a node")?;
    let mut spaces = Vec::new();
    for entry in fs::read_dir(node.machine().path("/run/netns"))?.flatten() {
        // What is just being taken away is none of them.
        let Ok(space) = File::open(entry.path()) else { continue };
        if has_one_of(&space, &addresses).unwrap_or(false) {
            spaces.push(space);
        }
    }
    ensure!(spaces.len() == pods, "{} namespaces of {pods} pods were found", spaces.len());
    Ok(spaces)
}

fn rules(is_given: bool) -> Value {
    let ports = json!([{"protocol": "TCP", "port": 80}]);
    let first = json!({"name": "first", "to": [{"ipBlock": {"cidr": "198.51.100.10/32"}}], "ports": ports});
    let second = json!({"name": "second", "to": [{"ipBlock": {"cidr": "203.0.113.10/32"}}], "ports": ports});
    if is_given { json!([first, second]) } else { json!([first]) }
}

fn has_one_of(space: &File, addresses: &BTreeSet<IpAddr>) -> Result<bool> {
    inside(|| {
        setns(space.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let own = nix::ifaddrs::getifaddrs()?;
        let mut own = own.filter_map(|entry| Some(IpAddr::from(entry.address?.as_sockaddr_in()?.ip())));
        Ok(own.any(|address| addresses.contains(&address)))
    })
}

/// Milliseconds until the request was answered, until the first pod follows, and until all do.
fn sample(api: &Api<'_>, spaces: &[File], is_given: bool) -> Result<[f64; 3]> {
    let begun = Instant::now();
    let milliseconds = || begun.elapsed().as_secs_f64() * 1e3;
    thread::scope(|scope| {
        let pods = scope.spawn(|| -> Result<[f64; 2]> {
            let mut first = f64::NAN;
            for (number, space) in spaces.iter().enumerate() {
                setns(space.as_fd(), CloneFlags::CLONE_NEWNET)?;
                while connects() != Some(is_given) {
                    ensure!(begun.elapsed() < LIMIT, "pod {number} does not follow");
                    thread::sleep(STEP);
                }
                if number == 0 {
                    first = milliseconds();
                }
            }
            Ok([first, milliseconds()])
        });
        api.patch(OBJECT, &json!({"spec": {"egress": rules(is_given)}}))?;
        let answered = milliseconds();
        let [first, all] = pods.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok([answered, first, all])
    })
}

/// Whether a connection is had or refused; none where nobody answers, which a slow machine may be the reason of.
fn connects() -> Option<bool> {
    match TcpStream::connect_timeout(&SocketAddr::from(([203, 0, 113, 10], 80)), ANSWER) {
        Ok(_) => Some(true),
        Err(error) => (error.kind() == ErrorKind::ConnectionRefused).then_some(false),
    }
}

/// Does something on a thread of its own, which may enter another namespace.
fn inside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}
