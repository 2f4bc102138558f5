//! What enforcers ask of the API server, by its own audit log: lists that are watched, and few writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nameward_test_support::{
    cluster::{Node, Part},
    output_within, wait_until, wait_until_ok,
};
use serde_json::Value;

use crate::{
    guarding::{names, policy},
    pod::Pod,
    world::{STATUS, World},
};

const WEB: &str = "{protocol: TCP, port: 80}";
/// Least time between two writes of one object.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// A Lease counts as left after 15 s, and is looked at every 10 s.
const TAKE_OVER: Duration = Duration::from_secs(60);

/// A request that was answered.
#[derive(Debug)]
struct Asked {
    verb: String,
    /// Resource, with subresource.
    resource: String,
    /// What it is about: the path, and what selects of it.
    about: String,
    /// The node.
    from: String,
    at: Timestamp,
}

impl Asked {
    fn read(event: &Value) -> Option<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = &event["objectRef"];
        let (resource, subresource) = (text(&about["resource"]), text(&about["subresource"]));
        let uri = text(&event["requestURI"]);
        let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
        let selecting = query
            .split('&')
            .filter(|one| one.starts_with("fieldSelector") || one.starts_with("labelSelector"));
        // Of a list in pages the first counts.
        let is_more = query.split('&').any(|one| one.starts_with("continue="));
        let stage = if event["verb"] == "watch" { "ResponseStarted" } else { "ResponseComplete" };
        let is_good = event["responseStatus"]["code"].as_u64().is_some_and(|code| code < 300);
        (event["stage"] == stage && is_good && !is_more).then(|| Self {
            verb: text(&event["verb"]),
            resource: if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") },
            about: selecting.fold(path.to_owned(), |text, one| format!("{text} {one}")),
            from: text(&event["sourceIPs"][0]),
            at: text(&event["requestReceivedTimestamp"]).parse().unwrap_or_default(),
        })
    }

    fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }
}

fn asked(world: &World) -> Vec<Asked> {
    world.cluster.asked().unwrap().iter().filter_map(Asked::read).collect()
}

/// Nothing is listed that is not watched from there, and of pods only those of the node.
pub(crate) fn each_list_is_watched(world: &World) {
    let all = asked(world);
    let count = |verb: &str| {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for one in all.iter().filter(|one| one.verb == verb) {
            *counts.entry((&one.from, &one.about)).or_default() += 1;
        }
        counts
    };
    let (lists, watches) = (count("list"), count("watch"));
    assert!(lists.len() >= 2 * 8, "{lists:?}");
    for (about, lists) in &lists {
        let watches = watches.get(about).copied().unwrap_or(0);
        // One may have been killed between the two.
        assert!(watches > 0 && *lists <= watches + 2, "{about:?}: {lists} lists, {watches} watches");
    }
    for one in all.iter().filter(|one| one.resource == "pods") {
        assert!(one.about.contains("spec.nodeName"), "{one:?}");
    }
    let got: BTreeSet<&str> =
        all.iter().filter(|one| one.verb == "get").map(|one| one.resource.as_str()).collect();
    assert!(got.iter().all(|resource| ["leases", "nodes"].contains(resource)), "{got:?}");
}

/// Questions cost the API server nothing, whether they are answered or not.
pub(crate) fn answers_write_nothing(world: &World) {
    world.namespace("answers", &policy("answers", &names("'*.example'", WEB)));
    let pod = Pod::new(world, "answers", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    world.condition(&["-n", "answers", "egresspolicy", "rules"], "Programmed", "True", "Programmed");
    let began = Timestamp::now();
    let script = "for n in $(seq 100); do for name in other.example b.pkg.example n$n.example n$n.test; do \
                  kdig +short +timeout=5 $name @198.51.100.53; done; done";
    let output = output_within(pod.command("bash").args(["-c", script]), Duration::from_secs(120)).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("198.51.100.11").count(), 100, "{output:?}");
    // What is told at most once in a while would be told by then.
    thread::sleep(WRITE_EVERY + Duration::from_secs(1));
    let most = Timestamp::now().duration_since(began).as_secs() / 10 + 1;
    let mut writes: BTreeMap<String, i64> = BTreeMap::new();
    for one in asked(world).iter().filter(|one| one.is_write() && one.at > began && one.resource != "leases")
    {
        *writes.entry(one.about.clone()).or_default() += 1;
    }
    assert!(writes.values().all(|count| *count <= most), "at most {most} of each: {writes:?}");
    assert!(writes.keys().all(|about| about.contains("egress")), "no events: {writes:?}");
    pod.delete();
}

/// Who writes the status of policies.
fn holder(world: &World) -> Option<String> {
    let lease = world.cluster.get(&["-n", "nameward", "lease", "nameward-status"]).ok()?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

/// The policy once more, and when its status follows: the generation.
fn change(world: &World, number: usize) -> i64 {
    let rules = names("allowed.example", WEB).replace("name: web", &format!("name: web{number}"));
    world.apply(&policy("writes", &rules));
    let object = world.cluster.get(&["-n", "writes", "egresspolicy", "rules"]).unwrap();
    object["metadata"]["generation"].as_i64().unwrap()
}

fn follows(world: &World, generation: i64) {
    wait_until("the status follows", STATUS, || {
        let object = world.cluster.get(&["-n", "writes", "egresspolicy", "rules"]).ok()?;
        (object["status"]["observedGeneration"] == generation).then_some(())
    });
}

// One writer by a Lease, at most one write a policy in 10 s; another one takes over.
pub(crate) fn one_writes_a_status_now_and_then(world: &World) {
    world.namespace("writes", &policy("writes", &names("allowed.example", WEB)));
    let began = Instant::now();
    let mut number = 0;
    while began.elapsed() < WRITE_EVERY * 5 / 2 {
        number += 1;
        change(world, number);
    }
    assert!(number > 5, "the test's own premise: {number} changes");
    let writes = || -> Vec<Asked> {
        let mut all = asked(world);
        all.retain(|one| {
            one.resource == "egresspolicies/status" && one.about.contains("/namespaces/writes/")
        });
        all
    };
    let of_one = writes();
    assert!((2..=4).contains(&of_one.len()), "{of_one:?}");
    for pair in of_one.windows(2) {
        let gap = pair[1].at.duration_since(pair[0].at);
        assert!(gap.as_millis() >= 9_900, "{gap:?}: {pair:?}");
    }
    let first = holder(world).unwrap();
    let address =
        |name: &str| world.nodes().iter().find(|node| node.name() == name).map(Node::address).unwrap();
    assert!(of_one.iter().all(|one| one.from == address(&first)), "{first}: {of_one:?}");
    // Who writes is killed.
    let node = world.nodes().iter().find(|node| node.name() == first).unwrap();
    node.kill(Part::Enforcer).unwrap();
    let second = wait_until("another takes over", TAKE_OVER, || holder(world).filter(|one| *one != first));
    let generation = change(world, number + 1);
    follows(world, generation);
    node.start(Part::Enforcer).unwrap();
    wait_until("it is back", STATUS, || node.rest("/v1/endpoints").ok());
    let generation = change(world, number + 2);
    follows(world, generation);
    let of_two = writes().split_off(of_one.len());
    // A last one may have been on its way.
    let late = of_two.iter().skip(1).filter(|one| one.from != address(&second)).count();
    assert_eq!((late, holder(world).as_deref()), (0, Some(second.as_str())), "{of_two:?}");
}

// Bad input: RBAC that lacks a verb. What is not written for that is written when it may be.
pub(crate) fn a_forbidden_write_is_told_and_made_up_for(world: &World) {
    let told = [0, 1].map(|node| world.log(node).len());
    let rights = world.take_right("egresspolicies/status");
    world.namespace("forbidden", &policy("forbidden", &names("allowed.example", WEB)));
    wait_until_ok("the log names the right and the remedy", STATUS, || {
        let logs = [0, 1].map(|node| world.log(node).split_off(told[node])).concat();
        let wanted = ["forbidden/rules", r#"cannot patch resource "egresspolicies/status""#, "rbac.yaml"];
        let unescaped = logs.replace('\\', "");
        let is_told = unescaped.lines().any(|line| wanted.iter().all(|word| line.contains(word)));
        if is_told { Ok(()) } else { Err(logs) }
    });
    world.give_rights(&rights);
    world.condition(&["-n", "forbidden", "egresspolicy", "rules"], "Programmed", "True", "NothingSelected");
}
