//! From the installation of the chart to nodes that have nothing of it any more.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use nameward_feed::cni::{CONFLIST, PLUGIN};
use nameward_test_support::{
    Scratch,
    cluster::{CNI_CONFIGURATIONS, CNI_PROGRAMS, Node},
    images::{REGISTRY, RESOLVER_USER, product},
    patient, program, wait_until,
};
use nix::sys::signal::Signal;

use crate::{
    World,
    pods::{self, Container, KEEPS_ASKING, SOON, START, names, pod_of, policy},
    render::chart,
};

/// From the command to everything ready.
const INSTALL: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "nameward";

/// Makes images of the programs under test, and loads them into all nodes.
pub(crate) fn load_images(world: &pods::World) -> Result<()> {
    let folder = Scratch::new("images")?;
    let program = program("nameward-enforcer")?;
    let programs = program.parent().unwrap_or(Path::new("/"));
    for image in product(programs, REGISTRY, env!("CARGO_PKG_VERSION"), true) {
        world.cluster.load(&image.archive(folder.path())?)?;
    }
    Ok(())
}

/// Helm with the values of this cluster, behind a word of its own and the release's name.
pub(crate) fn helm(world: &pods::World, words: &[&str], more: &[&str]) -> Result<String> {
    let chart = chart().display().to_string();
    let folders =
        format!("cni.confDir={CNI_CONFIGURATIONS},cni.binDir={CNI_PROGRAMS},image.pullPolicy=Never");
    let common = ["--namespace", NAMESPACE, "--wait", "--timeout", "3m", "--set", &folders];
    world.cluster.helm(&[words, &[chart.as_str()], &common, more].concat())
}

/// What is there of us on a node: our CNI configuration, pins, link, folder.
fn left(node: &Node) -> Vec<String> {
    let machine = node.machine();
    let conflist = format!("{CNI_CONFIGURATIONS}/{CONFLIST}");
    let places = ["-", &conflist, "/sys/fs/bpf/nameward", "/run/nameward"];
    let script = r#"for place; do find "$place" 2>/dev/null; done; true"#;
    let found = machine.output("bash", &[&["-c", script][..], &places].concat()).unwrap();
    let mut left: Vec<String> = found.lines().map(str::to_owned).collect();
    if machine.ip("link show nameward0").is_ok() {
        left.push("nameward0".into());
    }
    left
}

// The whole installation, from an archive of the programs to a policy that is in force.
pub(crate) fn installs_and_guards(world: &World) {
    let world = world.cluster();
    let started = Instant::now();
    let said = helm(world, &["install", "nameward"], &["--create-namespace"]).unwrap();
    let took = started.elapsed();
    println!("installed and ready after {took:?}");
    assert!(took < patient(INSTALL), "{took:?}");
    assert!(said.contains("kubectl get egressnodes"), "{said}");
    world.namespace("ci", &policy("ci", &names("allowed.example")));
    let pod = world.pod("ci", "runner", "app: runner");
    pod.reaches("http://allowed.example/");
    pod.may_not("http://denied.example/");
    pod.may_not("http://203.0.113.10/");
    wait_until("both nodes report", SOON * 3, || {
        let nodes = world.cluster.get(&["egressnodes"]).ok()?;
        (nodes["items"].as_array()?.len() == 2).then_some(())
    });
    // The command line of the image knows where the API is.
    let endpoints = world.kubectl("-n nameward exec ds/nameward -c enforcer -- nameward endpoints -o json");
    assert!(endpoints.starts_with('['), "{endpoints}");
    for node in world.cluster.nodes() {
        resolver_is_nobody(node);
    }
}

/// The resolver has another user's rights and none besides.
fn resolver_is_nobody(node: &Node) {
    let process = node.machine().output("pgrep", &["-x", "nameward-resolv"]).unwrap();
    let status = node.machine().output("cat", &[&format!("/proc/{}/status", process.trim())]).unwrap();
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert!(line("Uid:").contains(&RESOLVER_USER.to_string()), "{status}");
    for set in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert!(line(set).ends_with("0000000000000000"), "{status}");
    }
    assert!(line("NoNewPrivs:").ends_with('1') && line("Seccomp:").ends_with('2'), "{status}");
}

pub(crate) fn refuses_a_second_install(world: &World) {
    let world = world.cluster();
    let chart = chart().display().to_string();
    let words = ["install", "second", &chart, "--namespace", "elsewhere", "--create-namespace"];
    let said = world.cluster.helm(&words).unwrap_err().to_string();
    assert!(said.contains("already, as the release nameward in the namespace nameward"), "{said}");
}

// Promise 4: an upgrade replaces both processes on every node, and changes nothing for who is granted something.
pub(crate) fn upgrades_under_a_live_connection(world: &World) {
    let world = world.cluster();
    let rules = "[{name: web, to: [{domainNames: [allowed.example]}, {ipBlock: {cidr: 203.0.113.10/32}}], ports: [{protocol: TCP, \
                 port: 80}]}]";
    world.namespace("live", &policy("live", rules));
    world.apply(&pod_of("live", "runner", "app: runner", &[], &Container::shell(KEEPS_ASKING)));
    let pod = world.running("live", "runner");
    pod.reaches("http://allowed.example/");
    pod.goes_on("before the upgrade");
    let processes = || {
        let nodes = world.cluster.nodes().iter();
        nodes
            .map(|node| node.machine().output("pgrep", &["-x", "nameward-enforc"]).unwrap())
            .collect::<Vec<_>>()
    };
    let before = processes();
    helm(world, &["upgrade", "nameward"], &["--set", "enforcer.log=json"]).unwrap();
    for (old, new) in before.iter().zip(processes()) {
        assert_ne!(*old, new, "the enforcer of each node is another process");
    }
    pod.goes_on("after the upgrade");
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.11/");
    helm(world, &["upgrade", "nameward"], &["--set", "enforcer.log=text"]).unwrap();
    pod.goes_on("after another");
}

// What the chart put on nodes is gone; what people wrote is not, and pods start.
pub(crate) fn uninstalls_from_all_live_nodes(world: &World) {
    let world = world.cluster();
    for node in world.cluster.nodes() {
        assert!(!left(node).is_empty(), "the test's own premise");
    }
    world
        .cluster
        .helm(&["uninstall", "nameward", "--namespace", NAMESPACE, "--wait", "--timeout", "5m"])
        .unwrap();
    for node in world.cluster.nodes() {
        assert_eq!(left(node), Vec::<String>::new(), "on {}", node.name());
        assert!(node.machine().path(CNI_PROGRAMS).join(PLUGIN).exists(), "pods are taken down with it");
    }
    let policies = world.kubectl("get egresspolicies -A -o name");
    assert!(policies.contains("egresspolicy.nameward.io/rules"), "{policies}");
    let all = world.kubectl("-n nameward get daemonsets,jobs,pods,serviceaccounts -o name");
    assert!(!all.contains("nameward"), "{all}");
    assert!(!world.kubectl("get clusterroles,clusterrolebindings -o name").contains("nameward"));
    // A pod of before, and one that starts now.
    world.running("ci", "runner").reaches("http://denied.example/");
    for node in ["n1", "n2"] {
        world.apply(&pod_of("ci", node, "app: runner", &[], &Container::sleeps().on(node)));
        world.running("ci", node).reaches("http://denied.example/");
    }
}

// A node that is down when the chart is uninstalled is cleaned when it is back.
pub(crate) fn cleans_a_node_that_was_down(world: &World) {
    let world = world.cluster();
    helm(world, &["install", "nameward"], &["--create-namespace"]).unwrap();
    let (first, second) = (&world.cluster.nodes()[0], &world.cluster.nodes()[1]);
    second.machine().signal("kubelet", Signal::SIGKILL).unwrap();
    wait_until("the node is down", START * 3, || {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        let ready = world.cluster.kubectl(&["get", "node", second.name(), "-o", path]).ok()?;
        (ready == "Unknown").then_some(())
    });
    world.cluster.helm(&["uninstall", "nameward", "--namespace", NAMESPACE, "--timeout", "5m"]).unwrap();
    assert_eq!(left(first), Vec::<String>::new());
    assert!(!left(second).is_empty(), "nobody could do anything there");
    let again = helm(world, &["install", "nameward"], &[]).unwrap_err().to_string();
    assert!(again.contains("still being removed"), "{again}");
    second.start_kubelet(world.cluster.control()).unwrap();
    wait_until("it is cleaned", START * 3, || left(second).is_empty().then_some(()));
    world.apply(&pod_of("ci", "later", "app: runner", &[], &Container::sleeps().on("n2")));
    world.running("ci", "later").reaches("http://denied.example/");
}
