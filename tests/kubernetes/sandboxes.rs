//! Sandboxes that are not as usual: made anew, with an address of another, of two families, with ways past their link.

use nameward_test_support::{wait_until, wait_until_ok};

use crate::{
    guarding::{names, policy},
    pod::{Announced, Pod, SUBNET6, Unusual, object},
    world::{SOON, STATUS, World},
};

const WEB: &str = "{protocol: TCP, port: 80}";

/// A pod on the first node whose sandbox is not as usual.
fn unusual<'a>(world: &'a World, namespace: &str, name: &str, labels: &str, how: Unusual<'_>) -> Pod<'a> {
    let uid = object(world, 0, namespace, name, labels, "");
    Pod::unusual(world, 0, namespace, name, &uid, Announced::ByPlugin, how)
}

// DESIGN 8: attachments are by sandbox. While a pod has two, both are guarded; a late word about the old one takes nothing
// from the new one.
pub(crate) fn a_sandbox_made_anew(world: &World) {
    world.namespace("anew", &policy("anew", &names("allowed.example", WEB)));
    let old = Pod::new(world, "anew", "runner", "app: runner");
    old.run().reaches("http://allowed.example/");
    let new = old.again();
    new.may_not("http://203.0.113.10/");
    new.run();
    for pod in [&old, &new] {
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.10/");
    }
    assert_eq!(new.endpoints().len(), 2);
    old.take_down();
    wait_until("the old one is gone", SOON, || (new.endpoints().len() == 1).then_some(()));
    let left = new.is_guarded();
    old.ours("DEL").unwrap();
    new.may_not("http://203.0.113.10/");
    new.reaches("http://allowed.example/");
    assert_eq!(new.is_guarded()["uid"], left["uid"]);
    // Of one that the plugin still knows, it means that one.
    new.delete();
}

// Promise 6: whoever gets the address of a pod that is gone gets nothing else of it.
pub(crate) fn an_address_of_another_before(world: &World) {
    let other = names("other.example", WEB);
    let other = policy("reuse", &other).replace("name: rules", "name: others").replace("runner", "other");
    world.namespace("reuse", &format!("{}---\n{other}", policy("reuse", &names("allowed.example", WEB))));
    let first = Pod::new(world, "reuse", "first", "app: runner");
    first.run().reaches("http://allowed.example/");
    first.connect("198.51.100.10:80".parse().unwrap()).expect("the test's own premise");
    let address = first.address.clone();
    first.delete();
    let how = Unusual { address: Some(&address), ..Unusual::default() };
    let second = unusual(world, "reuse", "second", "app: other", how);
    assert_eq!(second.address, address);
    second.connect("198.51.100.10:80".parse().unwrap()).expect_err("what the first was granted");
    second.run().reaches("http://other.example/");
    second.may_not("http://allowed.example/");
    second.delete();
}

// A pod that has ended is guarded as long as its interface is there, and counts no more.
pub(crate) fn a_completed_pod(world: &World) {
    world.namespace("over", &policy("over", &names("allowed.example", WEB)));
    let pod = Pod::new(world, "over", "job", "app: runner");
    pod.run().reaches("http://allowed.example/");
    let rules = ["-n", "over", "egresspolicy", "rules"];
    world.condition(&rules, "Programmed", "True", "Programmed");
    pod.has_status("Succeeded");
    world.condition(&rules, "Programmed", "True", "NothingSelected");
    pod.may_not("http://203.0.113.10/");
    pod.is_guarded();
    pod.delete();
}

// Bad input: a CNI whose result lacks interfaces and addresses. The kernel and the pod's status say them.
pub(crate) fn a_result_that_says_nothing(world: &World) {
    world.namespace("unsaid", &policy("unsaid", &names("allowed.example", WEB)));
    let how = Unusual { is_unsaid: true, ..Unusual::default() };
    let pod = unusual(world, "unsaid", "runner", "app: runner", how);
    let arrivals = world.arrivals(&pod.address);
    pod.is_guarded();
    pod.may_not("http://203.0.113.10/");
    assert_eq!(arrivals.packets(), 0);
    pod.run().reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    pod.delete();
}

// DESIGN 4: an interface without a side on the host is told, never silently open; the one that has one is guarded.
pub(crate) fn an_interface_that_cannot_be_guarded(world: &World) {
    world.namespace("macvlan", &policy("macvlan", &names("allowed.example", WEB)));
    let pod = Pod::on(world, 0, "macvlan", "runner", "app: runner", Announced::ByNobody);
    let words = ["link", "add", "link", "eth0", "name", "mv0", "netns", &pod.sandbox, "type", "macvlan"];
    pod.node().machine().output("ip", &words).unwrap();
    pod.announce().unwrap();
    pod.run().reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    let said = world.condition(&["-n", "macvlan", "egresspolicy", "rules"], "Covered", "False", "Interface");
    assert!(said.contains("1 of 1"), "{said}");
    wait_until_ok("the node names it", STATUS, || {
        let node = world.cluster.get(&["egressnode", "n1"]).map_err(|error| error.to_string())?;
        let told = node["spec"]["notCovered"].to_string();
        let is_named = ["runner", "mv0", "macvlan"].iter().all(|word| told.contains(word));
        if is_named { Ok(()) } else { Err(told) }
    });
    pod.delete();
}

// Dual stack: both families are guarded by the same rules.
pub(crate) fn both_families(world: &World) {
    let rules = format!(
        "[{{name: near, to: [{{ipBlock: {{cidr: '{SUBNET6}'}}}}], ports: [{{protocol: TCP, port: 7000}}]}}]"
    );
    world.namespace("six", &policy("six", &rules));
    let how = Unusual { has_both_families: true, ..Unusual::default() };
    let server = unusual(world, "six", "server", "app: server", how);
    let pod = unusual(world, "six", "runner", "app: runner", how);
    let _listeners = [7000, 7001].map(|port| server.listen(&format!("[::]:{port}")));
    let addresses = server.addresses();
    let [four, six] = addresses.as_slice() else { panic!("{addresses:?}") };
    let connects = |to: String| pod.connect(to.parse().unwrap());
    wait_until_ok("the other pod is reached", SOON, || {
        connects(format!("[{six}]:7000")).map_err(|e| e.to_string())
    });
    connects(format!("[{six}]:7001")).expect_err("a port that no rule has");
    connects(format!("{four}:7000")).expect_err("the other family");
    let endpoint = pod.is_guarded();
    assert_eq!(endpoint["addresses"].as_array().map(Vec::len), Some(2), "{endpoint}");
    // Without rules for it nobody is kept from either.
    server.connect(format!("[{}]:7002", pod.addresses()[1]).parse().unwrap()).expect_err("nobody listens");
    pod.delete();
    server.delete();
}
