//! `--prepare-for`: what has to be on a node before resolver and enforcer start beside each other, each with the rights
//! that it needs and no more. Doing it again changes nothing.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Context, Result, bail};

use crate::{
    kernel::ensure_mounted,
    options::{FeedPlace, Options},
};

/// Its owner may put sockets into it, its group may look into it.
const MODE: u32 = 0o750;

/// Mounts the BPF file system, and makes folders of resolvers that run as `user`.
pub(super) fn prepare(options: &Options, user: u32) -> Result<()> {
    ensure_mounted(&options.bpffs).context("without a BPF file system nothing would outlive the enforcer")?;
    for place in options.feed() {
        match &place {
            FeedPlace::Folder(folder) => make(folder, user)?,
            FeedPlace::Remote(_) | FeedPlace::Service(_) => {
                bail!("--prepare-for is for folders of this host, and {place} is elsewhere")
            }
        }
    }
    tracing::info!(user, "the node is ready");
    Ok(())
}

fn make(folder: &Path, user: u32) -> Result<()> {
    let made = fs::create_dir_all(folder)
        .and_then(|()| chown(folder, Some(user), Some(user)))
        .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(MODE)));
    made.with_context(|| format!("cannot make the folder {} for the user {user}", folder.display()))
}
