//! `--remove`: takes everything of an instance away, also what an earlier version or a crash left.

use std::{fs, io, path::Path};

use anyhow::{Context, Result, anyhow};

use crate::{
    dns_link::DnsLink,
    endpoints::chain_text,
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
    removed = removed.and(remove_folder(&options.state()));
    if removed.is_ok() {
        tracing::info!(instance = options.instance.as_deref().unwrap_or("the standard one"), "removed");
    }
    removed
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
