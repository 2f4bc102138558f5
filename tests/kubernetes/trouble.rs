//! Processes that are killed, an API server that is away, permissions that are missing.

use std::process::Stdio;

use nameward_test_support::{
    cluster::{Node, Part},
    wait_until,
};

use crate::{
    guarding::{names, policy},
    pod::{Announced, Pod},
    world::{SOON, STATUS, World},
};

const WEB: &str = "{protocol: TCP, port: 80}";

// Promise 4: who is granted something keeps it, who is not gets nothing, whoever of us is dead.
pub(crate) fn both_processes_killed(world: &World) {
    world.namespace("killed", &policy("killed", &names("allowed.example, other.example", WEB)));
    let pod = Pod::new(world, "killed", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    let mut live = pod.connect("198.51.100.10:80".parse().unwrap()).unwrap();
    live.asks().unwrap();
    let node = &world.nodes()[0];
    for parts in [vec![Part::Enforcer], vec![Part::Resolver], vec![Part::Enforcer, Part::Resolver]] {
        parts.iter().for_each(|part| node.kill(*part).unwrap());
        for part in &parts {
            wait_until("it is dead", SOON, || (!node.machine().runs(part.name())).then_some(()));
        }
        live.asks().expect("a live connection goes on");
        pod.connect("198.51.100.10:80".parse().unwrap()).expect("what was granted stays granted");
        pod.connect("203.0.113.10:80".parse().unwrap()).expect_err("nothing opens");
        if parts.contains(&Part::Enforcer) {
            // Decided while nobody hears it.
            let rest = if parts.len() == 2 { "allowed.example, other.example" } else { "allowed.example" };
            world.apply(&policy("killed", &names(rest, WEB)));
        }
        parts.iter().for_each(|part| node.start(*part).unwrap());
        if parts == [Part::Enforcer] {
            pod.is_refused("http://other.example/");
        }
        if parts.len() == 2 {
            pod.reaches("http://other.example/");
        }
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.10/");
        live.asks().expect("a live connection goes on");
    }
    // New pods wait for an enforcer.
    node.kill(Part::Enforcer).unwrap();
    wait_until("it is dead", SOON, || (!node.machine().runs(Part::Enforcer.name())).then_some(()));
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| Pod::new(world, "killed", "late", "app: runner"));
        node.start(Part::Enforcer).unwrap();
        late.join().unwrap()
    });
    late.may_not("http://203.0.113.10/");
    late.reaches("http://allowed.example/");
    late.delete();
    pod.delete();
}

/// What an enforcer goes on with.
const SNAPSHOT: &str = "/run/nameward/state/cluster.json";

/// Waits until what an enforcer goes on with has a pod and the policy of its namespace.
fn is_kept(node: &Node, pod: &Pod<'_>, namespace: &str) {
    let kept = node.machine().path(SNAPSHOT);
    let policy = format!(r#""namespace":"{namespace}""#);
    wait_until("what is known is kept", SOON, || {
        let text = std::fs::read_to_string(&kept).ok()?;
        let (pods, policies) = text.split_once(r#""policies":"#)?;
        (pods.contains(&pod.uid) && policies.contains(&policy)).then_some(())
    });
}

// F2: without an API server what is in force stays, also over a restart; what it says when it is back counts.
pub(crate) fn no_api_server(world: &World) {
    world.namespace("away", &policy("away", &names("allowed.example", WEB)));
    let pod = Pod::new(world, "away", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    let node = &world.nodes()[0];
    is_kept(node, &pod, "away");
    world.cluster.stop_server().unwrap();
    let as_before = || {
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.10/");
    };
    as_before();
    node.kill(Part::Enforcer).unwrap();
    wait_until("it is dead", SOON, || (!node.machine().runs(Part::Enforcer.name())).then_some(()));
    as_before();
    node.start(Part::Enforcer).unwrap();
    wait_until("it goes on with what was known", SOON, || {
        let endpoint = pod.endpoint()?;
        (endpoint["generation"].as_u64() > Some(0)).then_some(())
    });
    as_before();
    // A pod that nobody could hear of.
    let uid = "22345678-1234-1234-1234-123456789012";
    let stranger = Pod::around(world, 0, "away", "stranger", uid, Announced::ByPlugin);
    stranger.may_not("http://203.0.113.10/");
    world.cluster.start_server().unwrap();
    world.apply(&policy("away", &names("other.example", WEB)));
    pod.reaches("http://other.example/");
    pod.is_refused("http://allowed.example/");
    stranger.delete();
    pod.delete();
}

// Promise 4: a restart without an API server gives nothing back that was taken away a moment before.
pub(crate) fn what_was_taken_away_stays_so_over_a_restart(world: &World) {
    world.namespace("taken", &policy("taken", &names("allowed.example, other.example", WEB)));
    let pod = Pod::new(world, "taken", "runner", "app: runner");
    pod.run().reaches("http://other.example/");
    let node = &world.nodes()[0];
    is_kept(node, &pod, "taken");
    world.apply(&policy("taken", &names("allowed.example", WEB)));
    pod.is_refused("http://other.example/");
    node.kill(Part::Enforcer).unwrap();
    world.cluster.stop_server().unwrap();
    wait_until("it is dead", SOON, || (!node.machine().runs(Part::Enforcer.name())).then_some(()));
    node.start(Part::Enforcer).unwrap();
    pod.is_guarded();
    pod.may_not("http://other.example/");
    pod.reaches("http://allowed.example/");
    world.cluster.start_server().unwrap();
    pod.delete();
}

/// The log says which right is missing and what gives it; the rest goes on.
pub(crate) fn a_missing_permission_is_told(world: &World) {
    world.namespace("rights", &policy("rights", &names("allowed.example", WEB)));
    let pod = Pod::on(world, 1, "rights", "runner", "app: runner", Announced::ByPlugin);
    pod.run().reaches("http://allowed.example/");
    let node = &world.nodes()[1];
    is_kept(node, &pod, "rights");
    let rights = world.take_right("egressconfigs");
    node.kill(Part::Enforcer).unwrap();
    wait_until("it is dead", SOON, || (!node.machine().runs(Part::Enforcer.name())).then_some(()));
    node.start(Part::Enforcer).unwrap();
    wait_until("the log names the right and the remedy", STATUS, || {
        let log = node.machine().log(Part::Enforcer.name());
        log.lines().any(|line| line.contains("egressconfigs") && line.contains("rbac.yaml")).then_some(())
    });
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    let before = node.machine().log(Part::Enforcer.name()).len();
    world.give_rights(&rights);
    wait_until("it is watched again", STATUS, || {
        let log = node.machine().log(Part::Enforcer.name()).split_off(before);
        log.lines().any(|line| line.contains("egressconfigs") && line.contains("watched again")).then_some(())
    });
    world.apply(&policy("rights", &names("other.example", WEB)));
    pod.reaches("http://other.example/");
    pod.is_refused("http://allowed.example/");
    pod.delete();
}

/// Kills the enforcer of a node, and waits until it is dead.
fn end(node: &Node) {
    node.kill(Part::Enforcer).unwrap();
    wait_until("it is dead", SOON, || (!node.machine().runs(Part::Enforcer.name())).then_some(()));
}

// Promises 4 and 5: a sandbox that the plugin named to an earlier process stays guarded, also where nothing runs in it yet.
pub(crate) fn a_named_sandbox_is_guarded_over_a_restart(world: &World) {
    world.namespace("named", &policy("named", "[]"));
    let pod = Pod::new(world, "named", "runner", "app: runner");
    pod.is_guarded();
    let (node, uid) = (&world.nodes()[0], pod.uid.clone());
    is_kept(node, &pod, "named");
    // A process of no pod, so that nobody finds the sandbox by it.
    let script = "while :; do echo x > /dev/udp/203.0.113.10/9; sleep 0.002; done";
    let mut sends = pod.command("bash").args(["-c", script]).stderr(Stdio::null()).spawn().unwrap();
    let arrivals = world.arrivals(&pod.address);
    for is_known in [true, false] {
        end(node);
        let told = world.log(0).len();
        if !is_known {
            // Not even what an earlier process knew.
            std::fs::remove_file(node.machine().path(SNAPSHOT)).unwrap();
        }
        node.start(Part::Enforcer).unwrap();
        wait_until("it has decided anew", SOON, || {
            world.log(0).split_off(told).contains("all that the API server has is known").then_some(())
        });
        pod.may_not("http://203.0.113.10/");
        assert_eq!(arrivals.packets(), 0, "packets arrived after a restart");
        pod.is_guarded();
    }
    sends.kill().unwrap();
    sends.wait().unwrap();
    // One whose interface goes while nobody looks is not taken up.
    end(node);
    pod.delete();
    node.start(Part::Enforcer).unwrap();
    let pins = node.machine().path("/sys/fs/bpf/nameward/v1/endpoints");
    wait_until("nothing of it is left", SOON, || {
        let mut names = std::fs::read_dir(&pins).unwrap().flatten().map(|entry| entry.file_name());
        (!names.any(|name| name.to_string_lossy().starts_with(&uid))).then_some(())
    });
}
