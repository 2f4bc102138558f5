//! `nameward check node`: which row of docs/platforms.md a node is, and what keeps Nameward from guarding its pods.
//!
//! [`Facts`] are read from files that everybody may read; [`judge`] is pure. What cannot be seen in files (whether a CNI
//! delivers past the host's side of a link, for one) is said as a note, never guessed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nameward_feed::cni::{CONFLIST, PLUGIN, is_configuration};
use serde_json::Value;

use super::report::{Finding, Severity};

/// The oldest kernel that the programs load on, and the first on which links hold their order.
const OLDEST: (u32, u32) = (6, 1);
const WITH_LINKS: (u32, u32) = (6, 6);

/// How packets of a pod come to its node, as far as the name of a plugin tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A veth of its own, and a route of the node to it.
    Routed,
    /// A veth that is a port of a bridge.
    Bridge,
    /// A veth, past whose host's side the CNI may deliver.
    Peer,
    /// Nothing of it on the node's side that a program could be attached to.
    Without,
    /// Several networks, of which a chain sees the first.
    Several,
    /// Nobody has looked.
    Unknown,
}

/// Plugins by their `type`, whether tests have run them, and what they make.
const PLUGINS: [(&str, bool, Shape); 16] = [
    ("ptp", true, Shape::Routed),
    ("bridge", true, Shape::Bridge),
    ("flannel", false, Shape::Bridge),
    ("kindnet", false, Shape::Routed),
    ("calico", false, Shape::Routed),
    ("aws-cni", false, Shape::Routed),
    ("azure-vnet", false, Shape::Routed),
    ("gke", false, Shape::Routed),
    ("cilium-cni", false, Shape::Peer),
    ("macvlan", false, Shape::Without),
    ("ipvlan", false, Shape::Without),
    ("sriov", false, Shape::Without),
    ("host-device", false, Shape::Without),
    ("vlan", false, Shape::Without),
    ("multus", false, Shape::Several),
    ("multus-shim", false, Shape::Several),
];

/// What a node's files say.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// `/proc/sys/kernel/osrelease`.
    kernel: String,
    /// `/proc/mounts`.
    mounts: String,
    /// Where CNI configurations are, and those that a runtime would read, by name.
    cni: (PathBuf, Vec<(String, String)>),
}

impl Facts {
    /// Reads the files.
    ///
    /// # Errors
    /// When `/proc` cannot be read; a folder of CNI configurations that is not there holds none.
    pub(super) fn read(cni: &Path) -> Result<Self> {
        let text = |file: &str| fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
        let files = configurations(cni).with_context(|| format!("cannot read {}", cni.display()))?;
        Ok(Self {
            kernel: text("/proc/sys/kernel/osrelease")?,
            mounts: text("/proc/mounts")?,
            cni: (cni.to_path_buf(), files),
        })
    }
}

fn configurations(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if is_configuration(&path) && path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

/// What has to be changed on the node, and what holds there.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(kernel(&facts.kernel));
    findings.extend(mounts(&facts.mounts));
    findings.extend(cni(&facts.cni.0, &facts.cni.1));
    findings
}

fn finding(severity: Severity, code: &'static str, message: String, write: &str) -> Finding {
    Finding { line: None, severity, code, message, write: write.to_owned() }
}

fn kernel(release: &str) -> Option<Finding> {
    let release = release.trim();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        let message = format!("the kernel's release {release:?} has no numbers");
        return Some(finding(Severity::Error, "kernel", message, "a kernel of Linux 6.1 or later"));
    };
    if (major, minor) < OLDEST {
        let message = format!("Linux {release} cannot load the programs");
        return Some(finding(Severity::Error, "kernel", message, "a kernel of Linux 6.1 or later"));
    }
    ((major, minor) < WITH_LINKS).then(|| {
        let message = format!(
            "Linux {release} has no links that hold the order of programs: whoever is root on the node can take the fence of a pod \
             away, which is noticed and put right"
        );
        let write = "nothing where you trust those; else a kernel of Linux 6.6 or later";
        finding(Severity::Warning, "kernel-without-links", message, write)
    })
}

fn mounts(text: &str) -> Option<Finding> {
    let at = |place: &str, kind: &str| {
        let mut mounts = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        mounts.any(|fields| fields.len() > 2 && fields[1] == place && fields[2] == kind)
    };
    (!at("/sys/fs/bpf", "bpf")).then(|| {
        let message = "no BPF file system is mounted: nothing would outlive the enforcer".to_owned();
        let write = "mount -t bpf bpf /sys/fs/bpf (the chart does it by itself)";
        finding(Severity::Warning, "bpffs", message, write)
    })
}

fn cni(folder: &Path, files: &[(String, String)]) -> Vec<Finding> {
    let Some((first, _)) = files.first() else {
        let message = format!("{} holds no CNI configuration", folder.display());
        let write = "--cni-conf-dir with the folder that the container runtime of this node reads";
        return vec![finding(Severity::Error, "no-cni", message, write)];
    };
    let mut findings = Vec::new();
    if first != CONFLIST {
        let message = format!(
            "{} is in force, without {PLUGIN}: pods that start are guarded only when the enforcer has found them",
            folder.join(first).display()
        );
        let write = "nameward-cni install --watch (the chart does it by itself)";
        findings.push(finding(Severity::Warning, "not-chained", message, write));
        if first.as_str() < CONFLIST && files.iter().any(|(name, _)| name == CONFLIST) {
            let message = format!("{first} sorts before {CONFLIST}, which is not read therefore");
            findings.push(finding(Severity::Error, "not-first", message, "a name for it that sorts later"));
        }
    }
    let Some((name, text)) = files.iter().find(|(name, _)| name != CONFLIST) else { return findings };
    match first_plugin(text) {
        Some(plugin) => findings.push(shape(&plugin)),
        None => {
            let message = format!("{} is no configuration of a CNI", folder.join(name).display());
            findings.push(finding(Severity::Error, "no-cni", message, "what the CNI's documentation says"));
        }
    }
    findings
}

/// The `type` of the plugin that makes the interface: the first of a list, or the only one.
fn first_plugin(text: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(text).ok()?;
    let plugin =
        parsed["plugins"].as_array().map_or(&parsed, |plugins| plugins.first().unwrap_or(&Value::Null));
    Some(plugin["type"].as_str()?.to_owned())
}

fn shape(plugin: &str) -> Finding {
    let known = PLUGINS.iter().find(|(name, ..)| *name == plugin);
    let (tried, shape) = known.map_or((false, Shape::Unknown), |(_, tried, shape)| (*tried, *shape));
    let row = |words: &str| format!("the CNI `{plugin}` {words}");
    let untried = "docs/platforms.md says what holds; try it on a node of yours first";
    match shape {
        Shape::Routed | Shape::Bridge if tried => {
            let what = if shape == Shape::Routed { "routed" } else { "bridge" };
            finding(
                Severity::Note,
                "shape",
                row(&format!("makes the shape `{what}`, and is tested")),
                "nothing",
            )
        }
        Shape::Routed => {
            let words = "makes the shape `routed`, which is tested; it itself is not";
            finding(Severity::Warning, "untried-cni", row(words), untried)
        }
        Shape::Bridge => {
            let words = "makes the shape `bridge`, which is tested; it itself is not";
            finding(Severity::Warning, "untried-cni", row(words), untried)
        }
        Shape::Peer => {
            let words = "may deliver past the host's side of a pod's link: servers in guarded pods cannot answer then";
            let write = "`delivery: Peer` in the settings, if it does and you accept docs/decisions/0007; nothing helps with netkit devices";
            finding(Severity::Warning, "peer-delivery", row(words), write)
        }
        Shape::Without => {
            let words =
                "makes interfaces without a side on the node: pods that use it are shown as not covered";
            finding(Severity::Error, "not-covered", row(words), "another CNI for pods that are to be guarded")
        }
        Shape::Several => {
            let words = "makes several interfaces, and a chain sees the first alone: the others are told in `notCovered`";
            finding(
                Severity::Error,
                "several-networks",
                row(words),
                "only one network for pods that are to be guarded",
            )
        }
        Shape::Unknown => {
            finding(Severity::Warning, "unknown-cni", row("is not one that anybody has looked at"), untried)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n";
    const OURS: (&str, &str) = (CONFLIST, r#"{"plugins":[{"type":"ptp"},{"type":"nameward-cni"}]}"#);

    fn codes(kernel: &str, mounts: &str, files: &[(&str, &str)]) -> Vec<&'static str> {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let facts =
            Facts { kernel: kernel.into(), mounts: mounts.into(), cni: ("/etc/cni/net.d".into(), files) };
        judge(&facts).iter().map(|finding| finding.code).collect()
    }

    fn with_cni(plugin: &str) -> Vec<&'static str> {
        let text = format!(r#"{{"plugins":[{{"type":"{plugin}"}},{{"type":"portmap"}}]}}"#);
        codes("6.18.5\n", MOUNTS, &[OURS, ("10-x.conflist", &text)])
    }

    #[test]
    fn a_node_like_that_of_the_tests_needs_nothing() {
        assert_eq!(with_cni("ptp"), ["shape"]);
        assert_eq!(with_cni("bridge"), ["shape"]);
    }

    #[test]
    fn kernels() {
        let of = |kernel| codes(kernel, MOUNTS, &[OURS]);
        assert_eq!(of("5.15.0-91-generic"), ["kernel"]);
        assert_eq!(of("6.1.0-18-amd64"), ["kernel-without-links"]);
        assert_eq!(of("6.6.0"), Vec::<&str>::new());
        assert_eq!(of("10.0-rc1"), Vec::<&str>::new());
        assert_eq!(of("unknown"), ["kernel"]);
    }

    #[test]
    fn what_nobody_has_tried_is_said() {
        assert_eq!(with_cni("calico"), ["untried-cni"]);
        assert_eq!(with_cni("cilium-cni"), ["peer-delivery"]);
        assert_eq!(with_cni("ipvlan"), ["not-covered"]);
        assert_eq!(with_cni("multus-shim"), ["several-networks"]);
        assert_eq!(with_cni("of-mine"), ["unknown-cni"]);
    }

    #[test]
    fn configurations_that_hide_ours() {
        let single = r#"{"type":"ptp"}"#;
        assert_eq!(codes("6.18", "", &[("10-x.conf", single)]), ["bpffs", "not-chained", "shape"]);
        assert_eq!(
            codes("6.18", MOUNTS, &[("00-a.conf", single), OURS]),
            ["not-chained", "not-first", "shape"]
        );
        assert_eq!(codes("6.18", MOUNTS, &[]), ["no-cni"]);
        assert_eq!(codes("6.18", MOUNTS, &[OURS, ("10-x.conf", "{")]), ["no-cni"]);
    }
}
