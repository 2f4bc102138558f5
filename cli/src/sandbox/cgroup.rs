//! The cgroup of one sandbox: made below the caller's own, so that the caller's limits go on to hold.
//!
//! Gives a folder and a descriptor to spawn into; killing is the kernel's `cgroup.kill`, and connections go with the
//! processes. Does not attach programs, and never touches a cgroup that it did not make.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nameward_enforcer::end_sockets;

/// Longest time for the processes of a killed cgroup to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A cgroup of our own.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    folder: File,
}

impl Cgroup {
    /// Where [`create`](Self::create) will make the cgroup `name`: below the caller's own.
    pub(crate) fn place(name: &str) -> Result<PathBuf> {
        Ok(own_cgroup()?.join(name))
    }

    /// Makes the cgroup at `path`.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| {
            format!("cannot make the cgroup {}; cgroup v2 must be mounted read-write", path.display())
        })?;
        let folder =
            File::open(&path).with_context(|| format!("cannot open the cgroup {}", path.display()))?;
        Ok(Self { path, folder })
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor, for `CLONE_INTO_CGROUP`.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!(
                "nameward: the cgroup {} is left behind: {error}; the next run removes it",
                self.path.display()
            );
        }
    }
}

/// Kills whatever lives in a cgroup and below, ends the connections that it leaves, and removes the cgroup with all in it.
/// What had been sent last may not have arrived: without an end, the kernel would go on to send it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    let started = Instant::now();
    let left = || KILL_TIMEOUT.saturating_sub(started.elapsed());
    while !left().is_zero() && wait_until_empty(path, left())? == Populated::Yes {}
    if let Err(error) = end_sockets(path) {
        // They end by themselves; who takes the fence down waits for that.
        tracing::debug!(%error, "connections of a command cannot be ended");
    }
    loop {
        match remove_folders(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && !left().is_zero() => {
                wait_until_empty(path, left())?;
            }
            other => return other,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Populated {
    Yes,
    No,
}

fn remove_folders(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_folders(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// `cgroup.events` becomes readable by priority when `populated` changes (cgroup-v2, "cgroup.events").
fn wait_until_empty(path: &Path, timeout: Duration) -> io::Result<Populated> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let file = File::open(path.join("cgroup.events"))?;
    if io::read_to_string(&file)?.contains("populated 1") {
        // At most 100 ms a round: a process that is gone may keep its cgroup busy a moment longer.
        let round = timeout.min(Duration::from_millis(100));
        let timeout = PollTimeout::try_from(round).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLPRI)], timeout).map_err(io::Error::from)?;
        return Ok(Populated::Yes);
    }
    std::thread::yield_now();
    Ok(Populated::No)
}

/// Folder of the cgroup that this process is in.
fn own_cgroup() -> Result<PathBuf> {
    let root = mount_point()?;
    let text = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // "/.." means: outside of what this cgroup namespace shows.
    let own = if own.starts_with("..") { "" } else { own };
    Ok(root.join(own))
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` in the hybrid layout.
fn mount_point() -> Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    super::mounts::parse(&text)
        .into_iter()
        .find(|mount| mount.kind == "cgroup2")
        .map(|mount| mount.point)
        .ok_or_else(|| anyhow!("cgroup v2 is not mounted; mount it: `mount -t cgroup2 none /sys/fs/cgroup`"))
}
