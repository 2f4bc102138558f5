//! A pod, made as container runtime and kubelet make it.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Result;
use nameward_test_support::{cluster::Node, output_within, program, wait_until, wait_until_ok};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::world::{RESOLV_CONF, SOON, World};

const LIMIT: Duration = Duration::from_secs(30);
const PTP: &str = "/usr/lib/cni/ptp";
/// Where IPv6 addresses of pods are from.
pub(crate) const SUBNET6: &str = "2001:db8:244:1::/64";

/// How the enforcer hears of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    /// By our CNI plugin, before anything runs in it.
    ByPlugin,
    /// By nobody: it has to be found.
    ByNobody,
}

/// What of a sandbox is not as usual.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unusual<'a> {
    /// Its pod has another one already.
    pub(crate) is_second: bool,
    /// The address that it gets.
    pub(crate) address: Option<&'a str>,
    /// It has an IPv6 address, too.
    pub(crate) has_both_families: bool,
    /// The plugins before ours say nothing of what they made.
    pub(crate) is_unsaid: bool,
}

/// A pod on a node.
pub(crate) struct Pod<'a> {
    world: &'a World,
    node: usize,
    namespace: String,
    name: String,
    pub(crate) uid: String,
    /// Its network namespace, and what the runtime calls its sandbox.
    pub(crate) sandbox: String,
    /// The configuration of the plugin that made its interface, and what that said.
    theirs: Value,
    result: Value,
    pub(crate) address: String,
}

impl<'a> Pod<'a> {
    /// On the first node, with labels like `app: runner`. Nothing runs in it before it is guarded.
    pub(crate) fn new(world: &'a World, namespace: &str, name: &str, labels: &str) -> Self {
        Self::on(world, 0, namespace, name, labels, Announced::ByPlugin)
    }

    /// On a node.
    pub(crate) fn on(
        world: &'a World,
        node: usize,
        namespace: &str,
        name: &str,
        labels: &str,
        announced: Announced,
    ) -> Self {
        let uid = object(world, node, namespace, name, labels, "");
        Self::around(world, node, namespace, name, &uid, announced)
    }

    /// Around an object that may or may not be there.
    pub(crate) fn around(
        world: &'a World,
        node: usize,
        namespace: &str,
        name: &str,
        uid: &str,
        announced: Announced,
    ) -> Self {
        Self::unusual(world, node, namespace, name, uid, announced, Unusual::default())
    }

    /// Around an object, not as usual.
    pub(crate) fn unusual(
        world: &'a World,
        node: usize,
        namespace: &str,
        name: &str,
        uid: &str,
        announced: Announced,
        unusual: Unusual<'_>,
    ) -> Self {
        let sandbox = format!("cni-{uid}{}", if unusual.is_second { "-2" } else { "" });
        let (machine, place) = (world.nodes()[node].machine(), &world.nodes()[node]);
        machine.output("ip", &["netns", "add", &sandbox]).unwrap();
        machine.output("ip", &["-n", &sandbox, "link", "set", "lo", "up"]).unwrap();
        let mut words = arguments(namespace, name, uid);
        if let Some(address) = unusual.address {
            // As host-local understands it.
            words += &format!(";IP={address}");
        }
        let (ptp, theirs) = (Path::new(PTP), theirs(place, unusual.has_both_families));
        let mut result = place.call_plugin(ptp, "ADD", &sandbox, &words, &theirs).unwrap();
        let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
        if unusual.is_unsaid {
            result = json!({"cniVersion": result["cniVersion"]});
        }
        let pod = Self {
            world,
            node,
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            sandbox,
            theirs,
            result,
            address,
        };
        if announced == Announced::ByPlugin {
            pod.announce().unwrap();
        }
        pod
    }

    /// Calls our plugin, as the runtime does after the others.
    pub(crate) fn announce(&self) -> Result<()> {
        self.ours("ADD").map(drop)
    }

    /// Calls our plugin.
    pub(crate) fn ours(&self, command: &str) -> Result<Value> {
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "nameward-cni", "prevResult": self.result,
        });
        let arguments = arguments(&self.namespace, &self.name, &self.uid);
        let plugin = program("nameward-cni")?;
        self.node().call_plugin(&plugin, command, &self.sandbox, &arguments, &configuration)
    }

    /// Another sandbox of the same pod, on which the object's status says nothing yet.
    pub(crate) fn again(&self) -> Self {
        let unusual = Unusual { is_second: true, ..Unusual::default() };
        let (namespace, name, uid) = (&self.namespace, &self.name, &self.uid);
        Self::unusual(self.world, self.node, namespace, name, uid, Announced::ByPlugin, unusual)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.world.nodes()[self.node]
    }

    /// Runs something that stays, in the cgroup that kubelet would make, and says in the object's status that it runs.
    pub(crate) fn run(&self) -> &Self {
        let cgroup = self.node().machine().cgroup_folder().join(format!("kubepods/pod{}/c1", self.uid));
        std::fs::create_dir_all(&cgroup).unwrap();
        let script = r#"echo $$ > "$0/cgroup.procs" && exec nsenter --net="/run/netns/$1" -- sleep 86400"#;
        let words = ["-c", script, &cgroup.display().to_string(), &self.sandbox].map(str::to_owned);
        self.node().machine().serve(&self.sandbox, Path::new("/bin/sh"), &words).unwrap();
        let procs = cgroup.join("cgroup.procs");
        wait_until("the pod's process is in its cgroup", SOON, || {
            std::fs::read_to_string(&procs).is_ok_and(|text| !text.is_empty()).then_some(())
        });
        self.has_status("Running");
        self
    }

    /// Says in the object's status what kubelet would.
    pub(crate) fn has_status(&self, phase: &str) {
        let ip = &self.address;
        let patch = json!({"status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]}}).to_string();
        let words = [
            "-n",
            &self.namespace,
            "patch",
            "pod",
            &self.name,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ];
        self.world.cluster.kubectl(&words).unwrap();
    }

    /// A command in it. It asks the small internet's name server.
    pub(crate) fn command(&self, program: &str) -> Command {
        let bind = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        let mut command = self.node().machine().command("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.sandbox));
        command.args(["--", "unshare", "--mount", "--propagation", "private", "sh", "-c", bind]);
        command.arg(self.node().machine().folder().join(RESOLV_CONF)).arg(program);
        command
    }

    /// Fetches a page; an error is what curl says.
    pub(crate) fn fetch(&self, url: &str) -> Result<String, String> {
        let mut command = self.command("curl");
        let output = output_within(command.args(["-4", "-sS", "--max-time", "5", url]), LIMIT).unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
        }
    }

    /// Waits until a page can be fetched.
    #[track_caller]
    pub(crate) fn reaches(&self, url: &str) {
        wait_until_ok(&format!("{} reaches {url}", self.name), SOON, || self.fetch(url));
    }

    /// Waits until a page cannot be fetched any more.
    #[track_caller]
    pub(crate) fn is_refused(&self, url: &str) {
        wait_until(&format!("{} is refused {url}", self.name), SOON, || self.fetch(url).err());
    }

    /// A page cannot be fetched now.
    #[track_caller]
    pub(crate) fn may_not(&self, url: &str) {
        let said = self.fetch(url);
        assert!(said.is_err(), "{} reaches {url}: {said:?}", self.name);
    }

    /// A connection from inside, held by this process.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<Connection> {
        let path = self.node().machine().path(&format!("/run/netns/{}", self.sandbox));
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(File::open(path)?.as_fd(), CloneFlags::CLONE_NEWNET)?;
                TcpStream::connect_timeout(&to, Duration::from_secs(3))
            });
            inside.join().unwrap()
        })
        .map(|stream| Connection { stream })
    }

    /// A listener inside, held by this process.
    pub(crate) fn listen(&self, at: &str) -> TcpListener {
        let path = self.node().machine().path(&format!("/run/netns/{}", self.sandbox));
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(File::open(path).unwrap().as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                TcpListener::bind(at).unwrap()
            });
            inside.join().unwrap()
        })
    }

    /// Addresses of its interface, the IPv4 one first.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let ips = self.result["ips"].as_array().into_iter().flatten();
        let addresses = ips.filter_map(|one| one["address"].as_str()?.split('/').next());
        addresses.map(str::to_owned).collect()
    }

    /// The enforcer's view of it, when there is one.
    pub(crate) fn endpoint(&self) -> Option<Value> {
        self.endpoints().into_iter().next()
    }

    /// One of each of its sandboxes.
    pub(crate) fn endpoints(&self) -> Vec<Value> {
        let mut all = self.world.endpoints(self.node).unwrap_or_default();
        all.retain(|one| one["uid"].as_str().is_some_and(|uid| uid.starts_with(&self.uid)));
        all
    }

    /// Waits until it has rules.
    pub(crate) fn is_guarded(&self) -> Value {
        wait_until(&format!("{} has rules", self.name), SOON, || {
            self.endpoint().filter(|one| one["generation"].as_u64() > Some(0))
        })
    }

    /// Takes it away, as runtime and kubelet do.
    pub(crate) fn delete(self) {
        self.end();
        self.ours("DEL").unwrap();
        self.take_down();
        let words = [
            "-n",
            &self.namespace,
            "delete",
            "pod",
            &self.name,
            "--grace-period=0",
            "--force",
            "--ignore-not-found",
        ];
        self.world.cluster.kubectl(&words).unwrap();
    }

    fn end(&self) {
        let machine = self.node().machine();
        if machine.runs(&self.sandbox) {
            // One that was killed already may be gone meanwhile.
            drop(machine.signal(&self.sandbox, nix::sys::signal::Signal::SIGKILL));
        }
    }

    /// Ends what runs in the sandbox, and takes its interface away. Our plugin is not told.
    pub(crate) fn take_down(&self) {
        self.end();
        let machine = self.node().machine();
        self.node().call_plugin(Path::new(PTP), "DEL", &self.sandbox, "", &self.theirs).unwrap();
        machine.output("ip", &["netns", "del", &self.sandbox]).unwrap();
    }
}

/// What runtimes tell plugins of a pod, in `CNI_ARGS`.
fn arguments(namespace: &str, name: &str, uid: &str) -> String {
    format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}")
}

fn theirs(node: &Node, has_both_families: bool) -> Value {
    let list = node.cni().unwrap();
    let mut plugin = list["plugins"][0].clone();
    if has_both_families {
        plugin["ipam"]["ranges"].as_array_mut().unwrap().push(json!([{"subnet": SUBNET6}]));
        plugin["ipam"]["routes"].as_array_mut().unwrap().push(json!({"dst": "::/0"}));
    }
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    plugin
}

/// Makes a pod's object and returns its UID; `more` are further fields of its spec.
pub(crate) fn object(
    world: &World,
    node: usize,
    namespace: &str,
    name: &str,
    labels: &str,
    more: &str,
) -> String {
    let node = world.nodes()[node].name();
    world.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}\nspec:\n  \
         nodeName: {node}\n  {more}\n  containers: [{{name: c, image: none}}]\n"
    ));
    world.kubectl(&format!("-n {namespace} get pod {name} -o jsonpath={{.metadata.uid}}"))
}

/// A TCP connection out of a pod to one of the web servers, which answer as long as one asks.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Asks once more on the same connection.
    pub(crate) fn asks(&mut self) -> io::Result<String> {
        self.stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        self.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut text = String::new();
        while !text.ends_with('\n') || !text.contains("hello") {
            let mut buffer = [0; 512];
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => text.push_str(&String::from_utf8_lossy(&buffer[..read])),
            }
        }
        Ok(text)
    }
}
