//! `--remove`: takes everything of an instance away, also what an earlier version or a crash left.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, anyhow};

use crate::{
    dns_link::DnsLink,
    endpoints::{chain_text, journal},
    kernel::{Host, KernelError},
    options::Options,
};

/// Removes programs and maps first: from then on nothing is denied any more. Everything is tried; the first failure
/// is told.
pub(super) fn remove(options: &Options) -> Result<()> {
    let mut removed = match Host::remove_left(&options.enforcer(Vec::new()).host) {
        // Another process enforces: nothing of it is taken away under its hands.
        Err(error @ KernelError::InstanceBusy { .. }) => {
            return Err(anyhow!("{}; stop that process first", chain_text(&error)));
        }
        result => result.map_err(|error| anyhow!(chain_text(&error))),
    };
    let link = DnsLink::remove_left(&options.dns_link()).map_err(|error| anyhow!(chain_text(&error)));
    removed = removed.and(link);
    removed = removed.and(remove_names(&options.state()));
    options.own_folders().iter().for_each(|folder| remove_empty(folder));
    if removed.is_ok() {
        tracing::info!(
            instance = options.instance.as_deref().unwrap_or("the standard one"),
            "nothing of this instance is left"
        );
    }
    removed
}

/// Takes our files out of the folder of names, and the folder when nothing else is in it: `--state` may have named
/// one that others use, too.
fn remove_names(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| journal::is_ours(path)) {
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
