//! `nameward policy import` as a program: what it writes is in order for `nameward policy check`, and judged by
//! `nameward policy test` as its source would.

#![allow(clippy::unwrap_used, reason = "tests")]

mod break_glass;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use nameward_test_support::{Scratch, program};

const CILIUM: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: runners, namespace: ci}
spec:
  endpointSelector: {matchLabels: {app: runner}}
  egress:
  - toEndpoints: [{matchLabels: {'k8s:k8s-app': kube-dns}}]
    toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*'}]}}]
  - toFQDNs: [{matchName: registry.example}, {matchPattern: '**.pkg.example'}, {matchPattern: '*.one.example'}]
    toPorts: [{ports: [{port: '443', protocol: TCP}]}]
  egressDeny:
  - toCIDR: [203.0.113.66/32]
";

const CLUSTER: &str = "\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: tenants}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {tenant: 'yes'}}}
  egress:
  - {action: Accept, to: [{domainNames: ['*.kubernetes.example']}], protocols: [{tcp: {destinationPort: {number: 443}}}]}
  - {action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]}
";

const SQUID: &str = "\
acl SSL_ports port 443
acl Safe_ports port 80 443
acl allowed dstdomain .example.org
http_access deny !Safe_ports
http_access deny CONNECT !SSL_ports
http_access allow allowed
http_access deny all
";

const ASSERTIONS: &str = "\
policies: [policies.yaml]
tests:
- {workload: {namespace: ci, labels: {app: runner}}, to: 'registry.example:443', expect: allowed, rule: egress-2}
- {workload: {namespace: ci, labels: {app: runner}}, to: 'a.b.pkg.example:443', expect: allowed}
- {workload: {namespace: ci, labels: {app: runner}}, to: 'pkg.example:443', expect: denied}
- {workload: {namespace: ci, labels: {app: runner}}, to: 'a.one.example:443', expect: denied}
- {workload: {namespace: ci, labels: {app: runner}}, to: 'registry.example:80', expect: denied}
- {workload: {namespace: ci, labels: {app: runner}}, to: 'registry.example:443', address: 203.0.113.66, expect: denied}
- {workload: {namespace: ci, labels: {app: other}}, to: 'any.example:443', expect: allowed}
- {workload: {namespace: t, namespaceLabels: {tenant: 'yes'}}, to: 'docs.kubernetes.example:443', expect: allowed}
- {workload: {namespace: t, namespaceLabels: {tenant: 'yes'}}, to: 'kubernetes.example:443', expect: denied}
- {workload: {namespace: t, namespaceLabels: {tenant: 'yes'}}, to: '198.51.100.7:443', expect: denied}
- {workload: {namespace: web}, to: 'example.org:443', expect: allowed, rule: line-6}
- {workload: {namespace: web}, to: 'a.example.org:80', expect: allowed}
- {workload: {namespace: web}, to: 'a.example.org:8080', expect: denied}
";

/// The status and what was written and said.
fn policy(folder: &Path, words: &[&str], input: Option<&Path>) -> (Option<i32>, String, String) {
    let mut command = Command::new(program("nameward").unwrap());
    command.current_dir(folder).arg("policy").args(words);
    if let Some(input) = input {
        command.stdin(Stdio::from(std::fs::File::open(input).unwrap()));
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

// N2, N3, N6, R1, R2
#[test]
fn what_is_imported_is_in_order_and_judged_as_its_source() {
    let folder = Scratch::new("import").unwrap();
    folder.file("cilium.yaml", CILIUM).unwrap();
    folder.file("cluster.yaml", CLUSTER).unwrap();
    folder.file("squid.conf", SQUID).unwrap();
    let words = ["import", "cilium.yaml", "cluster.yaml", "squid.conf", "--namespace", "web"];
    let (status, written, said) = policy(folder.path(), &words, None);
    assert_eq!(status, Some(1), "{said}");
    let lost: Vec<&str> = said.lines().filter(|line| line.contains(": not carried over: ")).collect();
    let [lost] = lost[..] else { panic!("{said}") };
    assert!(
        lost.starts_with(
            "cilium.yaml:9:95: CiliumNetworkPolicy ci/runners: spec.egress[1].toFQDNs[2].matchPattern: "
        ),
        "{lost}"
    );
    assert!(said.ends_with("nameward: 3 policies written, 1 thing not carried over\n"), "{said}");

    folder.file("policies.yaml", &written).unwrap();
    let (status, found, said) = policy(folder.path(), &["check", "policies.yaml"], None);
    assert_eq!((status, found.as_str()), (Some(0), ""), "{said}");
    folder.file("test.yaml", ASSERTIONS).unwrap();
    let (status, found, said) = policy(folder.path(), &["test", "test.yaml"], None);
    assert_eq!((status, found.as_str()), (Some(0), ""), "{said}");

    let widened = [&words[..], &["--widen", "one-label"]].concat();
    let (status, written, said) = policy(folder.path(), &widened, None);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("note: widened, as you said: `*.one.example`"), "{said}");
    assert!(written.contains("*.one.example"), "{written}");
}

// R5
#[test]
fn what_cannot_be_read_is_said_and_nothing_is_written() {
    let folder = Scratch::new("import-bad").unwrap();
    let broken = folder.file("broken.yaml", "kind: [\n").unwrap();
    folder.file("bytes.yaml", "").unwrap();
    std::fs::write(folder.path().join("bytes.yaml"), b"a: \xff\n").unwrap();
    folder.file("large.txt", &"a.example\n".repeat(500_000)).unwrap();
    for (words, expected) in [
        (&["import", "broken.yaml"][..], "broken.yaml:2:1: "),
        (&["import", "bytes.yaml", "absent.yaml"], "bytes.yaml: the file is not UTF-8 text: line 1"),
        (&["import", "bytes.yaml", "absent.yaml"], "absent.yaml: the file cannot be read: "),
        (&["import", "large.txt", "--from", "list"], "large.txt: the file has more than 4 MiB; split it"),
        (&["import", "/dev/stdin"], "/dev/stdin:2:1: "),
        (&["import", "broken.yaml", "--selector", "app"], "`app` is no label; write `app=runner`"),
        (&["import", "broken.yaml", "--port", "0"], "--port"),
        (&["import", "broken.yaml", "--cluster-cidr", "10.0.0.0"], "--cluster-cidr"),
        (&["import"], "<FILE>..."),
    ] {
        let (status, written, said) = policy(folder.path(), words, Some(&broken));
        assert_eq!((status, written.as_str()), (Some(125), ""), "{words:?}: {said}");
        assert!(said.contains(expected), "{words:?}: {said}");
    }
}
