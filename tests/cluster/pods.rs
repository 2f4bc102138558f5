//! What all scenarios share, and pods of it.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Result;
use nameward_test_support::{
    DEFAULT_ZONE, SmallInternet,
    cluster::{Cluster, ClusterOptions, Kind},
    output_within, wait_until, wait_until_ok,
};
use serde_json::{Value, json};

/// How long something that follows from an event may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long the status of a policy may take: a node and the writer each write an object at most once in 10 s.
pub(crate) const STATUS: Duration = Duration::from_secs(45);
/// How long a pod may take to start.
pub(crate) const START: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);
const IMAGE: &str = "nameward.test/tools:1";
const WEB: &str = "{protocol: TCP, port: 80}";
/// Asks once in a moment over one connection, and writes down the answers.
pub(crate) const KEEPS_ASKING: &str = "mkfifo /tmp/in; nc 203.0.113.10 80 < /tmp/in > /tmp/out & exec 3> /tmp/in; \
                            while printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; do sleep 0.2; done; exec sleep 86400";

/// The cluster and the internet.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) internet: SmallInternet,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        Self::of(Kind::Whole)
    }

    /// With a cluster of this kind.
    pub(crate) fn of(kind: Kind) -> Result<Self> {
        // Names that nobody has asked for.
        let internet = SmallInternet::with_zone(&format!("{DEFAULT_ZONE}*.many.example. A 198.51.100.13\n"))?;
        let far = internet.internet();
        far.output("nft", &["add", "table", "ip", "seen"])?;
        far.output(
            "nft",
            &["add", "chain", "ip", "seen", "in", "{ type filter hook prerouting priority 0; }"],
        )?;
        let name = format!("nwt{}", std::process::id());
        let options = ClusterOptions { kind, name, nodes: 2, dns: internet.dns() };
        let cluster = Cluster::up(&options, Some(&internet))?;
        Ok(Self { cluster, internet })
    }

    pub(crate) fn tell(&self) -> String {
        let objects = self.cluster.kubectl(&["get", "pods,events,egresspolicies", "-A"]).unwrap_or_default();
        objects + &self.cluster.logs(15)
    }

    pub(crate) fn take_down(self) -> Result<()> {
        self.cluster.down()
    }

    /// Runs kubectl with words separated by spaces.
    pub(crate) fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
    }

    /// Applies objects that must be taken.
    pub(crate) fn apply(&self, objects: &str) -> String {
        self.cluster.apply(objects).unwrap()
    }

    /// A namespace, and objects in it.
    pub(crate) fn namespace(&self, name: &str, rest: &str) {
        self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n{rest}"));
        // Pods are refused before their account is there.
        wait_until("the namespace's account", START, || {
            self.cluster.kubectl(&["-n", name, "get", "serviceaccount", "default"]).ok()
        });
    }

    /// Counts what arrives at an address of the internet from pods, from now on.
    pub(crate) fn count_arrivals(&self, at: &str) {
        let words =
            ["add", "rule", "ip", "seen", "in", "ip", "saddr", "10.244.0.0/16", "ip", "daddr", at, "counter"];
        self.internet.internet().output("nft", &words).unwrap();
    }

    pub(crate) fn arrivals(&self, at: &str) -> u64 {
        let said = self.internet.internet().output("nft", &["list", "chain", "ip", "seen", "in"]).unwrap();
        let wanted = format!("ip saddr 10.244.0.0/16 ip daddr {at} counter packets ");
        let mut counts = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&wanted)?.split(' ').next()?.parse().ok());
        counts.next().unwrap_or_else(|| panic!("no counter of {at} in {said}"))
    }

    /// A pod that sleeps, running.
    pub(crate) fn pod(&self, namespace: &str, name: &str, labels: &str) -> Pod<'_> {
        self.apply(&pod_of(namespace, name, labels, &[], &Container::sleeps()));
        self.running(namespace, name)
    }

    /// A pod that was applied, when it runs.
    pub(crate) fn running(&self, namespace: &str, name: &str) -> Pod<'_> {
        let object = wait_until(&format!("{namespace}/{name} runs"), START, || {
            let object = self.cluster.get(&["-n", namespace, "pod", name]).ok()?;
            (object["status"]["phase"] == "Running").then_some(object)
        });
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&object["status"]["containerStatuses"][0]["containerID"]);
        let on = text(&object["spec"]["nodeName"]);
        Pod {
            world: self,
            name: name.to_owned(),
            address: text(&object["status"]["podIP"]),
            container: id.trim_start_matches("containerd://").to_owned(),
            node: self.cluster.nodes().iter().position(|node| node.name() == on).unwrap(),
        }
    }
}

/// The policy `rules` of a namespace that isolates what is labelled `app: runner`.
pub(crate) fn policy(namespace: &str, egress: &str) -> String {
    format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{namespace: {namespace}, name: rules}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: runner}}}}\n  egress: {egress}\n"
    )
}

/// One rule of names, for port 80.
pub(crate) fn names(names: &str) -> String {
    format!("[{{name: web, to: [{{domainNames: [{names}]}}], ports: [{WEB}]}}]")
}

/// What a container does, and on which node.
pub(crate) struct Container {
    script: &'static str,
    node: Option<&'static str>,
}

impl Container {
    /// What a shell does.
    pub(crate) const fn shell(script: &'static str) -> Self {
        Self { script, node: None }
    }

    pub(crate) const fn sleeps() -> Self {
        Self::shell("exec sleep 86400")
    }

    pub(crate) const fn on(self, node: &'static str) -> Self {
        Self { node: Some(node), ..self }
    }

    fn object(&self, name: &str) -> Value {
        json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", self.script]})
    }
}

/// The spec of a pod: containers that run before, and the one that stays.
pub(crate) fn spec_of(before: &[Container], container: &Container, restart: &str) -> Value {
    let first = before.iter().enumerate().map(|(number, one)| one.object(&format!("i{number}")));
    let selector = container.node.map_or(json!({}), |node| json!({"kubernetes.io/hostname": node}));
    json!({
        "terminationGracePeriodSeconds": 0, "restartPolicy": restart, "nodeSelector": selector,
        "initContainers": first.collect::<Vec<_>>(), "containers": [container.object("c")],
    })
}

/// A pod, as it is applied; `labels` is one, `KEY: VALUE`.
pub(crate) fn pod_of(
    namespace: &str,
    name: &str,
    labels: &str,
    before: &[Container],
    container: &Container,
) -> String {
    let (key, value) = labels.split_once(": ").unwrap();
    let metadata = json!({"namespace": namespace, "name": name, "labels": {key: value}});
    let spec = spec_of(before, container, "Never");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
}

/// A pod that runs.
pub(crate) struct Pod<'a> {
    world: &'a World,
    name: String,
    container: String,
    pub(crate) address: String,
    /// Number of its node, from 0.
    pub(crate) node: usize,
}

impl Pod<'_> {
    /// Runs a command in it, by its container runtime; an error is what it says. The API server is not needed.
    pub(crate) fn exec(&self, words: &[&str]) -> Result<String, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("x{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let node = &self.world.cluster.nodes()[self.node];
        let mut command = node.runtime(&["tasks", "exec", "--exec-id", &id, &self.container]).unwrap();
        let output = output_within(command.args(words), LIMIT).unwrap();
        // What `ctr` says of itself, of cgroups of version 1 for one, is a line with a time.
        let said = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.lines().filter(|line| !line.starts_with("time=")).collect::<Vec<_>>().join("\n")
        };
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    /// Fetches a page.
    fn fetch(&self, url: &str) -> Result<String, String> {
        self.exec(&["curl", "-4", "-sS", "--max-time", "5", url])
    }

    #[track_caller]
    pub(crate) fn reaches(&self, url: &str) {
        wait_until_ok(&format!("{} reaches {url}", self.name), SOON, || self.fetch(url));
    }

    #[track_caller]
    pub(crate) fn may_not(&self, url: &str) {
        let said = self.fetch(url);
        assert!(
            said.as_ref().is_err_and(|error| error.starts_with("curl:")),
            "{} asks for {url}: {said:?}",
            self.name
        );
    }

    #[track_caller]
    pub(crate) fn is_refused(&self, url: &str) {
        let said = wait_until(&format!("{} is refused {url}", self.name), SOON, || self.fetch(url).err());
        assert!(said.starts_with("curl:"), "{} asks for {url}: {said:?}", self.name);
    }

    /// Answers that [`KEEPS_ASKING`] has had.
    pub(crate) fn answers(&self) -> usize {
        let count = self.exec(&["grep", "-c", "hello from", "/tmp/out"]);
        count.ok().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// Whether [`KEEPS_ASKING`] still has answers.
    #[track_caller]
    pub(crate) fn goes_on(&self, when: &str) {
        let before = self.answers();
        wait_until(&format!("the live connection goes on {when}"), SOON, || {
            (self.answers() > before + 3).then_some(())
        });
    }
}
