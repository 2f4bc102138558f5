//! What policies say of themselves, and what becomes of those that make no sense.

use nameward_test_support::wait_until;

use crate::{
    guarding::{names, policy},
    pod::{Announced, Pod, object},
    world::{STATUS, World},
};

const WEB: &str = "{protocol: TCP, port: 80}";

/// Counts of nodes are added up, and who cannot be guarded is named.
pub(crate) fn conditions_and_counts(world: &World) {
    world.namespace("status", &policy("status", &names("allowed.example, '*.com'", WEB)));
    let object_of = ["-n", "status", "egresspolicy", "rules"];
    world.condition(&object_of, "Programmed", "True", "NothingSelected");
    let pods = [0, 1, 1].into_iter().enumerate().map(|(number, node)| {
        Pod::on(world, node, "status", &format!("pod{number}"), "app: runner", Announced::ByPlugin)
    });
    let pods: Vec<Pod<'_>> = pods.collect();
    for pod in &pods {
        pod.run();
    }
    let counts = |selected: i64, programmed: i64, not_covered: i64| {
        wait_until(
            &format!("{selected} selected, {programmed} programmed, {not_covered} not covered"),
            STATUS,
            || {
                let status = world.cluster.get(&object_of).ok()?["status"].clone();
                let counts = &status["endpoints"];
                let is_so = counts["selected"] == selected
                    && counts["programmed"] == programmed
                    && counts["notCovered"].as_i64().unwrap_or(0) == not_covered;
                is_so.then_some(())
            },
        );
    };
    counts(3, 3, 0);
    let warning = world.condition(&object_of, "Accepted", "True", "Accepted");
    assert!(warning.contains("*.com"), "{warning}");
    world.condition(&object_of, "Covered", "True", "Covered");
    // A pod of the node's network has no interface to guard.
    object(world, 0, "status", "on-host", "app: runner", "hostNetwork: true");
    counts(4, 3, 1);
    world.condition(&object_of, "Covered", "False", "HostNetwork");
    let node = world.cluster.get(&["egressnode", "n1"]).unwrap();
    assert_eq!(node["spec"]["notCovered"][0]["name"], "on-host", "{node}");
    world.kubectl("-n status delete pod on-host --grace-period=0 --force");
    counts(3, 3, 0);
    pods.into_iter().for_each(Pod::delete);
    counts(0, 0, 0);
}

// F2: an object that makes no sense changes nothing that is in force, and says so.
pub(crate) fn bad_objects_change_nothing(world: &World) {
    world.namespace("bad", &policy("bad", &names("allowed.example", WEB)));
    let pod = Pod::new(world, "bad", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    let as_before = || {
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.10/");
    };
    // What the schema and its rules refuse, with what to write instead.
    for (egress, said) in [
        ("[{name: a, to: [{domainNames: ['foo*.example']}], ports: [{protocol: TCP}]}]", "domainNames"),
        ("[{name: a, to: [{ipBlock: {cidr: 10.0.0.1/8}}], ports: [{protocol: TCP}]}]", "cidr"),
        ("[{name: a, to: [{domainNames: [x.example]}]}]", "ports"),
    ] {
        let error = world.cluster.apply(&policy("bad", egress)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        as_before();
    }
    // What fits the schema and not into a workload's tables: the rules before stay.
    let ports = (0..2000).step_by(2).map(|port| format!("{{name: r{port}, to: [{{ipBlock: {{cidr: 203.0.113.0/24}}}}], ports: [{{protocol: TCP, port: {}}}]}}", 10_000 + port));
    let rules: Vec<String> = ports.take(64).collect();
    let many = |name: &str, offset: usize| {
        let rules: Vec<String> =
            rules.iter().map(|rule| rule.replace("port: 1", &format!("port: {offset}"))).collect();
        policy("bad", &format!("[{}]", rules.join(", "))).replace("name: rules", &format!("name: {name}"))
    };
    world.apply(&many("many", 2));
    world.apply(&many("more", 3));
    let said = world.condition(&["-n", "bad", "egresspolicy", "more"], "Accepted", "False", "DoesNotFit");
    assert!(!said.is_empty());
    as_before();
    world.kubectl("-n bad delete egresspolicy many more");
    // What nobody can read, because the definitions in the cluster are others than the enforcer's.
    let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/mode/enum";
    let patch = |value: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "{path}", "value": {value}}}]"#);
        let words = ["patch", "crd", "egresspolicies.nameward.io", "--type=json", "-p", &patch];
        world.cluster.kubectl(&words).unwrap();
    };
    patch(r#"["Enforce", "Audit", "Later"]"#);
    let unreadable =
        policy("bad", &names("denied.example", WEB)).replace("  egress:", "  mode: Later\n  egress:");
    wait_until("the API server takes it", STATUS, || {
        world.cluster.apply(&unreadable).inspect_err(|error| eprintln!("not yet: {error}")).ok()
    });
    world.condition(&["-n", "bad", "egresspolicy", "rules"], "Accepted", "False", "Invalid");
    as_before();
    wait_until("the metric says so", STATUS, || {
        let path = "http://localhost/metrics";
        let socket = world.nodes()[0].machine().path("/run/nameward/api.sock");
        let mut curl = std::process::Command::new("curl");
        let output = curl.arg("-sS").arg("--unix-socket").arg(socket).arg(path).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().any(|line| line == "nameward_unreadable_policies 1").then_some(())
    });
    world.apply(&policy("bad", &names("other.example", WEB)));
    patch(r#"["Enforce", "Audit"]"#);
    pod.reaches("http://other.example/");
    world.condition(&["-n", "bad", "egresspolicy", "rules"], "Accepted", "True", "Accepted");
    pod.delete();
}
