//! What all scenarios share.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nameward_test_support::{
    SmallInternet,
    cluster::{Cluster, ClusterOptions, Kind, Node, Part},
    wait_until, wait_until_ok,
};
use serde_json::{Value, json};

/// How long something that follows from an event may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);
/// How long the status of a policy may take: a node and the writer each write an object at most once in 10 s.
pub(crate) const STATUS: Duration = Duration::from_secs(45);

/// A file of a node's folder: what pods find at `/etc/resolv.conf`.
pub(crate) const RESOLV_CONF: &str = "pods.conf";

/// The cluster and the internet.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) internet: SmallInternet,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let internet = SmallInternet::new()?;
        // The far side counts what arrives where no scenario may be allowed to send.
        internet.internet().output("nft", &["add", "table", "ip", "seen"])?;
        internet.internet().output(
            "nft",
            &["add", "chain", "ip", "seen", "in", "{ type filter hook prerouting priority 0; }"],
        )?;
        let name = format!("nwt{}", std::process::id());
        let options = ClusterOptions { kind: Kind::Api, name, nodes: 2, dns: internet.dns() };
        let cluster = Cluster::up(&options, Some(&internet))?;
        let world = Self { cluster, internet };
        for node in world.nodes() {
            let file = node.machine().folder().join(RESOLV_CONF);
            std::fs::write(file, "nameserver 198.51.100.53\noptions timeout:2 attempts:2\n")?;
            wait_until("the enforcer answers", Duration::from_secs(60), || node.rest("/v1/endpoints").ok());
        }
        Ok(world)
    }

    pub(crate) fn tell(&self) -> String {
        self.cluster.logs(15)
    }

    pub(crate) fn take_down(self) -> Result<()> {
        self.cluster.down()
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        self.cluster.nodes()
    }

    /// Applies objects that must be taken.
    pub(crate) fn apply(&self, objects: &str) -> String {
        self.cluster.apply(objects).unwrap()
    }

    /// A namespace, and policies in it.
    pub(crate) fn namespace(&self, name: &str, rest: &str) {
        self.apply(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\n{rest}"));
    }

    /// Runs kubectl with words separated by spaces.
    pub(crate) fn kubectl(&self, words: &str) -> String {
        self.cluster.kubectl(&words.split_whitespace().collect::<Vec<_>>()).unwrap()
    }

    /// Takes every right on a resource from the enforcers; returns the rules that gave them.
    pub(crate) fn take_right(&self, resource: &str) -> Value {
        let role = self.cluster.get(&["clusterrole", "nameward-enforcer"]).unwrap();
        let mut without = role["rules"].clone();
        for rule in without.as_array_mut().unwrap() {
            rule["resources"].as_array_mut().unwrap().retain(|one| one != resource);
        }
        assert_ne!(without, role["rules"], "the test's own premise");
        self.give_rights(&without);
        role["rules"].clone()
    }

    /// Gives the enforcers the rights of these rules alone.
    pub(crate) fn give_rights(&self, rules: &Value) {
        let patch = json!({ "rules": rules }).to_string();
        let words = ["patch", "clusterrole", "nameward-enforcer", "--type=merge", "-p", &patch];
        self.cluster.kubectl(&words).unwrap();
    }

    /// Packets that arrived at the internet from a pod.
    pub(crate) fn arrivals(&self, address: &str) -> Arrivals<'_> {
        let internet = self.internet.internet();
        let rule = ["add", "rule", "ip", "seen", "in", "ip", "saddr", address, "counter"];
        internet.output("nft", &rule).unwrap();
        Arrivals { world: self, address: address.to_owned() }
    }

    /// Waits until a condition of an object is as expected; returns its message.
    pub(crate) fn condition(&self, object: &[&str], kind: &str, status: &str, reason: &str) -> String {
        wait_until_ok(&format!("{object:?}: {kind} is {status} by {reason}"), STATUS, || {
            let object = self.cluster.get(object).map_err(|error| format!("{error:#}"))?;
            let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            let mut conditions = conditions.filter(|one| one["type"] == kind);
            let found = conditions.next().ok_or("there is none")?;
            let is_meant = found["status"] == status && found["reason"] == reason;
            let message = found["message"].as_str().unwrap_or_default();
            if is_meant { Ok(message.to_owned()) } else { Err(found.to_string()) }
        })
    }

    /// What the enforcer of a node wrote so far.
    pub(crate) fn log(&self, node: usize) -> String {
        self.nodes()[node].machine().log(Part::Enforcer.name())
    }

    /// Endpoints of a node, as its REST has them.
    pub(crate) fn endpoints(&self, node: usize) -> Result<Vec<Value>> {
        let all = self.nodes()[node].rest("/v1/endpoints?limit=1000")?;
        let items = all["items"].as_array().context("a list")?.clone();
        ensure!(items.len() < 1000, "there are more");
        Ok(items)
    }
}

/// What the far side has seen of a pod.
pub(crate) struct Arrivals<'a> {
    world: &'a World,
    address: String,
}

impl Arrivals<'_> {
    pub(crate) fn packets(&self) -> u64 {
        let said =
            self.world.internet.internet().output("nft", &["list", "chain", "ip", "seen", "in"]).unwrap();
        let wanted = format!("ip saddr {} counter packets ", self.address);
        let mut numbers = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix(&wanted)?.split(' ').next()?.parse().ok());
        numbers.next().unwrap_or_else(|| panic!("no counter of {} in {said}", self.address))
    }
}
