//! The machine that is no node: etcd, API server, controller manager, scheduler, and the wire between all machines.

use std::{fs, process::Command};

use anyhow::Result;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Cluster, ClusterOptions, Kind, Machine, folder, tool};
use crate::{SmallInternet, bounded::checked};

/// The bridge of the machines, and control's address on it.
pub(super) const BRIDGE: &str = "nodes";
pub(super) const ADDRESS: &str = "10.88.0.1";
/// Where the API server listens, for the machines of the cluster.
pub const SERVER: &str = "https://10.88.0.1:6443";
/// Addresses of services, and those of the API server's and of the cluster's DNS.
const SERVICES: &str = "10.96.0.0/16";
pub(super) const DNS: &str = "10.96.0.10";
/// A word of the API server's command line that depends on the kind of cluster.
const PLUGINS: &str = "plugins";
const ISSUER: &str = "https://kubernetes.default.svc";
/// Whose requests the API server writes down, for tests that count them.
const AUDITED: &str = "system:serviceaccount:nameward:nameward-enforcer";
const AUDIT_POLICY: &str = "audit.yaml";
const AUDIT_LOG: &str = "audit.log";

/// Who may speak to the API server, and as a member of which group.
const ACCOUNTS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
    ("proxy", "system:kube-proxy", ""),
];

/// The bridge that nodes are joined to.
pub(super) fn network(control: &Machine) -> Result<()> {
    control.ip(&format!("link add {BRIDGE} type bridge"))?;
    control.ip(&format!("addr add {ADDRESS}/24 dev {BRIDGE}"))?;
    control.ip(&format!("link set {BRIDGE} up")).map(drop)
}

/// Joins the machine to a small internet, which learns the way back to pods.
pub(super) fn connect(control: &Machine, internet: &SmallInternet) -> Result<()> {
    let (host, ours) = (internet.host(), control.namespace());
    host.ip(&format!("link add cluster type veth peer name world netns {ours}"))?;
    host.address("cluster", &["100.64.0.1/30"])?;
    host.ip("link set cluster up")?;
    control.ip("addr add 100.64.0.2/30 dev world")?;
    control.ip("link set world up")?;
    control.ip("route add default via 100.64.0.1")?;
    for network in ["10.244.0.0/16", "10.88.0.0/24"] {
        host.ip(&format!("route add {network} via 100.64.0.2"))?;
    }
    Ok(())
}

/// Starts what makes the API.
pub(super) fn start(control: &Machine, options: &ClusterOptions) -> Result<()> {
    let place = control.folder();
    fs::create_dir_all(place.join("certificates"))?;
    let key = place.join("accounts.key");
    checked(
        Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"])
            .arg(&key),
    )?;
    let mut tokens = String::new();
    for (token, user, group) in ACCOUNTS {
        tokens += &format!("{token}-of-a-test,{user},{token},\"{group}\"\n");
    }
    for number in 1..=options.nodes {
        tokens += &format!("n{number}-of-a-test,system:node:n{number},n{number},\"system:nodes\"\n");
    }
    fs::write(place.join("tokens.csv"), tokens)?;
    let audit = format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- {{level: Metadata, users: \
         ['{AUDITED}']}}\n- {{level: None}}\n"
    );
    fs::write(place.join(AUDIT_POLICY), audit)?;
    // Without a controller manager nobody makes the accounts of pods.
    let plugins =
        if options.kind == Kind::Api { "--disable-admission-plugins=ServiceAccount" } else { "--v=0" };
    fs::write(place.join(PLUGINS), plugins)?;
    start_etcd(control)?;
    start_server(control)?;
    // Its own certificate is made at its first start; clients trust it by that.
    let certificate = place.join("certificates/apiserver.crt");
    crate::wait_until("the API server's certificate", super::READY, || certificate.exists().then_some(()));
    let all = folder(control.cluster());
    for (token, _, _) in ACCOUNTS {
        fs::write(all.join(format!("{token}.conf")), kubeconfig(control, &format!("{token}-of-a-test"))?)?;
    }
    match options.kind {
        Kind::Whole | Kind::Plain => start_managers(control, options.kind),
        Kind::Api => Ok(()),
    }
}

/// A kubeconfig for whoever has a token.
pub(super) fn kubeconfig(control: &Machine, token: &str) -> Result<String> {
    let authority = control.folder().join("certificates/apiserver.crt");
    Ok(format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster: {{server: '{SERVER}', \
         certificate-authority: '{}'}}\nusers:\n- name: test\n  user: {{token: '{token}'}}\ncontexts:\n- name: test\n  \
         context: {{cluster: test, user: test}}\n",
        authority.display()
    ))
}

fn start_etcd(control: &Machine) -> Result<()> {
    let words = [
        "--data-dir=/run/etcd",
        "--logger=zap",
        "--log-level=warn",
        "--listen-client-urls=http://127.0.0.1:2379",
    ];
    let urls = ["--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380"];
    control.serve("etcd", &tool("etcd")?, &texts(words.into_iter().chain(urls)))
}

fn start_server(control: &Machine) -> Result<()> {
    let place = control.folder();
    let path = |name: &str| place.join(name).display().to_string();
    let mut words = texts([
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        "--allow-privileged=true",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]);
    words.push(fs::read_to_string(place.join(PLUGINS))?);
    words.extend([
        format!("--advertise-address={ADDRESS}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!("--service-account-issuer={ISSUER}"),
        format!("--service-account-key-file={}", path("accounts.key")),
        format!("--service-account-signing-key-file={}", path("accounts.key")),
        format!("--cert-dir={}", path("certificates")),
        format!("--token-auth-file={}", path("tokens.csv")),
        format!("--audit-policy-file={}", path(AUDIT_POLICY)),
        format!("--audit-log-path={}", path(AUDIT_LOG)),
    ]);
    control.serve("kube-apiserver", &tool("kube-apiserver")?, &words)
}

fn start_managers(control: &Machine, kind: Kind) -> Result<()> {
    let all = folder(control.cluster());
    let path = |name: &str| all.join(name).display().to_string();
    let mut manager = texts(["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"]);
    let mut scheduler = manager.clone();
    scheduler.push(format!("--kubeconfig={}", path("scheduler.conf")));
    manager.extend([
        format!("--kubeconfig={}", path("controller-manager.conf")),
        format!("--service-account-private-key-file={}", path("control/accounts.key")),
        // Each controller is an account with its own rights; the manager's own cannot even make a pod.
        "--use-service-account-credentials=true".to_owned(),
        format!("--root-ca-file={}", path("control/certificates/apiserver.crt")),
    ]);
    if kind == Kind::Plain {
        // What its tests do with nodes that are down need not wait for long; kubelets say every ten seconds that they live.
        manager.push("--node-monitor-grace-period=25s".to_owned());
    }
    control.serve("kube-controller-manager", &tool("kube-controller-manager")?, &manager)?;
    control.serve("kube-scheduler", &tool("kube-scheduler")?, &scheduler)
}

pub(super) fn texts<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}

impl Cluster {
    /// Kills the API server; etcd keeps what it knows.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop_server(&self) -> Result<()> {
        self.control.signal("kube-apiserver", Signal::SIGKILL)
    }

    /// What enforcers have asked of it: events of audit.k8s.io, in the order in which they were answered.
    ///
    /// # Errors
    /// When its audit log cannot be read.
    pub fn asked(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.control.folder().join(AUDIT_LOG))?;
        // The last line may be half there.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Starts it again, and waits until it answers.
    ///
    /// # Errors
    /// When it does not.
    pub fn start_server(&self) -> Result<()> {
        start_server(&self.control)?;
        self.wait_for("the API server", |cluster| {
            cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|text| text == "ok")
        })
    }
}
