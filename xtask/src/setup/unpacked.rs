//! Packages of Debian that are unpacked into the cache instead of installed, because installing them would change this
//! machine: systemd-resolved takes over `/etc/resolv.conf`.
//!
//! `nameward_test_support::unpacked` finds them.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{is_root, packages};
use crate::{command::run, workspace::cache};

/// A folder of the cache, the packages in it, and a file that shows it is whole.
const RESOLVED: (&str, &[&str], &str) = (
    "systemd-resolved",
    // It has to be of the same version as the library, which is not always the installed one's.
    &["systemd-resolved", "libsystemd-shared"],
    "lib/systemd/systemd-resolved",
);

/// Unpacks them unless they are there. Needs root, as the test that runs them.
pub(super) fn prepare() -> Result<()> {
    let (name, packages, program) = RESOLVED;
    let unpacked = cache()?.join("unpacked");
    let folder = unpacked.join(name);
    if !is_root() || folder.join(program).is_file() {
        return Ok(());
    }
    fs::create_dir_all(&unpacked)?;
    let lock = File::create(unpacked.join(format!(".lock-{name}")))?;
    lock.lock().context("cannot lock the folder of unpacked packages")?;
    if folder.join(program).is_file() {
        return Ok(());
    }
    if packages::find_command("apt-get").is_none() {
        bail!(
            "{} is needed: Debian 12's {}, unpacked; `--skip upstream` leaves its test out",
            folder.display(),
            packages.join(" and ")
        );
    }
    eprintln!(
        "unpacking Debian's {}, which a test runs beside the resolver (2 MB, once)",
        packages.join(" and ")
    );
    let half_made = unpacked.join(format!(".making-{name}"));
    for leftover in [&half_made, &folder] {
        if leftover.exists() {
            fs::remove_dir_all(leftover).with_context(|| format!("cannot remove {}", leftover.display()))?;
        }
    }
    fs::create_dir_all(&half_made)?;
    unpack(packages, &half_made)?;
    fs::rename(&half_made, &folder).with_context(|| format!("cannot put {} in place", folder.display()))
}

fn unpack(packages: &[&str], folder: &Path) -> Result<()> {
    packages::with_fresh_lists(&mut || {
        run(Command::new("apt-get").args(["download", "--quiet"]).args(packages).current_dir(folder))
    })?;
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(folder))?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
