//! A node: container runtime, kubelet, kube-proxy, and Nameward's two processes and CNI plugin.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Machine, control,
    control::{BRIDGE, DNS, texts},
    folder,
    images::PAUSE,
    tool,
};
use crate::{bounded::checked, program, wait_until};

/// A file of a node's folder with the address of the DNS that its pods mean.
pub(super) const DNS_FILE: &str = "dns";
const RUNTIME: &str = "/run/containerd/containerd.sock";
const API: &str = "/run/nameward/api.sock";
const FEED: &str = "unix:/run/nameward/feed";
/// Where the container runtime of a node reads CNI configurations, and where it finds CNI plugins first.
pub const CNI_CONFIGURATIONS: &str = "/run/cni/net.d";
/// See [`CNI_CONFIGURATIONS`].
pub const CNI_PROGRAMS: &str = "/run/cni/bin";

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

    /// Where its enforcer serves the API over TLS, once there are the files `api.pem`, `api.key` and `api.ca` in the
    /// machine's folder.
    pub fn api(&self) -> String {
        format!("{}:9855", self.address())
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

    /// Starts containerd.
    pub(super) fn start_runtime(&self) -> Result<()> {
        let place = self.machine.folder();
        for folder in ["containerd", "kubelet"] {
            fs::create_dir_all(place.join(folder))?;
        }
        for folder in [CNI_CONFIGURATIONS, CNI_PROGRAMS] {
            fs::create_dir_all(self.machine.path(folder))?;
        }
        let file = place.join("containerd.toml");
        fs::write(&file, runtime_configuration(&place))?;
        self.machine.serve(
            "containerd",
            &tool("containerd")?,
            &texts(["--config", &file.display().to_string()]),
        )?;
        let socket = self.machine.path(RUNTIME);
        wait_until("containerd listens", super::READY, || socket.exists().then_some(()));
        Ok(())
    }

    /// Imports archives of images.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        for archive in archives {
            checked(self.runtime(&["images", "import"])?.arg(archive))?;
        }
        Ok(())
    }

    /// A command that asks the container runtime, where pods are.
    ///
    /// # Errors
    /// When `ctr` is missing.
    pub fn runtime(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.machine.command(tool("ctr")?);
        command.args(["--address", RUNTIME, "--namespace", "k8s.io"]).args(words);
        Ok(command)
    }

    /// Starts kubelet and kube-proxy.
    pub(super) fn start_kubernetes(&self, control: &Machine) -> Result<()> {
        self.start_kubelet(control)?;
        let proxy = self.machine.folder().join("proxy.yaml");
        fs::write(&proxy, self.proxy_configuration())?;
        self.machine.serve("kube-proxy", &tool("kube-proxy")?, &[format!("--config={}", proxy.display())])
    }

    /// Starts kubelet.
    ///
    /// # Errors
    /// When its program is missing.
    pub fn start_kubelet(&self, control: &Machine) -> Result<()> {
        let place = self.machine.folder();
        let path = |name: &str| place.join(name).display().to_string();
        fs::write(
            place.join("kubelet.conf"),
            control::kubeconfig(control, &format!("{}-of-a-test", self.name()))?,
        )?;
        fs::write(place.join("resolv.conf"), "nameserver 198.51.100.53\n")?;
        fs::write(place.join("kubelet.yaml"), self.kubelet_configuration())?;
        let words = [
            format!("--config={}", path("kubelet.yaml")),
            format!("--kubeconfig={}", path("kubelet.conf")),
            format!("--root-dir={}", path("kubelet")),
            format!("--cert-dir={}", path("kubelet/pki")),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", self.address()),
        ];
        self.machine.serve("kubelet", &tool("kubelet")?, &words)
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
                // Who wants to ask from elsewhere puts certificates there.
                let file =
                    |kind: &str| self.machine.folder().join(format!("api.{kind}")).display().to_string();
                words.extend(texts(["--api-tls", &self.api(), "--api-tls-client", "api.nameward"]));
                words.extend(texts(["--api-tls-certificate", &file("pem"), "--api-tls-key", &file("key")]));
                words.extend(texts(["--api-tls-ca", &file("ca")]));
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

    /// Writes a CNI's configuration.
    pub(super) fn install_cni(&self) -> Result<()> {
        let file = self.machine.path(CNI_CONFIGURATIONS).join("10-ptp.conflist");
        Ok(fs::write(file, self.cni_configuration())?)
    }

    /// Has `nameward-cni` chain itself behind the CNI.
    pub(super) fn install_plugin(&self) -> Result<()> {
        let mut command = self.machine.command(program("nameward-cni")?);
        command.args(["install", "--conf-dir", CNI_CONFIGURATIONS, "--bin-dir", CNI_PROGRAMS]);
        checked(&mut command).map(drop)
    }

    fn cni_configuration(&self) -> String {
        format!(
            r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [{{"type": "ptp", "ipMasq": false, "ipam": {{
                "type": "host-local", "dataDir": "/run/cni-addresses", "ranges": [[{{"subnet": "{}"}}]],
                "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
            self.pods()
        )
    }

    fn kubelet_configuration(&self) -> String {
        let place = self.machine.folder();
        let place = place.display();
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupRoot: {}
clusterDNS: [{DNS}]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://{RUNTIME}
enforceNodeAllocatable: []
evictionHard: {{memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 100
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
maxPods: 250
podLogsDir: {place}/pod-logs
resolvConf: {place}/resolv.conf
volumePluginDir: {place}/volume-plugins
"#,
            self.machine.cgroup()
        )
    }

    fn proxy_configuration(&self) -> String {
        let kubeconfig = folder(self.machine.cluster()).join("proxy.conf");
        format!(
            r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16
clientConnection: {{kubeconfig: {}}}
hostnameOverride: {}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"#,
            kubeconfig.display(),
            self.name()
        )
    }
}

fn runtime_configuration(place: &Path) -> String {
    let place = place.display();
    format!(
        r#"version = 3
root = "{place}/containerd"
state = "/run/containerd"
[grpc]
address = "{RUNTIME}"
[plugins.'io.containerd.internal.v1.opt']
path = "{place}/opt"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{CNI_PROGRAMS}", "/usr/lib/cni"]
conf_dir = "{CNI_CONFIGURATIONS}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
