//! The record of a run: what it made outside of its processes, so that the next run can remove it when this one
//! was killed before it could.
//!
//! A record is a file that its run keeps locked; the kernel drops the lock with the process. A folder-wide lock
//! keeps the making of a record and the search for abandoned ones apart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::cgroup;
use crate::run::pins;

/// Where records are kept.
const FOLDER: &str = "/run/nameward/runs";

/// What a run leaves behind when it is killed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Holdings {
    /// Its cgroup.
    pub(crate) cgroup: PathBuf,
    /// Its folder of pins.
    pub(crate) pins: PathBuf,
}

/// A locked record. Dropping it removes the record, unless pins that it names are still there: then it is for the next run.
#[derive(Debug)]
pub(crate) struct Lease {
    path: PathBuf,
    file: Flock<File>,
    pins: PathBuf,
}

impl Lease {
    /// Removes what killed runs left behind, then opens the record of a run called `name`.
    pub(crate) fn take(name: &str) -> Result<Self> {
        fs::create_dir_all(FOLDER).with_context(|| {
            format!("cannot make {FOLDER}, where runs are recorded; inside another run none can be started")
        })?;
        let all = File::create(Path::new(FOLDER).join(".lock"))
            .with_context(|| format!("cannot write in {FOLDER}"))?;
        let _all = lock(all, FlockArg::LockExclusive).context("cannot lock the records of runs")?;
        for entry in fs::read_dir(FOLDER)?.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "json") {
                remove_if_abandoned(&entry.path());
            }
        }
        let path = Path::new(FOLDER).join(format!("{name}.json"));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let file =
            lock(file, FlockArg::LockExclusiveNonblock).context("cannot lock the record of this run")?;
        Ok(Self { path, file, pins: PathBuf::new() })
    }

    /// Writes down what this run makes.
    pub(crate) fn record(mut self, holdings: &Holdings) -> Result<Self> {
        let text = serde_json::to_vec(holdings)?;
        (&*self.file).write_all(&text).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.pins.clone_from(&holdings.pins);
        Ok(self)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pins.exists() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the record of this run could not be removed");
        }
    }
}

fn lock(file: File, how: FlockArg) -> io::Result<Flock<File>> {
    Flock::lock(file, how).map_err(|(_, error)| io::Error::from(error))
}

/// Removes a record and what it names, unless its run is alive, or sockets of it. What cannot be removed stays recorded.
fn remove_if_abandoned(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    let Ok(_file) = lock(file, FlockArg::LockExclusiveNonblock) else { return };
    let text = fs::read(path).unwrap_or_default();
    let holdings: Holdings = serde_json::from_slice(&text).unwrap_or_default();
    let removed = remove(&holdings).and_then(|all| if all { fs::remove_file(path) } else { Ok(()) });
    if let Err(error) = removed {
        eprintln!("nameward: cannot remove what a killed run left behind ({}): {error}", path.display());
    }
}

/// The processes first, then their sockets: neither may live without the programs that fence them. False: sockets do.
fn remove(holdings: &Holdings) -> io::Result<bool> {
    let is_known = !holdings.cgroup.as_os_str().is_empty() && holdings.cgroup.exists();
    if is_known {
        cgroup::remove(&holdings.cgroup)?;
    }
    if holdings.pins.as_os_str().is_empty() {
        return Ok(true);
    }
    // Where the cgroup was gone already, an earlier run has waited.
    pins::remove_left(&holdings.pins, if is_known { pins::RELEASE_TIMEOUT } else { Duration::ZERO })
}
