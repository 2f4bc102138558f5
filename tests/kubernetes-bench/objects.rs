//! What many objects cost: 250 pods on the node, 1,000 policies, 10,000 pods in the cluster. In none of the pods anything
//! runs; those of the node have an interface, which the CNI plugin names, and are guarded.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use nameward_crds::{EgressPolicy, Labels, Policy};
use nameward_enforcer::policies::{Index, IndexOptions, Network, PodFacts, PolicyFacts};
use nameward_policy::Settings;
use nameward_test_support::{
    cluster::{Cluster, Node, Part},
    program, wait_until,
};
use serde_json::{Value, json};

use crate::{
    api::Api,
    figures::{Figures, median, percentile},
};

const NAMESPACES: usize = 100;
const UPDATE_BAR_MS: f64 = 5.0;
const SYNCED_BAR_S: f64 = 10.0;
const MEMORY_BAR_MB: f64 = 150.0;
const LIMIT: Duration = Duration::from_secs(120);
/// Words: a namespace that is made, the interface of the node that leads into it, the address inside.
const INTERFACE: &str = r#"ip netns add "$0" && ip link add "$1" type veth peer name eth0 netns "$0" &&
    ip -n "$0" addr add "$2/32" dev eth0 && ip -n "$0" link set eth0 up && ip link set "$1" up"#;
/// What the enforcer says when it has heard of everything.
const SYNCED: &str = "all that the API server has is known";

/// Objects, and how many of each.
struct Numbers {
    on_node: usize,
    policies: usize,
    pods: usize,
}

const fn numbers(quick: bool) -> Numbers {
    if quick {
        Numbers { on_node: 25, policies: 100, pods: 500 }
    } else {
        Numbers { on_node: 250, policies: 1_000, pods: 10_000 }
    }
}

fn namespace(number: usize) -> String {
    format!("ns{}", number % NAMESPACES)
}

/// The policy of this number: each selects the pods of one label in its namespace.
fn policy(number: usize, first_name: &str) -> Value {
    let names: Vec<String> = (0..10).map(|name| format!("n{name}.p{number}.example")).collect();
    let ports = json!([{"protocol": "TCP", "port": 443}]);
    json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
        "metadata": {"namespace": namespace(number), "name": format!("p{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"app": format!("a{}", number / NAMESPACES)}},
            "egress": [
                {"name": "names", "to": [{"domainNames": names}, {"domainNames": [first_name]}], "ports": ports},
                {"name": "net", "to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}], "ports": ports},
            ],
        },
    })
}

/// What a change costs the index: until the decisions about all pods of the node are made anew.
pub(crate) fn measure_index(quick: bool, figures: &mut Figures) -> Result<()> {
    let numbers = numbers(quick);
    println!("-- index: {} pods, {} policies", numbers.on_node, numbers.policies);
    let options = IndexOptions {
        node: "n1".into(),
        own_namespace: None,
        settings: Settings::default(),
        forwards: false,
    };
    let mut index = Index::new(options);
    for number in 0..NAMESPACES {
        let name = namespace(number);
        index
            .apply_namespace(&name, Labels::from([(nameward_crds::NAMESPACE_NAME.to_owned(), name.clone())]));
    }
    for number in 0..numbers.policies {
        index.apply_policy(read(policy(number, "first.example"))?);
    }
    for number in 0..numbers.on_node {
        index.apply_pod(facts(number, 0));
    }
    index.decide(Timestamp::now());
    let (mut pods, mut policies) = (Vec::new(), Vec::new());
    for number in 0..200 {
        let pod = facts(number % numbers.on_node, number + 1);
        let begun = Instant::now();
        index.apply_pod(pod);
        index.decide(Timestamp::now());
        pods.push(begun.elapsed().as_secs_f64() * 1e3);
        let changed = read(policy(number % numbers.policies, &format!("c{number}.example")))?;
        let begun = Instant::now();
        index.apply_policy(changed);
        index.decide(Timestamp::now());
        policies.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    for (what, times) in [("pod", pods), ("policy", policies)] {
        figures.plain(&format!("index update by a {what}, p50"), "ms", median(&times));
        figures.at_most(
            &format!("index update by a {what}, p99"),
            "ms",
            percentile(&times, 0.99),
            UPDATE_BAR_MS,
        );
    }
    Ok(())
}

fn read(object: Value) -> Result<PolicyFacts> {
    Ok(PolicyFacts::new(Policy::Namespaced(serde_json::from_value::<EgressPolicy>(object)?)))
}

fn facts(number: usize, version: usize) -> PodFacts {
    let labels = [("app", format!("a{}", number % 10)), ("version", version.to_string())];
    PodFacts {
        uid: format!("uid-{number}").into(),
        namespace: namespace(number).into(),
        name: format!("pod{number}").into(),
        labels: labels.map(|(key, value)| (key.to_owned(), value)).into(),
        addresses: Vec::new(),
        network: Network::Own,
        is_over: false,
    }
}

/// An enforcer that is started beside all these objects.
pub(crate) fn measure(cluster: &Cluster, quick: bool, figures: &mut Figures) -> Result<()> {
    let numbers = numbers(quick);
    let (on_node, policies, pods) = (numbers.on_node, numbers.policies, numbers.pods);
    println!("-- objects: {on_node} pods on the node, {policies} policies, {pods} pods in the cluster");
    make(&Api::new(cluster)?, &numbers)?;
    let node = cluster.nodes().first().context("there is a node")?;
    guard(cluster, node)?;
    wait_until("all pods of the node have rules", LIMIT, || (guarded(node).ok()? == on_node).then_some(()));
    let mut times = Vec::new();
    for _ in 0..5 {
        times.push(restart(node)?);
        let guarded = guarded(node)?;
        ensure!(guarded == on_node, "{guarded} of {on_node} pods are guarded after a restart");
    }
    figures.at_most("start to synced, median of 5", "s", median(&times), SYNCED_BAR_S);
    let status = inside(node, r#"cat "/proc/$(cat /run/processes/nameward-enforcer)/status""#)?;
    let megabytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<f64>().ok());
        kilobytes.map_or(f64::NAN, |kilobytes| kilobytes / 1_024.0)
    };
    figures.at_most("memory of the enforcer (VmRSS)", "MB", megabytes("VmRSS"), MEMORY_BAR_MB);
    figures.plain("memory of the enforcer, at most so far (VmHWM)", "MB", megabytes("VmHWM"));
    figures.plain("memory of the enforcer, without files (RssAnon)", "MB", megabytes("RssAnon"));
    let maps = maps(node)?;
    ensure!(maps.len() >= on_node, "the enforcer holds only {} maps", maps.len());
    figures.plain("memory of maps, in the kernel", "MB", maps.values().sum::<f64>() / 1e6);
    Ok(())
}

/// Octets that the kernel charges for each map that the enforcer holds, by the map's number.
fn maps(node: &Node) -> Result<BTreeMap<String, f64>> {
    // Some are closed while they are read.
    let text =
        inside(node, r#"cat "/proc/$(cat /run/processes/nameward-enforcer)/fdinfo/"* 2> /dev/null || true"#)?;
    let (mut maps, mut charged) = (BTreeMap::new(), 0.0);
    for (field, value) in text.lines().filter_map(|line| line.split_once(':')) {
        match field {
            "memlock" => charged = value.trim().parse().unwrap_or(0.0),
            "map_id" => drop(maps.insert(value.trim().to_owned(), charged)),
            _ => {}
        }
    }
    Ok(maps)
}

fn inside(node: &Node, script: &str) -> Result<String> {
    node.machine().output("sh", &["-c", script])
}

/// Pods of the node that have rules.
fn guarded(node: &Node) -> Result<usize> {
    let all = node.rest("/v1/endpoints?limit=1000")?;
    let all = all["items"].as_array().context("a list")?.iter();
    Ok(all.filter(|one| one["generation"].as_u64() > Some(0)).count())
}

/// Gives the pods of the node interfaces, and names them to the enforcer as a container runtime does.
fn guard(cluster: &Cluster, node: &Node) -> Result<()> {
    let path =
        r#"jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.metadata.uid}{"\n"}{end}"#;
    let meant = format!("spec.nodeName={}", node.name());
    let pods = cluster.kubectl(&["get", "pods", "-A", "--field-selector", &meant, "-o", path])?;
    let plugin = program("nameward-cni")?;
    for (number, pod) in pods.lines().enumerate() {
        let words: Vec<&str> = pod.split(' ').collect();
        let &[namespace, name, uid] = words.as_slice() else { continue };
        let (interface, address) = (format!("v{number}"), format!("10.244.1.{}", number + 2));
        node.machine().output("sh", &["-c", INTERFACE, name, &interface, &address])?;
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": interface}, {"name": "eth0", "sandbox": Path::new("/run/netns").join(name)}],
            "ips": [{"address": format!("{address}/32"), "interface": 1}],
        });
        let configuration =
            json!({"cniVersion": "1.0.0", "name": "pods", "type": "nameward-cni", "prevResult": result});
        let arguments =
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
        node.call_plugin(&plugin, "ADD", name, &arguments, &configuration)?;
    }
    Ok(())
}

fn make(api: &Api<'_>, numbers: &Numbers) -> Result<()> {
    let namespaces = (0..NAMESPACES).map(|number| {
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace(number)}});
        ("/api/v1/namespaces".to_owned(), object)
    });
    api.create_all(&namespaces.collect::<Vec<_>>())?;
    let policies = (0..numbers.policies).map(|number| {
        let collection =
            format!("/apis/nameward.io/v1alpha1/namespaces/{}/egresspolicies", namespace(number));
        (collection, policy(number, "first.example"))
    });
    api.create_all(&policies.collect::<Vec<_>>())?;
    let pods = (0..numbers.pods).map(|number| {
        let node = if number < numbers.on_node { "n1".to_owned() } else { format!("other{}", number % 40) };
        let labels = json!({"app": format!("a{}", number % 10)});
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": namespace(number), "name": format!("pod{number}"), "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
        });
        (format!("/api/v1/namespaces/{}/pods", namespace(number)), object)
    });
    api.create_all(&pods.collect::<Vec<_>>())
}

/// Seconds from starting an enforcer that knows nothing until it has heard of everything.
fn restart(node: &Node) -> Result<f64> {
    let machine = node.machine();
    node.kill(Part::Enforcer)?;
    wait_until("it is dead", LIMIT, || (!machine.runs(Part::Enforcer.name())).then_some(()));
    // Absent, where it was killed before it wrote it.
    drop(fs::remove_file(machine.path("/run/nameward/state/cluster.json")));
    let told = machine.log(Part::Enforcer.name()).len();
    let begun = Instant::now();
    node.start(Part::Enforcer)?;
    wait_until("it has heard of everything", LIMIT, || {
        machine.log(Part::Enforcer.name()).get(told..)?.contains(SYNCED).then_some(())
    });
    Ok(begun.elapsed().as_secs_f64())
}
