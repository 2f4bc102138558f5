//! Enforcers that are not there when pods start: the order of a boot, one that crashes again and again.

use std::{
    thread,
    time::{Duration, Instant},
};

use nameward_test_support::{
    cluster::{Node, Part},
    program, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::pods::{Container, SOON, START, World, names, pod_of, policy, spec_of};

/// Waits until a process of a node is dead that was killed, if it was there.
fn kill(node: &Node, part: Part) {
    drop(node.kill(part));
    wait_until("it is dead", SOON, || (!node.machine().runs(part.name())).then_some(()));
}

// Promise 5, DESIGN 8: after a boot kubelet and the plugin's configuration are there before the enforcer is, and the BPF file
// system is empty. Pods wait for it, and the node stays ready.
pub(crate) fn pods_that_start_before_the_enforcer_wait(world: &World) {
    const FAR: &str = "198.51.100.13";
    world.namespace("boot", &policy("boot", &names("allowed.example")));
    world.count_arrivals(FAR);
    let node = &world.cluster.nodes()[1];
    node.machine().signal("kubelet", Signal::SIGKILL).unwrap();
    for part in [Part::Enforcer, Part::Resolver] {
        kill(node, part);
    }
    node.machine().output(program("nameward-enforcer").unwrap(), &["--remove"]).unwrap();
    assert!(!node.machine().path("/sys/fs/bpf/nameward").exists(), "the test's own premise");
    node.start_kubelet(world.cluster.control()).unwrap();
    let first =
        Container::shell("curl -s --max-time 1 http://198.51.100.13/; ping -c 1 -W 1 198.51.100.13; true");
    world.apply(&pod_of("boot", "early", "app: runner", &[first], &Container::sleeps().on("n2")));
    wait_until("its event says why it waits", START * 2, || {
        let events = world.kubectl("-n boot get events");
        events.contains("the pod would be unguarded").then_some(())
    });
    assert_eq!(world.arrivals(FAR), 0);
    let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    assert_eq!(world.cluster.kubectl(&["get", "node", "n2", "-o", path]).unwrap(), "True");
    node.start(Part::Resolver).unwrap();
    node.start(Part::Enforcer).unwrap();
    let pod = world.running("boot", "early");
    pod.reaches("http://allowed.example/");
    pod.may_not(&format!("http://{FAR}/"));
    assert_eq!(world.arrivals(FAR), 0, "packets arrived before the rules");
    world.kubectl("delete namespace boot --wait=false");
}

// Promises 4 and 5: pods that start while it crashes are late, never unguarded.
pub(crate) fn an_enforcer_that_crashes_again_and_again(world: &World) {
    const FAR: &str = "198.51.100.12";
    const PODS: usize = 8;
    const CRASHES: u64 = 12;
    world.namespace("crash", &policy("crash", &names("allowed.example")));
    world.count_arrivals(FAR);
    let first =
        Container::shell("curl -s --max-time 1 http://198.51.100.12/; ping -c 1 -W 1 198.51.100.12; true")
            .on("n1");
    let then = Container::shell(
        "curl -4 -sS --retry 9 --retry-all-errors http://allowed.example/ && exec sleep 86400",
    )
    .on("n1");
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "crash", "name": "many"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": {"app": "runner"}},
            "template": {"metadata": {"labels": {"app": "runner"}}, "spec": spec_of(&[first], &then, "Always")},
        },
    });
    world.apply(&deployment.to_string());
    let node = &world.cluster.nodes()[0];
    let began = Instant::now();
    for number in 0..CRASHES {
        kill(node, Part::Enforcer);
        node.start(Part::Enforcer).unwrap();
        // In the middle of all that it does: when it has just begun, and when it has attached some.
        thread::sleep(Duration::from_millis(150 * (1 + number * 7 % CRASHES)));
    }
    println!("{CRASHES} crashes in {:?}", began.elapsed());
    wait_until("all are there", START * 4, || {
        let ready = world.kubectl("-n crash get deployment many -o jsonpath={.status.readyReplicas}");
        (ready == PODS.to_string()).then_some(())
    });
    assert_eq!(world.arrivals(FAR), 0, "packets arrived before the rules");
    world.kubectl("delete namespace crash --wait=false");
}
