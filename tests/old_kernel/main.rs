//! The whole path on the oldest supported kernel: every program loads, and does what it does on newer ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use nameward_test_support::{OldKernel, privileged, program};

/// The processor is emulated.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs a script in which `$bin` is the folder of the programs, and returns what it wrote.
fn boot(script: &str) -> String {
    let nameward = program("nameward").unwrap();
    let bin = nameward.parent().unwrap().display();
    let kernel = OldKernel::find().unwrap();
    let script =
        format!("set -eu; export bin={bin} NAMEWARD_BIN_DIR={bin} NAMEWARD_PATIENCE=4; uname -r\n{script}");
    let booted = kernel.run(&script, DEADLINE).unwrap();
    println!("{}", booted.output);
    assert_eq!(booted.status, 0, "{}", booted.output);
    assert!(booted.output.starts_with(kernel.release()), "{}", booted.output);
    booted.output
}

// Cgroup endpoints: the socket and packet hooks (X2, X6), and that what is denied fails at once (G6).
#[test]
fn a_command_is_fenced() {
    if !privileged() {
        return;
    }
    let output = boot(
        r#"
        # Servers are elsewhere: no name opens an address of this machine (A3).
        ip netns add far; ip link add up0 type veth peer name eth0 netns far
        ip link set up0 up; ip -n far link set eth0 up
        for net in 198.51.100 203.0.113; do
            ip addr add $net.1/24 dev up0; ip -n far addr add $net.10/24 dev eth0
            ip netns exec far python3 -m http.server --bind $net.10 80 >/dev/null 2>&1 &
        done
        cat >/tmp/names.conf <<END
no-resolv
no-hosts
bind-interfaces
listen-address=198.51.100.1
address=/allowed.example/198.51.100.10
address=/denied.example/203.0.113.10
END
        dnsmasq --conf-file=/tmp/names.conf --user=root
        run="$bin/nameward run --dns 198.51.100.1 --allow allowed.example:80"
        $run -- curl -sS -o /dev/null -w 'allowed: %{http_code}\n' --retry 30 --retry-connrefused http://allowed.example/
        $run -- curl -sS http://denied.example/ || echo "denied name: $?"
        $run -- curl -sS -o /dev/null -w 'address: %{time_total} s\n' http://203.0.113.10/ || echo "denied address: $?"
        "#,
    );
    assert!(output.contains("allowed: 200"), "{output}");
    assert!(output.contains("denied name: 6"), "{output}");
    assert!(output.contains("denied address: 7"), "{output}");
    assert!(output.contains("203.0.113.10:80 (never resolved): no-match"), "{output}");
}

// Interface endpoints, without TCX: resolver and enforcer as processes, a workload behind a veth.
#[test]
fn a_workload_behind_an_interface_is_fenced() {
    if !privileged() {
        return;
    }
    let output = boot(include_str!("interface.sh"));
    assert!(output.contains("attached: pod_egress pod_ingress"), "{output}");
    assert!(output.contains("allowed: 200"), "{output}");
    assert!(output.contains("denied name: 6"), "{output}");
    assert!(output.contains("denied address: 7"), "{output}");
    assert!(output.contains("\"reason\":\"no-match\""), "{output}");
    assert!(output.contains("still denied: 7"), "{output}");
    assert!(output.contains("arrivals: pod_arrival"), "{output}");
    assert!(output.contains("peer: 200"), "{output}");
    assert!(output.lines().any(|line| line == "left:"), "{output}");
    assert!(output.contains("removed: 200"), "{output}");
}
