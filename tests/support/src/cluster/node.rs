//! A node: Nameward's two processes, and CNI plugins for those who make pods.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Machine, control,
    control::{BRIDGE, texts},
    machine::checked,
};
use crate::program;

/// A file of a node's folder with the address of the DNS that its pods mean.
pub(super) const DNS_FILE: &str = "dns";
const API: &str = "/run/nameward/api.sock";
const FEED: &str = "unix:/run/nameward/feed";

/// A process of Nameward on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `nameward-enforcer`.
    Enforcer,
    /// `nameward-resolver`.
    Resolver,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    machine: Machine,
    number: u8,
}

impl Part {
    /// Its program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforcer => "nameward-enforcer",
            Self::Resolver => "nameward-resolver",
        }
    }
}

impl Node {
    pub(super) const fn new(machine: Machine, number: u8) -> Self {
        Self { machine, number }
    }

    /// Its machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("10.88.0.1{}", self.number)
    }

    /// Addresses of its pods.
    fn pods(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    /// Joins it to the bridge, with ways to the pods of all.
    pub(super) fn join(&self, control: &Machine) -> Result<()> {
        let (name, address) = (self.name(), self.address());
        control
            .ip(&format!("link add {name} type veth peer name eth0 netns {}", self.machine.namespace()))?;
        control.ip(&format!("link set {name} master {BRIDGE} up"))?;
        self.machine.ip(&format!("addr add {address}/24 dev eth0"))?;
        self.machine.ip("link set eth0 up")?;
        // Pods of other nodes are reached by the machine in the middle, which knows the way to all.
        self.machine.ip(&format!("route add default via {}", control::ADDRESS))?;
        control.ip(&format!("route add {} via {address}", self.pods())).map(drop)
    }

    /// Starts resolver and enforcer; `kubeconfig` is that of the enforcer's account.
    pub(super) fn start_nameward(&self, kubeconfig: &str) -> Result<()> {
        fs::write(self.machine.folder().join("enforcer.conf"), kubeconfig)?;
        self.start(Part::Resolver)?;
        self.start(Part::Enforcer)
    }

    /// Starts a process of Nameward. Who needs it to be ready waits.
    ///
    /// # Errors
    /// When its program is missing.
    pub fn start(&self, part: Part) -> Result<()> {
        let kubeconfig = self.machine.folder().join("enforcer.conf").display().to_string();
        let dns = fs::read_to_string(self.machine.folder().join(DNS_FILE))?;
        let words = match part {
            Part::Resolver => texts(["--feed", FEED, "--upstream", &dns]),
            Part::Enforcer => {
                let mut words = texts(["--kubernetes", "--kubeconfig", &kubeconfig, "--node", self.name()]);
                words.extend(texts(["--own-namespace", "nameward", "--cluster-dns", &dns]));
                words.extend(texts(["--cluster-domain", "cluster.local", "--feed", FEED]));
                words.extend(texts(["--api", &format!("unix:{API}")]));
                words
            }
        };
        self.machine.serve(part.name(), &program(part.name())?, &words)
    }

    /// Kills it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&self, part: Part) -> Result<()> {
        self.machine.signal(part.name(), Signal::SIGKILL)
    }

    /// What the enforcer's REST answers.
    ///
    /// # Errors
    /// When it does not, or not with what is asked for.
    pub fn rest(&self, path: &str) -> Result<Value> {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "10", "--fail-with-body", "--unix-socket"])
            .arg(self.machine.path(API));
        let text = checked(command.arg(format!("http://localhost{path}")))?;
        serde_json::from_str(&text).with_context(|| format!("GET {path}: {text}"))
    }

    /// Calls a CNI plugin as a container runtime does: `command` for the interface `eth0` of a network namespace.
    ///
    /// # Errors
    /// What the plugin says when it fails.
    pub fn call_plugin(
        &self,
        plugin: &Path,
        command: &str,
        container: &str,
        arguments: &str,
        configuration: &Value,
    ) -> Result<Value> {
        let mut call = self.machine.command("sh");
        call.args(["-c", r#"printf %s "$0" | "$1""#, &configuration.to_string()]).arg(plugin);
        call.env("CNI_COMMAND", command).env("CNI_CONTAINERID", container).env("CNI_IFNAME", "eth0");
        call.env("CNI_NETNS", format!("/run/netns/{container}")).env("CNI_PATH", "/usr/lib/cni");
        let said = checked(call.env("CNI_ARGS", arguments))?;
        if said.trim().is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    }

    /// The CNI's configuration on this node: a list with one plugin.
    ///
    /// # Errors
    /// None: it is JSON.
    pub fn cni(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.cni_configuration())?)
    }

    fn cni_configuration(&self) -> String {
        format!(
            r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [{{"type": "ptp", "ipMasq": false, "ipam": {{
                "type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{{"subnet": "{}"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
            self.pods()
        )
    }
}
