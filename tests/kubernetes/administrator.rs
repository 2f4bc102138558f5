//! What administrators say for all: guardrails, break-glass, the cluster's addresses.

use jiff::{Timestamp, ToSpan};

use crate::{
    guarding::{names, policy},
    pod::Pod,
    world::World,
};

const WEB: &str = "{protocol: TCP, port: 80}";

fn config(spec: &str) -> String {
    format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressConfig\nmetadata: {{name: default}}\nspec: {spec}\n"
    )
}

// R2, R3: a deny-only policy of the cluster isolates nobody, and no policy of a namespace lifts it.
pub(crate) fn tenants_cannot_lift_guardrails(world: &World) {
    world.namespace("tenant", "");
    world.apply(
        "apiVersion: nameward.io/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {name: guardrail}\nspec:\n  subject: {namespaceSelector: \
         {matchLabels: {kubernetes.io/metadata.name: tenant}}, podSelector: {}}\n  isolate: false\n  deny:\n  \
         - {name: block, to: [{ipBlock: {cidr: 203.0.113.10/32}}, {domainNames: [denied.example]}]}\n",
    );
    let pod = Pod::new(world, "tenant", "runner", "app: runner");
    pod.run().is_refused("http://203.0.113.10/");
    pod.reaches("http://203.0.113.11/");
    pod.reaches("http://other.example/");
    let lifting = "[{name: all, to: [{ipBlock: {cidr: 0.0.0.0/0}}, {domainNames: [denied.example, allowed.example]}], ports: [{protocol: Any}]}]";
    world.apply(&policy("tenant", lifting));
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    pod.may_not("http://denied.example/");
    world.kubectl("delete clusteregresspolicy guardrail");
    pod.reaches("http://203.0.113.10/");
    pod.delete();
}

// R13: everything passes until the time that was written, and it is said.
pub(crate) fn break_glass_ends_by_itself(world: &World) {
    world.namespace("glass", &policy("glass", &names("allowed.example", WEB)));
    let pod = Pod::new(world, "glass", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    let until =
        Timestamp::now().checked_add(60.seconds()).unwrap().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    world.apply(&config(&format!(
        "{{breakGlass: [{{name: incident, scope: {{namespace: glass}}, until: '{until}', reason: INC-7}}]}}"
    )));
    pod.reaches("http://203.0.113.10/");
    pod.reaches("http://denied.example/");
    let said = world.condition(&["egressconfig", "default"], "BreakGlass", "True", "Suspended");
    assert!(said.contains("INC-7"), "{said}");
    let events = nameward_test_support::wait_until("an event tells it", crate::world::STATUS, || {
        let events = world.kubectl("get events -A");
        events.contains("INC-7").then_some(events)
    });
    assert!(events.contains("Suspended"), "{events}");
    nameward_test_support::wait_until("it ends", std::time::Duration::from_secs(90), || {
        pod.fetch("http://203.0.113.10/").err()
    });
    assert!(Timestamp::now() >= until.parse().unwrap(), "not before its time");
    pod.reaches("http://allowed.example/");
    world.condition(&["egressconfig", "default"], "BreakGlass", "False", "Enforced");
    world.kubectl("delete egressconfig default");
    pod.delete();
}

// R8: what the cluster's addresses are is said by the configuration, and by `default/kubernetes`.
pub(crate) fn cluster_peers(world: &World) {
    world.apply(&config("{cluster: {pods: [10.244.0.0/16], nodes: [10.88.0.0/24]}}"));
    let peers = |peers: &str| {
        format!("[{{name: cluster, to: [{{cluster: [{peers}]}}], ports: [{{protocol: TCP}}]}}]")
    };
    world.namespace("peers", &policy("peers", &peers("APIServer")));
    let pod = Pod::new(world, "peers", "runner", "app: runner");
    let server = Pod::on(world, 1, "peers", "server", "app: server", crate::pod::Announced::ByPlugin);
    server.run();
    // Connected: what answers there speaks TLS, so this is all that can be had of it.
    let is_reached = |address: &str| pod.connect(address.parse().unwrap()).is_ok();
    let mut listener =
        server.command("busybox").args(["nc", "-ll", "-p", "7000", "-e", "cat"]).spawn().unwrap();
    nameward_test_support::wait_until("the API server is reached", crate::world::SOON, || {
        is_reached("10.88.0.1:6443").then_some(())
    });
    let serves = format!("{}:7000", server.address);
    assert!(!is_reached(&serves), "a pod, where only the API server is allowed");
    world.apply(&policy("peers", &peers("Pods")));
    nameward_test_support::wait_until("the other pod is reached", crate::world::SOON, || {
        is_reached(&serves).then_some(())
    });
    assert!(!is_reached("10.88.0.1:6443"), "the API server, where only pods are allowed");
    listener.kill().unwrap();
    listener.wait().unwrap();
    world.kubectl("delete egressconfig default");
    pod.delete();
    server.delete();
}
