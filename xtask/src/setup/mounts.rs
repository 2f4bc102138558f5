//! The BPF file system, in which programs and maps are pinned.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use super::is_root;
use crate::command::run;

const MOUNT: &str = "mount -t bpf bpf /sys/fs/bpf";

/// Mounts it where none is mounted.
pub(super) fn prepare() -> Result<()> {
    if is_mounted(&fs::read_to_string("/proc/mounts")?) {
        return Ok(());
    }
    if !is_root() {
        bail!("no BPF file system is mounted; mount it: sudo {MOUNT}");
    }
    eprintln!("mounting the BPF file system: programs and maps are pinned in it");
    run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]))
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/sys/fs/bpf") && words.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_place_counts() {
        assert!(is_mounted("x / ext4 rw 0 0\nbpf /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!is_mounted("bpf /run/other bpf rw 0 0\nsysfs /sys sysfs rw 0 0\n"));
    }
}
