//! SIGHUP: files with mistakes, endpoints that come, go and move, rules with an end, other trusted servers.

use std::{fmt::Write, fs, time::Duration};

use nameward_test_support::{privileged, wait_until};
use nix::sys::signal::Signal;

use crate::{
    api::{get, json},
    pair_lab::{Host, Part, Place, ask, reaches},
};

const SOON: Duration = Duration::from_secs(20);
const DENIED: &str = "203.0.113.10";

impl Host {
    /// Another file, told by SIGHUP.
    fn hang_up_with(&self, text: &str) {
        fs::write(&self.config, text).unwrap();
        self.enforcer.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    }

    fn generation(&self, uid: &str) -> u64 {
        json(&self.api(), &format!("/v1/endpoints/{uid}")).1["generation"].as_u64().unwrap_or(0)
    }
}

// S1, F2: nothing changes
#[test]
fn files_with_mistakes_change_nothing() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let right = fs::read_to_string(&host.config).unwrap();
    let rules = |each: &dyn Fn(usize) -> String| (0..70).map(each).collect::<String>();
    let ports = rules(&|index| {
        format!(
            "    - {{name: r{index}, to: [{{domainNames: [n{index}.example]}}], ports: [{{protocol: TCP, port: {}}}]}}\n",
            1_000 + index
        )
    });
    let mut cidrs = String::new();
    for rule in 0..60 {
        let blocks: Vec<String> = (0..10)
            .map(|block| {
                let parts: Vec<String> =
                    (0..16).map(|part| format!("11.{rule}.{}.{}/32", block, part * 8)).collect();
                format!("{{ipBlock: {{cidr: 11.{rule}.{block}.0/24, except: [{}]}}}}", parts.join(", "))
            })
            .collect();
        writeln!(cidrs, "    - {{name: c{rule}, to: [{}], ports: [{{protocol: Any}}]}}", blocks.join(", "))
            .unwrap();
    }
    let broken = [
        ("not YAML", "endpoints: [".to_owned()),
        ("an unknown field", right.replace("podSelector", "podSelektor")),
        ("a bad name", right.replace("allowed.example", "al*lowed.example")),
        ("too many port classes", format!("{right}{ports}")),
        ("too many prefixes", format!("{right}{cidrs}")),
        ("an endpoint twice", right.replace("name: box", "name: veth")),
        ("nothing", String::new()),
    ];
    let before = host.generation("ci/veth");
    for (count, (what, text)) in broken.iter().enumerate() {
        host.hang_up_with(text);
        wait_until("the mistake is told", SOON, || {
            let told = host.logs().matches("nothing has changed: the file has mistakes").count();
            (told > count).then_some(())
        });
        assert_eq!(host.generation("ci/veth"), before, "{what}");
        // A resolver that a loaded machine keeps waiting counts as gone for a moment.
        wait_until("it is ready", SOON, || (get(&host.api(), "/readyz").0 == 200).then_some(()));
    }
    for workload in &host.workloads {
        assert!(reaches(&**workload, "allowed.example"), "{}", workload.name());
        assert!(!reaches(&**workload, DENIED), "{}", workload.name());
    }
}

// S4: endpoints that come, go and move
#[test]
fn endpoints_come_go_and_move() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let both = fs::read_to_string(&host.config).unwrap();
    let [veth, boxed] = ["- {name: veth", "- {name: box"]
        .map(|begin| both.lines().find(|line| line.starts_with(begin)).unwrap().to_owned());
    // Gone: its fence goes with it, the other's stays.
    host.hang_up_with(&both.replace(&format!("{boxed}\n"), ""));
    wait_until("the cgroup is free", SOON, || reaches(&*host.workloads[1], DENIED).then_some(()));
    assert!(!reaches(&*host.workloads[0], DENIED));
    assert_eq!(get(&host.api(), "/v1/endpoints/ci/box").0, 404);
    // Moved: the one name takes the other's place.
    let moved = boxed.replace("name: box", "name: veth");
    host.hang_up_with(&both.replace(&format!("{boxed}\n"), "").replace(&veth, &moved));
    wait_until("the cgroup is fenced", SOON, || (!reaches(&*host.workloads[1], DENIED)).then_some(()));
    wait_until("the interface is free", SOON, || reaches(&*host.workloads[0], DENIED).then_some(()));
    wait_until("its names are answered", SOON, || {
        (ask(&*host.workloads[1], "allowed.example", 3).status == "NOERROR").then_some(())
    });
    assert!(reaches(&*host.workloads[1], "allowed.example"));
    let taken = host.internet.host().output("ss", &["-Hlun", "src", "127.0.0.1:53"]).unwrap();
    assert_eq!(taken, "", "the host's own port 53");
    // And back, with one whose interface comes later.
    let late = veth.replace("name: veth", "name: late").replace("w1", "w9").replace("10.7.1.2", "10.7.9.2");
    host.hang_up_with(&both.replace(&boxed, &format!("{boxed}\n{late}")));
    let status = wait_until("the one that is missing is told", SOON, || {
        Some(get(&host.api(), "/readyz")).filter(|(_, why)| why.contains("there is no interface w9"))
    });
    assert_eq!(status.0, 503);
    for workload in &host.workloads {
        wait_until("it is fenced", SOON, || {
            (!reaches(&**workload, DENIED) && reaches(&**workload, "allowed.example")).then_some(())
        });
    }
    host.internet.host().ip("link add w9 type veth peer name w9p").unwrap();
    wait_until("it has come", SOON, || (get(&host.api(), "/readyz").0 == 200).then_some(()));
    assert!(host.generation("ci/late") > 0);
}

// R7: to the second, without a restart
#[test]
fn a_rule_ends_by_the_clock() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    assert!(host.workloads.iter().all(|workload| reaches(&**workload, "allowed.example")));
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(6);
    let end = jiff::Timestamp::from_second(end.as_second()).unwrap();
    let text = fs::read_to_string(&host.config).unwrap();
    let ports = "ports: [{protocol: TCP, port: 80}]";
    host.hang_up_with(&text.replace(ports, &format!("{ports}\n      expiresAt: \"{end}\"")));
    wait_until("the file is read", SOON, || host.logs().contains("read again").then_some(()));
    assert!(jiff::Timestamp::now() >= end || reaches(&*host.workloads[0], "198.51.100.10"));
    for workload in &host.workloads {
        let ended = wait_until("the rule ends", SOON, || {
            (!reaches(&**workload, "198.51.100.10")).then(jiff::Timestamp::now)
        });
        assert!(ended >= end, "{}: {ended} is before {end}", workload.name());
        assert_eq!(ask(&**workload, "allowed.example", 3).status, "NXDOMAIN", "{}", workload.name());
    }
}

// A3, B7: also when it gets the address while both run, and of a prefix that it takes in as a whole
#[test]
fn the_host_s_own_addresses_are_granted_to_nobody() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let namespace = host.internet.host();
    let addresses = |workload: &dyn Place| ask(workload, "other.example", 3).addresses;
    for workload in &host.workloads {
        assert_eq!(addresses(&**workload), ["198.51.100.11"], "{}", workload.name());
    }
    for (object, what) in [("addr", "198.51.100.11/32 dev lo"), ("route", "local 198.51.100.8/29 dev lo")] {
        namespace.ip(&format!("{object} add {what}")).unwrap();
        for workload in &host.workloads {
            wait_until("it is removed from answers", SOON, || {
                addresses(&**workload).is_empty().then_some(())
            });
            assert!(!reaches(&**workload, "198.51.100.11"), "{}: what was granted before", workload.name());
        }
        namespace.ip(&format!("{object} del {what}")).unwrap();
        for workload in &host.workloads {
            wait_until("it is in answers again", SOON, || (!addresses(&**workload).is_empty()).then_some(()));
        }
    }
}

// Q6: a restart with other trusted servers
#[test]
fn other_trusted_servers_count_from_the_next_start() {
    if !privileged() {
        return;
    }
    let mut host = Host::new("other.example");
    let text = fs::read_to_string(&host.config).unwrap();
    let with = |servers: &str| format!("{text}settings: {{dns: {{trusted: [{servers}]}}}}\n");
    fs::write(&host.config, with("\"203.0.113.53:53\", \"198.51.100.53:53\"")).unwrap();
    host.start(Part::Resolver);
    host.start(Part::Enforcer);
    host.wait_until_served();
    for servers in ["\"198.51.100.53:53\"", "\"198.51.100.53:53\", \"203.0.113.53:53\""] {
        host.stop(Part::Enforcer);
        fs::write(&host.config, with(servers)).unwrap();
        host.start(Part::Enforcer);
        host.wait_until_served();
        for workload in &host.workloads {
            for _ in 0..8 {
                let said = ask(&**workload, "allowed.example", 3);
                assert_eq!(said.status, "NOERROR", "{} with {servers}", workload.name());
            }
            assert!(!reaches(&**workload, DENIED), "{}", workload.name());
        }
    }
}
