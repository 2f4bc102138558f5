//! Network namespaces of running pods, found by their processes.
//!
//! A process belongs to the pod whose cgroup it is in, which the workload cannot change; the outermost folder of a pod
//! counts, so that one that a workload makes below its own says nothing. Reads `/proc` of the whole machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::linux::fs::MetadataExt,
    path::Path,
};

/// The network namespace of a pod.
#[derive(Debug)]
pub struct PodNamespace {
    /// The pod's UID.
    pub pod_uid: String,
    /// Its namespace.
    pub namespace: File,
}

/// The network namespaces of pods that `wanted` knows, other than our own.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn find(wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PodNamespace>> {
    let own = fs::metadata("/proc/thread-self/ns/net")?.st_ino();
    let mut found: BTreeMap<u64, PodNamespace> = BTreeMap::new();
    let mut foreign = BTreeSet::from([own]);
    for entry in fs::read_dir("/proc")?.flatten() {
        if entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            // A process may end while it is looked at.
            visit(&entry.path(), &wanted, &mut foreign, &mut found);
        }
    }
    Ok(found.into_values().collect())
}

fn visit(
    process: &Path,
    wanted: &impl Fn(&str) -> bool,
    foreign: &mut BTreeSet<u64>,
    found: &mut BTreeMap<u64, PodNamespace>,
) -> Option<()> {
    let link = process.join("ns/net");
    let inode = fs::metadata(&link).ok()?.st_ino();
    if foreign.contains(&inode) || found.contains_key(&inode) {
        return None;
    }
    let cgroups = fs::read_to_string(process.join("cgroup")).ok()?;
    let pod_uid = pod_of(&cgroups, wanted)?;
    let namespace = File::open(link).ok()?;
    found.insert(inode, PodNamespace { pod_uid, namespace });
    Some(())
}

/// The pod that a process belongs to, from the text of `/proc/PID/cgroup`.
fn pod_of(cgroups: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let paths = cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).filter_map(uid_of).find(|uid| wanted(uid))
}

/// The UID in a folder's name: `podUID` (cgroupfs), `kubepods-burstable-podUID.slice` with `_` for `-` (systemd).
fn uid_of(folder: &str) -> Option<String> {
    let folder = folder.strip_suffix(".slice").unwrap_or(folder);
    let (before, uid) = folder.rsplit_once("pod")?;
    let ours = before.is_empty() || before.starts_with("kubepods") && before.ends_with('-');
    let uid = uid.replace('_', "-");
    let plain = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (ours && plain && uid.len() >= 32).then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "11111111-2222-3333-4444-555555555555";
    const OTHER: &str = "99999999-2222-3333-4444-555555555555";

    #[test]
    fn pods_of_both_cgroup_drivers() {
        let systemd = ONE.replace('-', "_");
        for text in [
            format!("0::/kubepods/burstable/pod{ONE}/abc"),
            format!("0::/kubepods/pod{ONE}"),
            format!(
                "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/cri-containerd-1.scope"
            ),
            format!("12:memory:/kubepods.slice/kubepods-pod{systemd}.slice/x\n0::/\n"),
            format!("0::/kubelet.slice/kubelet-kubepods.slice/kubepods-pod{systemd}.slice/x"),
        ] {
            assert_eq!(pod_of(&text, |_| true).as_deref(), Some(ONE), "{text}");
        }
        for text in ["0::/", "0::/system.slice/sshd.service", "0::/user/podman/pod-of-whales", "0::/kubepods"]
        {
            assert_eq!(pod_of(text, |_| true), None, "{text}");
        }
    }

    #[test]
    fn a_workload_cannot_name_itself_another() {
        let text = format!("0::/kubepods/pod{ONE}/ctr/pod{OTHER}");
        assert_eq!(pod_of(&text, |_| true).as_deref(), Some(ONE));
        // Where the node itself is a pod of another cluster, that cluster's pods are not ours.
        assert_eq!(pod_of(&text, |uid| uid == OTHER).as_deref(), Some(OTHER));
    }
}
