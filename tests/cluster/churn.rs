//! Many pods that come and go at once, and what is left of them: nothing.

use std::{collections::BTreeMap, fs, time::Duration};

use nameward_test_support::{
    cluster::{Node, Part},
    wait_until, wait_until_ok,
};
use serde_json::json;

use crate::pods::{Container, START, World, names, policy, spec_of};

const PODS: usize = 100;
/// How long anything of a pod may be there after the pod. A node writes its report at most once in 10 s.
const GONE: Duration = Duration::from_secs(45);

/// Pods are deleted while others of them still start: no endpoint, pin, program or listed entry of them is left.
pub(crate) fn many_pods_come_and_go(world: &World) {
    world.namespace("churn", &policy("churn", &names("allowed.example")));
    let nodes = world.cluster.nodes();
    wait_until("what other scenarios deleted is gone", START * 3, || {
        let namespaces = world.kubectl("get namespaces -o name");
        let is_there = |name: &String| {
            let namespace = name.split('/').next().unwrap_or_default();
            namespaces.lines().any(|line| line == format!("namespace/{namespace}"))
        };
        let going = world.kubectl("get namespaces -o jsonpath={.items[*].metadata.deletionTimestamp}");
        // What is not listed any more is still being taken away.
        let is_clean = |node| {
            let endpoints = endpoints(node);
            endpoints.iter().all(is_there) && held(node)["pins"] == endpoints.len()
        };
        (going.is_empty() && nodes.iter().all(is_clean)).then_some(())
    });
    let before: Vec<_> = nodes.iter().map(held).collect();
    let told: Vec<usize> = nodes.iter().map(|node| log(node).len()).collect();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "churn", "name": "many"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": {"app": "runner"}},
            "template": {
                "metadata": {"labels": {"app": "runner"}}, "spec": spec_of(&[], &Container::sleeps(), "Always"),
            },
        },
    });
    world.apply(&deployment.to_string());
    wait_until("most of them run", START * 5, || {
        let ready = world.kubectl("-n churn get deployment many -o jsonpath={.status.readyReplicas}");
        (ready.parse::<usize>().unwrap_or(0) >= PODS * 3 / 4).then_some(())
    });
    assert!(nodes.iter().any(|node| endpoints(node).len() > PODS / 4), "they are guarded");
    world.kubectl("-n churn delete deployment many --cascade=background --wait=false");
    wait_until("all pods are gone", START * 5, || {
        world.kubectl("-n churn get pods -o name").is_empty().then_some(())
    });
    for (node, before) in nodes.iter().zip(&before) {
        wait_until_ok(&format!("nothing of them is left on {}", node.name()), GONE, || {
            let (mut left, held) = (endpoints(node), held(node));
            left.retain(|name| name.starts_with("churn/"));
            let is_less = held.iter().all(|(what, count)| *count <= before[what]);
            match left.is_empty() && is_less {
                true => Ok(()),
                false => Err(format!("{left:?}, {held:?} instead of {before:?}")),
            }
        });
    }
    wait_until_ok("no node reports any of them", GONE, || {
        let path = "jsonpath={range .items[*].spec.policies[?(@.namespace=='churn')]}{.name}{.endpoints.selected} {end}\
                    {range .items[*].spec.notCovered[?(@.namespace=='churn')]}{.name} {end}";
        let said =
            world.cluster.kubectl(&["get", "egressnodes", "-o", path]).map_err(|error| error.to_string())?;
        let listed: Vec<&str> = said.split_whitespace().filter(|one| *one != "rules0").collect();
        if listed.is_empty() { Ok(()) } else { Err(listed.join(" ")) }
    });
    // A pod that comes or goes is no fault.
    for (node, told) in nodes.iter().zip(told) {
        let log = log(node).split_off(told);
        let faults: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(
            faults.is_empty(),
            "{} of {}: {}",
            faults.len(),
            node.name(),
            faults[..faults.len().min(5)].join("\n")
        );
    }
    world.kubectl("delete namespace churn --wait=false");
}

fn log(node: &Node) -> String {
    node.machine().log(Part::Enforcer.name())
}

fn endpoints(node: &Node) -> Vec<String> {
    let all = node.rest("/v1/endpoints?limit=1000").unwrap();
    let names = all["items"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str());
    names.map(str::to_owned).collect()
}

/// How many of each kind of thing a node holds for its endpoints.
fn held(node: &Node) -> BTreeMap<&'static str, usize> {
    let machine = node.machine();
    let entries = |path: &str| fs::read_dir(machine.path(path)).map_or(0, Iterator::count);
    // Programs, maps and links that no pin holds would be held by the process.
    let script = r#"ls -l "/proc/$(cat /run/processes/nameward-enforcer)/fd" | grep -c "bpf" || true"#;
    let descriptors = machine.output("sh", &["-c", script]).unwrap().trim().parse().unwrap();
    [
        ("pins", entries("/sys/fs/bpf/nameward/v1/endpoints")),
        ("files of names", entries("/run/nameward/state")),
        ("descriptors of BPF", descriptors),
    ]
    .into()
}
