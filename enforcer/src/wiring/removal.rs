//! `--remove`: takes everything of an instance away, also what an earlier version or a crash left.

use std::{
    fs, io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nameward_feed::folder;

use crate::{
    dns_link::DnsLink,
    endpoints::{chain_text, journal},
    kernel::{Host, KernelError},
    options::{FeedPlace, Options},
    policies::snapshot::Snapshot,
};

/// Between two looks whether the other process has ended.
const STEP: Duration = Duration::from_millis(200);

/// Removes programs and maps first: from then on nothing is denied any more. Everything is tried; the first failure
/// is told.
pub(super) fn remove(options: &Options) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(options.wait);
    let mut removed = match remove_programs(options, end) {
        // Another process enforces: nothing of it is taken away under its hands.
        Err(error @ KernelError::InstanceBusy { .. }) => {
            return Err(anyhow!("{}; stop that process first", chain_text(&error)));
        }
        result => result.map_err(|error| anyhow!(chain_text(&error))),
    };
    let link = DnsLink::remove_left(&options.dns_link()).map_err(|error| anyhow!(chain_text(&error)));
    removed = removed.and(link);
    removed = removed.and(remove_names(&options.state()));
    removed = removed.and(remove_sockets(options, end));
    options.own_folders().iter().for_each(|folder| remove_empty(folder));
    if removed.is_ok() {
        tracing::info!(
            instance = options.instance.as_deref().unwrap_or("the standard one"),
            "nothing of this instance is left"
        );
    }
    removed
}

/// Waits for another process that enforces, as long as it was told to.
fn remove_programs(options: &Options, end: Instant) -> Result<(), KernelError> {
    loop {
        match Host::remove_left(&options.enforcer(Vec::new()).host) {
            Err(KernelError::InstanceBusy { .. }) if Instant::now() < end => thread::sleep(STEP),
            result => return result,
        }
    }
}

/// Takes away sockets at which nobody listens any more, and the folders of resolvers when nobody is left in them: those may
/// still be answering what they were asked.
fn remove_sockets(options: &Options, end: Instant) -> Result<()> {
    let plugin = options.cni_socket();
    if UnixStream::connect(&plugin).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        fs::remove_file(&plugin).with_context(|| format!("cannot remove {}", plugin.display()))?;
    }
    for place in options.feed() {
        let FeedPlace::Folder(folder) = place else { continue };
        let cannot = || format!("cannot clean {}", folder.display());
        folder::clean(&folder).with_context(cannot)?;
        while !folder::resolvers(&folder).with_context(cannot)?.is_empty() && Instant::now() < end {
            thread::sleep(STEP);
            folder::clean(&folder).with_context(cannot)?;
        }
        remove_empty(&folder);
    }
    Ok(())
}

/// Takes our files out of the folder of names, and the folder when nothing else is in it: `--state` may have named
/// one that others use, too.
fn remove_names(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let is_ours = |path: &PathBuf| journal::is_ours(path) || Snapshot::is_one(path);
    for path in entries.flatten().map(|entry| entry.path()).filter(is_ours) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    remove_empty(folder);
    Ok(())
}

/// Removes a folder that is empty; one that is not has something of others.
fn remove_empty(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder) {
        tracing::debug!(folder = %folder.display(), %error, "not removed");
    }
}
