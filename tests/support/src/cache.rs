//! What `cargo xtask setup` keeps outside of the checkout.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

/// The folder that `cargo xtask setup` fills.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("NAMEWARD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("nameward")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/nameward")))
        .context("HOME is not set")
}

/// The folder of a package that is unpacked instead of installed.
///
/// # Errors
/// When it is not there; the text says how to get it.
pub fn unpacked(name: &str) -> Result<PathBuf> {
    let folder = cache()?.join("unpacked").join(name);
    if !folder.is_dir() {
        bail!("{} is missing; run `cargo xtask setup`", folder.display());
    }
    Ok(folder)
}
