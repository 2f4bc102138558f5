//! File systems that the kernel's side of things is reached by: the BPF file system, in which programs and maps are
//! pinned, and the tree of cgroups (version 2).

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

use super::is_root;
use crate::command::run;

const BPF: &str = "/sys/fs/bpf";
const CGROUP: &str = "/sys/fs/cgroup";

/// Mounts each where none is mounted.
pub(super) fn prepare() -> Result<()> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    if !is_mounted_at(&mounts, BPF, "bpf") {
        mount("bpf", BPF, "programs and maps are pinned in it")?;
    }
    if !is_mounted(&mounts, "cgroup2") {
        mount("cgroup2", cgroup_place(&mounts), "commands are fenced by their cgroup")?;
    }
    Ok(())
}

fn mount(kind: &str, place: &str, why: &str) -> Result<()> {
    if !is_root() {
        bail!("no {kind} file system is mounted ({why}); mount it: sudo mount -t {kind} {kind} {place}");
    }
    eprintln!("mounting {kind} at {place}: {why}");
    // Below a tmpfs the folder may have to be made; sysfs has its own.
    if !Path::new(place).exists() {
        fs::create_dir(place).with_context(|| format!("cannot make {place}"))?;
    }
    run(Command::new("mount").args(["-t", kind, kind, place]))
}

/// Beside the old trees of version 1, where there are any.
fn cgroup_place(mounts: &str) -> &'static str {
    if entries(mounts).any(|(place, _)| place == CGROUP) { "/sys/fs/cgroup/unified" } else { CGROUP }
}

fn is_mounted(mounts: &str, kind: &str) -> bool {
    entries(mounts).any(|(_, found)| found == kind)
}

fn is_mounted_at(mounts: &str, place: &str, kind: &str) -> bool {
    entries(mounts).any(|entry| entry == (place, kind))
}

/// Place and kind of each mount.
fn entries(mounts: &str) -> impl Iterator<Item = (&str, &str)> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bpf_file_system_counts_in_its_usual_place_only() {
        assert!(is_mounted_at("x / ext4 rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n", BPF, "bpf"));
        assert!(!is_mounted_at("bpf /run/other bpf rw 0 0\nsysfs /sys sysfs rw 0 0\n", BPF, "bpf"));
    }

    #[test]
    fn cgroups_count_wherever_they_are_and_get_a_free_place() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert!(!is_mounted(hybrid, "cgroup2"));
        assert_eq!(cgroup_place(hybrid), "/sys/fs/cgroup/unified");
        assert_eq!(cgroup_place("sysfs /sys sysfs rw 0 0\n"), "/sys/fs/cgroup");
        assert!(is_mounted("cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n", "cgroup2"));
    }
}
