//! A real Kubernetes on this machine, with Nameward on its nodes.
//!
//! ```text
//!   control: etcd, API server, controller manager, scheduler      small internet (when connected)
//!      | bridge `nodes`, 10.88.0.1                                     |
//!      |-- n1 10.88.0.11: containerd, kubelet, kube-proxy,          `world`
//!      |        resolver, enforcer; pods 10.244.1.0/24                 |
//!      |-- n2 10.88.0.12 ...                                        control forwards
//! ```
//!
//! Everything is the real thing, built from its sources by `cargo xtask setup`, or Debian's. Each machine is a network,
//! mount and PID namespace ([`Machine`]): the network of this machine, its mounts, `/run` and BPF file system are not
//! touched, and with the first process of a machine all the others end. What is left after that has the cluster's name:
//! a folder, network namespaces, cgroups. [`remove`] finds all of it by name, so it needs nothing of who made it.
//!
//! It can do nothing but what a test of Nameward needs: tokens instead of certificates for clients, kubelets that
//! everybody on the bridge may ask, images made of programs of this machine.

mod control;
mod images;
mod machine;
mod manifests;
mod node;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub use self::{
    control::SERVER,
    machine::{MARK, Machine},
    node::{CNI_CONFIGURATIONS, CNI_PROGRAMS, Node, Part},
};
use crate::{SmallInternet, output_within, patient};

/// What everything of every cluster begins with.
pub(crate) const PREFIX: &str = "nwc-";
/// How long a command of kubectl may take.
const KUBECTL: Duration = Duration::from_secs(60);
/// How long one of Helm may take, which waits for what it installs.
const HELM: Duration = Duration::from_secs(300);
/// How long nodes and the DNS of the cluster may take to be ready.
const READY: Duration = Duration::from_secs(180);
const STEP: Duration = Duration::from_millis(200);
/// How long everything may take to end.
const END: Duration = Duration::from_secs(60);

/// How much of a cluster is real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All of it.
    Whole,
    /// All of it, without Nameward.
    Plain,
    /// The API server. Nodes have Nameward and nothing else; who needs a pod makes its namespace and its object.
    Api,
}

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// How much of it is real.
    pub kind: Kind,
    /// Its name, of lower-case letters and digits.
    pub name: String,
    /// How many nodes it has, 1 to 9.
    pub nodes: u8,
    /// Whom its DNS asks for names of others.
    pub dns: IpAddr,
}

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    control: Machine,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Makes one, connects it to `internet`, and waits until its nodes and its DNS are ready. What is left of one of the
    /// same name goes first.
    ///
    /// # Errors
    /// When something does not start; what has been started by then is for [`remove`].
    pub fn up(options: &ClusterOptions, internet: Option<&SmallInternet>) -> Result<Self> {
        remove(&options.name)?;
        fs::create_dir_all(folder(&options.name))?;
        let control = Machine::start(&options.name, "control")?;
        control::network(&control)?;
        if let Some(internet) = internet {
            control::connect(&control, internet)?;
        }
        control::start(&control, options)?;
        let mut cluster = Self { name: options.name.clone(), control, nodes: Vec::new() };
        cluster.wait_for("the API server", |cluster| {
            cluster.kubectl(&["get", "--raw", "/readyz"]).is_ok_and(|text| text == "ok")
        })?;
        // Namespaces that every cluster has are made a moment after the API server is ready.
        if options.kind != Kind::Plain {
            cluster.wait_for("Nameward's objects", |cluster| {
                let applied = cluster.apply_files(&[
                    "crds/generated",
                    "deploy/rbac.yaml",
                    "deploy/api-rbac.yaml",
                    "deploy/admission-policy.yaml",
                ]);
                applied.inspect_err(|error| eprintln!("{error:#}")).is_ok()
            })?;
        }
        let dns = match options.kind {
            Kind::Whole | Kind::Plain => control::DNS.to_owned(),
            Kind::Api => options.dns.to_string(),
        };
        for number in 1..=options.nodes {
            let machine = Machine::start(&options.name, &format!("n{number}"))?;
            fs::write(machine.folder().join(node::DNS_FILE), &dns)?;
            let node = Node::new(machine, number);
            node.join(&cluster.control)?;
            cluster.nodes.push(node);
        }
        match options.kind {
            Kind::Whole | Kind::Plain => cluster.start_nodes(options)?,
            Kind::Api => cluster.start_bare_nodes()?,
        }
        Ok(cluster)
    }

    /// One that another process made.
    ///
    /// # Errors
    /// When there is none of the name, or it does not run.
    pub fn open(name: &str) -> Result<Self> {
        let control = Machine::open(name, "control")
            .with_context(|| format!("there is no cluster `{name}`; `cargo xtask cluster up` makes one"))?;
        let mut nodes = Vec::new();
        for number in 1..=9 {
            if let Ok(machine) = Machine::open(name, &format!("n{number}")) {
                nodes.push(Node::new(machine, number));
            }
        }
        Ok(Self { name: name.to_owned(), control, nodes })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The machine of the API server.
    pub fn control(&self) -> &Machine {
        &self.control
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The administrator's kubeconfig, for use on the machine [`control`](Self::control).
    pub fn kubeconfig(&self) -> PathBuf {
        folder(&self.name).join("admin.conf")
    }

    /// A command of kubectl as the administrator.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.control.command(tool("kubectl")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        Ok(command)
    }

    /// Runs it, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let output = output_within(&mut self.kubectl_command(arguments)?, KUBECTL)?;
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        String::from_utf8(output.stdout).context("output of kubectl")
    }

    /// Runs Helm as the administrator, and returns what it wrote to standard output.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.control.command(tool("helm")?);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        let place = folder(&self.name).join("helm");
        for kind in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(kind, &place);
        }
        let output = output_within(&mut command, HELM)?;
        if !output.status.success() {
            bail!("helm {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("output of helm")
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("output of kubectl")
    }

    /// Applies objects. Returns what kubectl says, warnings of the API server first.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn apply(&self, objects: &str) -> Result<String> {
        let file = folder(&self.name).join(format!("apply-{:?}.yaml", std::thread::current().id()));
        fs::write(&file, objects)?;
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f"];
        let mut command = self.kubectl_command(&arguments)?;
        let output = output_within(command.arg(&file), KUBECTL)?;
        let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).into_owned();
        if !output.status.success() {
            bail!("{said}");
        }
        Ok(said)
    }

    /// Imports an archive of an image on every node.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn load(&self, archive: &Path) -> Result<()> {
        self.nodes.iter().try_for_each(|node| node.import(&[archive.to_path_buf()]))
    }

    /// Ends it and removes everything.
    ///
    /// # Errors
    /// See [`remove`].
    pub fn down(self) -> Result<()> {
        remove(&self.name)
    }

    /// What its processes wrote, the last lines of each.
    pub fn logs(&self, lines: usize) -> String {
        let machines = self.nodes.iter().map(Node::machine).chain([&self.control]);
        machines.map(|machine| machine.logs(lines)).collect()
    }

    /// Whether every node says that it is ready.
    fn has_ready_nodes(&self) -> bool {
        let path = r#"jsonpath={range .items[*].status.conditions[?(@.type=="Ready")]}{.status} {end}"#;
        let wanted = vec!["True"; self.nodes.len()];
        self.kubectl(&["get", "nodes", "-o", path])
            .is_ok_and(|text| text.split_whitespace().collect::<Vec<_>>() == wanted)
    }

    fn start_nodes(&self, options: &ClusterOptions) -> Result<()> {
        let images = images::build(&folder(&self.name).join("images"))?;
        self.nodes.iter().try_for_each(Node::start_runtime)?;
        for node in &self.nodes {
            node.import(&images)?;
            node.start_kubernetes(&self.control)?;
            node.install_cni()?;
            if options.kind == Kind::Whole {
                node.start_nameward(&control::kubeconfig(&self.control, &self.enforcer_token()?)?)?;
                node.install_plugin()?;
            }
        }
        self.apply(&manifests::dns(options.dns))?;
        self.wait_for("all nodes", Self::has_ready_nodes)?;
        self.wait_for("the cluster's DNS", |cluster| {
            let path = "jsonpath={.status.availableReplicas}";
            let asked = cluster.kubectl(&["-n", "kube-system", "get", "deployment", "coredns", "-o", path]);
            asked.is_ok_and(|text| text == "1")
        })?;
        // Nodes hear of its pod one by one, and refuse questions until then.
        self.wait_for("the service of the cluster's DNS on all nodes", |cluster| {
            let asks = ["nslookup", "kubernetes.default.svc.cluster.local", control::DNS];
            cluster.nodes.iter().all(|node| node.machine().output("busybox", &asks).is_ok())
        })
    }

    fn start_bare_nodes(&self) -> Result<()> {
        let enforcer = control::kubeconfig(&self.control, &self.enforcer_token()?)?;
        for node in &self.nodes {
            self.apply(&format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {}}}\n", node.name()))?;
            node.start_nameward(&enforcer)?;
        }
        Ok(())
    }

    fn enforcer_token(&self) -> Result<String> {
        self.token("nameward", "nameward-enforcer")
    }

    /// A token of a service account.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let words = ["create", "token", account, "-n", namespace, "--duration", "24h"];
        Ok(self.kubectl(&words)?.trim().to_owned())
    }

    /// The kubeconfig of whoever has a token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of(&self, name: &str, token: &str) -> Result<PathBuf> {
        let file = folder(&self.name).join(format!("{name}.conf"));
        fs::write(&file, control::kubeconfig(&self.control, token)?)?;
        Ok(file)
    }

    fn apply_files(&self, paths: &[&str]) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = self.kubectl_command(&["apply", "--server-side"])?;
        for path in paths {
            command.arg("-f").arg(root.join(path));
        }
        let output = output_within(&mut command, KUBECTL)?;
        if !output.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn wait_for(&self, what: &str, ready: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + patient(READY);
        while !ready(self) {
            if Instant::now() > end {
                bail!("{what}: not ready after {READY:?}\n{}", self.logs(20));
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }
}

/// Where everything of a cluster is.
pub(crate) fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}{name}"))
}

/// Names of clusters of which anything is there.
pub fn clusters() -> Vec<String> {
    let names = [std::env::temp_dir(), "/run/netns".into()].map(|place: PathBuf| machine::names_in(&place));
    let names = names.into_iter().flatten().filter_map(|name| {
        let rest = name.strip_prefix(PREFIX)?;
        Some(rest.split('-').next().unwrap_or(rest).to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

/// Ends whatever runs of a cluster and removes whatever is left of it. Nothing is fine, too.
///
/// # Errors
/// When something can neither be ended nor removed.
pub fn remove(name: &str) -> Result<()> {
    let end = Instant::now() + END;
    machine::remove_all(name, end)?;
    // The last process of a machine may still be ending, and writing.
    while let Err(error) = fs::remove_dir_all(folder(name)) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        if Instant::now() > end {
            return Err(error).with_context(|| format!("cannot remove {}", folder(name).display()));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// A program that `cargo xtask setup` installs or builds.
///
/// # Errors
/// When it is missing.
pub fn tool(name: &str) -> Result<PathBuf> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&search).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut found = folders.map(|folder| folder.join(name)).filter(|path| path.is_file());
    found.next().or_else(|| built(name)).with_context(|| {
        format!("{name} is missing; `cargo xtask test --only cluster` and `cargo xtask cluster up` build it")
    })
}

/// A program among those that are built from Go, also where nobody has put it into the path.
fn built(name: &str) -> Option<PathBuf> {
    let all = crate::cache::cache().ok()?.join("go");
    let mut versions: Vec<PathBuf> = fs::read_dir(all).ok()?.flatten().map(|entry| entry.path()).collect();
    versions.retain(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)));
    versions.sort();
    versions.into_iter().map(|folder| folder.join(name)).rfind(|path| path.is_file())
}
