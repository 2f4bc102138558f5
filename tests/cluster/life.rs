//! What comes and goes: pods, connections, our processes, the API server.

use std::time::Duration;

use nameward_test_support::{cluster::Part, wait_until};
use serde_json::json;

use crate::pods::{Container, KEEPS_ASKING, SOON, START, World, names, pod_of, policy, spec_of};

// R11: live TCP connections of a pod that runs go on under its first policy.
pub(crate) fn a_first_policy_keeps_live_connections(world: &World) {
    world.namespace("first", "");
    world.apply(&pod_of("first", "runner", "app: runner", &[], &Container::shell(KEEPS_ASKING)));
    let pod = world.running("first", "runner");
    pod.goes_on("without any policy");
    pod.reaches("http://203.0.113.10/");
    world.apply(&policy("first", &names("allowed.example")));
    pod.is_refused("http://203.0.113.10/");
    pod.goes_on("under a first policy");
    pod.reaches("http://allowed.example/");
    pod.is_refused("http://203.0.113.10/");
    world.kubectl("delete namespace first --wait=false");
}

// R9: under traffic, what is new counts for new connections at once; a live one is asked whether it is still allowed.
pub(crate) fn policies_change_under_traffic(world: &World) {
    let both = "[{name: web, to: [{ipBlock: {cidr: 203.0.113.10/32}}, {domainNames: [allowed.example]}], ports: [{protocol: TCP, \
                port: 80}]}]";
    world.namespace("change", &policy("change", both));
    world.apply(&pod_of("change", "runner", "app: runner", &[], &Container::shell(KEEPS_ASKING)));
    let pod = world.running("change", "runner");
    pod.goes_on("under a policy that allows it");
    pod.reaches("http://allowed.example/");
    pod.may_not("http://other.example/");
    // A second policy adds, and takes nothing away when it goes.
    let second = policy("change", &names("other.example")).replace("name: rules", "name: more");
    world.apply(&second);
    pod.reaches("http://other.example/");
    pod.goes_on("under two policies");
    world.kubectl("-n change delete egresspolicy more");
    pod.is_refused("http://other.example/");
    pod.goes_on("under the first policy again");
    // What the rules do not allow any more ends.
    world.apply(&policy("change", &names("allowed.example")));
    pod.is_refused("http://203.0.113.10/");
    let ended = wait_until("the live connection gets no more answers", SOON, || {
        let before = pod.answers();
        std::thread::sleep(Duration::from_secs(1));
        (pod.answers() == before).then_some(before)
    });
    pod.reaches("http://allowed.example/");
    assert_eq!(pod.answers(), ended, "it is not taken up again");
    world.kubectl("-n change delete egresspolicy rules");
    pod.reaches("http://denied.example/");
    world.kubectl("delete namespace change --wait=false");
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
        pod.goes_on("without them");
        pod.exec(&["curl", "-sS", "--max-time", "5", "http://198.51.100.10/"])
            .expect("what was granted stays granted");
        pod.may_not("http://203.0.113.11/");
        parts.iter().for_each(|part| node.start(*part).unwrap());
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.11/");
        pod.goes_on("with them again");
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
    const PODS: usize = 100;
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
    wait_until("all are there", START * 8, || {
        let ready = world.kubectl("-n many get deployment many -o jsonpath={.status.readyReplicas}");
        (ready == PODS.to_string()).then_some(())
    });
    assert_eq!(world.arrivals(FAR), 0, "packets arrived before the rules");
    world.kubectl("delete namespace many --wait=false");
}
