//! Programs in Go that tests and measurements run: a real Kubernetes, CoreDNS, Helm. Built once into the cache, from
//! Go modules.
//!
//! A version is built in a folder of its own and put in place by one rename, under one lock for all of them: on few
//! processors, two builds at once only take longer, and they share what Go keeps of each.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::packages::find_command;
use crate::{
    command::{output, run},
    workspace::cache,
};

/// A program, where its source is, and what it is built for.
#[derive(Debug)]
struct Program {
    name: &'static str,
    source: Source,
    why: &'static str,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// `k8s.io/kubernetes/cmd/NAME`.
    Kubernetes,
    /// A package that `go install` can build as it is.
    Package { path: &'static str, version: &'static str },
}

const KUBERNETES: &str = "v1.37.2";
/// Kubernetes names the modules of its own tree at this version, which does not exist outside of it.
const UNRELEASED: &str = "v0.0.0";
const LINKER_FLAGS: &str = "-s -w";

const fn kubernetes(name: &'static str, why: &'static str) -> Program {
    Program { name, source: Source::Kubernetes, why }
}

const fn package(
    name: &'static str,
    path: &'static str,
    version: &'static str,
    why: &'static str,
) -> Program {
    Program { name, source: Source::Package { path, version }, why }
}

const CONTAINERD: &str = "v2.4.2";
const PROGRAMS: [Program; 11] = [
    kubernetes("kube-apiserver", "the API of the test cluster"),
    kubernetes("kubectl", "asks it, as users do"),
    kubernetes("kube-controller-manager", "makes pods of Deployments, and endpoints of Services"),
    kubernetes("kube-scheduler", "places pods on nodes"),
    kubernetes("kubelet", "runs pods on a node"),
    kubernetes("kube-proxy", "makes Services reachable from a node"),
    package("coredns", "github.com/coredns/coredns", "v1.15.0", "the DNS of a cluster"),
    package(
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd",
        CONTAINERD,
        "the container runtime of a node",
    ),
    package(
        "containerd-shim-runc-v2",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        CONTAINERD,
        "stands between it and each pod",
    ),
    package(
        "ctr",
        "github.com/containerd/containerd/v2/cmd/ctr",
        CONTAINERD,
        "puts images into a node's runtime",
    ),
    package("helm", "helm.sh/helm/v4/cmd/helm", "v4.3.1", "installs the chart"),
];

/// What a cluster on this machine consists of, behind what installs charts on it.
pub(crate) const HELM: [&str; 11] = [
    "helm",
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
];

/// What a cluster on this machine consists of.
pub(crate) const CLUSTER: &[&str] = HELM.split_at(1).1;

/// Everything that can be built here.
pub(crate) fn all() -> Vec<&'static str> {
    PROGRAMS.iter().map(|program| program.name).collect()
}

/// Builds those programs that are missing, and returns a `PATH` on which they come first.
pub(crate) fn prepare(names: &[&str]) -> Result<OsString> {
    let folder = cache()?.join("go");
    let wanted = names.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?;
    build_missing(&folder, &wanted)?;
    let ours = wanted.iter().map(|program| program.folder(&folder));
    let others = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(ours.chain(env::split_paths(&others)))?)
}

fn find(name: &str) -> Result<&'static Program> {
    let found = PROGRAMS.iter().find(|program| program.name == name);
    found.ok_or_else(|| anyhow!("{name} is not among the programs that are built from Go"))
}

fn build_missing(folder: &Path, wanted: &[&Program]) -> Result<()> {
    if wanted.iter().all(|program| program.is_built(folder)) {
        return Ok(());
    }
    if find_command("go").is_none() {
        bail!(
            "Go is missing, which compiles the programs of a cluster; install it: apt-get install golang-go"
        );
    }
    fs::create_dir_all(folder)?;
    let lock = File::create(folder.join(".lock"))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another process that builds Go programs");
        lock.lock().context("cannot lock the folder of Go programs")?;
    }
    let missing: Vec<_> = wanted.iter().filter(|program| !program.is_built(folder)).collect();
    for (number, program) in missing.iter().enumerate() {
        let (name, version, why) = (program.name, program.version(), program.why);
        eprintln!(
            "building {name} {version} ({why}), {} of {}, once; it takes minutes",
            number + 1,
            missing.len()
        );
        program.build(folder).with_context(|| format!("{name} {version} could not be built"))?;
    }
    Ok(())
}

impl Program {
    fn version(&self) -> &'static str {
        match self.source {
            Source::Kubernetes => KUBERNETES,
            Source::Package { version, .. } => version,
        }
    }

    fn folder(&self, all: &Path) -> PathBuf {
        all.join(format!("{}-{}", self.name, self.version()))
    }

    fn is_built(&self, all: &Path) -> bool {
        self.folder(all).join(self.name).is_file()
    }

    fn build(&self, all: &Path) -> Result<()> {
        let half_built = all.join(format!(".building-{}-{}", self.name, self.version()));
        let folder = self.folder(all);
        for leftover in [&half_built, &folder] {
            if leftover.exists() {
                fs::remove_dir_all(leftover)
                    .with_context(|| format!("cannot remove {}", leftover.display()))?;
            }
        }
        fs::create_dir_all(&half_built)?;
        match self.source {
            Source::Kubernetes => build_kubernetes(all, self.name, &half_built)?,
            Source::Package { path, version } => {
                let mut go = Command::new("go");
                go.args(["install", "-trimpath", "-ldflags", LINKER_FLAGS, &format!("{path}@{version}")]);
                run(go.env("GOBIN", &half_built).current_dir(&half_built))?;
            }
        }
        fs::rename(&half_built, &folder).with_context(|| format!("cannot put {} in place", folder.display()))
    }
}

/// `go install` refuses Kubernetes, whose own module replaces others: it is built from a module of ours that
/// replaces the same ones by their releases.
fn build_kubernetes(all: &Path, name: &str, target: &Path) -> Result<()> {
    let module = all.join(format!(".module-kubernetes-{KUBERNETES}"));
    fs::create_dir_all(&module)?;
    let file = module.join("go.mod");
    if !file.is_file() {
        let mut download = Command::new("go");
        download.args(["mod", "download", "-json", &format!("k8s.io/kubernetes@{KUBERNETES}")]);
        let about: Value = serde_json::from_str(&output(download.current_dir(&module))?)?;
        let path = about["GoMod"].as_str().context("go mod download names no go.mod")?;
        fs::write(&file, module_text(&fs::read_to_string(path)?)?)?;
    }
    let flags = format!("{LINKER_FLAGS} -X k8s.io/component-base/version.gitVersion={KUBERNETES}");
    let mut go = Command::new("go");
    go.args(["build", "-mod=mod", "-trimpath", "-ldflags", &flags, "-o"]).arg(target);
    run(go.arg(format!("k8s.io/kubernetes/cmd/{name}")).current_dir(&module))
}

/// The text of our module, from that of Kubernetes.
fn module_text(kubernetes: &str) -> Result<String> {
    let language =
        kubernetes.lines().find(|line| line.starts_with("go ")).context("no line names Go's version")?;
    let release = KUBERNETES.replacen("v1.", "v0.", 1);
    let modules = kubernetes.lines().filter_map(|line| {
        let (module, version) = line.trim().split_once(' ')?;
        (module.starts_with("k8s.io/") && version.split(' ').next() == Some(UNRELEASED)).then_some(module)
    });
    let replaced: String =
        modules.map(|module| format!("replace {module} {UNRELEASED} => {module} {release}\n")).collect();
    Ok(format!(
        "module nameward.invalid/kubernetes\n\n{language}\n\nrequire k8s.io/kubernetes {KUBERNETES}\n\n{replaced}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_the_tree_are_replaced_by_their_releases() {
        let text = module_text(
            "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.130.1\n\
             \tk8s.io/kubelet v0.0.0 // indirect\n\texample.com/x v0.0.0\n)\n",
        );
        let text = text.unwrap();
        assert!(text.contains("\ngo 1.26.0\n"), "{text}");
        assert!(text.contains("replace k8s.io/api v0.0.0 => k8s.io/api v0.37.2\n"), "{text}");
        assert!(text.contains("replace k8s.io/kubelet v0.0.0 =>"), "{text}");
        assert_eq!(text.matches("replace").count(), 2, "{text}");
    }

    #[test]
    fn a_cluster_is_made_of_programs_that_can_be_built() {
        for name in HELM {
            find(name).unwrap();
        }
        assert!(find("kubeadm").unwrap_err().to_string().contains("kubeadm"));
    }

    #[test]
    fn what_is_built_is_not_built_again_and_comes_first() {
        let folder = env::temp_dir().join(format!("nwt{}-go", std::process::id()));
        let program = find("coredns").unwrap();
        assert!(!program.is_built(&folder));
        // A folder without the program is what a killed build may leave; it does not count.
        fs::create_dir_all(program.folder(&folder)).unwrap();
        assert!(!program.is_built(&folder));
        fs::write(program.folder(&folder).join("coredns"), "").unwrap();
        assert!(program.is_built(&folder));
        build_missing(&folder, &[program]).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }
}
