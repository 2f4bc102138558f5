//! Names that tell whose something is, and the removal of what dead processes left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{bounded::output_within, cgroup, cluster};

/// What all names begin with.
pub(crate) const PREFIX: &str = "nwt";

/// How long a removal may take.
const LIMIT: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A name that no other guard of this machine has: `nwt<process>x<number>t<role>`.
pub(crate) fn fresh_name(role: &str) -> String {
    format!("{PREFIX}{}x{}t{role}", id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A folder for configuration, logs and sockets, which goes with the guard.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one; `role` ends its name.
    pub fn new(role: &str) -> Result<Self> {
        let path = scratch_root().join(fresh_name(role));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file in it and gives its path.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

/// Removes namespaces, cgroups and scratch folders of processes that are gone, and what still runs in them.
pub fn remove_leftovers() {
    // First, since its machines keep namespaces and folders.
    for cluster in cluster::clusters().iter().filter(|name| is_abandoned(name)) {
        if let Err(error) = cluster::remove(cluster) {
            eprintln!("the cluster {cluster} could not be removed: {error:#}");
        }
    }
    for namespace in abandoned(Path::new("/run/netns")) {
        remove_namespace(&namespace);
    }
    if let Some(mount) = cgroup::mount() {
        for name in abandoned(&mount) {
            drop(cgroup::remove(&mount.join(name)));
        }
    }
    for name in abandoned(&scratch_root()) {
        drop(fs::remove_dir_all(scratch_root().join(name)));
    }
}

/// Where configuration of servers and the like goes.
pub(crate) fn scratch_root() -> PathBuf {
    std::env::temp_dir()
}

/// Ends what still runs in a namespace of ours, and removes it.
pub(crate) fn remove_namespace(name: &str) {
    let pids = output_within(Command::new("ip").args(["netns", "pids", name]), LIMIT);
    let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // A thread of this very process may still be inside.
        if pid != id().cast_signed() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
    match output_within(Command::new("ip").args(["netns", "del", name]), LIMIT) {
        Ok(output) if output.status.success() => {}
        other => {
            eprintln!("namespace {name} could not be removed ({other:?}); `ip netns del {name}` does it")
        }
    }
}

/// Entries of a folder with our prefix whose process is gone.
fn abandoned(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_abandoned(name)).collect()
}

fn is_abandoned(name: &str) -> bool {
    let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split(['x', '-']).next());
    let process = process.and_then(|process| process.parse::<u32>().ok());
    process.is_some_and(|process| !lives(process))
}

/// Whether a process has not ended. One that only waits for its parent has.
pub(crate) fn lives(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The state follows the name, which may contain anything (proc_pid_stat(5)).
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_waits_for_the_parent_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        crate::wait_until("it has ended", Duration::from_secs(5), || (!lives(child.id())).then_some(()));
        assert!(lives(id()));
        child.wait().unwrap();
        assert!(!lives(child.id()));
    }

    #[test]
    fn only_names_of_dead_processes_are_abandoned() {
        assert!(!is_abandoned(&fresh_name("x")));
        assert!(is_abandoned("nwt4999999x0tx"));
        assert!(is_abandoned("nwt4999999x0h"));
        assert!(is_abandoned("nwt4999999-endpoint"), "a name that a crate's own test makes");
        for foreign in ["nwt", "nwtx1", "cni-4999999x0", "nwt12a4999999x0"] {
            assert!(!is_abandoned(foreign), "{foreign}");
        }
    }
}
