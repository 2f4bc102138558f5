//! Who may do what: policies, labels, new and running pods.

use std::{net::SocketAddr, time::Duration};

use nameward_test_support::{output_within, wait_until};

use crate::{
    pod::{Announced, Pod},
    world::{SOON, World},
};

/// The policy `rules` of a namespace that isolates what is labelled `app: runner`.
pub(crate) fn policy(namespace: &str, egress: &str) -> String {
    format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{namespace: {namespace}, name: rules}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: runner}}}}\n  egress: {egress}\n"
    )
}

/// One rule of names and TCP ports.
pub(crate) fn names(names: &str, ports: &str) -> String {
    format!("[{{name: web, to: [{{domainNames: [{names}]}}], ports: [{ports}]}}]")
}

const WEB: &str = "{protocol: TCP, port: 80}";

// R1, R4, N3: what a policy names can be reached by who is selected, and nothing else.
pub(crate) fn names_wildcards_and_ports(world: &World) {
    let rules = names(
        "allowed.example, '*.pkg.example'",
        "{protocol: TCP, port: 80}, {protocol: TCP, port: 8079, endPort: 8081}",
    );
    world.namespace("names", &policy("names", &rules));
    let (runner, other) =
        (Pod::new(world, "names", "runner", "app: runner"), Pod::new(world, "names", "other", "app: other"));
    // The API server's watch of a kind of objects that is new begins late: these are its first.
    runner.run().is_refused("http://203.0.113.10/");
    runner.reaches("http://allowed.example/");
    runner.reaches("http://allowed.example:8080/");
    runner.reaches("http://a.pkg.example/");
    for url in [
        "http://allowed.example:443/",
        "http://denied.example/",
        "http://other.example/",
        "http://203.0.113.10/",
    ] {
        runner.may_not(url);
    }
    assert!(
        runner.fetch("http://denied.example/").unwrap_err().contains("resolve"),
        "the name itself is not answered"
    );
    // Whom no policy selects nobody guards.
    other.run().reaches("http://denied.example/");
    assert_eq!(other.endpoint(), None);
    // The address of a name that another pod asked for is nobody else's.
    let neighbour = Pod::new(world, "names", "neighbour", "app: runner");
    neighbour.may_not("http://198.51.100.10/");
    // No rule at all isolates.
    let patch = r#"{"spec":{"egress":[]}}"#;
    let words = ["-n", "names", "patch", "egresspolicy", "rules", "--type=merge", "-p", patch];
    world.cluster.kubectl(&words).unwrap();
    runner.is_refused("http://allowed.example/");
    for pod in [runner, other, neighbour] {
        pod.delete();
    }
}

// Promise 5: what a pod's first instruction sends does not arrive.
pub(crate) fn a_new_pod_sends_nothing_before_its_rules(world: &World) {
    world.namespace("new", &policy("new", "[]"));
    // Packets of the pod that the far side sees of what it does first.
    let sends = |name: &str, labels: &str| {
        let pod = Pod::new(world, "new", name, labels);
        let arrivals = world.arrivals(&pod.address);
        let script = "curl -s --max-time 1 http://203.0.113.10/; echo x > /dev/udp/203.0.113.10/9; true";
        let output =
            output_within(pod.command("bash").args(["-c", script]), Duration::from_secs(30)).unwrap();
        assert!(output.status.success(), "{output:?}");
        pod.delete();
        arrivals.packets()
    };
    for number in 0..10 {
        assert_eq!(sends(&format!("pod{number}"), "app: runner"), 0, "pod {number}");
    }
    assert!(sends("free", "app: other") > 1, "whom nobody isolates");
}

// Promise 5: a sandbox starts, and denies, also when its pod is not known.
pub(crate) fn a_pod_that_nobody_knows_may_do_nothing(world: &World) {
    world.namespace("unknown", "");
    let uid = "12345678-1234-1234-1234-123456789012";
    let pod = Pod::around(world, 0, "unknown", "stranger", uid, Announced::ByPlugin);
    let arrivals = world.arrivals(&pod.address);
    pod.may_not("http://203.0.113.10/");
    assert_eq!(arrivals.packets(), 0);
    let endpoint = pod.endpoint().unwrap();
    assert_eq!(endpoint["generation"], 0, "{endpoint}");
    pod.delete();
}

// R9: what is new counts for new connections at once, and live ones are asked whether it allows them.
pub(crate) fn policies_change_under_traffic(world: &World) {
    world.namespace("change", &policy("change", &names("allowed.example, other.example", WEB)));
    let pod = Pod::new(world, "change", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    pod.reaches("http://other.example/");
    let server: SocketAddr = "198.51.100.10:80".parse().unwrap();
    let mut kept = pod.connect(server).unwrap();
    let mut cut = pod.connect("198.51.100.11:80".parse().unwrap()).unwrap();
    kept.asks().unwrap();
    cut.asks().unwrap();
    world.apply(&policy("change", &names("allowed.example", WEB)));
    pod.is_refused("http://other.example/");
    wait_until("a live connection that the rules do not allow any more is cut", SOON, || cut.asks().err());
    kept.asks().expect("an edit that does not concern it cuts it");
    pod.reaches("http://allowed.example/");
    // A second policy adds; without it things are as before.
    let second = policy("change", &names("other.example", WEB)).replace("name: rules", "name: more");
    world.apply(&second);
    pod.reaches("http://other.example/");
    world.kubectl("-n change delete egresspolicy more");
    pod.is_refused("http://other.example/");
    kept.asks().unwrap();
    // Without any policy it is nobody's business.
    world.kubectl("-n change delete egresspolicy rules");
    pod.reaches("http://denied.example/");
    wait_until("the endpoint is gone", SOON, || pod.endpoint().is_none().then_some(()));
    kept.asks().expect("the end of the fence cuts nothing");
    pod.delete();
}

// R1: whoever gets the label is selected, and who loses it is not; the same for labels of namespaces.
pub(crate) fn labels_decide(world: &World) {
    world.namespace("labels", &policy("labels", &names("allowed.example", WEB)));
    world.apply(
        "apiVersion: nameward.io/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {name: by-label}\nspec:\n  subject: \
         {namespaceSelector: {matchLabels: {team: red}}, podSelector: {}}\n  deny: [{name: block, to: [{ipBlock: {cidr: 203.0.113.10/32}}]}]\n",
    );
    let pod = Pod::new(world, "labels", "one", "app: other");
    pod.run().reaches("http://203.0.113.10/");
    world.kubectl("-n labels label pod one app=runner --overwrite");
    pod.is_refused("http://203.0.113.11/");
    pod.reaches("http://allowed.example/");
    world.kubectl("-n labels label pod one app=other --overwrite");
    pod.reaches("http://203.0.113.11/");
    world.kubectl("label namespace labels team=red");
    pod.is_refused("http://203.0.113.10/");
    pod.reaches("http://203.0.113.11/");
    world.kubectl("delete clusteregresspolicy by-label");
    pod.reaches("http://203.0.113.10/");
    pod.delete();
}

// R11: live TCP connections of a pod that runs go on under its first policy, until they end.
pub(crate) fn a_first_policy_keeps_live_connections(world: &World) {
    world.namespace("first", "");
    let pod = Pod::on(world, 0, "first", "runner", "app: runner", Announced::ByNobody);
    pod.run();
    let mut kept = pod.connect("203.0.113.10:80".parse().unwrap()).unwrap();
    kept.asks().unwrap();
    world.apply(&policy("first", &names("allowed.example", WEB)));
    pod.is_refused("http://203.0.113.10/");
    kept.asks().expect("a connection from before the first policy goes on");
    let endpoint = pod.is_guarded();
    assert_eq!(endpoint["adopted"][0]["remote"], "203.0.113.10:80", "{endpoint}");
    drop(kept);
    wait_until("it is not listed any more", Duration::from_secs(30), || {
        pod.endpoint().filter(|one| one["adopted"].as_array().is_none_or(Vec::is_empty))
    });
    pod.reaches("http://allowed.example/");
    pod.delete();
}

/// What comes and goes leaves nothing: neither endpoints nor pins.
pub(crate) fn pods_come_and_go(world: &World) {
    const PODS: usize = 30;
    world.namespace("churn", &policy("churn", &names("allowed.example", WEB)));
    let before = world.endpoints(1).unwrap().len();
    let told = world.log(1).len();
    for round in 0..PODS / 5 {
        let name = |number: usize| format!("pod{}", round * 5 + number);
        let pods: Vec<Pod<'_>> = (0..5)
            .map(|number| Pod::on(world, 1, "churn", &name(number), "app: runner", Announced::ByPlugin))
            .collect();
        for pod in &pods {
            pod.reaches("http://allowed.example/");
            pod.may_not("http://203.0.113.10/");
        }
        pods.into_iter().for_each(Pod::delete);
    }
    wait_until("no endpoint is left", SOON, || (world.endpoints(1).unwrap().len() == before).then_some(()));
    let pins = world.nodes()[1].machine().path("/sys/fs/bpf/nameward");
    let endpoints = pins.join("v1/endpoints");
    wait_until("no pin is left", SOON, || {
        (std::fs::read_dir(&endpoints).map_or(0, Iterator::count) == before).then_some(())
    });
    // The end of a pod is no fault.
    let log = world.log(1).split_off(told);
    assert!(!log.contains("ERROR"), "{log}");
}
