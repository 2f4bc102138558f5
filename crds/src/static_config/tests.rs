//! Whole configurations (SEMANTICS S1, S2, S4).

use std::sync::atomic::{AtomicU32, Ordering};

use nameward_policy::{Effect, FailurePolicy, OnDeny};

use super::*;

/// A folder of one test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nwt-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// All mistakes, without the folder's name.
    fn mistakes(&self, name: &str, text: &str, purpose: Purpose) -> Vec<String> {
        let mistakes = read(&self.write(name, text), purpose).unwrap_err().0;
        let folder = format!("{}/", self.0.display());
        mistakes.iter().map(|mistake| mistake.to_string().replace(&folder, "")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

const CONFIG: &str = "\
endpoints:
- {name: runner, namespace: ci, labels: {app: runner}, addresses: [10.0.0.2, \"2001:db8::2\"], interface: veth1}
- {name: web, namespace: ci, labels: {app: web}, cgroup: /sys/fs/cgroup/web}
- name: host
policies:
- policies/runner.yaml
- apiVersion: nameward.io/v1alpha1
  kind: ClusterEgressPolicy
  metadata: {name: guardrails}
  spec: {subject: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: ci}}}, deny: [{name: metadata, to: [{ipBlock: {cidr: 169.254.169.254/32}}]}]}
settings:
  onDeny: Drop
  failurePolicy: Closed
  dns: {trusted: [\"10.96.0.10:53\"], clusterDomain: cluster.local}
  limits: {flows: 1000}
";

const RUNNER: &str = "\
apiVersion: nameward.io/v1alpha1
kind: EgressPolicy
metadata: {name: runner, namespace: ci}
spec:
  podSelector: {matchLabels: {app: runner}}
  egress:
  - {name: web, to: [{domainNames: [a.example]}], ports: [{protocol: TCP, port: 443}]}
";

#[test]
fn endpoints_come_with_the_rules_that_select_them() {
    // S1, R1, R3, R12
    let folder = Folder::new();
    folder.write("policies/runner.yaml", RUNNER);
    let path =
        folder.write("config.yaml", &CONFIG.replace("- name: host\n", "- {name: host, cgroup: /host}\n"));
    let config = read(&path, Purpose::Enforce).unwrap();
    let [runner, web, host] = config.endpoints.as_slice() else { panic!("{config:?}") };
    assert_eq!((&*runner.uid, runner.isolation, runner.rules.len()), ("ci/runner", Isolation::Isolated, 2));
    assert_eq!(runner.attachment, Some(StaticAttachment::Interface("veth1".into())));
    assert_eq!(runner.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "2001:db8::2".parse().unwrap()]);
    assert_eq!(
        (web.isolation, web.rules.len(), web.rules[0].effect),
        (Isolation::NotIsolated, 1, Effect::Deny)
    );
    assert_eq!(web.attachment, Some(StaticAttachment::Cgroup("/sys/fs/cgroup/web".into())));
    assert_eq!((&*host.uid, host.isolation, host.rules.len()), ("default/host", Isolation::NotIsolated, 0));
    let settings = &config.settings;
    assert_eq!((settings.on_deny, settings.failure_policy), (OnDeny::Drop, FailurePolicy::Closed));
    assert_eq!((settings.limits.flows, settings.limits.names), (1_000, Settings::default().limits.names));
    assert_eq!(settings.dns.trusted, ["10.96.0.10:53".parse().unwrap()]);
    let warnings: Vec<&str> = config.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(warnings, ["no policy selects the endpoint default/host: it may do everything"]);
}

#[test]
fn policies_without_a_namespace_are_of_default() {
    // S1
    let folder = Folder::new();
    folder.write("p.yaml", &RUNNER.replace(", namespace: ci", ""));
    let text = "endpoints: [{name: a, labels: {app: runner}, cgroup: /a}, {name: b, namespace: ci, labels: {app: runner}, cgroup: /b}]\npolicies: [p.yaml]\n";
    let config = read(&folder.write("c.yaml", text), Purpose::Enforce).unwrap();
    let isolations: Vec<Isolation> = config.endpoints.iter().map(|endpoint| endpoint.isolation).collect();
    assert_eq!(isolations, [Isolation::Isolated, Isolation::NotIsolated]);
}

#[test]
fn mistakes_of_all_files_are_told_at_once() {
    // S1, R5
    let folder = Folder::new();
    folder.write("policies/runner.yaml", &RUNNER.replace("a.example", "\"a*\"").replace("443", "0"));
    let text = CONFIG
        .replace("veth1", "a/b")
        .replace("10.0.0.2", "10.0.0")
        .replace("Closed", "Open")
        .replace("flows", "flow");
    assert_eq!(
        folder.mistakes("config.yaml", &text, Purpose::Enforce),
        [
            "config.yaml:2:68: endpoints[0].addresses[0]: `10.0.0` is not an IP address; write one like `198.51.100.7` or `2001:db8::7`",
            "config.yaml:2:103: endpoints[0].interface: `a/b` cannot stand here; write the name of a network interface, at most 15 characters, like `veth0`",
            "config.yaml:4:3: endpoints[2]: the endpoint is attached to nothing; write `interface: NAME` or `cgroup: PATH`",
            "config.yaml:13:18: settings.failurePolicy: `Open` cannot stand here; write one of Static, Closed",
            "config.yaml:15:12: settings.limits.flow: unknown field; did you mean `flows`?",
            "policies/runner.yaml:7:37: spec.egress[0].to[0].domainNames[0]: `a*`: a star stands for whole labels only; write `*.example.com`, or the full names",
            "policies/runner.yaml:7:76: spec.egress[0].ports[0].port: 0 cannot stand here; write a number from 1 to 65535",
        ]
    );
}

#[test]
fn endpoints_do_not_share_what_tells_them_apart() {
    // S1, S2
    let folder = Folder::new();
    let text = "\
endpoints:
- {name: a, addresses: [10.0.0.1], interface: v0}
- {name: b, addresses: [10.0.0.1], interface: v0}
- {name: a, addresses: [10.0.0.2], cgroup: /c}
- {name: c, cgroup: /c, interface: v1}
- {name: d, cgroup: c}
";
    assert_eq!(
        folder.mistakes("c.yaml", text, Purpose::Enforce),
        [
            "c.yaml:3:3: endpoints[1]: the interface v0 is there twice, first in line 2; remove or change one",
            "c.yaml:4:3: endpoints[2]: the endpoint default/a is there twice, first in line 2; remove or change one",
            "c.yaml:5:3: endpoints[3]: `addresses` is missing; write the workload's own addresses, what it sends from others is dropped",
            "c.yaml:5:3: endpoints[3]: the cgroup /c is there twice, first in line 4; remove or change one",
            "c.yaml:5:3: endpoints[3]: write one of `interface` and `cgroup`; an endpoint is attached to one place",
            "c.yaml:6:21: endpoints[4].cgroup: `c` cannot stand here; write an absolute path",
        ]
    );
    let text = "endpoints:\n- {name: a, addresses: [10.0.0.1]}\n- {name: b, addresses: [\"::ffff:10.0.0.1\"]}\n- {name: c}\n";
    assert_eq!(
        folder.mistakes("c.yaml", text, Purpose::Resolve),
        [
            "c.yaml:3:3: endpoints[1]: the address 10.0.0.1 is there twice, first in line 2; remove or change one",
            "c.yaml:4:3: endpoints[2]: `addresses` is missing; write the addresses the workload asks from, they tell who asks",
        ]
    );
}

#[test]
fn files_that_are_no_configuration() {
    // S1
    let folder = Folder::new();
    let mistakes = |text: &str| folder.mistakes("c.yaml", text, Purpose::Enforce);
    assert_eq!(mistakes(""), ["c.yaml:1:1: the file is empty; write `endpoints:` and `policies:`"]);
    assert_eq!(
        mistakes("endpoints: []\n---\nendpoints: []\n"),
        ["c.yaml:3:1: a configuration is one document; remove the `---` before this one",]
    );
    assert_eq!(
        mistakes(RUNNER),
        [
            "c.yaml:1:1: `endpoints` is missing",
            "c.yaml:1:1: apiVersion: unknown field; here stand endpoints, policies, settings",
            "c.yaml:2:1: kind: unknown field; here stand endpoints, policies, settings",
            "c.yaml:3:1: metadata: unknown field; here stand endpoints, policies, settings",
            "c.yaml:4:1: spec: unknown field; here stand endpoints, policies, settings",
        ]
    );
    folder.write("empty.yaml", "# nothing\n");
    let found = mistakes("endpoints: []\npolicies: [none.yaml, empty.yaml, 3]\n");
    assert_eq!(
        found,
        [
            "c.yaml:2:12: policies[0]: none.yaml: the file cannot be read: No such file or directory (os error 2)",
            "c.yaml:2:23: policies[1]: empty.yaml holds no policy",
            "c.yaml:2:35: policies[2]: this is not an object; write `apiVersion`, `kind`, `metadata` and `spec`",
        ]
    );
    let absent = read(&folder.0.join("absent.yaml"), Purpose::Enforce).unwrap_err().to_string();
    assert!(
        absent.ends_with("absent.yaml: the file cannot be read: No such file or directory (os error 2)"),
        "{absent}"
    );
}

#[test]
fn settings_that_contradict_each_other() {
    // R12, A5
    let folder = Folder::new();
    let mistakes = folder.mistakes(
        "c.yaml",
        "endpoints: []\nsettings: {ttl: {maxSeconds: 3}, dns: {trusted: [10.0.0.1]}}\n",
        Purpose::Enforce,
    );
    assert_eq!(
        mistakes,
        [
            "c.yaml:2:17: settings.ttl: `minSeconds` (5 when absent) must not be above `maxSeconds` (3600 when absent)",
            "c.yaml:2:50: settings.dns.trusted[0]: `10.0.0.1` is not an address with a port; write `10.0.0.1:53`",
        ]
    );
}

#[test]
fn policies_that_select_nobody_are_told() {
    // S1
    let folder = Folder::new();
    folder.write("policies/runner.yaml", &RUNNER.replace("namespace: ci", "namespace: cd"));
    let path = folder.write("config.yaml", &CONFIG.replace("- name: host\n", ""));
    let warnings = read(&path, Purpose::Enforce).unwrap().warnings;
    let expected = format!("EgressPolicy cd/runner selects no endpoint of {}", path.display());
    assert!(warnings.iter().any(|warning| warning.message == expected && warning.line == 1), "{warnings:?}");
}
