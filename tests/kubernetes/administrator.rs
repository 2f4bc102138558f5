//! What administrators say for all: guardrails, break-glass, the cluster's addresses.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use nameward_test_support::{output_within, wait_until};

use crate::{
    guarding::{names, policy},
    pod::{Announced, Pod},
    world::{SOON, STATUS, World},
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
    let events = wait_until("an event tells it", STATUS, || {
        let events = world.kubectl("get events -A");
        events.contains("INC-7").then_some(events)
    });
    assert!(events.contains("Suspended"), "{events}");
    wait_until("it ends", Duration::from_secs(90), || pod.fetch("http://203.0.113.10/").err());
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
    let server = Pod::on(world, 1, "peers", "server", "app: server", Announced::ByPlugin);
    server.run();
    // Connected: what answers there speaks TLS, so this is all that can be had of it.
    let is_reached = |address: &str| pod.connect(address.parse().unwrap()).is_ok();
    let mut listener =
        server.command("busybox").args(["nc", "-ll", "-p", "7000", "-e", "cat"]).spawn().unwrap();
    wait_until("the API server is reached", SOON, || is_reached("10.88.0.1:6443").then_some(()));
    let serves = format!("{}:7000", server.address);
    assert!(!is_reached(&serves), "a pod, where only the API server is allowed");
    world.apply(&policy("peers", &peers("Pods")));
    wait_until("the other pod is reached", SOON, || is_reached(&serves).then_some(()));
    assert!(!is_reached("10.88.0.1:6443"), "the API server, where only pods are allowed");
    listener.kill().unwrap();
    listener.wait().unwrap();
    world.kubectl("delete egressconfig default");
    pod.delete();
    server.delete();
}

// R11: an observed namespace is recorded and loses nothing; what was seen counts when a policy comes.
pub(crate) fn observation_is_honoured(world: &World) {
    world.namespace("seen", "");
    world.apply(&config("{observe: {namespaces: [seen]}}"));
    let pod = Pod::new(world, "seen", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    pod.reaches("http://denied.example/");
    let mut live = pod.connect("203.0.113.10:80".parse().unwrap()).unwrap();
    live.asks().unwrap();
    let endpoint = pod.is_guarded();
    let uid = endpoint["uid"].as_str().unwrap().to_owned();
    let bindings = world.nodes()[0].rest(&format!("/v1/bindings?endpoint={uid}&limit=1000")).unwrap();
    let known: Vec<&str> =
        bindings["items"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(known.contains(&"allowed.example") && known.contains(&"denied.example"), "{bindings}");
    let rules = names("allowed.example", WEB);
    world.namespace("seen", &policy("seen", &rules));
    pod.is_refused("http://203.0.113.11/");
    // Nobody asks for the name again.
    pod.connect("198.51.100.10:80".parse().unwrap()).expect("a name that was asked for before");
    live.asks().expect("what lives is adopted");
    pod.may_not("http://denied.example/");
    world.kubectl("delete egressconfig default");
    pod.delete();
}

// Q6: where a CNI translates services in sockets, pods ask a backend of the cluster's DNS, which may have a port of its own.
pub(crate) fn backends_of_the_cluster_dns(world: &World) {
    world.namespace("backends", &policy("backends", &names("allowed.example", WEB)));
    let pod = Pod::new(world, "backends", "runner", "app: runner");
    let ask = |name: &str| {
        let words = ["+short", "+retry=0", "+timeout=2", "-p", "5353", "@10.244.9.9", name];
        let output = output_within(pod.command("kdig").args(words), Duration::from_secs(20)).unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    pod.run().reaches("http://allowed.example/");
    assert!(!ask("allowed.example").contains("198.51.100.10"), "nobody serves there");
    world.apply(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {namespace: kube-system, name: kube-dns-x, labels: \
         {kubernetes.io/service-name: kube-dns}}\naddressType: IPv4\nendpoints: [{addresses: [10.244.9.9]}]\nports:\n\
         - {name: dns, protocol: UDP, port: 5353}\n- {name: metrics, protocol: TCP, port: 9153}\n",
    );
    wait_until("the resolver answers", SOON, || (ask("allowed.example") == "198.51.100.10").then_some(()));
    assert!(!ask("denied.example").contains("203.0.113.10"), "a name that no rule allows");
    world.kubectl("-n kube-system delete endpointslice kube-dns-x");
    wait_until("nobody answers", SOON, || (!ask("allowed.example").contains("198.51.100.10")).then_some(()));
    pod.reaches("http://allowed.example/");
    pod.delete();
}
