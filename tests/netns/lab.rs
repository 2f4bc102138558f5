//! A host and its workloads in namespaces of their own, joined by veth pairs; all of it goes when it is dropped.
//!
//! Names begin with `nwt` and the number of the process: what a crashed run left is found by them.

use std::{
    fs::File,
    net::IpAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use nameward_enforcer::kernel::{Host, HostOptions};
use nix::sched::{CloneFlags, setns};

/// Of `br0`.
pub(crate) const BRIDGE_MAC: &str = "02:00:00:00:08:01";

static NUMBER: AtomicU32 = AtomicU32::new(0);
static CLEAN: Once = Once::new();

/// Whether privileged tests can run here; where they must (`NAMEWARD_MUST_RUN=1`), it fails instead.
pub(crate) fn privileged() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        CLEAN.call_once(remove_leftovers);
        return true;
    }
    assert!(
        std::env::var_os("NAMEWARD_MUST_RUN").is_none(),
        "NAMEWARD_MUST_RUN is set, but this is not root"
    );
    false
}

/// Runs a command that must succeed and returns its output.
pub(crate) fn must(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// One test's piece of the world.
pub(crate) struct Lab {
    /// `nwt<process>x<number>`; the instance of pins, too.
    pub(crate) name: String,
    workloads: Vec<String>,
}

impl Lab {
    /// A host without workloads.
    pub(crate) fn new() -> Self {
        let name = format!("nwt{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name, workloads: Vec::new() };
        must(&format!("ip netns add {0} && ip -n {0} link set lo up", lab.host()));
        must(&format!(
            "nsenter --net=/run/netns/{} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            lab.host()
        ));
        lab
    }

    /// Name of the host's namespace.
    pub(crate) fn host(&self) -> String {
        format!("{}h", self.name)
    }

    /// Adds a workload behind a veth `w<number>` of the host: 10.7.<number>.2 and 2001:db8:7:<number>::2.
    pub(crate) fn workload(&mut self) -> Workload {
        let number = self.workloads.len() + 1;
        let namespace = format!("{}w{number}", self.name);
        self.workloads.push(namespace.clone());
        let (host, interface) = (self.host(), format!("w{number}"));
        must(&format!(
            "ip netns add {namespace} &&
             ip -n {host} link add {interface} type veth peer name eth0 netns {namespace} &&
             ip -n {host} addr add 10.7.{number}.1/24 dev {interface} &&
             ip -n {host} addr add 2001:db8:7:{number}::1/64 dev {interface} nodad &&
             ip -n {host} link set {interface} up &&
             ip -n {namespace} link set lo up &&
             ip -n {namespace} addr add 10.7.{number}.2/24 dev eth0 &&
             ip -n {namespace} addr add 2001:db8:7:{number}::2/64 dev eth0 nodad &&
             ip -n {namespace} link set eth0 up &&
             ip -n {namespace} route add default via 10.7.{number}.1 &&
             ip -n {namespace} route add default via 2001:db8:7:{number}::1"
        ));
        let addresses = [format!("10.7.{number}.2"), format!("2001:db8:7:{number}::2")];
        Workload { namespace, interface, addresses: addresses.map(|text| text.parse().unwrap()).to_vec() }
    }

    /// Adds a workload at a port `b<number>` of the host's bridge `br0`, which is its gateway: 10.8.0.<number> and
    /// 2001:db8:8::<number>.
    pub(crate) fn bridged(&mut self) -> Workload {
        let host = self.host();
        let ports = self.workloads.iter().filter(|one| one.starts_with(&format!("{}b", self.name))).count();
        if ports == 0 {
            must(&format!(
                "ip -n {host} link add br0 address {BRIDGE_MAC} type bridge &&
                 ip -n {host} addr add 10.8.0.1/24 dev br0 &&
                 ip -n {host} addr add 2001:db8:8::1/64 dev br0 nodad &&
                 ip -n {host} link set br0 up"
            ));
        }
        let number = ports + 2;
        let namespace = format!("{}b{number}", self.name);
        self.workloads.push(namespace.clone());
        let interface = format!("b{number}");
        must(&format!(
            "ip netns add {namespace} &&
             ip -n {host} link add {interface} type veth peer name eth0 netns {namespace} &&
             ip -n {host} link set {interface} master br0 up &&
             ip -n {namespace} link set lo up &&
             ip -n {namespace} addr add 10.8.0.{number}/24 dev eth0 &&
             ip -n {namespace} addr add 2001:db8:8::{number}/64 dev eth0 nodad &&
             ip -n {namespace} link set eth0 up &&
             ip -n {namespace} route add default via 10.8.0.1 &&
             ip -n {namespace} route add default via 2001:db8:8::1"
        ));
        let addresses = [format!("10.8.0.{number}"), format!("2001:db8:8::{number}")];
        Workload { namespace, interface, addresses: addresses.map(|text| text.parse().unwrap()).to_vec() }
    }

    /// The namespace of servers behind the host: 203.0.113.10-12 and 2001:db8:1::10-12.
    pub(crate) fn internet(&mut self) -> String {
        let (host, namespace) = (self.host(), format!("{}i", self.name));
        self.workloads.push(namespace.clone());
        let addresses: String = (10..13)
            .map(|last| {
                format!(
                    "ip -n {namespace} addr add 203.0.113.{last}/24 dev eth0 &&
                     ip -n {namespace} addr add 2001:db8:1::{last}/64 dev eth0 nodad &&"
                )
            })
            .collect();
        must(&format!(
            "ip netns add {namespace} &&
             ip -n {host} link add internet type veth peer name eth0 netns {namespace} &&
             ip -n {host} addr add 203.0.113.1/24 dev internet &&
             ip -n {host} addr add 2001:db8:1::1/64 dev internet nodad &&
             ip -n {host} link set internet up && ip -n {namespace} link set lo up && {addresses}
             ip -n {namespace} link set eth0 up &&
             ip -n {namespace} route add default via 203.0.113.1 &&
             ip -n {namespace} route add default via 2001:db8:1::1"
        ));
        namespace
    }

    /// A folder for files of this test.
    pub(crate) fn state(&self) -> PathBuf {
        std::env::temp_dir().join(&self.name)
    }

    /// Where this test pins.
    pub(crate) fn options(&self) -> HostOptions {
        HostOptions { instance: Some(self.name.clone()), ..HostOptions::default() }
    }

    /// The folder of this test's pins.
    pub(crate) fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/nameward").join(&self.name).join("v1")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Ok(host) = Host::open(&self.options()) {
            drop(host.remove_all());
        }
        drop(std::fs::remove_dir_all(self.state()));
        for namespace in self.workloads.iter().chain([&self.host()]) {
            remove_namespace(namespace);
        }
    }
}

/// A workload and the host's end of its link.
pub(crate) struct Workload {
    /// Its namespace.
    pub(crate) namespace: String,
    /// The host's interface.
    pub(crate) interface: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Does `work` in a namespace, on a thread of its own, with a tokio runtime whose threads are there as well.
pub(crate) fn inside<T: Send>(namespace: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap()
                .block_on(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Does `work` in a namespace, on a thread of its own; what it opens stays there.
pub(crate) fn inside_thread<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn remove_namespace(name: &str) {
    let removed = Command::new("ip").args(["netns", "del", name]).status();
    if !removed.is_ok_and(|status| status.success()) {
        eprintln!("namespace {name} could not be removed");
    }
}

/// Removes namespaces and pins of runs whose process is gone.
fn remove_leftovers() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(rest) = name.strip_prefix("nwt") else { continue };
        let process = rest.split('x').next().unwrap_or_default();
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            remove_namespace(&name);
        }
    }
    drop(Host::remove_abandoned(Path::new("/sys/fs/bpf"), "nwt"));
}
