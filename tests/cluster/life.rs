//! What comes and goes: pods, connections, our processes, the API server.

use nameward_test_support::{cluster::Part, wait_until};
use serde_json::json;

use crate::{
    guarding::{names, policy},
    pods::{Container, Pod, SOON, START, World, pod_of, spec_of},
};

/// Asks once in a moment over one connection, and writes down the answers.
const KEEPS_ASKING: &str = "mkfifo /tmp/in; nc 203.0.113.10 80 < /tmp/in > /tmp/out & exec 3> /tmp/in; \
                            while printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; do sleep 0.2; done";

fn answers(pod: &Pod<'_>) -> usize {
    pod.exec(&["grep", "-c", "hello from", "/tmp/out"]).ok().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[track_caller]
fn goes_on(pod: &Pod<'_>, when: &str) {
    let before = answers(pod);
    wait_until(&format!("the live connection goes on {when}"), SOON, || {
        (answers(pod) > before + 3).then_some(())
    });
}

// R11: live TCP connections of a pod that runs go on under its first policy.
pub(crate) fn a_first_policy_keeps_live_connections(world: &World) {
    world.namespace("first", "");
    world.apply(&pod_of("first", "runner", "app: runner", &[], &Container::shell(KEEPS_ASKING)));
    let pod = world.running("first", "runner");
    goes_on(&pod, "without any policy");
    pod.reaches("http://203.0.113.10/");
    world.apply(&policy("first", &names("allowed.example")));
    pod.is_refused("http://203.0.113.10/");
    goes_on(&pod, "under a first policy");
    pod.reaches("http://allowed.example/");
    pod.is_refused("http://203.0.113.10/");
    world.kubectl("delete namespace first --wait=false");
}

// Promise 4: who is granted something keeps it, who is not gets nothing, whoever of us is dead.
pub(crate) fn both_processes_killed(world: &World) {
    let address = "[{name: web, to: [{domainNames: [allowed.example]}, {ipBlock: {cidr: 203.0.113.10/32}}], ports: [{protocol: TCP, \
                   port: 80}]}]";
    world.namespace("killed", &policy("killed", address));
    world.apply(&pod_of("killed", "runner", "app: runner", &[], &Container::shell(KEEPS_ASKING)));
    let pod = world.running("killed", "runner");
    pod.reaches("http://allowed.example/");
    let node = &world.cluster.nodes()[pod.node];
    for parts in [&[Part::Enforcer][..], &[Part::Resolver], &[Part::Enforcer, Part::Resolver]] {
        for part in parts {
            node.kill(*part).unwrap();
            wait_until("it is dead", SOON, || (!node.machine().runs(part.name())).then_some(()));
        }
        goes_on(&pod, "without them");
        pod.exec(&["curl", "-sS", "--max-time", "5", "http://198.51.100.10/"])
            .expect("what was granted stays granted");
        pod.may_not("http://203.0.113.11/");
        parts.iter().for_each(|part| node.start(*part).unwrap());
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.11/");
        goes_on(&pod, "with them again");
    }
    world.kubectl("delete namespace killed --wait=false");
}

// F2: without an API server what is in force stays; what it says when it is back counts.
pub(crate) fn no_api_server(world: &World) {
    world.namespace("away", &policy("away", &names("allowed.example")));
    let pod = world.pod("away", "runner", "app: runner");
    pod.reaches("http://allowed.example/");
    world.cluster.stop_server().unwrap();
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    world.cluster.start_server().unwrap();
    world.apply(&policy("away", &names("other.example")));
    pod.reaches("http://other.example/");
    pod.is_refused("http://allowed.example/");
    let late = world.pod("away", "late", "app: runner");
    late.reaches("http://other.example/");
    late.may_not("http://203.0.113.10/");
    world.kubectl("delete namespace away --wait=false");
}

// Promise 5: of pods that start at once each is guarded from its first instruction on, also where its sandbox fails first.
pub(crate) fn many_pods_start_at_once(world: &World) {
    const PODS: usize = 40;
    const FAR: &str = "203.0.113.11";
    world.namespace("many", &policy("many", &names("allowed.example")));
    world.count_arrivals(FAR);
    let first = Container::shell("curl -s --max-time 1 http://203.0.113.11/; true");
    let then = Container::shell(
        "curl -4 -sS --retry 9 --retry-all-errors http://allowed.example/ && exec sleep 86400",
    );
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "many", "name": "many"},
        "spec": {
            "replicas": PODS, "selector": {"matchLabels": {"app": "runner"}},
            "template": {"metadata": {"labels": {"app": "runner"}}, "spec": spec_of(&[first], &then, "Always")},
        },
    });
    world.apply(&deployment.to_string());
    wait_until("all are there", START * 5, || {
        let ready = world.kubectl("-n many get deployment many -o jsonpath={.status.readyReplicas}");
        (ready == PODS.to_string()).then_some(())
    });
    assert_eq!(world.arrivals(FAR), 0, "packets arrived before the rules");
    world.kubectl("delete namespace many --wait=false");
}
