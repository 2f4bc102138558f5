//! Packages of the distribution: which, for what, and how to see that one is there.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{Stage, is_root};
use crate::command::{run, succeeds};

/// A package of Debian 12 (all of them are in `main` of the release and its security updates).
#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: &'static str,
    /// A file that it brings, or a command's name: on other systems these say what is missing.
    probe: &'static str,
    stage: Stage,
    why: &'static str,
}

const fn package(name: &'static str, probe: &'static str, stage: Stage, why: &'static str) -> Package {
    Package { name, probe, stage, why }
}

const PACKAGES: &[Package] = &[
    package(
        "llvm-22-dev",
        "/usr/lib/llvm-22/bin/llvm-config",
        Stage::Linker,
        "bpf-linker links the kernel programs with it",
    ),
    package(
        "clang-22",
        "/usr/lib/llvm-22/bin/clang",
        Stage::Linker,
        "compiles bpf-linker's bindings to LLVM",
    ),
    package(
        "libpolly-22-dev",
        "/usr/lib/llvm-22/lib/libPolly.a",
        Stage::Linker,
        "part of LLVM that bpf-linker asks for",
    ),
    package("libzstd-dev", "/usr/include/zstd.h", Stage::Linker, "LLVM is linked with it"),
    package("zlib1g-dev", "/usr/include/zlib.h", Stage::Linker, "LLVM is linked with it"),
    package("iproute2", "ip", Stage::Demo, "makes network namespaces and links"),
    package("procps", "sysctl", Stage::Demo, "lets the host's namespace forward"),
    package("nsd", "nsd", Stage::Demo, "the name server of the small internet"),
    package("knot-dnsutils", "kdig", Stage::Demo, "asks it, from inside workloads"),
    package("curl", "curl", Stage::Demo, "connects, from inside workloads"),
    package(
        "busybox-static",
        "busybox",
        Stage::Cluster,
        "a statically linked client, and what pods are made of",
    ),
    package("conntrack", "conntrack", Stage::Cluster, "kube-proxy forgets connections of services with it"),
    package(
        "containernetworking-plugins",
        "/usr/lib/cni/ptp",
        Stage::Cluster,
        "the CNI of the cluster on one machine: ptp, bridge, host-local",
    ),
    package("etcd-server", "etcd", Stage::Cluster, "keeps what its API server stores"),
    package(
        "nftables",
        "nft",
        Stage::Cluster,
        "nodes' services and masquerading; firewalls that must not stand in the way",
    ),
    package("golang-go", "go", Stage::Cluster, "compiles Kubernetes, and clients with Go's own resolver"),
    package("runc", "runc", Stage::Cluster, "starts the containers of its pods"),
    package("bpftool", "bpftool", Stage::Test, "shows what is attached, as somebody else sees it"),
    package("bind9-dnsutils", "dig", Stage::Test, "another DNS client"),
    package("dnsperf", "dnsperf", Stage::Test, "a DNS load that others know"),
    package("dnsmasq-base", "dnsmasq", Stage::Test, "a name server that listens where a host's stub does"),
    package("g++", "g++", Stage::Test, "compiles the fuzzer"),
    package("gcc", "gcc", Stage::Test, "compiles clients in C"),
    package("kmod", "modprobe", Stage::Test, "finds the modules of the oldest kernel, which a test boots"),
    package("musl-tools", "musl-gcc", Stage::Test, "compiles a client with musl's resolver"),
    package(
        "openjdk-17-jdk-headless",
        "javac",
        Stage::Test,
        "compiles and runs a client that keeps answers for long",
    ),
    package("nodejs", "node", Stage::Test, "a client with a resolver in threads"),
    package(
        "prometheus",
        "promtool",
        Stage::Test,
        "checks and tests the alerts, and parses the dashboard's queries",
    ),
    package("python3", "/usr/bin/python3", Stage::Test, "programs that try to leave the fence"),
    package("qemu-system-x86", "qemu-system-x86_64", Stage::Test, "boots that kernel in a virtual machine"),
    package("unbound", "unbound", Stage::Test, "a recursive name server that validates"),
    package("dnsdist", "dnsdist", Stage::Bench, "a DNS forwarder to be compared with"),
    package("util-linux", "taskset", Stage::Bench, "gives each server the same processor"),
];

/// Installs the packages of a stage that are missing.
pub(super) fn prepare(stage: Stage) -> Result<()> {
    let wanted = |package: &&Package| package.stage != Stage::Linker && package.stage <= stage;
    install(&PACKAGES.iter().filter(wanted).filter(|package| !package.is_there()).collect::<Vec<_>>())
}

/// Installs what compiling bpf-linker needs.
pub(super) fn prepare_linker() -> Result<()> {
    let wanted = |package: &&Package| package.stage == Stage::Linker && !package.is_there();
    install(&PACKAGES.iter().filter(wanted).collect::<Vec<_>>())
}

/// Where a command is, also in the folders that only root's `PATH` has.
pub(super) fn find_command(name: &str) -> Option<PathBuf> {
    let search = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&search).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Package {
    fn is_there(&self) -> bool {
        if self.probe.starts_with('/') {
            Path::new(self.probe).exists()
        } else {
            find_command(self.probe).is_some()
        }
    }
}

fn install(missing: &[&Package]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let reasons: String =
        missing.iter().map(|package| format!("  {:<16} {}\n", package.name, package.why)).collect();
    if find_command("apt-get").is_none() {
        bail!("these are missing, by their names in Debian; install what gives their commands:\n{reasons}");
    }
    let names = names.join(" ");
    if !is_root() {
        bail!(
            "these packages are missing:\n{reasons}install them: sudo apt-get install --no-install-recommends {names}"
        );
    }
    eprint!("installing packages:\n{reasons}");
    let _quiet = NoServices::new()?;
    let mut install =
        || run(apt().args(["install", "--yes", "--no-install-recommends"]).args(names.split(' ')));
    let installed = if names.split(' ').all(is_known) {
        with_fresh_lists(&mut install)
    } else {
        update().and_then(|()| install())
    };
    installed.with_context(|| {
        format!(
            "Debian 12 has all of them, LLVM 22 among its security updates (bookworm-security): see that apt knows \
             those; elsewhere install what is named here in the system's own way: {names}"
        )
    })?;
    keep_services_stopped(missing);
    Ok(())
}

/// Does what gets packages; once more with new lists when it fails, since old ones name versions that are gone.
pub(super) fn with_fresh_lists(get: &mut impl FnMut() -> Result<()>) -> Result<()> {
    get().or_else(|error| {
        eprintln!("{error:#}; once more with new lists of packages");
        update()?;
        get()
    })
}

fn update() -> Result<()> {
    run(apt().arg("update"))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "-o", "DPkg::Lock::Timeout=600"]);
    command
}

fn is_known(package: &str) -> bool {
    succeeds(Command::new("apt-get").args(["install", "--simulate", "--no-install-recommends", package]))
}

/// Servers that were installed for tests must not begin to serve this machine, now or at its next start.
fn keep_services_stopped(installed: &[&Package]) {
    let services =
        [("nsd", "nsd"), ("prometheus", "prometheus"), ("unbound", "unbound"), ("etcd-server", "etcd")];
    let new = |name: &str| installed.iter().any(|package| package.name == name);
    for (_, service) in services.iter().filter(|(package, _)| new(package)) {
        if Path::new("/run/systemd/system").exists() {
            succeeds(Command::new("systemctl").args(["disable", "--now", "--quiet", service]));
        }
    }
}

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# cargo xtask setup: name servers for tests are installed, not started\nexit 101\n";

/// While it lives, Debian's packages start no services. Somebody else's policy is left as it is.
#[derive(Debug)]
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        // A text of ours is what a killed run left.
        let ours = fs::read_to_string(POLICY).map_or(true, |text| text == POLICY_TEXT);
        if ours {
            fs::write(POLICY, POLICY_TEXT).with_context(|| format!("cannot write {POLICY}"))?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            drop(fs::remove_file(POLICY));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_named_once_with_a_reason() {
        for (number, package) in PACKAGES.iter().enumerate() {
            assert!(
                PACKAGES[..number].iter().all(|earlier| earlier.name != package.name),
                "{}",
                package.name
            );
            assert!(!package.why.is_empty() && !package.probe.is_empty());
        }
    }

    #[test]
    fn probes_see_files_and_commands() {
        assert!(package("x", "/proc/self/status", Stage::Test, "x").is_there());
        assert!(package("x", "sh", Stage::Test, "x").is_there());
        assert!(!package("x", "no-such-command", Stage::Test, "x").is_there());
        assert!(!package("x", "/proc/self/absent", Stage::Test, "x").is_there());
    }
}
