//! The pins of a run: they keep its programs at work when its processes are gone, and so for as long as the kernel sends
//! what these had to say. Takes the fence down when that is over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nameward_enforcer::{end_sockets, kernel};

/// Where BPF objects are pinned.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// Longest time for connections to be gone that the kernel cannot be told to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// The kernel takes programs off a cgroup that is removed within about 20 ms, when no socket needs them.
pub(crate) const RELEASE_TIMEOUT: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The pins of one run's programs and maps. Dropping this takes the fence down: every process of the sandbox, and what
/// the kernel sends for it, must be gone by then.
pub(crate) struct Pins(PathBuf);

impl Pins {
    /// Those of the run `name`; they need not be there yet.
    pub(crate) fn of(name: &str) -> Self {
        Self(Path::new(BPFFS).join("nameward").join(name))
    }

    /// Their folder.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Takes the fence of a cgroup down that was removed a moment ago, with its connections ended if `is_silent`. Else no
    /// sooner than the kernel says that nothing of the cgroup is left; when that takes too long, the next run does it.
    pub(crate) fn take_down(self, is_silent: bool) {
        match if is_silent { Ok(true) } else { remove_left(&self.0, END_TIMEOUT) } {
            Ok(true) => return,
            Ok(false) => eprintln!(
                "nameward: connections of the command do not end; their fence stays until the next run finds them ended ({})",
                self.0.display()
            ),
            Err(error) => eprintln!("nameward: {} cannot be read: {error}", self.0.display()),
        }
        std::mem::forget(self);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("nameward: {} is left behind: {error}; the next run removes it", self.0.display());
        }
    }
}

fn remove(pins: &Path) -> io::Result<()> {
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    if let Some(parent) = pins.parent() {
        // Others may have theirs in it.
        let _in_use = fs::remove_dir(parent);
    }
    Ok(())
}

/// Ends the connections that the processes of a cgroup have left. False: some go on, and the kernel sends for them.
pub(crate) fn end_connections(cgroup: &Path) -> bool {
    let started = Instant::now();
    loop {
        match end_sockets(cgroup) {
            Ok(0) => return true,
            Ok(_) if started.elapsed() < END_TIMEOUT => thread::sleep(LOOK_EVERY),
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "connections of the command cannot be looked for");
                return false;
            }
        }
    }
}

/// Removes the pins of a cgroup that is gone, when no socket needs them any more. That can be told of other network
/// namespaces, too, where nobody can look for connections. False: one does, and they stay.
pub(crate) fn remove_left(pins: &Path, timeout: Duration) -> io::Result<bool> {
    let started = Instant::now();
    while kernel::is_fenced_by(pins)? {
        if started.elapsed() >= timeout {
            return Ok(false);
        }
        thread::sleep(LOOK_EVERY);
    }
    remove(pins).map(|()| true)
}
