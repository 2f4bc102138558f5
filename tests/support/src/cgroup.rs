//! A cgroup of one's own under the cgroup v2 mount, wherever that is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::leftovers::fresh_name;

/// A cgroup whose members are killed, and which is removed with its children, when the guard is dropped.
#[derive(Debug)]
pub struct CgroupGuard {
    path: PathBuf,
}

impl CgroupGuard {
    /// Makes one; `role` ends its name.
    pub fn new(role: &str) -> Result<Self> {
        let mount = mount().ok_or_else(|| anyhow!("no cgroup2 mount in /proc/mounts"))?;
        let path = mount.join(fresh_name(role));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that starts inside: its first instruction is already a member's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let join = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        command.args(["-c", join]).arg(&self.path).arg(program).stdin(Stdio::null());
        command
    }

    /// Process numbers of the members.
    pub fn members(&self) -> Result<Vec<u32>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        text.lines().map(|line| Ok(line.parse()?)).collect()
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// Where cgroup v2 is mounted; on hybrid layouts that is not `/sys/fs/cgroup`.
pub(crate) fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// Kills the members of a cgroup of ours and removes it with its children.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")?;
    let end = Instant::now() + Duration::from_secs(10);
    while !fs::read_to_string(path.join("cgroup.events"))?.contains("populated 0") {
        if Instant::now() > end {
            return Err(io::Error::other("its members do not end"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    remove_tree(path)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&child.path())?;
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{privileged, wait_until};

    #[test]
    fn members_end_with_the_guard() {
        if !privileged() {
            return;
        }
        let cgroup = CgroupGuard::new("members").unwrap();
        let mut child = cgroup.command("sleep").arg("1000").spawn().unwrap();
        wait_until("it is a member", Duration::from_secs(5), || {
            (cgroup.members().unwrap() == [child.id()]).then_some(())
        });
        fs::create_dir(cgroup.path().join("child")).unwrap();
        let path = cgroup.path().to_owned();
        drop(cgroup);
        assert!(!path.exists());
        assert!(!child.wait().unwrap().success(), "it was killed");
    }
}
